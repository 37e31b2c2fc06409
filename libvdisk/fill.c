/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filling: what the base or the source shows becomes the image's own (SPEC.md 17).
 *
 * Invariants:
 * - Only holes are filled, and whether a block is one is looked at under the exclusive lock of its
 *   range: what a guest writes meanwhile stays. The content is fetched before, without that lock,
 * so that no write waits for a source: neither bases nor sources change.
 * - An image that has something below it gets no new holes. So what was filled stays filled.
 * - What reads as zeros below stays a hole.
 */
#include "bytes.h"
#include "data.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define PIECE_BLOCKS (VDISK_SOURCE_PIECE_MAX / VD_BLOCK)
#define FILLS_MAX    8u /* pieces in memory */

static_assert(PIECE_BLOCKS <= VD_PIECE_BLOCKS, "a piece can be written at once");

/* --- holes --- */

int vd_absent_end(struct vd_tree *map, uint64_t leaf, uint64_t *end)
{
    *end = leaf + 1;
    for (unsigned level = map->height + 1u; level-- > 1;) {
        struct vd_ref ref;
        bool known;
        int r = vd_tree_ref(map, level, leaf / vd_span(level), &ref, &known);
        if (r)
            return r;
        if (known && !vd_ref_is_node(&ref)) {
            *end = (leaf / vd_span(level) + 1) * vd_span(level);
            return 0;
        }
    }
    return 0;
}

/* All that is absent in the same way at and after a leaf: its end, and whether it is holes. */
static int absent_leaves(const struct vd_state *state, uint64_t first, enum vd_absent absent,
                         uint64_t *stop, bool *is_hole)
{
    uint64_t end;
    int r = vd_absent_end(state->map, first / VD_LEAF_BLOCKS, &end);
    *stop = end * VD_LEAF_BLOCKS;
    *is_hole = absent == VD_ABSENT_HOLE;
    return r;
}

static void leaf_stretch(const struct vd_state *state, const struct vd_node *leaf, uint64_t first,
                         uint64_t *stop, bool *is_hole)
{
    uint64_t end = (first / VD_LEAF_BLOCKS + 1) * VD_LEAF_BLOCKS;
    enum vd_presence kind =
        vd_leaf_presence(state->image, leaf, (unsigned)(first % VD_LEAF_BLOCKS));
    *is_hole = kind == VD_IS_HOLE;
    *stop = first + 1;
    while (*stop < end &&
           (vd_leaf_presence(state->image, leaf, (unsigned)(*stop % VD_LEAF_BLOCKS)) ==
            VD_IS_HOLE) == *is_hole)
        ++*stop;
}

int vd_hole_next(const struct vd_state *state, uint64_t first, uint64_t end, uint64_t *from,
                 uint64_t *to)
{
    *from = *to = end;
    for (uint64_t at = first, stop; at < end; at = stop) {
        struct vd_node *leaf = NULL;
        enum vd_absent absent;
        bool is_hole = false;
        int r = vd_tree_get(state->map, 0, at / VD_LEAF_BLOCKS, false, &leaf, &absent);
        if (!r && leaf)
            leaf_stretch(state, leaf, at, &stop, &is_hole);
        else if (!r)
            r = absent_leaves(state, at, absent, &stop, &is_hole);
        vd_node_unpin(leaf);
        if (r)
            return r;
        if (is_hole) {
            *from = at;
            *to = vd_min64(stop, end);
            return 0;
        }
    }
    return 0;
}

/* The same of the live state, with its lock. */
static int live_hole_next(struct vdisk_image *image, uint64_t first, uint64_t end, uint64_t *from,
                          uint64_t *to)
{
    vd_lock_shared(&image->loop, &image->states);
    struct vd_state state = vd_live_state(image);
    int r = vd_hole_next(&state, first, vd_min64(end, vd_guest_blocks(state.size)), from, to);
    vd_unlock_shared(&image->loop, &image->states);
    return r;
}

/* --- one piece --- */

/* A source is asked without the lock: snapshots there are none, and a base is not replaced. */
static int fetch(struct vdisk_image *image, uint64_t first, uint32_t count, uint8_t *data)
{
    if (image->super->overlay == VD_OVERLAY_SOURCE)
        return vd_read_source(image, first, count, data);
    vd_lock_shared(&image->loop, &image->states);
    int r = vd_read_base(image, first, count, data);
    vd_unlock_shared(&image->loop, &image->states);
    return r;
}

/* Writes what is still a hole. */
static int fill_holes(struct vdisk_image *image, uint64_t first, uint32_t count,
                      const uint8_t *data, uint64_t *copied)
{
    uint64_t end = first + count, from = first, to;
    struct vd_range range;
    int r = 0;
    vd_range_lock(&image->loop, &image->range, &range, first, end - 1, true);
    while (from < end && !r) {
        r = live_hole_next(image, from, end, &from, &to);
        if (r || from >= to)
            break;
        to = vd_min64(to, from + vd_piece_blocks(image));
        r = vd_write_piece(image, from, (uint32_t)(to - from), data + (from - first) * VD_BLOCK,
                           false);
        if (!r)
            *copied += (to - from) * VD_BLOCK;
        from = to;
    }
    vd_range_unlock(&image->loop, &image->range, &range);
    return r;
}

/* The first and the last hole, and what is between. */
static int hull_of_holes(struct vdisk_image *image, uint64_t first, uint64_t end, uint64_t *from,
                         uint64_t *to)
{
    uint64_t next, stop;
    int r = live_hole_next(image, first, end, from, to);
    for (stop = *to; !r && *from < *to && stop < end; *to = stop) {
        r = live_hole_next(image, stop, end, &next, &stop);
        if (next >= stop)
            break;
    }
    return r;
}

/* With `filling` held over the blocks, so that nobody else fetches them. */
static int fill_locked(struct vdisk_image *image, uint64_t first, uint64_t end, uint64_t *copied)
{
    uint64_t from, to;
    int r = hull_of_holes(image, first, end, &from, &to);
    if (r || from >= to)
        return r;
    uint32_t count = (uint32_t)(to - from);
    uint8_t *data = vd_pool_take(&image->pool, (size_t)count * VD_BLOCK);
    r = data ? fetch(image, from, count, data) : -ENOMEM;
    if (!r) {
        vd_end_drive(image, from, count, data);
        r = fill_holes(image, from, count, data, copied);
    }
    vd_pool_give(&image->pool, data, (size_t)count * VD_BLOCK);
    return r;
}

/* A source is asked whether it has anything there but zeros, which would not be kept. */
static int has_data(struct vdisk_image *image, uint64_t first, uint64_t end, bool *has)
{
    uint64_t from, to;
    int r = vd_source_next(image, first, &from, &to);
    *has = from < end;
    return r;
}

/* At most PIECE_BLOCKS. With `ask`, nothing is known of them yet. */
static int fill_piece(struct vdisk_image *image, uint64_t first, uint64_t end, bool ask,
                      uint64_t *copied)
{
    struct vd_range range;
    bool has = true;
    int r = 0;
    while (image->fills >= FILLS_MAX)
        vd_wait(&image->loop, &image->fill_waiters);
    image->fills++;
    vd_range_lock(&image->loop, &image->filling, &range, first, end - 1, true);
    if (image->failed)
        r = vd_image_fail(image, VDISK_E_FAILED,
                          "an earlier write to the image file failed; open it again");
    else if (image->super->overlay && ask)
        r = has_data(image, first, end, &has);
    if (!r && has && image->super->overlay)
        r = fill_locked(image, first, end, copied);
    vd_range_unlock(&image->loop, &image->filling, &range);
    image->fills--;
    vd_wake_one(&image->loop, &image->fill_waiters);
    return r;
}

/* --- after a read --- */

static uint64_t source_piece_blocks(const struct vdisk_image *image)
{
    uint64_t bytes = image->source->piece_bytes;
    bool is_sound =
        bytes >= VD_BLOCK && bytes <= VDISK_SOURCE_PIECE_MAX && (bytes & (bytes - 1)) == 0;
    return is_sound ? bytes / VD_BLOCK : 1;
}

struct behind {
    struct vdisk_image *image;
    uint64_t first, end;
};

static void fill_behind(void *arg)
{
    struct behind behind = *(struct behind *)arg;
    uint64_t copied = 0;
    free(arg);
    (void)fill_piece(behind.image, behind.first, behind.end, true, &copied);
}

void vd_fill_behind(struct vdisk_image *image, uint64_t first, uint64_t end)
{
    if (!image->source || image->read_only || image->failed)
        return;
    uint64_t blocks = source_piece_blocks(image);
    unsigned room = FILLS_MAX;
    for (uint64_t at = first / blocks * blocks; at < end && image->fills < room; at += blocks) {
        struct behind *behind = malloc(sizeof(*behind));
        if (!behind)
            return;
        *behind = (struct behind){image, at, at + blocks};
        if (vd_loop_spawn(&image->loop, fill_behind, behind)) {
            free(behind);
            return;
        }
        room--;
    }
}

/* --- one piece after the other --- */

int vd_shown_next(const struct vd_state *state, uint64_t at, uint64_t *from, uint64_t *to)
{
    struct vdisk_image *image = state->image;
    uint64_t end = vd_guest_blocks(state->size);
    *from = *to = UINT64_MAX;
    while (at < end && image->super->overlay) {
        uint64_t hole, hole_end, data, data_end;
        int r = vd_hole_next(state, at, end, &hole, &hole_end);
        if (r || hole >= hole_end)
            return r;
        r = vd_base_next(image, hole, &data, &data_end);
        if (r)
            return r;
        if (data < hole_end) {
            *from = vd_max64(hole, data);
            *to = vd_min64(hole_end, data_end);
            return 0;
        }
        at = data;
    }
    return 0;
}

struct filling {
    uint64_t *cursor;
    uint64_t copied;
};

static int fill_entry(struct vdisk_image *image, void *arg)
{
    struct filling *f = arg;
    uint64_t from, to;
    /* The turn is for the cursor: who is next goes on behind this piece while it is copied. */
    vd_lock_exclusive(&image->loop, &image->fill_turn);
    vd_lock_shared(&image->loop, &image->states);
    struct vd_state state = vd_live_state(image);
    int r = vd_shown_next(&state, vd_guest_blocks(*f->cursor), &from, &to);
    vd_unlock_shared(&image->loop, &image->states);
    if (!r && from == UINT64_MAX)
        *f->cursor = vd_max64(*f->cursor, image->super->size);
    if (!r && from != UINT64_MAX) {
        to = vd_min64(to, (from / PIECE_BLOCKS + 1) * PIECE_BLOCKS);
        *f->cursor = vd_min64(to * VD_BLOCK, image->super->size);
    }
    vd_unlock_exclusive(&image->loop, &image->fill_turn);
    if (r || from == UINT64_MAX)
        return r;
    r = fill_piece(image, from, to, false, &f->copied);
    if (r) /* so that it is not left out */
        *f->cursor = vd_min64(*f->cursor, from * VD_BLOCK);
    return r;
}

/* NOLINTNEXTLINE(readability-non-const-parameter): fill_entry() moves it */
int vdisk_fill(struct vdisk_image *image, uint64_t *cursor, uint64_t *copied)
{
    struct filling filling = {.cursor = cursor};
    if (image->read_only)
        return vd_image_fail(image, -EROFS, "the image is open read-only");
    int r = vd_run(image, fill_entry, &filling);
    if (copied)
        *copied = filling.copied;
    return r;
}
