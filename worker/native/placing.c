/* A program's files, placed below /work: all of them or none. Runs in the confined worker with the guest's
 * rights, before guest code.
 *
 * No other process of the jail lives now: what was looked at stays as it is. But an earlier call may have
 * left anything in the way.
 */
#define _GNU_SOURCE
#include "request.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORK "/work"
enum { PIECE = 1 << 16 };
enum { NEW = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, OLD = O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC };

/* Where a file belongs and where it is; what it replaces is at `aside`, or when that is gone a descriptor of
 * it, or the text of a link. */
struct file {
    char *target, *now, *aside, *link;
    int kept;
};

static struct file *files;
static char **made; /* folders, in the order in which they were */
static uint32_t file_count, made_count, made_room;
/* In the names of what is not in its place yet: neither a guest nor a caller can have foreseen it. */
static char mark[36];

static int out_of_memory(void)
{
    errno = ENOMEM;
    return -1;
}

static int write_all(int file, const char *content, size_t size)
{
    while (size) {
        ssize_t written = write(file, content, size);
        if (written < 0)
            return -1;
        content += written;
        size -= written;
    }
    return 0;
}

static int write_new(const char *path, mode_t mode, const char *content, size_t size)
{
    int file = open(path, NEW, mode);
    if (file < 0)
        return -1;
    int result = write_all(file, content, size), error = errno;
    close(file);
    errno = error;
    return result;
}

static int remember_folder(const char *path)
{
    if (made_count == made_room) {
        uint32_t room = made_room * 2 + 16;
        char **more = realloc(made, room * sizeof *made);
        if (!more)
            return out_of_memory();
        made = more;
        made_room = room;
    }
    made[made_count] = strdup(path);
    return made[made_count++] ? 0 : out_of_memory();
}

static int make_folder(const char *path)
{
    struct stat status;

    if (mkdir(path, 0755) == 0)
        return remember_folder(path);
    if (errno != EEXIST)
        return -1;
    if (lstat(path, &status) < 0)
        return -1;
    if (!S_ISDIR(status.st_mode)) {
        errno = ENOTDIR;
        return -1;
    }
    return 0;
}

/* How many bytes of the two are the same, up to a slash in both. */
static size_t common_folders(const char *a, const char *b)
{
    size_t common = 0;

    for (size_t i = 0; a[i] && a[i] == b[i]; i++)
        if (a[i] == '/')
            common = i;
    return common;
}

/* The folders above `path`, where they are missing; no link is followed. Those of the path before it are
 * known to be there. */
static int make_parents(char *path)
{
    static const char *before = WORK "/";
    size_t known = common_folders(before, path);

    for (char *slash = strchr(path + known + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int result = make_folder(path);
        *slash = '/';
        if (result < 0)
            return -1;
    }
    before = path;
    return 0;
}

/* Written beside its place. */
static int add_file(struct file *file, uint32_t index, const struct placed *placed, const char *content)
{
    const char *slash = strrchr(file->target, '/');

    if (asprintf(&file->now, "%.*s/.%s.%u", (int)(slash - file->target), file->target, mark, index) < 0) {
        file->now = NULL;
        return out_of_memory();
    }
    return write_new(file->now, placed->mode, content, placed->size);
}

static int add(uint32_t index, const struct placed *placed, const char *content)
{
    struct file *file = &files[index];

    if (asprintf(&file->target, WORK "/%s", placed->name) < 0) {
        file->target = NULL;
        return out_of_memory();
    }
    if (make_parents(file->target) < 0)
        return -1;
    return S_ISDIR(placed->mode) ? make_folder(file->target) : add_file(file, index, placed, content);
}

static int swap(struct file *file)
{
    char *aside;

    if (!file->now)
        return 0; /* a folder */
    if (asprintf(&aside, "%s.old", file->now) < 0)
        return out_of_memory();
    if (rename(file->target, aside) == 0)
        file->aside = aside;
    else if (errno != ENOENT)
        return -1;
    if (rename(file->now, file->target) < 0)
        return -1;
    file->now = file->target;
    return 0;
}

/* The bytes of all files, mapped: no copy of them in this process. Private, since a shared mapping of a
 * memfd sealed against writing is EPERM before Linux 6.7. */
static const char *content_of(const struct placed *placed, uint32_t count)
{
    size_t size = 0;

    for (uint32_t i = 0; i < count; i++)
        size += placed[i].size;
    if (!size)
        return "";
    void *content = mmap(NULL, size, PROT_READ, MAP_PRIVATE, STORE, 0);
    return content == MAP_FAILED ? NULL : content;
}

static int make_mark(void)
{
    unsigned char random[16];

    if (getrandom(random, sizeof random, 0) != sizeof random)
        return -1;
    for (size_t i = 0; i < sizeof random; i++)
        sprintf(mark + 2 * i, "%02x", random[i]);
    return 0;
}

/* Place `count` files, whose bytes lie one after the other in the memory from the host. All are written
 * beside their places first: most of what can fail fails before anything is replaced. `*index` is the one
 * that failed. */
int place_files(const struct placed *placed, uint32_t count, uint32_t *index)
{
    *index = 0;
    if (!count)
        return 0;
    files = calloc(count, sizeof *files);
    if (!files)
        return out_of_memory();
    file_count = count;
    for (uint32_t i = 0; i < count; i++)
        files[i].kept = -1;
    const char *content = content_of(placed, count);
    if (!content || make_mark() < 0)
        return -1;
    for (; *index < count; ++*index) {
        if (add(*index, &placed[*index], content) < 0)
            return -1;
        content += placed[*index].size;
    }
    for (*index = 0; *index < count; ++*index)
        if (swap(&files[*index]) < 0)
            return -1;
    return 0;
}

/* For reading and, so that it can be cut, writing; also if the guest forbade it to itself. */
static int open_old(const char *path)
{
    struct stat status;
    int file = open(path, O_RDWR | OLD);

    if (file < 0 && errno == EACCES && lstat(path, &status) == 0 && S_ISREG(status.st_mode)) {
        chmod(path, 0600);
        file = open(path, O_RDWR | OLD);
        chmod(path, status.st_mode & 07777); /* it may have other names */
    }
    return file < 0 ? open(path, O_RDONLY | OLD) : file;
}

/* What can be neither read nor, for want of descriptors, kept is lost. */
static void keep(struct file *file)
{
    char text[PATH_MAX];

    file->kept = open_old(file->aside);
    if (file->kept >= 0)
        return;
    ssize_t length = readlink(file->aside, text, sizeof text);
    if (length >= 0)
        file->link = strndup(text, (size_t)length);
}

/* Remove what was replaced, since the program must not find it; a folder there is an error. Until exec,
 * which closes descriptors, it can still be written anew: as many files as there can be descriptors. */
int let_go_of_replaced(uint32_t *index)
{
    for (*index = 0; *index < file_count; ++*index) {
        struct file *file = &files[*index];
        if (!file->aside)
            continue;
        keep(file);
        if (unlink(file->aside) < 0)
            return -1;
        file->aside = NULL;
    }
    return 0;
}

/* From the end, so that what is copied can be cut off there: there may not be room for both. A file that
 * has other names is not cut, nor can one be that may not be written. Holes stay holes. */
static int move_content(int source, int target, off_t end, bool cut)
{
    static char piece[PIECE];

    for (off_t start; end; end = start) {
        start = end > PIECE ? end - PIECE : 0;
        off_t data = lseek(source, start, SEEK_DATA);
        if (data < 0 || data >= end)
            continue;
        ssize_t length = pread(source, piece, (size_t)(end - start), start);
        if (length < 0)
            return -1;
        if (cut && ftruncate(source, start) < 0) {
            /* It could only be read. */
        }
        if (pwrite(target, piece, (size_t)length, start) != length)
            return -1;
    }
    return 0;
}

static void write_anew(int kept, const char *target)
{
    struct stat old;

    if (fstat(kept, &old) < 0 || !S_ISREG(old.st_mode))
        return;
    int file = open(target, NEW, 0600);
    if (file < 0)
        return;
    if (ftruncate(file, old.st_size) < 0 || move_content(kept, file, old.st_size, !old.st_nlink) < 0 ||
        fchmod(file, old.st_mode & 0777) < 0)
        unlink(target);
    close(file);
}

static void put_back(const struct file *file)
{
    if (!file->target)
        return;
    if (file->aside) {
        rename(file->aside, file->target);
    } else if (file->kept >= 0) {
        write_anew(file->kept, file->target);
        close(file->kept); /* the next one may need the room that it takes */
    } else if (file->link && symlink(file->link, file->target) < 0) {
        /* Lost: there is no room for a link. */
    }
}

/* As if nothing had been placed. */
void take_files_back(void)
{
    close(STORE); /* a free number, should kept files have taken all others */
    for (uint32_t i = 0; i < file_count; i++)
        if (files[i].now)
            unlink(files[i].now);
    for (uint32_t i = 0; i < file_count; i++)
        put_back(&files[i]);
    while (made_count)
        rmdir(made[--made_count]);
}
