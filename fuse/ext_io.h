/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What libext2fs reads through: a drive, with the blocks in place of which the journal has newer
 * ones. Nothing can be written.
 *
 * `budget` bounds what an operation may read, since the structures that lead libext2fs from block
 * to block are a guest's: when it is used up reads fail with -ELOOP.
 */
#ifndef FUSE_EXT_IO_H
#define FUSE_EXT_IO_H

#include "drive.h"
#include "jbd2.h"

#include <ext2fs/ext2fs.h>

#define EXT_IO_SLOTS  64u                 /* blocks that are kept: the metadata read last */
#define EXT_IO_BUDGET (UINT64_C(1) << 20) /* blocks: a directory of 4 GiB */

struct ext_io {
    struct drive *drive;
    io_manager manager;
    uint64_t budget; /* reads that are left */
    int error;       /* of the last read that failed, until someone takes it; 0: none */
    /* Once the journal is known: */
    uint32_t block_bytes;
    struct jbd2_replay replay;
    uint64_t *journal; /* where the blocks of the journal's file are; 0: nowhere */
    uint32_t journal_blocks;
    /* Of blocks as long as `slot_bytes`. */
    uint8_t *slots;
    uint32_t slot_bytes;
    uint64_t slot_block[EXT_IO_SLOTS]; /* plus one; 0: empty */
};

/* Zeroes it first. */
void ext_io_begin(struct ext_io *io, struct drive *drive);
void ext_io_end(struct ext_io *io);

/* ext2fs_open2() on it; `io` must outlive the file system. */
errcode_t ext_io_open_fs(struct ext_io *io, ext2_filsys *fs);

/* A range of bytes as it is after the replay: 0 or an error. */
int ext_io_read(struct ext_io *io, uint64_t offset, void *data, uint64_t length);

/* The block of the drive that holds the content of `block`: itself, or one of the journal.
 * -EOPNOTSUPP: it was escaped; VDISK_E_MALFORMED. */
int ext_io_place(const struct ext_io *io, uint64_t block, uint64_t *place);

/* Forgets kept blocks: the journal has become known. */
void ext_io_forget(struct ext_io *io);

#endif
