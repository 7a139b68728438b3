/* Load a given filter (seccomp(2)). Knows nothing of policies; libseccomp is not loaded here. */
#define _GNU_SOURCE
#include "native.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

/* With SECCOMP_FILTER_FLAG_NEW_LISTENER (Linux 5.0) the answer is the descriptor that receives
 * RET_USER_NOTIF calls; one a chain (EBUSY for a second). */
int load_filter(const struct filter *filter, uint32_t flags)
{
    struct sock_fprog program = {.len = filter->count, .filter = (void *)filter->instructions};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}
