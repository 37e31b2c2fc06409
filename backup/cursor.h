/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Little-endian integers in byte arrays, and the one bounded cursor by which everything of the
 * repository is read and written: past its end it reads zeros, writes nothing and remembers that.
 */
#ifndef BACKUP_CURSOR_H
#define BACKUP_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t vb_get_le(const uint8_t *p, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)p[i] << (8 * i);
    return value;
}

static inline void vb_put_le(uint8_t *p, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(value >> (8 * i));
}

struct vb_cursor {
    const uint8_t *at, *end;
    bool failed;
};

/* The next bytes, or NULL (and failed) where there are fewer. */
static inline const uint8_t *vb_take(struct vb_cursor *cursor, size_t bytes)
{
    const uint8_t *at = cursor->at;

    if (cursor->failed || (size_t)(cursor->end - cursor->at) < bytes) {
        cursor->failed = true;
        return NULL;
    }
    cursor->at += bytes;
    return at;
}

/* An integer of 1 to 8 bytes. */
static inline uint64_t vb_take_le(struct vb_cursor *cursor, unsigned bytes)
{
    const uint8_t *p = vb_take(cursor, bytes);

    return p ? vb_get_le(p, bytes) : 0;
}

static inline void vb_take_bytes(struct vb_cursor *cursor, void *out, size_t bytes)
{
    const uint8_t *p = vb_take(cursor, bytes);

    if (p)
        memcpy(out, p, bytes);
    else
        memset(out, 0, bytes);
}

/* Bytes that must be zero: fails where they are not. */
static inline void vb_take_zero(struct vb_cursor *cursor, size_t bytes)
{
    const uint8_t *p = vb_take(cursor, bytes);

    for (size_t i = 0; p && i < bytes; i++)
        cursor->failed |= p[i] != 0;
}

struct vb_pen {
    uint8_t *at, *end;
    bool failed;
};

static inline void vb_write_le(struct vb_pen *pen, uint64_t value, unsigned bytes)
{
    if (pen->failed || (size_t)(pen->end - pen->at) < bytes) {
        pen->failed = true;
        return;
    }
    vb_put_le(pen->at, value, bytes);
    pen->at += bytes;
}

static inline void vb_write_bytes(struct vb_pen *pen, const void *data, size_t bytes)
{
    if (pen->failed || (size_t)(pen->end - pen->at) < bytes) {
        pen->failed = true;
        return;
    }
    memcpy(pen->at, data, bytes);
    pen->at += bytes;
}

static inline void vb_write_zero(struct vb_pen *pen, size_t bytes)
{
    if (pen->failed || (size_t)(pen->end - pen->at) < bytes) {
        pen->failed = true;
        return;
    }
    memset(pen->at, 0, bytes);
    pen->at += bytes;
}

#endif
