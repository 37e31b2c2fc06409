/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding zeros; see zeros.h.
 */
#include "zeros.h"

#include <string.h>

#define LOOK_BYTES 16u

bool zeros_is_all(const void *data, uint64_t length)
{
    static const uint8_t none[LOOK_BYTES];

    /* Comparing the data with itself, moved by 16: memcmp does the work, at its speed. */
    if (length <= LOOK_BYTES)
        return memcmp(data, none, length) == 0;
    return memcmp(data, none, LOOK_BYTES) == 0 &&
           memcmp(data, (const uint8_t *)data + LOOK_BYTES, length - LOOK_BYTES) == 0;
}

static uint64_t count_run(const uint8_t *data, uint64_t length, uint64_t unit, bool zero)
{
    uint64_t at = 0;

    while (at < length) {
        uint64_t piece = length - at < unit ? length - at : unit;

        if (zeros_is_all(data + at, piece) != zero)
            break;
        at += piece;
    }
    return at;
}

uint64_t zeros_run(const uint8_t *data, uint64_t length, uint64_t unit)
{
    return count_run(data, length, unit, true);
}

uint64_t zeros_data_run(const uint8_t *data, uint64_t length, uint64_t unit)
{
    return count_run(data, length, unit, false);
}
