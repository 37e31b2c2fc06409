/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An io_manager of libext2fs; see ext_io.h.
 */
#include "ext_io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The manager's open() is given a name and nothing else. */
static _Thread_local struct ext_io *being_opened;

void ext_io_begin(struct ext_io *io, struct drive *drive)
{
    memset(io, 0, sizeof(*io));
    io->drive = drive;
    io->budget = EXT_IO_BUDGET;
}

void ext_io_forget(struct ext_io *io)
{
    memset(io->slot_block, 0, sizeof(io->slot_block));
}

void ext_io_end(struct ext_io *io)
{
    jbd2_replay_free(&io->replay);
    free(io->journal);
    free(io->slots);
    memset(io, 0, sizeof(*io));
}

/* --- reading ------------------------------------------------------------------------------ */

static uint64_t place_of(const struct ext_io *io, const struct jbd2_copy *copy)
{
    return copy->from < io->journal_blocks ? io->journal[copy->from] : 0;
}

int ext_io_place(const struct ext_io *io, uint64_t block, uint64_t *place)
{
    const struct jbd2_copy *copy = jbd2_replay_find(&io->replay, block);

    *place = copy ? place_of(io, copy) : block;
    if (copy && *place == 0)
        return VDISK_E_MALFORMED;
    return copy && copy->escaped ? -EOPNOTSUPP : 0;
}

/* Of one block, of which the journal has a copy. */
static int read_copy(struct ext_io *io, const struct jbd2_copy *copy, uint32_t skip, uint8_t *data,
                     uint32_t length)
{
    uint64_t place = place_of(io, copy);
    int result;

    if (place == 0)
        return VDISK_E_MALFORMED;
    result = drive_get(io->drive, place * io->block_bytes + skip, data, length);
    for (uint32_t i = skip; result == 0 && copy->escaped && i < 4 && i - skip < length; i++)
        data[i - skip] = (uint8_t)JBD2_MAGIC_BYTES[i];
    return result;
}

int ext_io_read(struct ext_io *io, uint64_t offset, void *data, uint64_t length)
{
    uint8_t *to = data;
    int result = 0;

    if (io->replay.count == 0)
        return drive_get(io->drive, offset, data, length);
    while (result == 0 && length > 0) {
        uint64_t block = offset / io->block_bytes;
        uint32_t skip = (uint32_t)(offset % io->block_bytes);
        const struct jbd2_copy *copy = jbd2_replay_find(&io->replay, block);
        uint64_t step = io->block_bytes - skip;

        /* In one go up to the next block that the journal has. */
        while (!copy && step < length &&
               !jbd2_replay_find(&io->replay, (offset + step) / io->block_bytes))
            step += io->block_bytes;
        step = step < length ? step : length;
        result = copy ? read_copy(io, copy, skip, to, (uint32_t)step)
                      : drive_get(io->drive, offset, to, step);
        to += step;
        offset += step;
        length -= step;
    }
    return result;
}

static errcode_t read_range(struct ext_io *io, uint64_t offset, void *data, uint64_t length)
{
    int result = -ELOOP;

    if (io->budget > 0) {
        io->budget--;
        result = ext_io_read(io, offset, data, length);
    }
    if (result == 0)
        return 0;
    io->error = result;
    return EXT2_ET_SHORT_READ;
}

/* One block, which is kept. */
static errcode_t read_kept(struct ext_io *io, uint64_t block, uint32_t bytes, void *data)
{
    size_t slot = block % EXT_IO_SLOTS;
    uint8_t *kept;
    errcode_t error;

    if (io->slot_bytes != bytes) {
        free(io->slots);
        ext_io_forget(io);
        io->slots = calloc(EXT_IO_SLOTS, bytes);
        io->slot_bytes = io->slots ? bytes : 0;
    }
    if (!io->slots)
        return read_range(io, block * bytes, data, bytes);
    kept = io->slots + slot * bytes;
    if (io->slot_block[slot] != block + 1) {
        io->slot_block[slot] = 0;
        error = read_range(io, block * bytes, kept, bytes);
        if (error)
            return error;
        io->slot_block[slot] = block + 1;
    } else if (io->budget-- == 0) { /* a loop may well stay among a few blocks */
        io->budget = 0;
        io->error = -ELOOP;
        return EXT2_ET_SHORT_READ;
    }
    memcpy(data, kept, bytes);
    return 0;
}

/* --- the manager -------------------------------------------------------------------------- */

static errcode_t open_channel(const char *name, int flags, io_channel *out)
{
    io_channel channel = calloc(1, sizeof(*channel));

    if (!channel || !being_opened || flags & IO_FLAG_RW) {
        free(channel);
        return channel ? EXT2_ET_BAD_DEVICE_NAME : EXT2_ET_NO_MEMORY;
    }
    channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
    channel->name = strdup(name);
    if (!channel->name) {
        free(channel);
        return EXT2_ET_NO_MEMORY;
    }
    channel->manager = being_opened->manager;
    channel->private_data = being_opened;
    channel->block_size = 1024;
    channel->refcount = 1;
    *out = channel;
    return 0;
}

static errcode_t close_channel(io_channel channel)
{
    if (--channel->refcount > 0)
        return 0;
    free(channel->name);
    free(channel);
    return 0;
}

static errcode_t set_block_size(io_channel channel, int bytes)
{
    channel->block_size = bytes;
    return 0;
}

/* A negative count is one of bytes. */
static errcode_t read_blocks64(io_channel channel, unsigned long long block, int count, void *data)
{
    struct ext_io *io = channel->private_data;
    uint64_t bytes = count < 0 ? -(uint64_t)(int64_t)count : (uint64_t)count * channel->block_size;
    uint64_t offset;

    if (__builtin_mul_overflow((uint64_t)block, (uint64_t)channel->block_size, &offset))
        return EXT2_ET_SHORT_READ;
    if (count == 1 && bytes >= JBD2_BLOCK_BYTES_MIN && bytes <= JBD2_BLOCK_BYTES_MAX)
        return read_kept(io, block, (uint32_t)bytes, data);
    return read_range(io, offset, data, bytes);
}

static errcode_t read_blocks(io_channel channel, unsigned long block, int count, void *data)
{
    return read_blocks64(channel, block, count, data);
}

static errcode_t write_blocks64(io_channel channel, unsigned long long block, int count,
                                const void *data)
{
    (void)channel, (void)block, (void)count, (void)data;
    return EXT2_ET_RO_FILSYS;
}

static errcode_t write_blocks(io_channel channel, unsigned long block, int count, const void *data)
{
    return write_blocks64(channel, block, count, data);
}

static errcode_t flush(io_channel channel)
{
    (void)channel;
    return 0;
}

errcode_t ext_io_open_fs(struct ext_io *io, ext2_filsys *fs)
{
    static struct struct_io_manager manager = {
        .magic = EXT2_ET_MAGIC_IO_MANAGER,
        .name = "a drive",
        .open = open_channel,
        .close = close_channel,
        .set_blksize = set_block_size,
        .read_blk = read_blocks,
        .write_blk = write_blocks,
        .flush = flush,
        .read_blk64 = read_blocks64,
        .write_blk64 = write_blocks64,
    };
    errcode_t error;

    being_opened = io;
    io->manager = &manager;
    error = ext2fs_open2("drive", NULL, EXT2_FLAG_64BITS, 0, 0, &manager, fs);
    being_opened = NULL;
    return error;
}
