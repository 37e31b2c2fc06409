/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the ext_*.c files. */
#ifndef FUSE_EXT_IMPL_H
#define FUSE_EXT_IMPL_H

#include "ext_files.h"
#include "ext_io.h"

struct ext_files {
    struct ext_io io;
    ext2_filsys fs;
    struct ext_files_info info;
};

/* Begins an operation: a new budget. */
void ext_begin(struct ext_files *files);

/* The code of a failure of libext2fs; 0 for 0. */
int ext_code(struct ext_files *files, errcode_t error);

/* Reads the inode with its times; `inode` is larger than those of old file systems. */
int ext_inode(struct ext_files *files, uint32_t number, struct ext2_inode_large *inode);

/* Blocks of a file that are one behind the other, or not there. */
struct ext_run {
    uint64_t physical; /* 0: a hole */
    uint64_t count;    /* at least 1; may reach past the end of the file */
};

/* The run that begins at the file's block `logical`. */
int ext_find_run(struct ext_files *files, uint32_t number, struct ext2_inode_large *inode,
                 uint64_t logical, struct ext_run *run);

/* The content of a file or link that is kept within its inode; free() it. */
int ext_inline(struct ext_files *files, uint32_t number, struct ext2_inode_large *inode,
               uint8_t **data, size_t *length);

/* Finds the journal and, if it is not empty, has `files->io` read as after its replay. *changed:
 * the file system must be opened again. */
int ext_take_journal(struct ext_files *files, bool *changed, struct vdisk_error *error);

static inline struct ext2_inode *ext_small(struct ext2_inode_large *inode)
{
    return (struct ext2_inode *)inode;
}

#endif
