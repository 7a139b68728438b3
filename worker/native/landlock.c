/* Landlock (Linux 5.13): what a process may do with files, TCP ports and signals, by its own wish.
 *
 * A second line behind the mounts: it also covers what a read-only bind lets through (writing to a
 * FIFO, devices' ioctls), signals to init, and abstract sockets. It does not cover prlimit, sched_* or
 * setpriority of other processes: the last seccomp filter does.
 */
#define _GNU_SOURCE
#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Numbers, rights and layouts of the newest ABI known here, whatever the headers at hand know. */
enum { CREATE_RULESET = 444, ADD_RULE = 445, RESTRICT_SELF = 446, PATH_BENEATH = 1 };
enum {
    EXECUTE = 1, WRITE_FILE = 2, READ_FILE = 4, TRUNCATE = 1 << 14, IOCTL_DEV = 1 << 15,
    OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
};
enum { BIND_AND_CONNECT_TCP = 3, ABSTRACT_SOCKETS_AND_SIGNALS = 3 };

struct ruleset_attr { uint64_t handled_access_fs, handled_access_net, scoped; };
struct __attribute__((packed)) path_beneath_attr { uint64_t allowed_access; int32_t parent_fd; };

/* ABI 1 (5.13), 2 adds REFER, 3 TRUNCATE (6.2), 5 IOCTL_DEV (6.10). */
static uint64_t file_rights(uint32_t abi)
{
    int bits = abi < 2 ? 13 : abi < 3 ? 14 : abi < 5 ? 15 : 16;
    return (1 << bits) - 1;
}

static int allow(int ruleset, const struct beneath *rule, uint64_t handled)
{
    struct stat status;
    struct path_beneath_attr attr = {.allowed_access = rule->rights & handled};
    int result = -1;

    attr.parent_fd = told(open(rule->path, O_PATH | O_CLOEXEC), "open", rule->path);
    if (attr.parent_fd < 0)
        return -1;
    if (fstat(attr.parent_fd, &status) == 0) {
        if (!S_ISDIR(status.st_mode))
            attr.allowed_access &= OF_FILES;
        result = told(syscall(ADD_RULE, ruleset, PATH_BENEATH, &attr, 0), "landlock_add_rule", rule->path);
    }
    close(attr.parent_fd);
    return result;
}

/* A ruleset that handles every right of `abi` and allows only the rules; its descriptor. */
int landlock_ruleset(uint32_t abi, const struct beneath *rules, uint32_t count)
{
    struct ruleset_attr attr = {
        .handled_access_fs = file_rights(abi),
        .handled_access_net = abi >= 4 ? BIND_AND_CONNECT_TCP : 0,       /* 6.7 */
        .scoped = abi >= 6 ? ABSTRACT_SOCKETS_AND_SIGNALS : 0,           /* 6.12 */
    };
    size_t size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
    int ruleset = syscall(CREATE_RULESET, &attr, size, 0);
    if (ruleset < 0)
        return -1;
    for (uint32_t i = 0; i < count; i++) {
        if (allow(ruleset, &rules[i], attr.handled_access_fs) < 0) {
            int error = errno;
            close(ruleset);
            errno = error;
            return -1;
        }
    }
    return ruleset;
}

/* A domain of one's own. Irrevocable; needs no_new_privs. */
int landlock_enter(int ruleset)
{
    return syscall(RESTRICT_SELF, ruleset, 0);
}
