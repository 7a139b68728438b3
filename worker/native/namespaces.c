/* Birth in namespaces of one's own; and what has to be written after a time namespace was made. */
#define _GNU_SOURCE
#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

/* clone3(2) of the calling process into fresh namespaces: a pid and its pidfd, or 0 in the child. Linux 5.3.
 *
 * Raw, past the C library's and Python's fork handlers: safe because the launcher has one thread, so that no
 * lock can be held by another; glibc's cached thread id is stale in the child, which only the child's own
 * fork (of a worker) sets right. */
int clone_into(uint64_t namespaces, int *pidfd)
{
    struct clone_args args = {
        .flags = namespaces | CLONE_PIDFD, .pidfd = (uintptr_t)pidfd, .exit_signal = SIGCHLD,
    };
    return syscall(SYS_clone3, &args, sizeof args);
}

/* A fresh one, for the children, whose clocks start near zero. Linux 5.6. Needs a dumpable process (the
 * file belongs to root otherwise) and no child yet. */
int timens_start_at_zero(void)
{
    struct timespec monotonic, boottime;
    char offsets[128];

    if (unshare(CLONE_NEWTIME) < 0)
        return -1;
    clock_gettime(CLOCK_MONOTONIC, &monotonic);
    clock_gettime(CLOCK_BOOTTIME, &boottime);
    int length = snprintf(offsets, sizeof offsets, "monotonic -%lld 0\nboottime -%lld 0\n",
                          (long long)monotonic.tv_sec, (long long)boottime.tv_sec);
    int file = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
    if (file < 0)
        return -1;
    ssize_t written = write(file, offsets, length);
    int error = written < 0 ? errno : EIO;
    close(file);
    errno = error;
    return written == length ? 0 : -1;
}
