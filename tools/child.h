/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Helper programs (qemu-img, qemu-nbd): started without a shell, ended and waited for by their
 * process id. They end with us, whatever ends us.
 */
#ifndef TOOLS_CHILD_H
#define TOOLS_CHILD_H

#include "vdisk/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define CHILD_COMPLAINT_BYTES 256u
#define CHILD_NAME_BYTES      32u

struct child {
    pid_t pid; /* 0: none */
    char program[CHILD_NAME_BYTES];
    int output;     /* what it writes to standard output; -1: nowhere */
    int complaints; /* what it writes to standard error */
};

/* Starts argv[0], found by PATH; standard input is empty. -ENOENT with a sentence that names the
 * package when it is not installed. */
int child_start(struct child *child, char *const argv[], bool wants_output,
                struct vdisk_error *error);

/* Whether it has ended by itself; then wait with child_wait(). */
bool child_has_ended(struct child *child);

/* Waits for its end; not 0 makes -EIO with what it complained of. A signal to us gives
 * -ECANCELED, after ending it. */
int child_wait(struct child *child, struct vdisk_error *error);

/* Ends and waits for it, if it is there. */
void child_kill(struct child *child);

/* Runs it to its end and takes what it prints, up to `size` - 1 bytes and a NUL; NULL: nothing. */
int child_run(char *const argv[], char *output, size_t size, struct vdisk_error *error);

#endif
