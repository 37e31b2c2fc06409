/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the data of a file is, and reading it.
 */
#include "ext_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RUN_BLOCKS_MAX 1024u /* looked up one by one, where there are no extents */

/* --- runs --------------------------------------------------------------------------------- */

/* What comes behind a hole at `logical`. */
static int end_of_hole(struct ext_files *files, ext2_extent_handle_t handle, uint64_t logical,
                       struct ext_run *run)
{
    struct ext2fs_extent extent;
    errcode_t error = ext2fs_extent_get(handle, EXT2_EXTENT_CURRENT, &extent);

    if (error == 0 && extent.e_lblk <= logical)
        error = ext2fs_extent_get(handle, EXT2_EXTENT_NEXT_LEAF, &extent);
    run->physical = 0;
    run->count = UINT32_MAX;
    if (error == EXT2_ET_EXTENT_NO_NEXT || error == EXT2_ET_NO_CURRENT_NODE)
        return 0;
    if (error)
        return ext_code(files, error);
    if (extent.e_lblk > logical)
        run->count = extent.e_lblk - logical;
    return 0;
}

static int run_of_extents(struct ext_files *files, uint32_t number, struct ext2_inode_large *inode,
                          uint64_t logical, struct ext_run *run)
{
    ext2_extent_handle_t handle;
    struct ext2fs_extent extent;
    errcode_t error = ext2fs_extent_open2(files->fs, number, ext_small(inode), &handle);
    int result = 0;

    if (error)
        return ext_code(files, error);
    error = ext2fs_extent_goto2(handle, 0, logical);
    if (error == 0)
        error = ext2fs_extent_get(handle, EXT2_EXTENT_CURRENT, &extent);
    if (error == EXT2_ET_EXTENT_NOT_FOUND || error == EXT2_ET_NO_CURRENT_NODE) {
        result = end_of_hole(files, handle, logical, run);
    } else if (error) {
        result = ext_code(files, error);
    } else if (extent.e_lblk > logical || logical - extent.e_lblk >= extent.e_len) {
        result = VDISK_E_MALFORMED;
    } else {
        run->count = extent.e_len - (logical - extent.e_lblk);
        run->physical = extent.e_flags & EXT2_EXTENT_FLAGS_UNINIT
                            ? 0
                            : extent.e_pblk + (logical - extent.e_lblk);
    }
    ext2fs_extent_free(handle);
    return result;
}

/* Where whole levels of indirect blocks are missing: how far that goes. */
static uint64_t missing_level(const struct ext2_inode_large *inode, uint64_t each, uint64_t logical)
{
    uint64_t begin = EXT2_NDIR_BLOCKS, length = each;

    for (unsigned i = EXT2_IND_BLOCK; i <= EXT2_TIND_BLOCK; i++) {
        if (logical >= begin && logical - begin < length)
            return inode->i_block[i] ? 1 : length - (logical - begin);
        begin += length;
        length *= each;
    }
    return 1;
}

static int run_of_blocks(struct ext_files *files, uint32_t number, struct ext2_inode_large *inode,
                         uint64_t logical, struct ext_run *run)
{
    run->count = 0;
    while (run->count < RUN_BLOCKS_MAX) {
        blk64_t physical = 0;
        errcode_t error = ext2fs_bmap2(files->fs, number, ext_small(inode), NULL, 0,
                                       logical + run->count, NULL, &physical);

        if (error && run->count > 0)
            break;
        if (error)
            return ext_code(files, error);
        if (run->count == 0)
            run->physical = physical;
        else if (physical != (run->physical ? run->physical + run->count : 0))
            break;
        run->count +=
            physical ? 1 : missing_level(inode, files->fs->blocksize / 4, logical + run->count);
    }
    return 0;
}

int ext_find_run(struct ext_files *files, uint32_t number, struct ext2_inode_large *inode,
                 uint64_t logical, struct ext_run *run)
{
    uint64_t blocks = ext2fs_blocks_count(files->fs->super);
    int result = inode->i_flags & EXT4_EXTENTS_FL
                     ? run_of_extents(files, number, inode, logical, run)
                     : run_of_blocks(files, number, inode, logical, run);

    if (result || run->physical == 0)
        return result;
    if (run->physical < files->fs->super->s_first_data_block || run->physical >= blocks ||
        run->count > blocks - run->physical)
        return VDISK_E_MALFORMED;
    return 0;
}

int ext_inline(struct ext_files *files, uint32_t number, struct ext2_inode_large *inode,
               uint8_t **data, size_t *length)
{
    errcode_t error = ext2fs_inline_data_size(files->fs, number, length);

    *data = NULL;
    if (error)
        return ext_code(files, error);
    if (*length > files->fs->blocksize)
        return VDISK_E_MALFORMED;
    *data = calloc(1, *length + 1);
    if (!*data)
        return -ENOMEM;
    error = ext2fs_inline_data_get(files->fs, number, ext_small(inode), *data, length);
    if (error) {
        free(*data);
        *data = NULL;
    }
    return ext_code(files, error);
}

/* --- files -------------------------------------------------------------------------------- */

static int open_file(struct ext_files *files, uint32_t number, struct ext2_inode_large *inode)
{
    int result;

    ext_begin(files);
    result = ext_inode(files, number, inode);
    if (result)
        return result;
    if (LINUX_S_ISDIR(inode->i_mode))
        return -EISDIR;
    if (!LINUX_S_ISREG(inode->i_mode))
        return -EINVAL;
    return inode->i_flags & EXT4_ENCRYPT_FL ? -ENOKEY : 0;
}

static int read_inline(struct ext_files *files, uint32_t number, struct ext2_inode_large *inode,
                       uint64_t offset, uint8_t *to, uint64_t length)
{
    uint8_t *data;
    size_t have;
    int result = ext_inline(files, number, inode, &data, &have);

    if (result)
        return result;
    memset(to, 0, length);
    if (offset < have)
        memcpy(to, data + offset, length < have - offset ? length : have - offset);
    free(data);
    return 0;
}

static int read_runs(struct ext_files *files, uint32_t number, struct ext2_inode_large *inode,
                     uint64_t offset, uint8_t *to, uint64_t length)
{
    uint32_t bytes = files->fs->blocksize;
    int result = 0;

    while (result == 0 && length > 0) {
        uint64_t skip = offset % bytes, step;
        struct ext_run run;

        result = ext_find_run(files, number, inode, offset / bytes, &run);
        if (result)
            break;
        step = run.count > (length + skip) / bytes ? length : run.count * bytes - skip;
        if (run.physical == 0)
            memset(to, 0, step);
        else
            result = ext_io_read(&files->io, run.physical * bytes + skip, to, step);
        to += step;
        offset += step;
        length -= step;
    }
    return result;
}

int64_t ext_files_read(struct ext_files *files, uint32_t inode, uint64_t offset, void *data,
                       uint64_t length)
{
    struct ext2_inode_large found;
    int result = open_file(files, inode, &found);
    uint64_t size = EXT2_I_SIZE(&found);

    if (result)
        return result;
    if (offset >= size)
        return 0;
    if (length > size - offset)
        length = size - offset;
    if (length > VDISK_REQUEST_MAX)
        length = VDISK_REQUEST_MAX;
    result = found.i_flags & EXT4_INLINE_DATA_FL
                 ? read_inline(files, inode, &found, offset, data, length)
                 : read_runs(files, inode, &found, offset, data, length);
    return result ? result : (int64_t)length;
}

struct plan {
    struct ext_piece *piece;
    unsigned count, room;
};

/* False: there is no room. */
static bool add_piece(struct plan *plan, uint64_t offset, uint64_t length)
{
    struct ext_piece *last = plan->count ? &plan->piece[plan->count - 1] : NULL;
    bool is_zeros = offset == EXT_PIECE_ZEROS;

    if (last &&
        (is_zeros ? last->offset == offset
                  : last->offset != EXT_PIECE_ZEROS && last->offset + last->length == offset)) {
        last->length += length;
        return true;
    }
    if (plan->count == plan->room)
        return false;
    plan->piece[plan->count++] = (struct ext_piece){.offset = offset, .length = length};
    return true;
}

/* Within a run, block by block, as far as there is room. Returns how much, or an error. */
static int64_t plan_run(struct ext_files *files, const struct ext_run *run, uint64_t skip,
                        uint64_t length, struct plan *plan)
{
    uint32_t bytes = files->fs->blocksize;
    uint64_t done = 0;

    if (run->physical == 0 || files->io.replay.count == 0) {
        uint64_t at = run->physical ? run->physical * bytes + skip : EXT_PIECE_ZEROS;

        return add_piece(plan, at, length) ? (int64_t)length : 0;
    }
    while (done < length) {
        uint64_t at = (skip + done) % bytes, step = bytes - at, place;
        int result = ext_io_place(&files->io, run->physical + (skip + done) / bytes, &place);

        if (result)
            return done ? (int64_t)done : result;
        step = step < length - done ? step : length - done;
        if (!add_piece(plan, place * bytes + at, step))
            break;
        done += step;
    }
    return (int64_t)done;
}

int64_t ext_files_plan(struct ext_files *files, uint32_t inode, uint64_t offset, uint64_t length,
                       struct ext_piece *pieces, unsigned *count)
{
    struct plan plan = {.piece = pieces, .room = *count};
    struct ext2_inode_large found;
    int result = open_file(files, inode, &found);
    uint64_t size = EXT2_I_SIZE(&found), bytes = files->fs->blocksize, done = 0;

    *count = 0;
    if (result == 0 && found.i_flags & EXT4_INLINE_DATA_FL)
        result = -EOPNOTSUPP;
    if (result || offset >= size)
        return result;
    length = length < size - offset ? length : size - offset;
    while (done < length) {
        uint64_t skip = (offset + done) % bytes, left = length - done;
        struct ext_run run;
        int64_t step;

        result = ext_find_run(files, inode, &found, (offset + done) / bytes, &run);
        if (result == 0 && run.count <= (left + skip) / bytes)
            left = run.count * bytes - skip;
        step = result ? result : plan_run(files, &run, skip, left, &plan);
        if (step < 0 && done == 0)
            return step;
        if (step <= 0) /* without room, or an error for who goes on from here */
            break;
        done += (uint64_t)step;
    }
    *count = plan.count;
    return (int64_t)done;
}

int ext_files_range(struct ext_files *files, uint32_t inode, uint64_t offset, uint64_t *length,
                    bool *is_hole)
{
    struct ext2_inode_large found;
    int result = open_file(files, inode, &found);
    uint64_t size = EXT2_I_SIZE(&found), bytes = files->fs->blocksize, left;
    struct ext_run run;

    if (result)
        return result;
    if (offset >= size)
        return -ENXIO;
    left = size - offset;
    *length = left;
    *is_hole = false;
    if (found.i_flags & EXT4_INLINE_DATA_FL)
        return 0;
    result = ext_find_run(files, inode, &found, offset / bytes, &run);
    if (result)
        return result;
    *is_hole = run.physical == 0;
    if (run.count <= left / bytes)
        *length = run.count * bytes - offset % bytes;
    return 0;
}

int ext_files_readlink(struct ext_files *files, uint32_t inode, char target[EXT_FILES_PATH_MAX])
{
    struct ext2_inode_large found;
    uint64_t size;
    int result;

    ext_begin(files);
    result = ext_inode(files, inode, &found);
    if (result)
        return result;
    if (!LINUX_S_ISLNK(found.i_mode))
        return -EINVAL;
    if (found.i_flags & EXT4_ENCRYPT_FL)
        return -ENOKEY;
    size = EXT2_I_SIZE(&found);
    if (size == 0 || size >= EXT_FILES_PATH_MAX)
        return VDISK_E_MALFORMED;
    memset(target, 0, EXT_FILES_PATH_MAX);
    if (found.i_flags & EXT4_INLINE_DATA_FL)
        result = read_inline(files, inode, &found, 0, (uint8_t *)target, size);
    else if (ext2fs_is_fast_symlink(ext_small(&found)) && size <= sizeof(found.i_block))
        memcpy(target, found.i_block, size);
    else
        result = read_runs(files, inode, &found, 0, (uint8_t *)target, size);
    return result;
}
