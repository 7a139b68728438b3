/* Empty all five capability sets and lock the securebits (capabilities(7)). */
#define _GNU_SOURCE
#include "native.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* NO_CAP_AMBIENT_RAISE is in the header from Linux 4.3 on. */
enum {
    LOCKED = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
             SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
             SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED
};

/* The kernel ends the list with EINVAL: no need to know how many capabilities it has. Each call copies
 * the credentials; together they are the largest part of dropping all. */
static int drop_bounding_set(void)
{
    for (unsigned long capability = 0; capability < 64; capability++)
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
            return errno == EINVAL ? 0 : -1;
    return 0;
}

/* By init while it still has every capability over its own user namespace: the bounding set and the
 * securebits need CAP_SETPCAP, so the other sets go last. */
int cap_drop_all(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};

    if (prctl(PR_SET_SECUREBITS, LOCKED, 0, 0, 0) < 0 || drop_bounding_set() < 0)
        return -1;
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return -1;
    return syscall(SYS_capset, &header, none);
}
