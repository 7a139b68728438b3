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
#include <signal.h>
#include <stdbool.h>
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
        const Elf64_Ehdr *elf = (const void *)header;
        return elf->e_ident[EI_CLASS] == ELFCLASS64 && elf->e_machine == MACHINE ? 0 : ENOEXEC;
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
    _Alignas(Elf64_Ehdr) char header[HEADER + 1] = {0};
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

/* As execvp(3): the first that can be executed; if none can, why the first that is there cannot. Searched
 * here, so that it is known which one that is. What has no flaw is where files can no longer be taken back
 * as they were. Returns only if there is none. */
static struct refusal execute(const struct request *request)
{
    struct refusal refusal = {AT_PROGRAM, 0, request->path_count}, found = {0};
    uint32_t error = ENOENT;

    for (; found.index < request->path_count; found.index++) {
        const char *path = request->paths[found.index];
        found.error = flaw_of(path, &found.what);
        if (found.error && found.what == AT_PROGRAM && is_missing(found.error)) {
            error = found.error;
            continue;
        }
        if (!found.error) {
            uint32_t index;
            if (let_go_of_replaced(&index) < 0)
                return (struct refusal){AT_FILES, (uint32_t)errno, index};
            execve(path, request->arguments, request->variables);
            found.error = (uint32_t)errno;
            /* What is missing now is not the file but the interpreter that it names. */
            found.what = is_missing(found.error) ? AT_INTERPRETER : AT_PROGRAM;
        }
        if (!refusal.error)
            refusal = found;
    }
    if (!refusal.error)
        refusal.error = request->path_count == 1 ? error : ENOENT;
    return refusal;
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

    if (confine_worker(call) == 0 && read_request(call, &request) == 0) {
        struct refusal refusal = become(&request);
        if (request.file_count)
            take_files_back();
        tell_refusal(call->number, &refusal);
    }
    _exit(UNSTARTED_STATUS);
}

/* By init: the pid of a worker, which in general has become the program already.
 *
 * vfork, since nothing of init's is in a program: the worker works in init's memory, and init waits. What it
 * reads there that a guest may have made is the first bytes of what it executes. What it wrote to files
 * would be charged to init's group, since the kernel asks whose the memory is: one that places files is
 * forked. So is one before Linux 6.2, where a process of a new time namespace may not share memory (EINVAL).
 *
 * An OOM of the call's group would take init along; but at this point the group has all its memory left. */
int start_program(struct call *call)
{
    call->request = NULL;
    pid_t worker = -1;
    if (call->kind == PROGRAM)
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
