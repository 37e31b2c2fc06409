/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes that nobody else may see, from a file or from the terminal.
 *
 * They live in vdisk_secret_alloc() memory from the read(2) that brings them, and are wiped by
 * secret_free(). No stdio, no copies, no arguments.
 */
#ifndef TOOLS_SECRET_H
#define TOOLS_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECRET_FILE_MAX (1u << 20)

struct secret {
    uint8_t *bytes; /* NULL: none */
    size_t length;
};

/*
 * The whole of a file, `-` being standard input. Empty and longer than SECRET_FILE_MAX are errors;
 * a file that others may read earns a warning when `is_private`. Returns an exit status, having
 * reported; the caller frees.
 */
int secret_read_file(const char *path, bool is_private, struct secret *secret);

/* Whether there is a person to ask: a terminal at standard input or standard error. */
bool secret_can_prompt(void);

/*
 * A line from the terminal, without echo. `twice` asks again and compares. Empty is an error.
 * Returns an exit status, having reported.
 */
int secret_prompt(const char *what, const char *subject, bool twice, struct secret *secret);

/* NULL members are allowed. */
void secret_free(struct secret *secret);

#endif
