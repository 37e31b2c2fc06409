/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes, discards and zeroes of any alignment, cut into pieces of whole blocks. A block of which
 * only a part is written is read first, under the lock of its range.
 */
#include "bytes.h"
#include "checkpoint.h"
#include "data.h"
#include "journal.h"
#include "map.h"

#include <errno.h>
#include <stdlib.h>

uint32_t vd_piece_blocks(const struct vdisk_image *image)
{
    uint32_t blocks = VD_PIECE_BLOCKS;
    while (blocks > 1 &&
           vd_journal_cost((size_t)blocks * (32 + VD_TAG_BYTES)) > image->journal.ring_blocks / 4)
        blocks /= 2;
    return blocks;
}

void vd_end_drive(const struct vdisk_image *image, uint64_t first, uint32_t count, uint8_t *data)
{
    uint64_t offset = first * VD_BLOCK, length = (uint64_t)count * VD_BLOCK;
    uint64_t size = vd_max64(offset, image->super->size);
    if (size < offset + length)
        memset(data + (size - offset), 0, offset + length - size);
}

static int read_block(struct vdisk_image *image, uint64_t block, uint8_t *out)
{
    vd_lock_shared(&image->loop, &image->states);
    struct vd_state state = vd_live_state(image);
    int r = vd_read_blocks(&state, block, 1, out);
    vd_end_drive(image, block, 1, out);
    vd_unlock_shared(&image->loop, &image->states);
    return r;
}

/* A piece whose first or last block is partly written. */
static int write_unaligned(struct vdisk_image *image, uint64_t offset, const uint8_t *data,
                           uint64_t length, bool lead)
{
    uint64_t first = offset / VD_BLOCK, end = vd_guest_blocks(offset + length);
    uint32_t count = (uint32_t)(end - first);
    uint8_t *bounce = vd_pool_take(&image->pool, (size_t)count * VD_BLOCK);
    int r = bounce ? 0 : -ENOMEM;
    if (!r && offset % VD_BLOCK)
        r = read_block(image, first, bounce);
    if (!r && (offset + length) % VD_BLOCK && (count > 1 || offset % VD_BLOCK == 0))
        r = read_block(image, end - 1, bounce + (size_t)(count - 1) * VD_BLOCK);
    if (!r) {
        memcpy(bounce + offset % VD_BLOCK, data, length);
        r = vd_write_piece(image, first, count, bounce, lead);
    }
    vd_pool_give(&image->pool, bounce, (size_t)count * VD_BLOCK);
    return r;
}

int vd_do_write(struct vdisk_image *image, uint64_t offset, const uint8_t *data, uint64_t length,
                bool lead)
{
    uint64_t piece_bytes = (uint64_t)vd_piece_blocks(image) * VD_BLOCK;
    struct vd_range range;
    uint64_t end = offset + length;
    int r = 0;
    vd_range_lock(&image->loop, &image->range, &range, offset / VD_BLOCK, (end - 1) / VD_BLOCK,
                  true);
    for (uint64_t at = offset; at < end && !r;) {
        uint64_t stop = vd_min64(end, (at / piece_bytes + 1) * piece_bytes);
        if (at % VD_BLOCK || stop % VD_BLOCK)
            r = write_unaligned(image, at, data + (at - offset), stop - at, lead && stop == end);
        else
            r = vd_write_piece(image, at / VD_BLOCK, (uint32_t)((stop - at) / VD_BLOCK),
                               data + (at - offset), lead && stop == end);
        at = stop;
    }
    vd_range_unlock(&image->loop, &image->range, &range);
    return r;
}

/* --- discard and zero --- */

#define CLEAR_LEAVES 64u /* in memory, for one step */

/* Room for the nodes of one step: on a full disk for as few leaves as the reserve has room for; a
 * checkpoint makes room where there is none. */
static int promise_leaves(struct vdisk_image *image, uint32_t *leaves)
{
    bool tried = false;
    for (*leaves = CLEAR_LEAVES;;) {
        int r = vd_reserve_promise(image, (uint64_t)VD_NODE_BLOCKS_MAX * *leaves, VD_FOR_DISCARD);
        if (r != -ENOSPC || (*leaves == 1 && tried))
            return r;
        if (*leaves > 1) {
            *leaves /= 2;
            continue;
        }
        tried = true;
        r = vd_checkpoint_join(image);
        if (r)
            return r;
    }
}

/* One step of clearing whole blocks; *reached tells how far it came. */
static int clear_step(struct vdisk_image *image, uint64_t first, uint64_t end, bool hole,
                      uint64_t *reached)
{
    uint32_t cost = vd_journal_cost(24);
    bool added = false;
    *reached = first;
    int r = vd_begin_writing(image);
    if (!r)
        r = vd_journal_admit(image, cost);
    if (r)
        return r;
    uint32_t leaves;
    bool promised = (r = promise_leaves(image, &leaves)) == 0;
    vd_lock_shared(&image->loop, &image->gate);
    if (!r && image->failed)
        r = VDISK_E_FAILED;
    if (!r)
        r = vd_journal_ready(image, 24);
    if (!r) {
        r = vd_map_clear(image, first, end, hole, leaves, reached);
        if (*reached > first) {
            struct vd_op op = {
                .type = hole ? VD_OP_HOLE : VD_OP_ZERO, .first = first, .count = *reached - first};
            int ready = vd_journal_ready(image, 24); /* others ran while it waited */
            if (ready) {
                r = vd_image_latch(image, ready, "no memory for the journal");
            } else {
                vd_journal_add(image, &op);
                added = true;
            }
        }
    }
    vd_unlock_shared(&image->loop, &image->gate);
    vd_journal_settle(image, cost, added);
    if (promised)
        vd_reserve_settle(image, (uint64_t)VD_NODE_BLOCKS_MAX * leaves);
    vd_checkpoint_kick(image);
    return r;
}

static int write_zeros(struct vdisk_image *image, uint64_t from, uint64_t to)
{
    static const uint8_t zeros[VD_BLOCK];
    return from < to ? write_unaligned(image, from, zeros, to - from, false) : 0;
}

/* A full disk gets room when the tree on disk no longer refers to what was cleared. */
static int clear_blocks(struct vdisk_image *image, uint64_t first, uint64_t last, bool hole)
{
    bool was_full = false;
    int r = 0;
    while (first < last && !r) {
        r = clear_step(image, first, last, hole, &first);
        if (r == -ENOSPC && !was_full) {
            was_full = true;
            r = vd_checkpoint(image, NULL);
        } else {
            was_full = false;
        }
    }
    return r;
}

int vd_do_clear(struct vdisk_image *image, uint64_t offset, uint64_t length, bool hole)
{
    uint64_t end = offset + length;
    uint64_t first = vd_guest_blocks(offset), last = end / VD_BLOCK;
    struct vd_range range;
    int r = 0;
    if (end >= image->super->size) /* what follows in the last cluster is nobody's */
        last = vd_div_up(end, vd_cluster_bytes(image)) * vd_cluster_blocks(image);
    vd_range_lock(&image->loop, &image->range, &range, offset / VD_BLOCK,
                  vd_max64(last, (end - 1) / VD_BLOCK + 1) - 1, true);
    if (first > last) {
        r = write_zeros(image, offset, end);
    } else {
        r = write_zeros(image, offset, first * VD_BLOCK);
        if (!r && last * VD_BLOCK < end)
            r = write_zeros(image, last * VD_BLOCK, end);
        if (!r)
            r = clear_blocks(image, first, last, hole);
    }
    vd_range_unlock(&image->loop, &image->range, &range);
    return r;
}
