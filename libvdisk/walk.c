/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looking at maps: ranges of one state, and the ranges in which two states differ. Answers are
 * collected and handed out when nothing waits any more, so that a callback may use the image.
 */
#include "bytes.h"
#include "data.h"
#include "snapshot.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* What a part (vdisk_map_part) has at most: ranges, and nodes that are looked at. */
#define PART_RANGES 4096u
#define PART_STEPS  2048u

struct ranges {
    struct vdisk_extent *extent;
    size_t count, room;
    size_t cap; /* a walk ends soon after that many, or so many steps */
    uint64_t steps;
    uint64_t reached; /* the block up to which the walk has come */
};

static const struct ranges all = {.cap = SIZE_MAX, .steps = UINT64_MAX};

static struct ranges part_of(const struct vdisk_range *range)
{
    bool is_less = range->wanted > 0 && range->wanted < PART_RANGES;
    return (struct ranges){.cap = is_less ? range->wanted : PART_RANGES, .steps = PART_STEPS};
}

static bool is_over(const struct ranges *ranges)
{
    return ranges->count >= ranges->cap || ranges->steps == 0;
}

static int add_range(struct ranges *ranges, uint64_t first, uint64_t count,
                     enum vdisk_extent_kind kind, unsigned depth)
{
    struct vdisk_extent *last =
        ranges->extent && ranges->count ? &ranges->extent[ranges->count - 1] : NULL;
    ranges->reached = first + count;
    if (last && last->kind == kind && last->depth == depth &&
        last->offset + last->length == first * VD_BLOCK) {
        last->length += count * VD_BLOCK;
        return 0;
    }
    if (ranges->count == ranges->room) {
        size_t room = ranges->room ? ranges->room * 2 : 64;
        struct vdisk_extent *grown = realloc(ranges->extent, room * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        ranges->extent = grown;
        ranges->room = room;
    }
    assert(ranges->extent);
    ranges->extent[ranges->count++] = (struct vdisk_extent){
        .offset = first * VD_BLOCK, .length = count * VD_BLOCK, .kind = kind, .depth = depth};
    return 0;
}

/* Calls back for the part of each range in [from, to) bytes. */
static void hand_out(struct ranges *ranges, uint64_t from, uint64_t to, vdisk_extent_callback *each,
                     void *opaque)
{
    for (size_t i = 0; i < ranges->count; i++) {
        struct vdisk_extent extent = ranges->extent[i];
        uint64_t start = vd_max64(extent.offset, from);
        uint64_t end = vd_min64(extent.offset + extent.length, to);
        if (start >= end)
            continue;
        extent.offset = start;
        extent.length = end - start;
        if (!each(opaque, &extent))
            break;
    }
    free(ranges->extent);
}

static bool is_patched(const struct vd_node *leaf, unsigned cluster, unsigned per)
{
    for (unsigned i = 0; leaf->map.blocks && i < per; i++) {
        if (vd_block_kind(&leaf->map.blocks[cluster * per + i]) != VD_BLOCK_NONE)
            return true;
    }
    return false;
}

/* What block i of a leaf is; the leaf may be NULL. */
static enum vdisk_extent_kind kind_at(const struct vdisk_image *image, const struct vd_node *leaf,
                                      enum vd_absent absent, unsigned i)
{
    unsigned per = vd_cluster_blocks(image);
    if (!leaf)
        return absent == VD_ABSENT_ZERO ? VDISK_EXTENT_ZERO : VDISK_EXTENT_HOLE;
    if (leaf->map.zstd && leaf->map.zstd[i / per].length)
        return is_patched(leaf, i / per, per) ? VDISK_EXTENT_PATCHED : VDISK_EXTENT_ZSTD;
    enum vd_block_kind kind =
        leaf->map.blocks ? vd_block_kind(&leaf->map.blocks[i]) : VD_BLOCK_NONE;
    return kind == VD_BLOCK_RAW    ? VDISK_EXTENT_RAW
           : kind == VD_BLOCK_ZERO ? VDISK_EXTENT_ZERO
                                   : VDISK_EXTENT_HOLE;
}

/* --- map --- */

static int map_range(const struct vd_state *state, uint64_t first, uint64_t end, bool through_base,
                     unsigned depth, struct ranges *out);

/* What the source has there; where it does not tell, it may be data. */
static int map_source(struct vdisk_image *image, uint64_t first, uint64_t end, unsigned depth,
                      struct ranges *out)
{
    uint64_t known = vd_min64(end, vd_guest_blocks(image->super->base.size)), from, to;
    int r = 0;
    for (uint64_t at = first; at < known && !r && !is_over(out); at = out->reached) {
        out->steps--;
        if (vd_source_next(image, at, &from, &to)) {
            from = at;
            to = known;
        }
        if (from > at)
            r = add_range(out, at, vd_min64(from, known) - at, VDISK_EXTENT_HOLE, depth);
        else
            r = add_range(out, at, vd_min64(to, known) - at, VDISK_EXTENT_MISSING, depth);
    }
    if (!r && !is_over(out) && vd_max64(first, known) < end)
        r = add_range(out, vd_max64(first, known), end - vd_max64(first, known), VDISK_EXTENT_HOLE,
                      depth);
    return r;
}

static int map_hole(const struct vd_state *state, uint64_t first, uint64_t end, bool through_base,
                    unsigned depth, struct ranges *out)
{
    struct vdisk_image *image = state->image;
    if (through_base && image->super->overlay == VD_OVERLAY_SOURCE)
        return map_source(image, first, end, depth + 1, out);
    if (!through_base || !image->base)
        return add_range(out, first, end - first, VDISK_EXTENT_HOLE, depth);
    struct vd_state base =
        image->base_snapshot ? vd_snapshot_state(image->base_snapshot) : vd_live_state(image->base);
    return map_range(&base, first, end, true, depth + 1, out);
}

/* One leaf of [first, limit), or all that is absent together with it. */
static int map_leaf(const struct vd_state *state, uint64_t first, uint64_t limit, bool through_base,
                    unsigned depth, struct ranges *out)
{
    struct vd_node *leaf = NULL;
    enum vd_absent absent;
    uint64_t end = first / VD_LEAF_BLOCKS + 1;
    int r = vd_tree_get(state->map, 0, first / VD_LEAF_BLOCKS, false, &leaf, &absent);
    if (!r && !leaf)
        r = vd_absent_end(state->map, first / VD_LEAF_BLOCKS, &end);
    end = vd_min64(limit, end * VD_LEAF_BLOCKS);
    while (!r && first < end && !is_over(out)) {
        enum vdisk_extent_kind kind =
            kind_at(state->image, leaf, absent, (unsigned)(first % VD_LEAF_BLOCKS));
        uint64_t stop = leaf ? first + 1 : end;
        while (stop < end &&
               kind_at(state->image, leaf, absent, (unsigned)(stop % VD_LEAF_BLOCKS)) == kind)
            stop++;
        r = kind == VDISK_EXTENT_HOLE ? map_hole(state, first, stop, through_base, depth, out)
                                      : add_range(out, first, stop - first, kind, depth);
        first = out->reached;
    }
    vd_node_unpin(leaf);
    return r;
}

/* All of it, unless the walk is over before. */
static int map_range(const struct vd_state *state, uint64_t first, uint64_t end, bool through_base,
                     unsigned depth, struct ranges *out)
{
    uint64_t size_end = vd_max64(first, vd_min64(end, vd_guest_blocks(state->size)));
    int r = 0;
    for (uint64_t at = first; at < size_end && !r && !is_over(out); at = out->reached) {
        uint64_t index = at / VD_LEAF_BLOCKS;
        bool found;
        out->steps--;
        r = vd_tree_next(state->map, &index, &found);
        uint64_t next = found ? vd_max64(at, index * VD_LEAF_BLOCKS) : size_end;
        if (r)
            break;
        if (next > at)
            r = map_hole(state, at, vd_min64(next, size_end), through_base, depth, out);
        else
            r = map_leaf(state, at, size_end, through_base, depth, out);
    }
    if (!r && size_end < end && !is_over(out)) /* past a base's size */
        r = add_range(out, size_end, end - size_end, VDISK_EXTENT_HOLE, depth);
    return r;
}

static int base_next(struct vdisk_image *image, uint64_t first, uint64_t *from, uint64_t *to)
{
    const struct vd_state base =
        image->base_snapshot ? vd_snapshot_state(image->base_snapshot) : vd_live_state(image->base);
    uint64_t end = vd_guest_blocks(base.size);
    for (uint64_t at = first; at < end;) {
        struct ranges ranges = {.cap = 64, .steps = PART_STEPS};
        bool found = false;
        int r = map_range(&base, at, end, true, 1, &ranges);
        for (size_t i = 0; !r && i < ranges.count && !found; i++) {
            const struct vdisk_extent *extent = &ranges.extent[i];
            found = extent->kind != VDISK_EXTENT_HOLE && extent->kind != VDISK_EXTENT_ZERO;
            *from = extent->offset / VD_BLOCK;
            *to = *from + extent->length / VD_BLOCK;
        }
        at = ranges.reached;
        free(ranges.extent);
        if (r || found)
            return r;
    }
    *from = *to = UINT64_MAX;
    return 0;
}

int vd_base_next(struct vdisk_image *image, uint64_t first, uint64_t *from, uint64_t *to)
{
    if (image->super->overlay == VD_OVERLAY_SOURCE)
        return vd_source_next(image, first, from, to);
    *from = *to = UINT64_MAX;
    return image->base ? base_next(image, first, from, to) : 0;
}

struct map_args {
    struct vdisk_snapshot *snapshot;
    uint64_t first, end;
    bool through_base;
    struct ranges ranges;
};

static int map_entry(struct vdisk_image *image, void *arg)
{
    struct map_args *args = arg;
    vd_lock_shared(&image->loop, &image->states);
    struct vd_state state =
        args->snapshot ? vd_snapshot_state(args->snapshot) : vd_live_state(image);
    int r = map_range(&state, args->first, args->end, args->through_base, 0, &args->ranges);
    vd_unlock_shared(&image->loop, &image->states);
    return r;
}

static int map(struct vdisk_image *image, const struct vdisk_range *range,
               const struct ranges *limits, bool through_base, vdisk_extent_callback *each,
               void *opaque, uint64_t *reached)
{
    struct vdisk_snapshot *snapshot = range->state;
    uint64_t size = snapshot ? snapshot->snap.size : image->size;
    uint64_t end = range->offset + range->length;
    *reached = end;
    if (range->offset > size || range->length > size - range->offset)
        return vd_image_fail(image, -EINVAL, "the range is not within the drive");
    if (range->length == 0)
        return 0;
    struct map_args args = {.snapshot = snapshot,
                            .first = range->offset / VD_BLOCK,
                            .end = vd_guest_blocks(end),
                            .through_base = through_base,
                            .ranges = *limits};
    int r = vd_run(image, map_entry, &args);
    *reached = vd_min64(end, args.ranges.reached * VD_BLOCK);
    if (r)
        free(args.ranges.extent);
    else
        hand_out(&args.ranges, range->offset, *reached, each, opaque);
    return r;
}

int vdisk_map(struct vdisk_image *image, struct vdisk_snapshot *snapshot, uint64_t offset,
              uint64_t length, bool through_base, vdisk_extent_callback *each, void *opaque)
{
    const struct vdisk_range range = {snapshot, offset, length, 0};
    uint64_t reached;
    return map(image, &range, &all, through_base, each, opaque, &reached);
}

int vdisk_map_part(struct vdisk_image *image, const struct vdisk_range *range, bool through_base,
                   vdisk_extent_callback *each, void *opaque, uint64_t *reached)
{
    const struct ranges part = part_of(range);
    return map(image, range, &part, through_base, each, opaque, reached);
}

/* --- diff --- */

struct diff {
    struct vdisk_image *image;
    struct vd_state state[2]; /* old, new */
    uint64_t first, end;      /* blocks; those of the same leaf are looked at as well */
    struct ranges ranges;
};

/* What a block holds, as one number that differs when the content may differ. */
static uint64_t content_at(const struct diff *d, unsigned side, const struct vd_node *leaf,
                           enum vd_absent absent, uint64_t block)
{
    unsigned i = (unsigned)(block % VD_LEAF_BLOCKS);
    uint64_t zero = d->image->super->overlay ? 1 : 0; /* without a base a hole is zeros too */
    if (block >= vd_guest_blocks(d->state[side].size))
        return zero;
    if (!leaf)
        return absent == VD_ABSENT_ZERO ? zero : 0;
    enum vd_block_kind kind =
        leaf->map.blocks ? vd_block_kind(&leaf->map.blocks[i]) : VD_BLOCK_NONE;
    if (kind == VD_BLOCK_RAW)
        return leaf->map.blocks[i].stamp;
    if (kind == VD_BLOCK_ZERO)
        return zero;
    unsigned cluster = i / vd_cluster_blocks(d->image);
    return leaf->map.zstd && leaf->map.zstd[cluster].length ? leaf->map.zstd[cluster].stamp : 0;
}

static int diff_leaf(struct diff *d, uint64_t index)
{
    struct vd_node *leaf[2] = {NULL, NULL};
    enum vd_absent absent[2];
    int r = vd_tree_get(d->state[0].map, 0, index, false, &leaf[0], &absent[0]);
    if (!r)
        r = vd_tree_get(d->state[1].map, 0, index, false, &leaf[1], &absent[1]);
    for (unsigned i = 0; i < VD_LEAF_BLOCKS && !r; i++) {
        uint64_t block = index * VD_LEAF_BLOCKS + i;
        if (content_at(d, 0, leaf[0], absent[0], block) !=
            content_at(d, 1, leaf[1], absent[1], block)) {
            enum vdisk_extent_kind kind = VDISK_EXTENT_HOLE;
            if (block < vd_guest_blocks(d->state[1].size))
                kind = kind_at(d->image, leaf[1], absent[1], i);
            r = add_range(&d->ranges, block, 1, kind, 0);
        }
    }
    vd_node_unpin(leaf[0]);
    vd_node_unpin(leaf[1]);
    return r;
}

/* Leaves [first, end) of which neither state has any: zeros, and where there is a base, holes. */
static int diff_absent(struct diff *d, const struct vd_ref ref[2], uint64_t first, uint64_t end)
{
    uint64_t size[2] = {vd_guest_blocks(d->state[0].size), vd_guest_blocks(d->state[1].size)};
    if (!d->image->super->overlay)
        return 0;
    end *= VD_LEAF_BLOCKS;
    for (uint64_t at = first * VD_LEAF_BLOCKS, stop; at < end; at = stop) {
        bool zero[2];
        stop = end;
        for (unsigned i = 0; i < 2; i++) {
            zero[i] = at >= size[i] || vd_ref_is_zero(&ref[i]);
            stop = at < size[i] ? vd_min64(stop, size[i]) : stop;
        }
        bool shown = at < size[1] && zero[1];
        int r = zero[0] == zero[1] ? 0
                                   : add_range(&d->ranges, at, stop - at,
                                               shown ? VDISK_EXTENT_ZERO : VDISK_EXTENT_HOLE, 0);
        if (r)
            return r;
    }
    return 0;
}

static int diff_children(struct diff *d, unsigned level, uint64_t index);

/* All of it that is in [d->first, d->end), and whole leaves, unless the walk is over before. */
static int diff_subtree(struct diff *d, unsigned level, uint64_t index)
{
    struct vd_ref ref[2];
    bool known[2], same_size = d->state[0].size == d->state[1].size;
    d->ranges.steps--;
    int r = vd_tree_ref(d->state[0].map, level, index, &ref[0], &known[0]);
    if (!r)
        r = vd_tree_ref(d->state[1].map, level, index, &ref[1], &known[1]);
    if (r)
        return r;
    if (known[0] && known[1] && vd_ref_equal(&ref[0], &ref[1])) {
        uint64_t end = (index + 1) * vd_span(level) * VD_LEAF_BLOCKS;
        uint64_t smaller = vd_guest_blocks(vd_min64(d->state[0].size, d->state[1].size));
        if (same_size || vd_ref_is_hole(&ref[0]) || end <= smaller)
            return 0;
    }
    if (known[0] && known[1] && !vd_ref_is_node(&ref[0]) && !vd_ref_is_node(&ref[1]))
        return diff_absent(d, ref, index * vd_span(level), (index + 1) * vd_span(level));
    return level == 0 ? diff_leaf(d, index) : diff_children(d, level, index);
}

static int diff_children(struct diff *d, unsigned level, uint64_t index)
{
    uint64_t span = vd_span(level - 1) * VD_LEAF_BLOCKS; /* blocks */
    uint64_t child = vd_max64(index * VD_FANOUT, d->first / span);
    int r = 0;
    for (; child < (index + 1) * VD_FANOUT && child * span < d->end && !r; child++) {
        if (is_over(&d->ranges))
            return 0;
        r = diff_subtree(d, level - 1, child);
        if (!is_over(&d->ranges) || level == 1)
            d->ranges.reached = (child + 1) * span;
    }
    return r;
}

struct diff_args {
    struct vdisk_snapshot *snapshot[2];
    uint64_t offset, length;
    bool at_once; /* of the live state a consistent picture */
    struct diff diff;
};

static int diff_entry(struct vdisk_image *image, void *arg)
{
    struct diff_args *args = arg;
    bool live = args->at_once && (!args->snapshot[0] || !args->snapshot[1]);
    vd_lock_shared(&image->loop, &image->states);
    if (live)
        vd_lock_exclusive(&image->loop, &image->gate);
    args->diff.image = image;
    for (unsigned i = 0; i < 2; i++)
        args->diff.state[i] =
            args->snapshot[i] ? vd_snapshot_state(args->snapshot[i]) : vd_live_state(image);
    uint64_t size = vd_max64(args->diff.state[0].size, args->diff.state[1].size);
    args->offset = vd_min64(args->offset, size);
    args->length = vd_min64(args->length, size - args->offset);
    args->diff.first = args->offset / VD_BLOCK;
    args->diff.end = vd_guest_blocks(args->offset + args->length);
    uint8_t top = args->diff.state[0].map->height;
    if (args->diff.state[1].map->height > top)
        top = args->diff.state[1].map->height;
    int r = diff_subtree(&args->diff, top, 0);
    if (!is_over(&args->diff.ranges))
        args->diff.ranges.reached = args->diff.end;
    if (live)
        vd_unlock_exclusive(&image->loop, &image->gate);
    vd_unlock_shared(&image->loop, &image->states);
    return r;
}

static int diff(struct vdisk_image *image, struct diff_args *args, vdisk_extent_callback *each,
                void *opaque, uint64_t *reached)
{
    int r = vd_run(image, diff_entry, args);
    *reached = vd_min64(args->offset + args->length, args->diff.ranges.reached * VD_BLOCK);
    if (r)
        free(args->diff.ranges.extent);
    else
        hand_out(&args->diff.ranges, args->offset, *reached, each, opaque);
    return r;
}

int vdisk_diff(struct vdisk_image *image, struct vdisk_snapshot *old_state,
               struct vdisk_snapshot *new_state, vdisk_extent_callback *each, void *opaque)
{
    struct diff_args args = {.snapshot = {old_state, new_state},
                             .length = UINT64_MAX,
                             .at_once = true,
                             .diff.ranges = all};
    uint64_t reached;
    return diff(image, &args, each, opaque, &reached);
}

int vdisk_diff_part(struct vdisk_image *image, struct vdisk_snapshot *old_state,
                    const struct vdisk_range *range, vdisk_extent_callback *each, void *opaque,
                    uint64_t *reached)
{
    struct diff_args args = {.snapshot = {old_state, range->state},
                             .offset = range->offset,
                             .length = range->length,
                             .diff.ranges = part_of(range)};
    return diff(image, &args, each, opaque, reached);
}
