/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal of ext3 and ext4 (JBD2), read as a mount would replay it, without writing: the result
 * says for which blocks of the file system the journal has a newer copy, and where. Who reads a
 * block looks there first.
 *
 * The journal is what a guest wrote. A transaction counts when it is whole and all of its checksums
 * are right; with the first that is not, the log ends. What is gathered is bounded by
 * JBD2_RECORDS_MAX.
 */
#ifndef FUSE_JBD2_H
#define FUSE_JBD2_H

#include "vdisk/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JBD2_BLOCK_BYTES_MIN 1024u
#define JBD2_BLOCK_BYTES_MAX 65536u
#define JBD2_RECORDS_MAX     (UINT32_C(1) << 22) /* copies, and revocations: 64 MiB each */

struct jbd2_journal {
    uint32_t block_bytes; /* of file system and journal */
    uint32_t blocks;      /* of the journal's file */
    uint64_t fs_blocks;   /* of the file system */
    /* Reads block number `block` of the journal's file. 0 or an error. */
    int (*read)(void *owner, uint32_t block, void *data);
    void *owner;
};

struct jbd2_copy {
    uint64_t block; /* of the file system */
    uint32_t from;  /* of the journal's file */
    bool escaped;   /* the copy begins with four zeros in place of the journal's magic number */
};

struct jbd2_replay {
    struct jbd2_copy *copy; /* by block, each once */
    size_t count;
    uint32_t transactions;
    bool is_cut;           /* a checksum was wrong: what came from there on is left out */
    bool has_fast_commits; /* what was committed in that form since the last transaction is left
                            * out: the state is that of the transaction */
};

/* Gathers; jbd2_replay_free() is due after success. A clean journal gives no copies. Errors: those
 * of read, -ENOMEM, VDISK_E_MALFORMED, VDISK_E_UNSUPPORTED, VDISK_E_LIMIT. */
int jbd2_replay_read(const struct jbd2_journal *journal, struct jbd2_replay *out,
                     struct vdisk_error *error);
void jbd2_replay_free(struct jbd2_replay *replay);

/* NULL: the block in its place is current. */
const struct jbd2_copy *jbd2_replay_find(const struct jbd2_replay *replay, uint64_t block);

/* The first bytes of a block that was escaped. */
#define JBD2_MAGIC_BYTES "\xc0\x3b\x39\x98"

#endif
