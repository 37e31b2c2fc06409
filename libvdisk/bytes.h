/* SPDX-License-Identifier: Apache-2.0 */
/* Explicit little-endian integers in byte arrays, and small arithmetic on units. */
#ifndef VD_BYTES_H
#define VD_BYTES_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t vd_get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t vd_get32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t vd_get64(const uint8_t *p)
{
    return (uint64_t)vd_get32(p) | (uint64_t)vd_get32(p + 4) << 32;
}

static inline uint64_t vd_get48(const uint8_t *p)
{
    return (uint64_t)vd_get32(p) | (uint64_t)vd_get16(p + 4) << 32;
}

static inline void vd_put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline void vd_put32(uint8_t *p, uint32_t v)
{
    vd_put16(p, (uint16_t)v);
    vd_put16(p + 2, (uint16_t)(v >> 16));
}

static inline void vd_put64(uint8_t *p, uint64_t v)
{
    vd_put32(p, (uint32_t)v);
    vd_put32(p + 4, (uint32_t)(v >> 32));
}

static inline void vd_put48(uint8_t *p, uint64_t v)
{
    vd_put32(p, (uint32_t)v);
    vd_put16(p + 4, (uint16_t)(v >> 32));
}

/* Whether all bytes are zero; fast on long ranges, and on those that begin otherwise. */
static inline bool vd_is_zero(const void *data, size_t length)
{
    const uint8_t *p = data;
    size_t head = length < 16 ? length : 16;
    for (size_t i = 0; i < head; i++) {
        if (p[i])
            return false;
    }
    return length == head || memcmp(p, p + head, length - head) == 0;
}

static inline uint64_t vd_div_up(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

static inline uint64_t vd_min64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t vd_max64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

#endif
