/* Become the program that the host named: in the confined worker, with the guest's rights, before guest code.
 * What it executes an earlier call may have made.
 *
 * Descriptors 3 and up close on exec, so that what the host hears here no program can have said.
 */
#define _GNU_SOURCE
#include "request.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { UNSTARTED_STATUS = 127, HEADER = 256 /* what the kernel reads of a script, too */ };

/* Of programs whose system calls the filters know, all of 64 bits. */
#if defined(__x86_64__)
enum { MACHINE = EM_X86_64 };
#elif defined(__aarch64__)
enum { MACHINE = EM_AARCH64 };
#endif

static bool is_missing(uint32_t error)
{
    return error == ENOENT || error == ENOTDIR;
}

/* What a script names, as the kernel reads it; the header is changed. */
static const char *interpreter_of(char *header)
{
    char *name = header + 2;

    name[strcspn(name, "\n")] = '\0';
    name += strspn(name, " \t");
    name[strcspn(name, " \t")] = '\0';
    return name;
}

static uint32_t flaw_of_content(char *header, uint32_t *what)
{
    struct stat status;

    if (!memcmp(header, ELFMAG, SELFMAG)) {
        Elf64_Half machine;
        memcpy(&machine, header + offsetof(Elf64_Ehdr, e_machine), sizeof machine);
        return header[EI_CLASS] == ELFCLASS64 && machine == MACHINE ? 0 : ENOEXEC;
    }
    if (header[0] == '#' && header[1] == '!') {
        const char *interpreter = interpreter_of(header);
        if (*interpreter && stat(interpreter, &status) < 0 && is_missing((uint32_t)errno)) {
            *what = AT_INTERPRETER;
            return ENOENT;
        }
    }
    return 0;
}

/* What exec would say, as far as it can be known before, while all can still be taken back as it was; and
 * ENOEXEC for what the kernel runs, but the filters end at its first call. An errno, or 0. */
static uint32_t flaw_of(const char *path, uint32_t *what)
{
    char header[HEADER + 1] = {0};
    struct stat status;

    *what = AT_PROGRAM;
    if (stat(path, &status) < 0)
        return (uint32_t)errno;
    if (!S_ISREG(status.st_mode) || access(path, X_OK) < 0)
        return EACCES;
    int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (file < 0)
        return 0; /* executable but not readable: the kernel will look */
    ssize_t length = read(file, header, HEADER);
    uint32_t error = length < 0 ? (uint32_t)errno : 0;
    close(file);
    return error ? error : flaw_of_content(header, what);
}

/* Returns only if it cannot be done; found->error is 0 for what has no flaw until then. What has none is
 * where files can no longer be taken back as they were. */
static void try_path(const char *path, const struct request *request, struct refusal *found)
{
    uint32_t index;

    found->error = flaw_of(path, &found->what);
    if (found->error)
        return;
    if (let_go_of_replaced(&index) < 0) {
        *found = (struct refusal){AT_FILES, (uint32_t)errno, index};
        return;
    }
    execve(path, request->arguments, request->variables);
    found->error = (uint32_t)errno;
    /* What is missing now is not the file but the interpreter that it names. */
    found->what = is_missing(found->error) ? AT_INTERPRETER : AT_PROGRAM;
}

/* 0, or -1 for a path that is too long for the kernel. */
static int join(char *path, size_t size, const char *folder, const char *name)
{
    size_t length = strlen(folder);
    const char *slash = length && folder[length - 1] != '/' ? "/" : "";
    int needed = snprintf(path, size, "%s%s%s", folder, slash, name);

    return needed < 0 || (size_t)needed >= size ? -1 : 0;
}

/* As execvp(3): the first that can be executed; if none can, why the first that is there cannot. Searched
 * here, so that it is known which one that is. */
static struct refusal search(const struct request *request)
{
    struct refusal refusal = {AT_PROGRAM, 0, request->folder_count};
    char path[PATH_MAX];

    for (uint32_t i = 0; i < request->folder_count; i++) {
        struct refusal found = {AT_PROGRAM, ENAMETOOLONG, i};
        if (join(path, sizeof path, request->folders[i], request->arguments[0]) == 0)
            try_path(path, request, &found);
        if (found.what == AT_FILES)
            return found;
        if (!refusal.error && !(found.what == AT_PROGRAM && is_missing(found.error)))
            refusal = found;
    }
    if (!refusal.error)
        refusal.error = ENOENT;
    return refusal;
}

static struct refusal execute(const struct request *request)
{
    struct refusal found = {AT_PROGRAM, 0, 0};

    if (request->folder_count)
        return search(request);
    try_path(request->arguments[0], request, &found);
    return found;
}

/* Returns only if it cannot be done. */
static struct refusal become(const struct request *request)
{
    uint32_t index;

    if (place_files(request->files, request->file_count, &index) < 0)
        return (struct refusal){AT_FILES, (uint32_t)errno, index};
    if (chdir(request->cwd) < 0)
        return (struct refusal){AT_CWD, (uint32_t)errno, 0};
    /* exec keeps what is ignored, as Python does with these: programs expect them to end them. */
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);
    return execute(request);
}

static _Noreturn void live(struct call *call)
{
    struct request request;
    struct refusal refusal;

    if (confine_worker(call) < 0)
        _exit(UNSTARTED_STATUS);
    if (read_request(call, &request) < 0) {
        refusal = (struct refusal){AT_PROGRAM, (uint32_t)errno, 0};
    } else {
        refusal = become(&request);
        if (request.file_count)
            take_files_back();
    }
    tell_refusal(call->number, &refusal);
    _exit(UNSTARTED_STATUS);
}

/* By init: the pid of a worker, which in general has become the program already.
 *
 * vfork, since nothing of init's is in a program: the worker works in init's memory, and init waits. What it
 * reads there that a guest may have made is the first bytes of what it executes. Before Linux 6.2 a process
 * of a new time namespace may not share memory (EINVAL); and the host forbids it to one that places files,
 * which would be charged to init's group, since the kernel asks whose the memory is, and where the call's
 * group has so little memory left that the worker may run out of it: that would take init along. */
int start_program(struct call *call)
{
    call->request = NULL;
    pid_t worker = -1;
    if (call->flags & MAY_SHARE_MEMORY)
        worker = vfork();
    if (worker < 0)
        worker = fork();
    if (worker == 0)
        live(call);
    int error = errno;
    if (call->request)
        munmap(call->request, call->request_size);
    errno = error;
    return worker;
}
