/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pieces of a drive; see ranges.h.
 */
#include "ranges.h"

void ranges_begin(struct ranges *ranges, struct session *session, uint64_t offset, uint64_t length,
                  bool use_map, uint64_t piece)
{
    ranges->session = session;
    ranges->at = offset;
    ranges->end = offset + length;
    ranges->piece = piece;
    ranges->use_map = use_map;
    ranges->next = ranges->count = 0;
}

static bool collect(void *opaque, const struct vdisk_extent *extent)
{
    struct ranges *ranges = opaque;
    bool is_zero = extent->kind == VDISK_EXTENT_HOLE || extent->kind == VDISK_EXTENT_ZERO;
    struct range *last = ranges->count ? &ranges->window[ranges->count - 1] : NULL;

    if (last && last->is_zero == is_zero && last->offset + last->length == extent->offset) {
        last->length += extent->length;
        return true;
    }
    if (ranges->count == RANGES_WINDOW)
        return false;
    ranges->window[ranges->count++] = (struct range){extent->offset, extent->length, is_zero};
    return true;
}

/* What the map is silent about is read: never is data taken for zeros. */
static int look(struct ranges *ranges)
{
    int result;

    ranges->next = ranges->count = 0;
    if (ranges->use_map) {
        result = vdisk_map(ranges->session->image, ranges->session->snapshot, ranges->at,
                           ranges->end - ranges->at, true, collect, ranges);
        if (result)
            return result;
    }
    if (ranges->count == 0 || ranges->window[0].offset != ranges->at) {
        ranges->window[0] = (struct range){ranges->at, ranges->end - ranges->at, false};
        ranges->count = 1;
    }
    return 0;
}

int ranges_next(struct ranges *ranges, struct range *range)
{
    const struct range *current;
    uint64_t end, cut;

    *range = (struct range){ranges->at, 0, false};
    if (ranges->at == ranges->end)
        return 0;
    if (ranges->next == ranges->count || ranges->window[ranges->next].offset > ranges->at) {
        int result = look(ranges);

        if (result)
            return result;
    }
    current = &ranges->window[ranges->next];
    end = current->offset + current->length;
    if (end > ranges->end)
        end = ranges->end;
    cut = (ranges->at / ranges->piece + 1) * ranges->piece;
    if (!current->is_zero && cut < end)
        end = cut;
    range->length = end - ranges->at;
    range->is_zero = current->is_zero;
    ranges->at = end;
    if (end == current->offset + current->length)
        ranges->next++;
    return 0;
}
