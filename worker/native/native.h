/* The compiled part of the worker program: a jail's init, and what runs between a fork and guest code.
 * Compiled because a copy of a Python process pays a page fault for whatever it touches: see "Why a part
 * is compiled" in ARCHITECTURE.md.
 *
 * worker/kernel/declare.py makes Python's declarations from what stands between the two lines below;
 * tests/kernel/test_layouts.py compares the layouts. Functions that return an int answer -1 with errno, as
 * system calls do.
 */
#ifndef NATIVE_H
#define NATIVE_H

#include <stdint.h>

#pragma GCC visibility push(default)
/* --- for Python, too --- */

/* Where a worker finds its result channel and the memory for a large result, or the files of a program; 0 to
 * 2 as usual. */
enum { RESULT = 3, STORE = 4, FIRST_FREE = 5, MOST_GROUPS = 8 };

/* Layers that a kernel may lack. */
enum layer { CGROUP_NAMESPACE = 1, TIME_NAMESPACE = 2, UTS_NAMESPACE = 4, MDWE = 8 };

struct option { const char *key, *value; };
struct limit { int32_t resource; uint64_t soft, hard; };
struct beneath { const char *path; uint64_t rights; };
struct filter { const void *instructions; uint32_t count; };

/* What jails made alike have in common; nobody writes it after the launcher. */
struct plan {
    const struct option *scratch;
    const struct limit *limits;
    const struct beneath *rules;
    const void *cpus;
    struct filter first_filter, last_filter;
    uint32_t scratch_count, scratch_flags, limit_count, rule_count, cpus_size;
    uint32_t landlock_abi; /* 0: none */
    uint32_t layers;
};

/* One jail, as its init sees it. Descriptors that are not there are -1. */
struct jail {
    const struct plan *plan;
    int32_t control, tree, mapped;
    int32_t groups[MOST_GROUPS];
    int32_t scratch, ruleset, listener;
    /* The host's "go", which holds the environment of functions. */
    const void *go;
    uint64_t go_size;
};

/* What the host asks init for. */
enum kind { FUNCTION = 'f', PROGRAM = 'p' };
enum flag { WITH_STDIN = 1, WITH_STORE = 2, WITH_CLOUDPICKLE = 4, MAY_SHARE_MEMORY = 8 };

/* One call, as its worker sees it. Descriptors that are not there are -1. */
struct call {
    uint32_t kind, flags, number;
    int32_t result, stdout_, stderr_, stdin_, store;
    int32_t groups[MOST_GROUPS];
    int32_t ruleset;
    struct filter last_filter;
    /* Where a worker that shares init's memory keeps the host's request. */
    void *request;
    uint64_t request_size;
};

/* confine.c */
const char *confine_jail(struct jail *jail);
int confine_worker(const struct call *call);

/* init.c */
int start_init(uint64_t namespaces, struct jail *jail, struct call *call, int *pidfd);
int next_call(struct jail *jail, struct call *call);
int end_call(const struct jail *jail, const struct call *call, int worker);

/* One file per kernel mechanism. Python tests each of them, and makes the templates of roots by some. */
int cap_drop_all(void);
int landlock_ruleset(uint32_t abi, const struct beneath *rules, uint32_t count);
int landlock_enter(int ruleset);
int load_filter(const struct filter *filter, uint32_t flags);
int new_filesystem(const char *kind, const struct option *options, uint32_t count, uint32_t attributes);
int clone_mount(int directory, const char *path, int recursive);
int attach_mount(int mount, int directory, const char *path);
int pivot_into(int root);
int clone_into(uint64_t namespaces, int *pidfd);
int timens_start_at_zero(void);
int set_limit(const struct limit *limit);
int close_from(int first, int last);
int dumpable_set(int value);
int pdeathsig_kill(void);
int nnp_set(void);
int mdwe_enable(void);
int mdwe_known(void);
int keyring_join_new(void);

/* failure.c */
extern char failed_detail[128];

/* A stopwatch of benchmarks/ladder.py, and NULL otherwise: when the steps of a jail began and each of them
 * ended, and from the 32nd on those of a worker, in nanoseconds. */
extern uint64_t *step_times;

/* Of struct plan, jail and call: what Python was told must be of the same version. */
extern const uint32_t native_sizes[3];

/* --- for C only --- */
#pragma GCC visibility pop

int seal_jail(void);
int join_groups(const int32_t *groups);
int start_program(struct call *call);
int told(long result, const char *call, const char *what);

#endif
