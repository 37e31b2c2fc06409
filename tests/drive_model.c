/* SPDX-License-Identifier: Apache-2.0 */
/* Plain bytes as a model of a drive; see drive_model.h. */
#include "drive_model.h"

#include "bytes.h"

#include <assert.h>
#include <stdlib.h>

#define MIB (UINT64_C(1) << 20)

/* The first leaves; the seam between two nodes of level 1; that between two of level 2. */
const struct drive_window drive_window[DRIVE_WINDOWS] = {
    {0, 4 * MIB, 0},
    {255 * MIB, 2 * MIB, 4 * MIB},
    {(UINT64_C(32) << 30) - MIB, 2 * MIB, 6 * MIB},
};

struct drive_state *drive_new(uint64_t size, const struct drive_state *below)
{
    struct drive_state *state = calloc(1, sizeof(*state));
    assert(state);
    state->size = size;
    state->bytes = calloc(1, DRIVE_BYTES);
    state->changed = calloc(DRIVE_BLOCKS, sizeof(*state->changed));
    assert(state->bytes && state->changed);
    for (unsigned w = 0; below && w < DRIVE_WINDOWS; w++) {
        uint64_t length = drive_window[w].bytes;
        if (drive_window[w].offset < size)
            drive_read(below, drive_window[w].offset, state->bytes + drive_window[w].at,
                       vd_min64(length, size - drive_window[w].offset));
    }
    return state;
}

struct drive_state *drive_copy(const struct drive_state *from)
{
    struct drive_state *state = drive_new(from->size, NULL);
    memcpy(state->bytes, from->bytes, DRIVE_BYTES);
    memcpy(state->changed, from->changed, DRIVE_BLOCKS * sizeof(*state->changed));
    return state;
}

void drive_free(struct drive_state *state)
{
    if (!state)
        return;
    free(state->bytes);
    free(state->changed);
    free(state);
}

/* The part of [offset, offset + length) in a window; false when there is none. */
static bool clip(const struct drive_window *w, uint64_t offset, uint64_t length, uint64_t *from,
                 uint64_t *to)
{
    *from = vd_max64(offset, w->offset);
    *to = vd_min64(offset + length, w->offset + w->bytes);
    return *from < *to;
}

void drive_read(const struct drive_state *state, uint64_t offset, void *out, uint64_t length)
{
    uint64_t from, to;
    memset(out, 0, length);
    for (unsigned i = 0; i < DRIVE_WINDOWS; i++) {
        const struct drive_window *w = &drive_window[i];
        if (clip(w, offset, length, &from, &to))
            memcpy((uint8_t *)out + (from - offset), state->bytes + w->at + (from - w->offset),
                   to - from);
    }
}

static void set(struct drive_state *state, uint64_t offset, const void *data, uint64_t length,
                uint32_t change)
{
    uint64_t from, to;
    for (unsigned i = 0; i < DRIVE_WINDOWS; i++) {
        const struct drive_window *w = &drive_window[i];
        if (!clip(w, offset, length, &from, &to))
            continue;
        uint8_t *bytes = state->bytes + w->at + (from - w->offset);
        if (data)
            memcpy(bytes, (const uint8_t *)data + (from - offset), to - from);
        else
            memset(bytes, 0, to - from);
        uint64_t first = w->at + (from - w->offset), last = first + (to - from) - 1;
        for (uint64_t b = first / DRIVE_BLOCK; b <= last / DRIVE_BLOCK; b++)
            state->changed[b] = change;
    }
}

void drive_write(struct drive_state *state, uint64_t offset, const void *data, uint64_t length,
                 uint32_t change)
{
    assert(offset <= state->size && length <= state->size - offset);
    set(state, offset, data, length, change);
}

void drive_resize(struct drive_state *state, uint64_t size, uint32_t change)
{
    if (size < state->size)
        set(state, size, NULL, state->size - size, change);
    state->size = size;
}

uint64_t drive_block(unsigned i)
{
    unsigned w = DRIVE_WINDOWS - 1;
    while (drive_window[w].at > i * (uint64_t)DRIVE_BLOCK)
        w--;
    return drive_window[w].offset / DRIVE_BLOCK + i - drive_window[w].at / DRIVE_BLOCK;
}

bool drive_index(uint64_t block, unsigned *i)
{
    for (unsigned w = 0; w < DRIVE_WINDOWS; w++) {
        uint64_t first = drive_window[w].offset / DRIVE_BLOCK;
        if (block < first || block - first >= drive_window[w].bytes / DRIVE_BLOCK)
            continue;
        *i = (unsigned)(drive_window[w].at / DRIVE_BLOCK + block - first);
        return true;
    }
    return false;
}

bool drive_same(const struct drive_state *state, const struct drive_state *other, uint64_t offset,
                uint64_t length)
{
    uint64_t from, to;
    bool same = true;
    length = vd_min64(length, state->size - vd_min64(offset, state->size));
    for (unsigned i = 0; i < DRIVE_WINDOWS && same; i++) {
        const struct drive_window *w = &drive_window[i];
        if (!clip(w, offset, length, &from, &to))
            continue;
        uint64_t at = w->at + (from - w->offset);
        same = other ? memcmp(state->bytes + at, other->bytes + at, to - from) == 0
                     : vd_is_zero(state->bytes + at, to - from);
    }
    return same;
}
