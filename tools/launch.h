/* SPDX-License-Identifier: Apache-2.0 */
/*
 * To become, or to start, a program that comes with this one (vdiskd, vdisk-vmm): its command line,
 * and a key for it, which goes over by a pipe that the kernel keeps in its own memory; arguments
 * and environment have no part of it.
 */
#ifndef TOOLS_LAUNCH_H
#define TOOLS_LAUNCH_H

#include "vdisk/vdisk.h"

#include <stdbool.h>

#define LAUNCH_WORDS_MAX 192u

struct launch {                   /* zeroed: empty */
    char *word[LAUNCH_WORDS_MAX]; /* the last one is NULL */
    unsigned count;
    bool failed; /* a word is missing: no memory, or too many */
};

void launch_add(struct launch *words, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void launch_flag(struct launch *words, const char *name, bool is_set);
void launch_free(struct launch *words);
/* For a value among others: commas are doubled. To be freed; NULL without memory. */
char *launch_quoted(const char *text);

/* The end to read the key from, which is inherited. -errno. */
int launch_key_pipe(const struct vdisk_key *key, int *out);
/* What vdiskd calls that kind. */
const char *launch_key_kind(enum vdisk_key_kind kind);

/* Becomes the program: the one beside this one, else by PATH. Returns, having reported, when it
 * cannot be executed. */
int launch_become(const char *program, struct launch *words);

#endif
