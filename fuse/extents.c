/* SPDX-License-Identifier: Apache-2.0 */
/* See extents.h. */
#include "extents.h"

#include <errno.h>

struct seeking {
    bool for_hole, found;
    uint64_t at;
};

static bool seek(void *opaque, uint64_t offset, uint64_t length, bool is_zero)
{
    struct seeking *seeking = opaque;

    (void)length;
    seeking->found = is_zero == seeking->for_hole;
    seeking->at = offset;
    return !seeking->found;
}

/* All of a range, part for part, until `done`, which the callback sets. */
static int walk(struct access *access, const struct tree_view *view, uint64_t offset,
                access_range *each, void *opaque, const bool *done)
{
    uint64_t at = view->offset + offset, end = view->offset + view->length;

    while (at < end && !*done) {
        uint64_t reached = at;
        int result = access->ops->map(access, view->state, at, end - at, each, opaque, &reached);

        if (result)
            return result;
        if (reached <= at && !*done)
            return -EIO;
        at = reached;
    }
    return 0;
}

int extents_seek(struct access *access, const struct tree_view *view, uint64_t offset,
                 bool for_hole, uint64_t *found)
{
    struct seeking seeking = {.for_hole = for_hole};
    int result = walk(access, view, offset, seek, &seeking, &seeking.found);

    if (result)
        return result;
    if (!seeking.found && !for_hole)
        return -ENXIO;
    *found = seeking.found ? seeking.at - view->offset : view->length;
    if (*found < offset) /* it began before */
        *found = offset;
    return 0;
}

static bool count(void *opaque, uint64_t offset, uint64_t length, bool is_zero)
{
    uint64_t *bytes = opaque;

    (void)offset;
    if (!is_zero)
        *bytes += length;
    return true;
}

int extents_stored(struct access *access, const struct tree_view *view, uint64_t *bytes)
{
    static const bool never = false;
    uint64_t counted = 0;
    int result = walk(access, view, 0, count, &counted, &never);

    if (result == 0)
        *bytes = counted;
    return result;
}
