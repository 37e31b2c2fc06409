/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on the leaves of the live map; see map.h. */
#include "map.h"

#include "bytes.h"

#include <assert.h>

uint64_t vd_parent_stamp(const struct vdisk_image *image, uint64_t leaf_end)
{
    const struct vd_superblock *super = image->super;
    if (super->deleting && super->parent == super->deleting && leaf_end <= super->delete_cursor)
        return image->deleting_parent_stamp;
    return super->parent_stamp;
}

int vd_map_ready(struct vdisk_image *image, struct vd_node *leaf, unsigned ops)
{
    int r = vd_node_prepare(leaf);
    return r ? r
             : vd_runs_reserve(&image->alloc.frees,
                               (size_t)ops + VD_LEAF_BLOCKS + VD_LEAF_CLUSTERS_MAX);
}

int vd_map_leaf(struct vdisk_image *image, uint64_t index, struct vd_node **leaf)
{
    int r = vd_tree_get(&image->map, 0, index, true, leaf, NULL);
    if (!r) {
        r = vd_map_ready(image, *leaf, 1);
        if (r) {
            vd_node_unpin(*leaf);
            *leaf = NULL;
        }
    }
    return r;
}

static void drop_extent(struct vdisk_image *image, struct vd_node *leaf, uint64_t stamp,
                        uint64_t block, uint32_t count)
{
    if (stamp > vd_parent_stamp(image, leaf->index + 1))
        vd_alloc_free(image, block, count);
}

static void drop_zstd(struct vdisk_image *image, struct vd_node *leaf, unsigned cluster)
{
    struct vd_zstd *z = &leaf->map.zstd[cluster];
    if (!z->length)
        return;
    drop_extent(image, leaf, z->stamp, z->block, vd_zstd_blocks(z));
    *z = (struct vd_zstd){0};
    leaf->map.zstds--;
}

/* Sets one guest block to none or zero, or prepares it to become raw. */
static void reset_block(struct vdisk_image *image, struct vd_node *leaf, unsigned i,
                        enum vd_block_kind kind)
{
    struct vd_block *b = &leaf->map.blocks[i];
    if (vd_block_kind(b) == VD_BLOCK_RAW) {
        drop_extent(image, leaf, b->stamp, vd_block_host(b), 1);
        leaf->map.raws--;
    } else if (vd_block_kind(b) == VD_BLOCK_ZERO) {
        leaf->map.zeros--;
    }
    if (kind == VD_BLOCK_RAW)
        leaf->map.raws++;
    else if (kind == VD_BLOCK_ZERO)
        leaf->map.zeros++;
    *b = (struct vd_block){.where = (uint64_t)kind << 60};
}

/* Drops the zstd extents of the clusters in a range of which nothing shows any more. */
static void drop_covered(struct vdisk_image *image, struct vd_node *leaf, unsigned first,
                         unsigned count)
{
    unsigned per = vd_cluster_blocks(image);
    for (unsigned c = first / per; c <= (first + count - 1) / per; c++) {
        unsigned covered = 0;
        if (!leaf->map.zstd[c].length)
            continue;
        while (covered < per && vd_block_kind(&leaf->map.blocks[c * per + covered]))
            covered++;
        if (covered == per)
            drop_zstd(image, leaf, c);
    }
}

static void put_raw(struct vdisk_image *image, struct vd_node *leaf, const struct vd_op *op)
{
    unsigned first = (unsigned)(op->first % VD_LEAF_BLOCKS);
    for (unsigned i = 0; i < op->count; i++) {
        struct vd_block *b = &leaf->map.blocks[first + i];
        reset_block(image, leaf, first + i, VD_BLOCK_RAW);
        b->where |= op->block + i;
        b->stamp = op->stamp + i;
        memcpy(b->tag, op->tags + (size_t)i * VD_TAG_BYTES, VD_TAG_BYTES);
    }
    drop_covered(image, leaf, first, (unsigned)op->count);
}

static void put_zstd(struct vdisk_image *image, struct vd_node *leaf, const struct vd_op *op)
{
    unsigned first = (unsigned)(op->first % VD_LEAF_BLOCKS);
    unsigned cluster = first / vd_cluster_blocks(image);
    struct vd_zstd *z = &leaf->map.zstd[cluster];
    drop_zstd(image, leaf, cluster);
    for (unsigned i = 0; i < op->count; i++)
        reset_block(image, leaf, first + i, VD_BLOCK_NONE);
    z->block = op->block;
    z->stamp = op->stamp;
    z->length = op->length;
    z->offset16 = op->offset16;
    memcpy(z->tag, op->tags, VD_TAG_BYTES);
    leaf->map.zstds++;
}

static void clear(struct vdisk_image *image, struct vd_node *leaf, unsigned first, unsigned end,
                  bool hole)
{
    unsigned per = vd_cluster_blocks(image);
    enum vd_block_kind kind = hole && !image->super->overlay ? VD_BLOCK_NONE : VD_BLOCK_ZERO;
    for (unsigned c = first / per; c * per < end; c++) {
        unsigned from = c * per < first ? first : c * per;
        unsigned to = (c + 1) * per > end ? end : (c + 1) * per;
        if (to - from == per)
            drop_zstd(image, leaf, c);
        bool over = leaf->map.zstd[c].length != 0;
        for (unsigned i = from; i < to; i++)
            reset_block(image, leaf, i, over ? VD_BLOCK_ZERO : kind);
        if (over)
            drop_covered(image, leaf, from, to - from);
    }
}

void vd_map_apply(struct vdisk_image *image, struct vd_node *leaf, const struct vd_op *op)
{
    uint64_t base = leaf->index * VD_LEAF_BLOCKS;
    switch (op->type) {
    case VD_OP_RAW:
        put_raw(image, leaf, op);
        break;
    case VD_OP_ZSTD:
        put_zstd(image, leaf, op);
        break;
    case VD_OP_ZERO:
    case VD_OP_HOLE:
        clear(image, leaf, (unsigned)(vd_max64(op->first, base) - base),
              (unsigned)(vd_min64(op->first + op->count, base + VD_LEAF_BLOCKS) - base),
              op->type == VD_OP_HOLE);
        break;
    }
    vd_node_dirty(leaf);
}

/* A subtree that is not in memory and holds no extents is set in its parent. */
static int clear_in_parent(struct vdisk_image *image, unsigned level, uint64_t index, bool zero,
                           bool *done)
{
    struct vd_node *above = NULL;
    int r = vd_tree_get(&image->map, level + 1, index / VD_FANOUT, true, &above, NULL);
    if (r)
        return r;
    struct vd_ref *ref = &above->inner->ref[index % VD_FANOUT];
    if (!above->inner->kid[index % VD_FANOUT] && !vd_ref_is_node(ref)) {
        if (vd_ref_is_zero(ref) != zero) {
            ref->hint = zero;
            vd_node_dirty(above);
        }
        *done = true;
    }
    vd_node_unpin(above);
    return 0;
}

/* As many leaves of [from, end) as can be done at once without any of them; *stop tells how far. */
static int clear_subtree(struct vdisk_image *image, uint64_t from, uint64_t end, bool zero,
                         uint64_t *stop)
{
    bool done = false;
    int r = 0;
    for (unsigned level = image->map.height; level-- > 0 && !r && !done;) {
        uint64_t span = vd_span(level);
        if (from % span || from + span > end)
            continue;
        r = clear_in_parent(image, level, from / span, zero, &done);
        if (done)
            *stop = from + span;
    }
    return r;
}

/* The blocks [first, end) of one leaf. */
static int clear_in_leaf(struct vdisk_image *image, uint64_t first, uint64_t end, bool hole)
{
    struct vd_op op = {
        .type = hole ? VD_OP_HOLE : VD_OP_ZERO, .first = first, .count = end - first};
    struct vd_node *leaf = NULL;
    int r = vd_map_leaf(image, first / VD_LEAF_BLOCKS, &leaf);
    if (r)
        return r;
    vd_map_apply(image, leaf, &op);
    vd_node_unpin(leaf);
    return 0;
}

int vd_map_clear(struct vdisk_image *image, uint64_t first, uint64_t end, bool hole,
                 unsigned budget, uint64_t *reached)
{
    bool zero = !hole || image->super->overlay;
    int r = 0;
    *reached = first;
    while (*reached < end && budget) {
        uint64_t index = *reached / VD_LEAF_BLOCKS;
        bool done = true;
        if (!zero) { /* what is a hole already is skipped */
            r = vd_tree_next(&image->map, &index, &done);
            if (r)
                return r;
            *reached = done ? vd_max64(*reached, index * VD_LEAF_BLOCKS) : end;
            if (*reached >= end)
                break;
        }
        uint64_t stop = index;
        if (*reached % VD_LEAF_BLOCKS == 0)
            r = clear_subtree(image, index, end / VD_LEAF_BLOCKS, zero, &stop);
        if (!r && stop == index) {
            stop++;
            r = clear_in_leaf(image, *reached, vd_min64(end, stop * VD_LEAF_BLOCKS), hole);
            budget--;
        }
        if (r)
            return r;
        *reached = stop * VD_LEAF_BLOCKS;
    }
    *reached = vd_min64(*reached, end);
    return 0;
}
