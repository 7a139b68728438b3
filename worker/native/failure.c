/* What a failed step was working on: the host's sentence needs it. */
#include "native.h"

#include <errno.h>
#include <stdio.h>

char failed_detail[128];

/* `result`, noted if it is a failure. errno stays. */
int told(long result, const char *call, const char *what)
{
    if (result < 0) {
        int error = errno;
        snprintf(failed_detail, sizeof failed_detail, "%s %s", call, what);
        errno = error;
    }
    return (int)result;
}
