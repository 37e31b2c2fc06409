/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lines of an audit log, and the chain that holds them together.
 *
 * A line is one JSON object, `{"sequence":N,"time":"...",...,"hash":"64 hex digits"}` and a
 * newline. The hash is BLAKE2b-256 under the log's key of: the hash before (zeros for the first
 * line), the torn text that stands between the two lines if there is any, and the line's own bytes
 * up to
 * `,"hash":`. Sequence numbers start at 1 and have no gap. So, without the key, no line can be
 * altered, removed, inserted or moved; that lines are missing at the end shows when the hash of a
 * later line (the head) was noted elsewhere.
 *
 * A log that was moved away goes on in a new file: there the first line has the next number, and
 * `"before":"64 hex digits"`, the hash of the last line of the file before.
 *
 * Torn text is what a crash left of a line. It stays where it is, ended by a newline, and the next
 * line's hash covers it.
 */
#ifndef TOOLS_AUDITLOG_H
#define TOOLS_AUDITLOG_H

#include "vdisk/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AUDITLOG_KEY_BYTES  32u
#define AUDITLOG_HASH_BYTES 32u
#define AUDITLOG_HEX_CHARS  (2 * AUDITLOG_HASH_BYTES)
#define AUDITLOG_LINE_MAX   16384u /* bytes, with the newline */
#define AUDITLOG_VALUE_MAX  1024u  /* bytes of a string value that are kept */

struct auditlog_chain {
    uint8_t key[AUDITLOG_KEY_BYTES];
    uint8_t head[AUDITLOG_HASH_BYTES]; /* of the last line; zeros: none yet */
    uint64_t sequence;                 /* of the last line; 0: none yet */
};

/* ---- writing ---- */

struct auditlog_line {
    size_t length;
    bool is_full; /* something did not fit */
    char text[AUDITLOG_LINE_MAX];
};

/* Begins the next line of the chain; `nanoseconds` since 1970. */
void auditlog_begin(struct auditlog_line *line, const struct auditlog_chain *chain,
                    int64_t nanoseconds);
/* The value escaped and cut to AUDITLOG_VALUE_MAX; NULL is left out. `name` needs no escapes. */
void auditlog_string(struct auditlog_line *line, const char *name, const char *value);
/* Makes the line one that may be the first of a new file. */
void auditlog_before(struct auditlog_line *line, const struct auditlog_chain *chain);
void auditlog_number(struct auditlog_line *line, const char *name, int64_t value);
/* Ends the line with its hash and a newline, and moves the chain on. `torn` (may be NULL) is the
 * torn text before it, without its newline. */
void auditlog_end(struct auditlog_line *line, struct auditlog_chain *chain, const void *torn,
                  size_t torn_length);

/* ---- reading ---- */

struct auditlog_result {
    uint64_t lines;                      /* that are good, from the start */
    uint64_t bytes;                      /* that they take, with torn text between them */
    uint64_t torn;                       /* pieces of torn text between them */
    uint64_t damaged_line;               /* the first that is not good, from 1; 0: all are */
    const char *damage;                  /* what is wrong with it */
    bool is_continued;                   /* the first line says that another file was before */
    uint8_t before[AUDITLOG_HASH_BYTES]; /* the hash of that one's last line; else zeros */
    bool has_wanted;                     /* a line with the hash `wanted` is there */
    /* After the good lines there is only what crashes leave: little, without a newline at its end.
     */
    bool is_cut_short;
    bool is_whole_but_newline; /* the same, but its last line is all there */
};

/*
 * Reads the log from its start, under chain->key; the chain is then where the good lines end.
 * `wanted` may be NULL. 0 also for a log with damage; -errno.
 */
int auditlog_scan(int fd, struct auditlog_chain *chain, const uint8_t wanted[AUDITLOG_HASH_BYTES],
                  struct auditlog_result *result);

/* The key from a file of exactly its size that only its owner may read. -errno, -EACCES for one
 * that others may read, VDISK_E_MALFORMED. */
int auditlog_read_key(const char *path, uint8_t key[AUDITLOG_KEY_BYTES], struct vdisk_error *error);

/* 64 lower-case hex digits and a NUL. */
void auditlog_hex(char text[AUDITLOG_HEX_CHARS + 1], const uint8_t hash[AUDITLOG_HASH_BYTES]);
/* False when it is not that. */
bool auditlog_from_hex(const char *text, size_t length, uint8_t hash[AUDITLOG_HASH_BYTES]);

#endif
