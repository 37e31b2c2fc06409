/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the journal of an ext4 file system of any bytes, cut or filled with zeros to 64 blocks of
 * 1 KiB. The superblock's constants and checksum are put right, and, unless the first byte is zero,
 * the checksums of all blocks that are not data, so that the parser is reached.
 */
#include "jbd2.h"
#include "require.h"

#include <ext2fs/ext2fs.h>

#define BLOCK     1024u
#define BLOCKS    64u
#define FS_BLOCKS (UINT64_C(1) << 33)

static uint8_t bytes[BLOCKS * BLOCK];

static int read_block(void *owner, uint32_t block, void *data)
{
    (void)owner;
    require(block < BLOCKS);
    memcpy(data, bytes + block * BLOCK, BLOCK);
    return 0;
}

static void put32(uint8_t *to, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (24 - 8 * i));
}

static void put_sum(uint8_t *block, uint32_t at, uint32_t seed, uint32_t length)
{
    put32(block + at, 0);
    put32(block + at, ext2fs_crc32c_le(seed, block, length));
}

static void put_sums(void)
{
    uint32_t seed = ext2fs_crc32c_le(~0u, bytes + 0x30, 16);

    for (unsigned i = 1; i < BLOCKS; i++) {
        uint8_t *block = bytes + i * BLOCK;

        if (memcmp(block, JBD2_MAGIC_BYTES, 4) == 0)
            put_sum(block, block[7] == 2 ? 16 : BLOCK - 4, seed, BLOCK);
    }
}

static void check(const struct jbd2_replay *replay)
{
    for (size_t i = 0; i < replay->count; i++) {
        const struct jbd2_copy *copy = &replay->copy[i];

        require(copy->block < FS_BLOCKS && copy->from > 0 && copy->from < BLOCKS);
        require(i == 0 || copy->block > replay->copy[i - 1].block);
        require(jbd2_replay_find(replay, copy->block) == copy);
    }
    require(replay->count < BLOCKS && replay->transactions < BLOCKS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct jbd2_journal journal = {
        .block_bytes = BLOCK,
        .blocks = BLOCKS,
        .fs_blocks = FS_BLOCKS,
        .read = read_block,
    };
    struct vdisk_error error = {0};
    struct jbd2_replay replay;
    int result;

    take_bytes(bytes, sizeof(bytes), data, size);
    if (bytes[0])
        put_sums();
    put32(bytes, 0xc03b3998);
    put32(bytes + 12, BLOCK);
    bytes[0x50] = 4;
    put_sum(bytes, 0xfc, ~0u, 1024);
    result = jbd2_replay_read(&journal, &replay, &error);
    require(result == 0 || (result == error.code && error.text[0]));
    if (result == 0)
        check(&replay);
    jbd2_replay_free(&replay);
    return 0;
}
