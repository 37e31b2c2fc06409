/* SPDX-License-Identifier: Apache-2.0 */
/* Block status: see nbd_extents.h. */
#include "nbd_extents.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define FIRST_ROOM 16u

void nbd_extents_begin(struct nbd_extents *extents, uint64_t offset, uint64_t length, unsigned cap)
{
    assert(length > 0 && cap > 0);
    *extents =
        (struct nbd_extents){.offset = offset, .at = offset, .end = offset + length, .cap = cap};
}

static bool grow(struct nbd_extents *extents)
{
    unsigned room = extents->room ? extents->room * 2 : FIRST_ROOM;
    struct nbd_extent *list = realloc(extents->list, room * sizeof(*list));

    if (!list) {
        extents->result = -ENOMEM;
        return false;
    }
    extents->list = list;
    extents->room = room;
    return true;
}

bool nbd_extents_add(struct nbd_extents *extents, uint64_t length, uint32_t state)
{
    uint64_t left = extents->end - extents->at;

    if (length > left)
        length = left;
    if (length == 0)
        return left > 0;
    if (extents->count > 0 && extents->list[extents->count - 1].state == state) {
        extents->list[extents->count - 1].length += length;
    } else {
        if (extents->count == extents->cap)
            return false;
        if (extents->count == extents->room && !grow(extents))
            return false;
        extents->list[extents->count++] = (struct nbd_extent){length, state};
    }
    extents->at += length;
    return extents->at < extents->end;
}

void nbd_extents_free(struct nbd_extents *extents)
{
    free(extents->list);
    *extents = (struct nbd_extents){0};
}

size_t nbd_extents_bytes(const struct nbd_extents *extents, enum nbd_mode mode)
{
    if (mode == NBD_EXTENDED)
        return NBD_EXTENDED_CHUNK_BYTES + 8 + (size_t)16 * extents->count;
    return NBD_CHUNK_BYTES + 4 + (size_t)8 * extents->count;
}

void nbd_extents_encode(const struct nbd_extents *extents, uint8_t *out, enum nbd_mode mode,
                        const struct nbd_request *request, uint32_t context, bool is_last)
{
    bool extended = mode == NBD_EXTENDED;
    unsigned type = extended ? NBD_CHUNK_BLOCK_STATUS_EXT : NBD_CHUNK_BLOCK_STATUS;
    size_t header = extended ? NBD_EXTENDED_CHUNK_BYTES : NBD_CHUNK_BYTES;

    assert(extents->count > 0);
    out += nbd_chunk_encode(out, mode, request, is_last ? NBD_CHUNK_DONE : 0, type,
                            nbd_extents_bytes(extents, mode) - header);
    nbd_put32(out, context);
    out += 4;
    if (extended) {
        nbd_put32(out, extents->count);
        out += 4;
    }
    for (unsigned i = 0; i < extents->count; i++) {
        const struct nbd_extent *extent = &extents->list[i];

        if (extended) {
            nbd_put64(out, extent->length);
            nbd_put64(out + 8, extent->state);
            out += 16;
        } else {
            nbd_put32(out, (uint32_t)extent->length);
            nbd_put32(out + 4, extent->state);
            out += 8;
        }
    }
}

/* --- dirty ranges --------------------------------------------------------------------------- */

void nbd_dirty_begin(struct nbd_dirty *dirty, uint32_t cap)
{
    assert(cap >= 2);
    *dirty = (struct nbd_dirty){.cap = cap};
}

/* Joins what is near until half of the room is free. */
static void join(struct nbd_dirty *dirty)
{
    assert(dirty->list);
    while (dirty->count > dirty->cap / 2) {
        uint32_t kept = 0;

        dirty->gap = dirty->gap ? dirty->gap * 2 : NBD_BLOCK_PREFERRED;
        for (uint32_t i = 1; i < dirty->count; i++) {
            if (dirty->list[i].from - dirty->list[kept].to <= dirty->gap)
                dirty->list[kept].to = dirty->list[i].to;
            else
                dirty->list[++kept] = dirty->list[i];
        }
        dirty->count = kept + 1;
    }
}

int nbd_dirty_add(struct nbd_dirty *dirty, uint64_t offset, uint64_t length)
{
    struct nbd_range *last = dirty->count ? &dirty->list[dirty->count - 1] : NULL;

    assert(dirty->cap >= 2 && (dirty->list || dirty->room == 0));
    if (length == 0)
        return 0;
    if (last && offset <= last->to + dirty->gap) {
        last->to = offset + length > last->to ? offset + length : last->to;
        return 0;
    }
    if (dirty->count == dirty->cap)
        join(dirty);
    if (dirty->count == dirty->room) {
        uint32_t room = dirty->room ? dirty->room * 2 : FIRST_ROOM;
        struct nbd_range *list;

        room = room < dirty->cap ? room : dirty->cap;
        list = realloc(dirty->list, room * sizeof(*list));
        if (!list)
            return -ENOMEM;
        dirty->list = list;
        dirty->room = room;
    }
    dirty->list[dirty->count++] = (struct nbd_range){offset, offset + length};
    return 0;
}

void nbd_dirty_free(struct nbd_dirty *dirty)
{
    free(dirty->list);
    *dirty = (struct nbd_dirty){0};
}

void nbd_dirty_answer(const struct nbd_dirty *dirty, struct nbd_extents *extents)
{
    uint32_t low = 0, high = dirty->count;

    while (low < high) { /* the first that ends behind the beginning */
        uint32_t middle = low + (high - low) / 2;

        if (dirty->list[middle].to <= extents->at)
            low = middle + 1;
        else
            high = middle;
    }
    for (uint32_t i = low; i < dirty->count && extents->at < extents->end; i++) {
        const struct nbd_range *range = &dirty->list[i];

        if (range->from > extents->at && !nbd_extents_add(extents, range->from - extents->at, 0))
            return;
        if (!nbd_extents_add(extents, range->to - extents->at, NBD_STATE_DIRTY))
            return;
    }
    (void)nbd_extents_add(extents, extents->end - extents->at, 0);
}
