/* SPDX-License-Identifier: Apache-2.0 */
/* What has to hold, also where asserts are compiled out. */
#ifndef REQUIRE_H
#define REQUIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static inline void require(bool holds)
{
    if (!holds)
        abort();
}

/* The input, cut or filled with zeros to `room` bytes. */
static inline void take_bytes(uint8_t *out, size_t room, const uint8_t *data, size_t size)
{
    memset(out, 0, room);
    if (size)
        memcpy(out, data, size < room ? size : room);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
