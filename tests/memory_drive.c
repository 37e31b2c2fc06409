/* SPDX-License-Identifier: Apache-2.0 */
#include "memory_drive.h"

#include <string.h>

static int read_memory(struct drive *drive, uint64_t offset, void *data, uint64_t length)
{
    struct memory_drive *memory = drive->owner;
    uint64_t there = 0;

    memory->reads++;
    if (memory->error && offset < memory->bad_offset + memory->bad_length &&
        offset + length > memory->bad_offset)
        return memory->error;
    if (offset < memory->length)
        there = length < memory->length - offset ? length : memory->length - offset;
    if (there > 0)
        memcpy(data, memory->bytes + offset, there);
    memset((uint8_t *)data + there, 0, length - there);
    return 0;
}

void memory_drive_init(struct memory_drive *memory, const void *bytes, size_t length, uint64_t size)
{
    *memory = (struct memory_drive){.bytes = bytes, .length = length};
    memory->drive = (struct drive){.size = size, .read = read_memory, .owner = memory};
}
