/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal of a file system, found and read (jbd2.h does the reading), so that ext_io.c can look
 * there first.
 */
#include "ext_impl.h"

#include "report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define JOURNAL_BLOCKS_MAX (UINT32_C(1) << 22)

/* Where each block of the journal's file is. */
static int map_file(struct ext_files *files, uint32_t number, struct ext2_inode_large *inode,
                    uint32_t blocks)
{
    struct ext_io *io = &files->io;
    uint32_t at = 0;

    io->journal = calloc(blocks, sizeof(*io->journal));
    if (!io->journal)
        return -ENOMEM;
    io->journal_blocks = blocks;
    while (at < blocks) {
        struct ext_run run;
        int result = ext_find_run(files, number, inode, at, &run);

        if (result)
            return result;
        for (uint64_t i = 0; i < run.count && at < blocks; i++, at++)
            io->journal[at] = run.physical ? run.physical + i : 0;
    }
    return 0;
}

static int find(struct ext_files *files, struct vdisk_error *error)
{
    const struct ext2_super_block *super = files->fs->super;
    struct ext2_inode_large inode;
    uint64_t blocks;
    int result;

    if (super->s_journal_inum == 0)
        return error_set(error, VDISK_E_UNSUPPORTED,
                         "was not unmounted, and its journal is on another device");
    result = ext_inode(files, super->s_journal_inum, &inode);
    if (result)
        return error_set(error, result, "its journal: %s", vdisk_strerror(result));
    blocks = EXT2_I_SIZE(&inode) / files->fs->blocksize;
    if (!LINUX_S_ISREG(inode.i_mode) || blocks == 0 || blocks > JOURNAL_BLOCKS_MAX)
        return error_set(error, VDISK_E_MALFORMED, "its journal is not one");
    result = map_file(files, super->s_journal_inum, &inode, (uint32_t)blocks);
    return result ? error_set(error, result, "its journal: %s", vdisk_strerror(result)) : 0;
}

static int read_block(void *owner, uint32_t block, void *data)
{
    struct ext_io *io = owner;

    if (io->journal[block] == 0)
        return VDISK_E_MALFORMED;
    return drive_get(io->drive, io->journal[block] * io->block_bytes, data, io->block_bytes);
}

int ext_take_journal(struct ext_files *files, bool *changed, struct vdisk_error *error)
{
    struct ext_io *io = &files->io;
    struct jbd2_journal journal;
    int result = find(files, error);

    *changed = false;
    if (result)
        return result;
    io->block_bytes = files->fs->blocksize;
    journal = (struct jbd2_journal){
        .block_bytes = io->block_bytes,
        .blocks = io->journal_blocks,
        .fs_blocks = ext2fs_blocks_count(files->fs->super),
        .read = read_block,
        .owner = io,
    };
    result = jbd2_replay_read(&journal, &io->replay, error);
    if (result)
        return result;
    ext_io_forget(io);
    files->info.replayed = io->replay.transactions;
    files->info.journal_is_cut = io->replay.is_cut;
    files->info.has_fast_commits = io->replay.has_fast_commits;
    *changed = io->replay.count > 0;
    return 0;
}
