/* SPDX-License-Identifier: Apache-2.0 */
/* A set of chunks; see chunk_set.h. */
#include "chunk_set.h"

#include "seal.h"

#include <errno.h>
#include <stdlib.h>

#define ROOM_FIRST 64u

void vb_chunk_set_release(struct vb_chunk_set *ranges)
{
    free(ranges->range);
    *ranges = (struct vb_chunk_set){.count = 0};
}

int vb_chunk_set_add(struct vb_chunk_set *ranges, uint64_t offset, uint64_t length)
{
    const struct vb_range add = {.first = offset / VB_CHUNK_BYTES,
                                 .end = (offset + length + VB_CHUNK_BYTES - 1) / VB_CHUNK_BYTES};
    struct vb_range *last = ranges->count ? &ranges->range[ranges->count - 1] : NULL;

    if (length == 0)
        return 0;
    if (last && last->first <= add.first && add.first <= last->end) {
        last->end = add.end > last->end ? add.end : last->end;
        return 0;
    }
    if (!ranges->range || ranges->count == ranges->room) {
        size_t room = ranges->room ? ranges->room * 2 : ROOM_FIRST;
        struct vb_range *grown = realloc(ranges->range, room * sizeof(*grown));

        if (!grown)
            return -ENOMEM;
        ranges->range = grown;
        ranges->room = room;
    }
    ranges->range[ranges->count++] = add;
    return 0;
}

static int compare(const void *a, const void *b)
{
    const struct vb_range *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

void vb_chunk_set_settle(struct vb_chunk_set *ranges)
{
    size_t kept = 0;

    if (ranges->count == 0)
        return;
    qsort(ranges->range, ranges->count, sizeof(*ranges->range), compare);
    for (size_t i = 1; i < ranges->count; i++) {
        struct vb_range *last = &ranges->range[kept];

        if (ranges->range[i].first > last->end)
            ranges->range[++kept] = ranges->range[i];
        else if (ranges->range[i].end > last->end)
            last->end = ranges->range[i].end;
    }
    ranges->count = kept + 1;
}

const struct vb_range *vb_chunk_set_from(const struct vb_chunk_set *ranges, uint64_t chunk)
{
    size_t low = 0, high = ranges->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (ranges->range[middle].end > chunk)
            high = middle;
        else
            low = middle + 1;
    }
    return low < ranges->count ? &ranges->range[low] : NULL;
}

bool vb_chunk_set_touch(const struct vb_chunk_set *ranges, uint64_t first, uint64_t end)
{
    const struct vb_range *range = vb_chunk_set_from(ranges, first);

    return range && range->first < end;
}
