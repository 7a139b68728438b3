/* The order of confinement: the one file an auditor must read.
 *
 * `confine_jail` runs in init, pid 1 of the new namespaces, with every capability over them and none
 * elsewhere, from its first instruction until it waits for the host to look. `confine_worker` runs in
 * each worker between its fork and the first byte of guest code. Each step is one function below. A step
 * that fails ends the process: the host is told the step's name and errno, and no guest code runs.
 */
#define _GNU_SOURCE
#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef CLONE_NEWCGROUP
#define CLONE_NEWCGROUP 0x02000000
#endif

enum { INSIDE = 1000 };

static int wants(const struct jail *jail, enum layer layer)
{
    return jail->plan->layers & layer;
}

/* --- init ------------------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    return *(const int32_t *)a - *(const int32_t *)b;
}

/* The launcher's socket, its templates and other jails' pidfds end here. */
static int close_inherited_descriptors(struct jail *jail)
{
    int32_t kept[3 + MOST_GROUPS] = {jail->control, jail->tree, jail->mapped};
    int count = 3, low = 3;

    while (count < 3 + MOST_GROUPS && jail->groups[count - 3] >= 0) {
        kept[count] = jail->groups[count - 3];
        count++;
    }
    qsort(kept, count, sizeof *kept, ascending);
    for (int i = 0; i < count; i++) {
        if (close_from(low, kept[i] - 1) < 0)
            return -1;
        low = kept[i] + 1;
    }
    return close_from(low, ~0U >> 1);
}

/* Into the init leaf of the jail's group, before anything is charged. */
static int join_init_group(struct jail *jail)
{
    return join_groups(jail->groups);
}

/* Only a process with rights over the parent namespace can map ids other than its own. */
static int wait_for_id_map(struct jail *jail)
{
    char word = 0;
    ssize_t length;

    do
        length = read(jail->mapped, &word, 1);
    while (length < 0 && errno == EINTR);
    if (length < 0)
        return -1;
    close(jail->mapped);
    if (word != 'm') {
        errno = ESRCH; /* the launcher ended */
        return -1;
    }
    return 0;
}

/* Before any mount: a tmpfs made while unmapped gives EOVERFLOW on mkdir. By system call: the C library's
 * functions would ask threads that are not there to follow. */
static int take_jail_identity(struct jail *jail)
{
    (void)jail;
    if (syscall(SYS_setresgid, INSIDE, INSIDE, INSIDE) < 0 ||
        syscall(SYS_setresuid, INSIDE, INSIDE, INSIDE) < 0)
        return -1;
    /* setresuid cleared it. Needed for the time namespace's offsets, and for an unprivileged host to see
     * our namespaces; taken away again before the first worker is forked. */
    return dumpable_set(1);
}

/* After setresuid, which clears it. */
static int die_with_launcher(struct jail *jail)
{
    (void)jail;
    return pdeathsig_kill();
}

/* After joining: a cgroup namespace is rooted where its maker is at that moment. */
static int hide_group_path(struct jail *jail)
{
    return wants(jail, CGROUP_NAMESPACE) ? unshare(CLONE_NEWCGROUP) : 0;
}

/* Workers, not init itself, enter it (time_for_children). */
static int start_clocks_at_zero(struct jail *jail)
{
    return wants(jail, TIME_NAMESPACE) ? timens_start_at_zero() : 0;
}

/* One tmpfs, capped in bytes and inodes, for all writable places. A bind needs an attached source (before
 * Linux 6.15): it is put over the old root's /sys, and leaves with the old root. */
static int attach_scratch(struct jail *jail)
{
    const struct plan *plan = jail->plan;

    jail->scratch = new_filesystem("tmpfs", plan->scratch, plan->scratch_count, plan->scratch_flags);
    return jail->scratch < 0 ? -1 : attach_mount(jail->scratch, AT_FDCWD, "/sys");
}

/* On top of "/", where nothing looks paths up: it is reached through its descriptor. */
static int attach_root(struct jail *jail)
{
    return attach_mount(jail->tree, AT_FDCWD, "/");
}

/* Own processes only, read-only: a writable one lets a guest move its OOM score. While the old /proc is in
 * sight: the kernel allows a new one only beside a fully visible one. */
static int mount_proc(struct jail *jail)
{
    static const struct option options[] = {{"subset", "pid"}, {"hidepid", "invisible"}};
    enum { FLAGS = 1 | 2 | 4 | 8 }; /* MOUNT_ATTR_RDONLY, NOSUID, NODEV, NOEXEC */

    int proc = new_filesystem("proc", options, 2, FLAGS);
    if (proc < 0)
        return -1;
    if (attach_mount(proc, jail->tree, "proc") < 0)
        return -1;
    return close(proc);
}

static int show_place(struct jail *jail, const char *name, mode_t mode, const char *target)
{
    if (mkdirat(jail->scratch, name, 0700) < 0 || fchmodat(jail->scratch, name, mode, 0) < 0)
        return -1;
    int place = clone_mount(jail->scratch, name, 0);
    if (place < 0 || attach_mount(place, jail->tree, target) < 0)
        return -1;
    return close(place);
}

static int show_writable_places(struct jail *jail)
{
    if (show_place(jail, "tmp", 01777, "tmp") < 0 || show_place(jail, "work", 0755, "work") < 0)
        return -1;
    return show_place(jail, "shm", 01777, "dev/shm");
}

/* The old root is detached with all below it; nothing of the host remains reachable by path. */
static int pivot_into_root(struct jail *jail)
{
    return pivot_into(jail->tree) < 0 ? -1 : close(jail->tree);
}

static int moved_up(int32_t *descriptor)
{
    if (*descriptor < FIRST_FREE)
        *descriptor = fcntl(*descriptor, F_DUPFD_CLOEXEC, FIRST_FREE);
    return *descriptor;
}

/* 0 to 2 were the launcher's; from now on they are the jail's own /dev/null. So are, in init, the two a
 * worker will use for its result: what init receives later never has those numbers. */
static int take_null_streams(struct jail *jail)
{
    if (moved_up(&jail->control) < 0 || moved_up(&jail->scratch) < 0)
        return -1;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0)
        return -1;
    for (int number = 0; number < FIRST_FREE; number++)
        if (number != null && dup3(null, number, number <= 2 ? 0 : O_CLOEXEC) < 0)
            return -1;
    return null < FIRST_FREE ? 0 : close(null);
}

static int set_hostname(struct jail *jail)
{
    return wants(jail, UTS_NAMESPACE) ? sethostname("sandbox", 7) : 0;
}

/* A session of one's own has no controlling terminal. */
static int start_session(struct jail *jail)
{
    (void)jail;
    return setsid() < 0 ? -1 : 0;
}

/* None of the host's keys is possessed here. */
static int join_new_keyring(struct jail *jail)
{
    (void)jail;
    return keyring_join_new();
}

/* init's own as well: every worker inherits them, and none can raise them again. */
static int apply_rlimits(struct jail *jail)
{
    for (uint32_t i = 0; i < jail->plan->limit_count; i++)
        if (set_limit(&jail->plan->limits[i]) < 0)
            return -1;
    return 0;
}

/* Every worker inherits it; where it is asked for, the filter keeps guests from changing it. */
static int stay_on_cpus(struct jail *jail)
{
    if (!jail->plan->cpus_size)
        return 0;
    return sched_setaffinity(0, jail->plan->cpus_size, jail->plan->cpus);
}

/* Where calls start. */
static int enter_work_folder(struct jail *jail)
{
    (void)jail;
    return chdir("/work");
}

/* Built once per jail; each worker only enters it. */
static int prepare_landlock(struct jail *jail)
{
    const struct plan *plan = jail->plan;

    if (!plan->landlock_abi)
        return 0;
    jail->ruleset = landlock_ruleset(plan->landlock_abi, plan->rules, plan->rule_count);
    return jail->ruleset < 0 ? -1 : 0;
}

/* init's own as well, which makes no code: every worker inherits it, and none can lift it. */
static int deny_writable_code(struct jail *jail)
{
    return wants(jail, MDWE) ? mdwe_enable() : 0;
}

/* Here the rights over the jail's own namespaces end. */
static int drop_capabilities(struct jail *jail)
{
    (void)jail;
    return cap_drop_all();
}

static int forbid_new_privileges(struct jail *jail)
{
    (void)jail;
    return nnp_set();
}

/* The policy, plus what this program still needs. The listener goes to the host. */
static int load_first_filter(struct jail *jail)
{
    jail->listener = load_filter(&jail->plan->first_filter, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    return jail->listener < 0 ? -1 : 0;
}

#define STEP(name) {#name, name}
enum { WORKER_TIMES = 32 };
uint64_t *step_times;

static void note_time(size_t place)
{
    struct timespec now;

    if (!step_times)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    step_times[place] = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

struct jail_step {
    const char *name;
    int (*take)(struct jail *);
};

static const char *take_all(const struct jail_step *steps, size_t count, struct jail *jail)
{
    failed_detail[0] = '\0';
    note_time(0);
    for (size_t i = 0; i < count; i++) {
        if (steps[i].take(jail) < 0)
            return steps[i].name;
        note_time(i + 1);
    }
    return NULL;
}

/* init: from a copy of the launcher to a process that can do nothing outside, in order. NULL, or the step
 * that failed, with errno. */
const char *confine_jail(struct jail *jail)
{
    static const struct jail_step steps[] = {
        STEP(close_inherited_descriptors),
        STEP(join_init_group),
        STEP(wait_for_id_map),
        STEP(take_jail_identity),
        STEP(die_with_launcher),
        STEP(hide_group_path),
        STEP(start_clocks_at_zero),
        STEP(attach_scratch),
        STEP(attach_root),
        STEP(mount_proc),
        STEP(show_writable_places),
        STEP(pivot_into_root),
        STEP(take_null_streams),
        STEP(set_hostname),
        STEP(start_session),
        STEP(join_new_keyring),
        STEP(apply_rlimits),
        STEP(stay_on_cpus),
        STEP(enter_work_folder),
        STEP(prepare_landlock),
        STEP(deny_writable_code),
        STEP(drop_capabilities),
        STEP(forbid_new_privileges),
        STEP(load_first_filter),
    };
    return take_all(steps, sizeof steps / sizeof *steps, jail);
}

/* init: when the host has looked at it, which an ordinary user may not of such a process. */
int seal_jail(void)
{
    return dumpable_set(0);
}

/* --- worker ----------------------------------------------------------------------------------------- */

/* The descriptors are the host's: the kernel checks the opener's rights, not ours. */
int join_groups(const int32_t *groups)
{
    for (int i = 0; i < MOST_GROUPS && groups[i] >= 0; i++) {
        errno = EIO; /* of a write that is short */
        if (write(groups[i], "0", 1) != 1 || close(groups[i]) < 0)
            return -1;
    }
    return 0;
}

/* From here on memory and CPU time are the call's. */
static int join_call_group(const struct call *call)
{
    return join_groups(call->groups);
}

/* Its own, so that job control does not reach across calls. */
static int start_own_session(const struct call *call)
{
    (void)call;
    return setsid() < 0 ? -1 : 0;
}

/* Descriptors 0 to 4; what they are copied from has higher numbers. /dev/null is opened anew: flags of an
 * open file are all its holders', and earlier calls could have set init's. */
static int take_streams(const struct call *call)
{
    int input = call->stdin_ >= 0 ? call->stdin_ : open("/dev/null", O_RDWR | O_CLOEXEC);

    if (input < 0 || dup2(input, 0) < 0)
        return -1;
    if (dup2(call->stdout_, 1) < 0 || dup2(call->stderr_, 2) < 0)
        return -1;
    if (call->store >= 0 && dup3(call->store, STORE, O_CLOEXEC) < 0)
        return -1;
    return dup3(call->result, RESULT, O_CLOEXEC) < 0 ? -1 : 0;
}

/* A domain of the worker's own: init is outside it, so that signals to init are refused. */
static int enter_landlock(const struct call *call)
{
    return call->ruleset < 0 ? 0 : landlock_enter(call->ruleset);
}

/* The control socket, the groups and the ruleset among them. */
static int close_everything_else(const struct call *call)
{
    (void)call;
    return close_from(FIRST_FREE, ~0U >> 1);
}

/* What only the steps above needed is closed; guest code is next. */
static int load_last_filter(const struct call *call)
{
    return load_filter(&call->last_filter, 0);
}

/* From a copy of init to guest code's place, in order. How it went is said on the result channel: a byte of
 * 0, on which the host looks at this process, or the errno and the name of the step that failed. */
int confine_worker(const struct call *call)
{
    static const struct {
        const char *name;
        int (*take)(const struct call *);
    } steps[] = {
        STEP(join_call_group),
        {"start_session", start_own_session},
        STEP(take_streams),
        STEP(enter_landlock),
        STEP(close_everything_else),
        STEP(load_last_filter),
    };
    int channel = call->result;
    char report[64] = {0};

    note_time(WORKER_TIMES);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (steps[i].take(call) < 0) {
            report[0] = (char)(errno < 0xff ? errno : 0xff);
            strncpy(report + 1, steps[i].name, sizeof report - 2);
            if (write(channel, report, 1 + strlen(report + 1)) < 0) {
                /* The host sees the end of the channel. */
            }
            return -1;
        }
        note_time(WORKER_TIMES + i + 1);
        if (steps[i].take == take_streams)
            channel = RESULT;
    }
    return write(RESULT, report, 1) == 1 ? 0 : -1;
}
