/* SPDX-License-Identifier: Apache-2.0 */
/* A drive of bytes in memory, and zeros behind them, for what looks into drives. */
#ifndef TESTS_MEMORY_DRIVE_H
#define TESTS_MEMORY_DRIVE_H

#include "drive.h"

#include <stddef.h>

struct memory_drive {
    struct drive drive;
    const uint8_t *bytes;
    size_t length;
    /* Reads that touch this range fail with `error`. */
    uint64_t bad_offset, bad_length;
    int error;
    uint64_t reads;
};

/* `size` may be larger than what is there. */
void memory_drive_init(struct memory_drive *memory, const void *bytes, size_t length,
                       uint64_t size);

#endif
