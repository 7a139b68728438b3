/* What the host asks a worker for that shall become a program; sandbox/_start.py writes it. */
#ifndef REQUEST_H
#define REQUEST_H

#include "native.h"

/* A file that comes with a program; a folder, if its mode says so. */
struct placed { const char *name; uint32_t mode; uint64_t size; };

/* Without folders the name of the program is its path; with them it is looked for there. */
struct request {
    char *cwd, **folders, **arguments, **variables;
    struct placed *files;
    uint32_t folder_count, file_count;
};

/* What a program could not be started for, by its number in the answer. */
enum refused { AT_CWD, AT_PROGRAM, AT_INTERPRETER, AT_FILES };

/* Why there is no program: what failed, the kernel's answer, at which of the folders or files; behind the
 * last folder means that it is in none. */
struct refusal { uint32_t what, error, index; };

/* request.c */
int read_request(struct call *call, struct request *request);
void tell_refusal(uint32_t number, const struct refusal *refusal);

/* placing.c */
int place_files(const struct placed *placed, uint32_t count, uint32_t *index);
int let_go_of_replaced(uint32_t *index);
void take_files_back(void);

#endif
