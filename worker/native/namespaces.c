/* The time namespace: what has to be written after it was made. */
#define _GNU_SOURCE
#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

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
