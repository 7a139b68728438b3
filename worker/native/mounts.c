/* Mounts by file descriptor (Linux 5.2): no path a guest could prepare is ever looked up. By system call
 * number, since the C library knows them from glibc 2.36 on only. */
#define _GNU_SOURCE
#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { OPEN_TREE = 428, MOVE_MOUNT = 429, FSOPEN = 430, FSCONFIG = 431, FSMOUNT = 432 };
enum { CLONE_TREE = 1, FROM_EMPTY_PATH = 4, CLOSE_ON_EXEC = 1 };
enum { SET_FLAG = 0, SET_STRING = 1, CREATE = 6 };
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

static int close_keeping_errno(int descriptor, int result)
{
    int error = errno;
    close(descriptor);
    errno = error;
    return result;
}

/* A detached new file system; an option without a value is a flag. */
int new_filesystem(const char *kind, const struct option *options, uint32_t count, uint32_t attributes)
{
    int context = told(syscall(FSOPEN, kind, CLOSE_ON_EXEC), "fsopen", kind);
    if (context < 0)
        return -1;
    for (uint32_t i = 0; i < count; i++) {
        int command = options[i].value ? SET_STRING : SET_FLAG;
        int result = syscall(FSCONFIG, context, command, options[i].key, options[i].value, 0);
        if (told(result, "fsconfig", options[i].key) < 0)
            return close_keeping_errno(context, -1);
    }
    if (told(syscall(FSCONFIG, context, CREATE, NULL, NULL, 0), "fsconfig", kind) < 0)
        return close_keeping_errno(context, -1);
    int mount = told(syscall(FSMOUNT, context, CLOSE_ON_EXEC, attributes), "fsmount", kind);
    return close_keeping_errno(context, mount);
}

/* A detached copy of the mount at `path` (of `directory` itself if it is empty), or with all below it. The
 * source must be attached in the caller's own mount namespace (before Linux 6.15, EINVAL otherwise). */
int clone_mount(int directory, const char *path, int recursive)
{
    unsigned flags = CLONE_TREE | O_CLOEXEC | (*path ? 0 : AT_EMPTY_PATH) | (recursive ? AT_RECURSIVE : 0);

    return told(syscall(OPEN_TREE, directory, path, flags), "open_tree", path);
}

/* Put a detached mount at `path` below the `directory` descriptor (AT_FDCWD: by path). */
int attach_mount(int mount, int directory, const char *path)
{
    return told(syscall(MOVE_MOUNT, mount, "", directory, path, FROM_EMPTY_PATH), "move_mount", path);
}

static int stack_and_detach(int root, int old)
{
    if (fchdir(root) < 0 || told(syscall(SYS_pivot_root, ".", "."), "pivot_root", "") < 0)
        return -1;
    if (fchdir(old) < 0 || told(umount2(".", MNT_DETACH), "umount2", "") < 0)
        return -1;
    return chdir("/");
}

/* Make the mount `root` the root directory and detach everything else.
 *
 * pivot_root(".", ".") stacks the old root on the new one: no folder for it has to exist. umount2 follows
 * mounts down from "." to the topmost one: nothing may be stacked on the old root, or that is what goes,
 * and the old root stays (the host's look at mountinfo would show it). */
int pivot_into(int root)
{
    int old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return old < 0 ? -1 : close_keeping_errno(old, stack_and_detach(root, old));
}
