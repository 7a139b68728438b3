/* Read the request for a program, and say why there is none. What is read comes from the trusted host. */
#define _GNU_SOURCE
#include "bytes.h"
#include "request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LISTS = 4, HEAD = 4 };

static int read_exactly(void *buffer, size_t length)
{
    char *at = buffer;

    while (length) {
        ssize_t count = read(RESULT, at, length);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return -1;
        at += count;
        length -= (size_t)count;
    }
    return 0;
}

static char **list_of(char ***room, uint32_t count, char **string)
{
    char **list = *room;

    for (uint32_t i = 0; i < count; i++) {
        list[i] = *string;
        *string += strlen(*string) + 1;
    }
    list[count] = NULL;
    *room += count + 1;
    return list;
}

/* Each is a text: mode in octal, size, name. */
static struct placed *files_of(char **room, uint32_t count, char *string)
{
    struct placed *files = (struct placed *)room;

    for (uint32_t i = 0; i < count; i++) {
        files[i].mode = (uint32_t)strtoul(string, &string, 8);
        files[i].size = strtoull(string, &string, 10);
        files[i].name = string + 1;
        string += strlen(string) + 1;
    }
    return files;
}

/* Counts, then strings that end in NUL: the working directory, folders, arguments, variables, files. `room`
 * is for the lists of pointers. */
static struct request parse(unsigned char *block, char **room)
{
    struct request request = {.folder_count = number_at(block), .file_count = number_at(block + 12)};
    char *string = (char *)block + 4 * LISTS;

    request.cwd = string;
    string += strlen(string) + 1;
    request.folders = list_of(&room, request.folder_count, &string);
    request.arguments = list_of(&room, number_at(block + 4), &string);
    request.variables = list_of(&room, number_at(block + 8), &string);
    request.files = files_of(room, request.file_count, string);
    return request;
}

/* The length of the block, then the block. Its memory has room for a pointer for each of its bytes as well:
 * more than there can be strings, or files, whose text is longer than the pointers one takes. Pages that
 * nobody touches are free. */
int read_request(struct call *call, struct request *request)
{
    unsigned char head[HEAD];

    if (read_exactly(head, sizeof head) < 0)
        return -1;
    size_t length = number_at(head), rounded = (length + sizeof(char *)) & ~(sizeof(char *) - 1);
    size_t size = rounded + sizeof(char *) * (length + LISTS);
    void *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED)
        return -1;
    call->request = block;
    call->request_size = size;
    if (read_exactly(block, length) < 0)
        return -1;
    *request = parse(block, (char **)((unsigned char *)block + rounded));
    return 0;
}

/* One msgpack frame: [1, "unstarted", number, [what, error, index]]. */
void tell_refusal(uint32_t number, const struct refusal *refusal)
{
    unsigned char frame[] = "\0\0\0\x21\x94\x01\xa9unstarted\xce----\x93\xce----\xce----\xce----";

    put_number(frame + 17, number);
    put_number(frame + 23, refusal->what);
    put_number(frame + 28, refusal->error);
    put_number(frame + 33, refusal->index);
    if (write(RESULT, frame, sizeof frame - 1) < 0) {
        /* The host is gone. */
    }
}
