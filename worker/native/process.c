/* Attributes of a process that prctl(2), keyctl(2), setrlimit(2) and close_range(2) hold. */
#define _GNU_SOURCE
#include "native.h"

#include <linux/keyctl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CLOSE_RANGE = 436, SET_MDWE = 65, GET_MDWE = 66, REFUSE_EXEC_GAIN = 1 };

/* SIGKILL when the parent (the launcher) ends. setresuid clears it: call it after. */
int pdeathsig_kill(void)
{
    return prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
}

/* A process that is not dumpable cannot be traced, and its /proc files belong to root. */
int dumpable_set(int value)
{
    return prctl(PR_SET_DUMPABLE, value, 0, 0, 0);
}

/* exec gives no more rights than there are. Without CAP_SYS_ADMIN, seccomp and Landlock ask for it. */
int nnp_set(void)
{
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/* PR_SET_MDWE: no mapping becomes executable after it was writable. Linux 6.3; irrevocable. */
int mdwe_enable(void)
{
    return prctl(SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0);
}

/* Whether this kernel has it. */
int mdwe_known(void)
{
    return prctl(GET_MDWE, 0, 0, 0, 0) >= 0;
}

/* An empty session keyring, so that the caller's keys are not possessed here. */
int keyring_join_new(void)
{
    return syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 ? -1 : 0;
}

/* Close every descriptor from `first` to `last`. Linux 5.9. */
int close_from(int first, int last)
{
    return first > last ? 0 : syscall(CLOSE_RANGE, first, last, 0);
}

/* Inherited by all that is started, never raised again. A hard limit below the wished one stays (raising
 * it needs CAP_SYS_RESOURCE): the stricter of the two holds. */
int set_limit(const struct limit *limit)
{
    struct rlimit now;

    if (getrlimit(limit->resource, &now) < 0)
        return -1;
    struct rlimit wished = {.rlim_cur = limit->soft, .rlim_max = limit->hard};
    if (wished.rlim_max > now.rlim_max)
        wished.rlim_max = now.rlim_max;
    if (wished.rlim_cur > wished.rlim_max)
        wished.rlim_cur = wished.rlim_max;
    return setrlimit(limit->resource, &wished);
}
