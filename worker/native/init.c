/* pid 1 of a jail: our own code, confined, starts one worker per call and reaps.
 *
 * It holds the control socket and reads only from it. It shares its user id with the guest, so the host
 * believes its messages only within narrow bounds, and keeps the means of killing for itself. What it
 * receives comes from the trusted host.
 */
#define _GNU_SOURCE
#include "bytes.h"
#include "native.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const uint32_t native_sizes[3] = {sizeof(struct plan), sizeof(struct jail), sizeof(struct call)};

enum { MOST_BYTES = 1 << 18, MOST_DESCRIPTORS = 32 };

/* A message in msgpack, which is how the host reads them. */
struct writer {
    size_t length;
    unsigned char bytes[512];
};

static void put(struct writer *to, unsigned char type, uint64_t value, int width)
{
    to->bytes[to->length++] = type;
    for (int shift = 8 * (width - 1); shift >= 0; shift -= 8)
        to->bytes[to->length++] = value >> shift;
}

static void put_count(struct writer *to, uint64_t count)
{
    put(to, 0xcf, count, 8);
}

static void put_text(struct writer *to, const char *text)
{
    size_t length = strnlen(text, 127);

    put(to, 0xd9, length, 1);
    memcpy(to->bytes + to->length, text, length);
    to->length += length;
}

static void put_moment(struct writer *to, double moment)
{
    uint64_t bits;

    memcpy(&bits, &moment, sizeof bits);
    put(to, 0xcb, bits, 8);
}

static struct writer message_of(const char *kind, int items)
{
    struct writer made = {0};

    made.bytes[made.length++] = 0x90 | (items + 1);
    put_text(&made, kind);
    return made;
}

static int send_message(int control, const struct writer *message, const int *descriptors, int count)
{
    union { struct cmsghdr head; char space[CMSG_SPACE(2 * sizeof(int))]; } ancillary;
    struct iovec part = {(void *)message->bytes, message->length};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};

    if (count) {
        memset(&ancillary, 0, sizeof ancillary);
        header.msg_control = &ancillary;
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
        ancillary.head.cmsg_level = SOL_SOCKET;
        ancillary.head.cmsg_type = SCM_RIGHTS;
        ancillary.head.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&ancillary.head), descriptors, count * sizeof(int));
    }
    return sendmsg(control, &header, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* The number of bytes; 0 when the host is gone. `descriptors` has room for MOST_DESCRIPTORS. */
static ssize_t receive(int control, void *buffer, size_t size, int *descriptors, int *count)
{
    union { struct cmsghdr head; char space[CMSG_SPACE(MOST_DESCRIPTORS * sizeof(int))]; } ancillary;
    struct iovec part = {buffer, size};
    struct msghdr header = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &ancillary,
        .msg_controllen = sizeof ancillary,
    };
    ssize_t length;

    *count = 0;
    do
        length = recvmsg(control, &header, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    struct cmsghdr *head = length < 0 ? NULL : CMSG_FIRSTHDR(&header);
    if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
        *count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(descriptors, CMSG_DATA(head), *count * sizeof(int));
    }
    if (length > 0 && (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
        errno = EMSGSIZE;
        return -1;
    }
    return length < 0 && errno == ECONNRESET ? 0 : length;
}

static int tell_failure(const struct jail *jail, const char *step, int error)
{
    struct writer message = message_of("failed", 3);

    put_text(&message, step);
    put_count(&message, error);
    put_text(&message, failed_detail);
    send_message(jail->control, &message, NULL, 0);
    return -1;
}

/* From a copy of the launcher to pid 1 of a jail that the host has looked at. */
static int become_init(struct jail *jail)
{
    const char *failed = confine_jail(jail);
    if (failed)
        return tell_failure(jail, failed, errno);

    struct writer message = message_of("barrier", 0);
    int descriptors[MOST_DESCRIPTORS] = {jail->listener, jail->scratch}, count;
    if (send_message(jail->control, &message, descriptors, 2) < 0)
        return -1;
    close(jail->listener);
    close(jail->scratch);
    void *go = mmap(NULL, MOST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (go == MAP_FAILED)
        return -1;
    ssize_t length = receive(jail->control, go, MOST_BYTES, descriptors, &count);
    if (length <= 0)
        return -1;
    jail->go = go;
    jail->go_size = length;
    return seal_jail() < 0 ? tell_failure(jail, "seal_jail", errno) : 0;
}

/* The host packs kind, flags and number into a msgpack bin of six bytes. */
enum { CALL_BYTES = 8, BIN = 0xc4 };

static int parse(const unsigned char *bytes, ssize_t length, struct call *call)
{
    if (length != CALL_BYTES || bytes[0] != BIN || bytes[1] != CALL_BYTES - 2)
        return -1;
    call->kind = bytes[2];
    call->flags = bytes[3];
    call->number = number_at(bytes + 4);
    return 0;
}

static int distribute(const int *descriptors, int count, struct call *call)
{
    int used = 3 + !!(call->flags & WITH_STDIN) + !!(call->flags & WITH_STORE);

    if (count < used || count - used > MOST_GROUPS)
        return -1;
    call->result = *descriptors++;
    call->stdout_ = *descriptors++;
    call->stderr_ = *descriptors++;
    call->stdin_ = call->flags & WITH_STDIN ? *descriptors++ : -1;
    call->store = call->flags & WITH_STORE ? *descriptors++ : -1;
    memset(call->groups, -1, sizeof call->groups);
    memcpy(call->groups, descriptors, (size_t)(count - used) * sizeof *descriptors);
    return 0;
}

static void close_descriptors(const struct call *call)
{
    close(call->result);
    close(call->stdout_);
    close(call->stderr_);
    if (call->stdin_ >= 0)
        close(call->stdin_);
    if (call->store >= 0)
        close(call->store);
    for (int i = 0; i < MOST_GROUPS && call->groups[i] >= 0; i++)
        close(call->groups[i]);
}

/* Until no process of the call is left: 0 with the worker's wait status, when it ended, and how often all
 * of the call were switched away from; or -1.
 *
 * kill(-1) by pid 1 reaches every process of the namespace but itself; one that is just forking either is
 * on the list already or sees the pending signal and does not fork. */
static int reap(int worker, int *found, struct timespec *moment, uint64_t *switches)
{
    struct rusage usage;
    int status, ended = 0;

    for (;;) {
        pid_t pid = wait4(-1, &status, 0, &usage);
        if (pid < 0 && errno == EINTR)
            continue;
        if (pid < 0)
            return errno == ECHILD && ended ? 0 : -1;
        *switches += (uint64_t)(usage.ru_nvcsw + usage.ru_nivcsw);
        /* Once: the number is free from then on, and a guest's next process may get it. */
        if (pid == worker && !ended) {
            /* On the host's clock: the jail's own begins with the workers. */
            clock_gettime(CLOCK_MONOTONIC, moment);
            *found = status;
            ended = 1;
            kill(-1, SIGKILL);
        }
    }
}

/* Reap whatever ends until the worker does, then end and reap all it left behind, and tell the host. */
int end_call(const struct jail *jail, const struct call *call, int worker)
{
    struct writer message = message_of("ended", 4);
    struct timespec moment = {0};
    uint64_t switches = 0;
    int status = 0;

    close_descriptors(call);
    if (reap(worker, &status, &moment, &switches) < 0)
        return -1; /* init ends, and with it all of the jail */
    put_count(&message, call->number);
    put_count(&message, (uint64_t)status);
    put_moment(&message, (double)moment.tv_sec + (double)moment.tv_nsec / 1e9);
    put_count(&message, switches);
    return send_message(jail->control, &message, NULL, 0);
}

/* Serve calls until one needs Python, or the host is gone: 1, or -1. */
int next_call(struct jail *jail, struct call *call)
{
    unsigned char bytes[CALL_BYTES + 1];
    int descriptors[MOST_DESCRIPTORS], count;

    for (;;) {
        ssize_t length = receive(jail->control, bytes, sizeof bytes, descriptors, &count);
        if (length <= 0 || parse(bytes, length, call) < 0 || distribute(descriptors, count, call) < 0)
            return -1;
        call->ruleset = jail->ruleset;
        call->last_filter = jail->plan->last_filter;
        if (call->kind == FUNCTION)
            return 1;
        int worker = start_program(call);
        if (worker < 0 || end_call(jail, call, worker) < 0)
            return -1;
    }
}

/* By the launcher: the pid of a new jail's init, and its pidfd. In init 0, when a call has come that needs
 * Python: until then, and for programs altogether, nothing of Python's is touched. */
int start_init(uint64_t namespaces, struct jail *jail, struct call *call, int *pidfd)
{
    int pid = clone_into(namespaces, pidfd);
    if (pid)
        return pid;
    if (become_init(jail) < 0)
        _exit(1);
    if (next_call(jail, call) < 0)
        _exit(0);
    return 0;
}
