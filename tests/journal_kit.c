/* SPDX-License-Identifier: Apache-2.0 */
/* Written from the kernel's description of the format, not from jbd2.c. */
#include "journal_kit.h"

#include <ext2fs/ext2fs.h>
#include <string.h>

static void put16(uint8_t *to, uint32_t value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}

static void put32(uint8_t *to, uint32_t value)
{
    put16(to, value >> 16);
    put16(to + 2, value & 0xffff);
}

static bool has_sums(const struct journal_kit *kit)
{
    return kit->features & (JOURNAL_CSUM_V2 | JOURNAL_CSUM_V3);
}

static uint32_t seed(const struct journal_kit *kit)
{
    return ext2fs_crc32c_le(~0u, kit->bytes + 0x30, 16);
}

uint8_t *journal_kit_block(struct journal_kit *kit, uint32_t block)
{
    return kit->bytes + block * JOURNAL_KIT_BLOCK;
}

static int read_block(void *owner, uint32_t block, void *data)
{
    struct journal_kit *kit = owner;

    if (kit->error || block >= JOURNAL_KIT_BLOCKS)
        return kit->error ? kit->error : VDISK_E_MALFORMED;
    memcpy(data, journal_kit_block(kit, block), JOURNAL_KIT_BLOCK);
    return 0;
}

void journal_kit_seal_super(struct journal_kit *kit)
{
    memset(kit->bytes + 0xfc, 0, 4);
    if (has_sums(kit))
        put32(kit->bytes + 0xfc, ext2fs_crc32c_le(~0u, kit->bytes, 1024));
}

void journal_kit_begin(struct journal_kit *kit, unsigned features, uint32_t start)
{
    memset(kit, 0, sizeof(*kit));
    kit->features = features;
    kit->first = 1;
    kit->last = JOURNAL_KIT_BLOCKS - (features & JOURNAL_FAST ? 8 : 0);
    kit->at = start;
    kit->sequence = 77;
    kit->old_csum = ~0u;
    kit->journal = (struct jbd2_journal){
        .block_bytes = JOURNAL_KIT_BLOCK,
        .blocks = JOURNAL_KIT_BLOCKS,
        .fs_blocks = UINT64_C(1) << 40,
        .read = read_block,
        .owner = kit,
    };
    put32(kit->bytes, 0xc03b3998);
    put32(kit->bytes + 4, 4);
    put32(kit->bytes + 12, JOURNAL_KIT_BLOCK);
    put32(kit->bytes + 16, JOURNAL_KIT_BLOCKS);
    put32(kit->bytes + 20, kit->first);
    put32(kit->bytes + 24, kit->sequence);
    put32(kit->bytes + 28, start);
    put32(kit->bytes + 0x24, features & JOURNAL_OLD_CSUM ? 1 : 0);
    put32(kit->bytes + 0x28, features & 0xff);
    memset(kit->bytes + 0x30, 0xab, 16);
    kit->bytes[0x50] = has_sums(kit) ? 4 : 0;
    put32(kit->bytes + 0x54, features & JOURNAL_FAST ? 8 : 0);
    journal_kit_seal_super(kit);
}

static uint32_t take_block(struct journal_kit *kit)
{
    uint32_t block = kit->at++;

    if (kit->at == kit->last)
        kit->at = kit->first;
    memset(journal_kit_block(kit, block), 0, JOURNAL_KIT_BLOCK);
    return block;
}

static uint32_t begin(struct journal_kit *kit, uint32_t type)
{
    uint32_t block = take_block(kit);
    uint8_t *bytes = journal_kit_block(kit, block);

    put32(bytes, 0xc03b3998);
    put32(bytes + 4, type);
    put32(bytes + 8, kit->sequence);
    return block;
}

static void seal_tail(struct journal_kit *kit, uint8_t *bytes)
{
    if (has_sums(kit))
        put32(bytes + JOURNAL_KIT_BLOCK - 4, ext2fs_crc32c_le(seed(kit), bytes, JOURNAL_KIT_BLOCK));
}

static uint32_t data_sum(const struct journal_kit *kit, const uint8_t *data)
{
    uint8_t sequence[4];

    put32(sequence, kit->sequence);
    return ext2fs_crc32c_le(ext2fs_crc32c_le(seed(kit), sequence, 4), data, JOURNAL_KIT_BLOCK);
}

static size_t put_tag(const struct journal_kit *kit, uint8_t *tag,
                      const struct journal_kit_block *block, uint32_t flags, const uint8_t *data)
{
    size_t length = 8;

    put32(tag, (uint32_t)block->block);
    if (kit->features & JOURNAL_CSUM_V3) {
        put32(tag + 4, flags);
        put32(tag + 8, (uint32_t)(block->block >> 32));
        put32(tag + 12, data_sum(kit, data));
        length = 16;
    } else {
        put16(tag + 6, flags);
        if (kit->features & JOURNAL_CSUM_V2)
            put16(tag + 4, data_sum(kit, data) & 0xffff);
        if (kit->features & JOURNAL_64BIT) {
            put32(tag + 8, (uint32_t)(block->block >> 32));
            length += 4;
        }
        length += kit->features & JOURNAL_CSUM_V2 ? 2 : 0;
    }
    return length + (flags & 2 ? 0 : 16); /* a UUID behind the first */
}

uint32_t journal_kit_log(struct journal_kit *kit, const struct journal_kit_block *blocks,
                         unsigned count)
{
    uint32_t descriptor = begin(kit, 1);
    uint8_t *bytes = journal_kit_block(kit, descriptor), *tag = bytes + 12;
    uint32_t where[JOURNAL_KIT_BLOCKS];

    for (unsigned i = 0; i < count; i++) {
        uint32_t flags = (i ? 2u : 0) | (i + 1 == count ? 8u : 0) | (blocks[i].escaped ? 1u : 0);
        uint8_t *data;

        where[i] = take_block(kit);
        data = journal_kit_block(kit, where[i]);
        memset(data, blocks[i].fill, JOURNAL_KIT_BLOCK);
        if (blocks[i].escaped)
            memset(data, 0, 4);
        tag += put_tag(kit, tag, &blocks[i], flags, data);
    }
    seal_tail(kit, bytes);
    kit->old_csum = ext2fs_crc32_be(kit->old_csum, bytes, JOURNAL_KIT_BLOCK);
    for (unsigned i = 0; i < count; i++)
        kit->old_csum =
            ext2fs_crc32_be(kit->old_csum, journal_kit_block(kit, where[i]), JOURNAL_KIT_BLOCK);
    return descriptor;
}

uint32_t journal_kit_revoke(struct journal_kit *kit, const uint64_t *blocks, unsigned count)
{
    uint32_t block = begin(kit, 5), each = kit->features & JOURNAL_64BIT ? 8 : 4;
    uint8_t *bytes = journal_kit_block(kit, block);

    put32(bytes + 12, 16 + count * each);
    for (unsigned i = 0; i < count; i++) {
        if (each == 8)
            put32(bytes + 16 + i * 8, (uint32_t)(blocks[i] >> 32));
        put32(bytes + 16 + i * each + each - 4, (uint32_t)blocks[i]);
    }
    seal_tail(kit, bytes);
    return block;
}

uint32_t journal_kit_commit(struct journal_kit *kit)
{
    uint32_t block = begin(kit, 2);
    uint8_t *bytes = journal_kit_block(kit, block);

    if (has_sums(kit)) {
        put32(bytes + 16, ext2fs_crc32c_le(seed(kit), bytes, JOURNAL_KIT_BLOCK));
    } else if (kit->features & JOURNAL_OLD_CSUM) {
        bytes[12] = 1;
        bytes[13] = 4;
        put32(bytes + 16, kit->old_csum);
    }
    kit->old_csum = ~0u;
    kit->sequence++;
    return block;
}
