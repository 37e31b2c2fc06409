/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the table of partitions of a drive of any bytes, and asks libblkid what is on them. The
 * marks of a table and both checksums of a GPT header in sector 1 are put right where its numbers
 * allow it, so that the parser is reached. The input is the drive, of 64 KiB at most.
 */
#include "memory_drive.h"
#include "partitions.h"
#include "probe.h"
#include "require.h"

#define BYTES 65536u

static uint8_t bytes[BYTES];

static uint32_t crc_of(const uint8_t *data, size_t length)
{
    uint32_t crc = UINT32_MAX;

    for (size_t i = 0; i < length * 8; i++)
        crc = crc >> 1 ^ ((crc ^ (uint32_t)data[i / 8] >> i % 8) & 1 ? 0xedb88320 : 0);
    return ~crc;
}

static uint32_t get32(const uint8_t *from)
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 |
           (uint32_t)from[3] << 24;
}

static void put32(uint8_t *to, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> 8 * i);
}

static void put_sums(uint8_t *header)
{
    uint64_t table = (uint64_t)get32(header + 72) * 512;
    uint64_t length = (uint64_t)get32(header + 80) * get32(header + 84);
    uint32_t own = get32(header + 12);

    if (memcmp(header, "EFI PART", 8) != 0)
        return;
    if (table <= BYTES && length <= BYTES - table)
        put32(header + 88, crc_of(bytes + table, length));
    put32(header + 16, 0);
    if (own <= 512)
        put32(header + 16, crc_of(header, own));
}

static void check(struct drive *drive, const struct partitions *found)
{
    require(found->count <= PARTITIONS_MAX);
    for (unsigned i = 0; i < found->count; i++) {
        const struct partition *partition = &found->partition[i];
        struct probe probe;
        struct drive part;

        require(partition->number > 0 && partition->length > 0);
        require(partition->offset < drive->size);
        require(partition->length <= drive->size - partition->offset);
        require(strlen(partition->name) < sizeof(partition->name));
        if (i >= 2) /* libblkid takes its time */
            continue;
        drive_of_range(&part, drive, partition->offset, partition->length);
        require(part.size == partition->length);
        require(probe_drive(&part, &probe) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct partitions found;
    struct memory_drive memory;

    take_bytes(bytes, sizeof(bytes), data, size);
    bytes[510] = 0x55;
    bytes[511] = 0xaa;
    put_sums(bytes + 512);
    memory_drive_init(&memory, bytes, sizeof(bytes), size < BYTES ? size : BYTES);
    require(partitions_read(&memory.drive, &found) == 0);
    check(&memory.drive, &found);
    return 0;
}
