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
