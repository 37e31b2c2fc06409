/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compaction: patched clusters become one extent again, clusters written piecemeal are compressed,
 * and space goes back to the host. Clusters that a snapshot shares are left alone: folding them
 * would free nothing.
 */
#include "blank.h"
#include "bytes.h"
#include "checkpoint.h"
#include "data.h"
#include "map.h"
#include "snapshot.h"
#include "tasks.h"

#include <errno.h>
#include <stdlib.h>

struct compaction {
    vdisk_progress *progress;
    void *opaque;
    struct vdisk_compact_result *result;
    uint8_t *cluster, *packed;
};

enum verdict {
    LEAVE,
    FOLD,        /* patched */
    TRY_PACKING, /* raw throughout */
};

static enum verdict judge(const struct vdisk_image *image, const struct vd_node *leaf,
                          unsigned cluster)
{
    unsigned per = vd_cluster_blocks(image), raws = 0, over = 0;
    uint64_t parent = vd_parent_stamp(image, leaf->index + 1);
    const struct vd_zstd *z = leaf->map.zstd ? &leaf->map.zstd[cluster] : NULL;
    for (unsigned i = 0; leaf->map.blocks && i < per; i++) {
        const struct vd_block *b = &leaf->map.blocks[cluster * per + i];
        over += vd_block_kind(b) != VD_BLOCK_NONE;
        if (vd_block_kind(b) == VD_BLOCK_RAW && b->stamp > parent)
            raws++;
    }
    if (z && z->length)
        return over && z->stamp > parent ? FOLD : LEAVE;
    return raws == per && image->super->codec ? TRY_PACKING : LEAVE;
}

static bool packs(struct vdisk_image *image, struct compaction *c)
{
    struct vd_codec *codec = vd_codec_take(image);
    size_t bytes = vd_cluster_bytes(image);
    uint32_t n = codec ? vd_compress(codec, image->super->level, c->cluster, bytes, c->packed,
                                     bytes - VD_BLOCK)
                       : 0;
    vd_codec_give(image, codec);
    return n != 0;
}

/* One cluster, under the lock of its range. */
static int fold_cluster(struct vdisk_image *image, struct compaction *c, uint64_t index,
                        unsigned cluster)
{
    uint32_t per = vd_cluster_blocks(image);
    uint64_t first = index * VD_LEAF_BLOCKS + (uint64_t)cluster * per;
    struct vd_range range;
    struct vd_node *leaf = NULL;
    vd_range_lock(&image->loop, &image->range, &range, first, first + per - 1, true);
    vd_lock_shared(&image->loop, &image->states);
    enum verdict verdict = LEAVE;
    int r = vd_tree_get(&image->map, 0, index, false, &leaf, NULL);
    if (!r && leaf)
        verdict = judge(image, leaf, cluster);
    vd_node_unpin(leaf);
    if (verdict != LEAVE) {
        struct vd_state state = vd_live_state(image);
        r = vd_read_blocks(&state, first, per, c->cluster);
    }
    vd_unlock_shared(&image->loop, &image->states);
    if (!r && (verdict == FOLD || (verdict == TRY_PACKING && packs(image, c)))) {
        r = vd_write_piece(image, first, per, c->cluster, false);
        c->result->clusters_folded += r == 0;
    }
    vd_range_unlock(&image->loop, &image->range, &range);
    return r;
}

static int fold_all(struct vdisk_image *image, struct compaction *c)
{
    unsigned clusters = VD_LEAF_BLOCKS / vd_cluster_blocks(image);
    uint64_t index = 0;
    for (;; index++) {
        bool found;
        vd_lock_shared(&image->loop, &image->states);
        int r = vd_tree_next(&image->map, &index, &found);
        vd_unlock_shared(&image->loop, &image->states);
        if (r || !found)
            return r;
        uint64_t offset = index * VD_LEAF_BLOCKS * VD_BLOCK;
        if (offset >= image->size)
            return 0;
        if (c->progress && !c->progress(c->opaque, offset, image->size))
            return vd_image_fail(image, -ECANCELED, "cancelled");
        for (unsigned i = 0; i < clusters && !r; i++) {
            /* A cluster that reaches past the end cannot be written whole. */
            if (offset + (i + 1) * vd_cluster_bytes(image) <= image->size)
                r = fold_cluster(image, c, index, i);
        }
        if (r)
            return r;
    }
}

static int compact_entry(struct vdisk_image *image, void *arg)
{
    struct compaction *c = arg;
    int r = vd_begin_writing(image);
    uint64_t before = image->alloc.used_blocks;
    if (!r)
        r = fold_all(image, c);
    if (!r)
        r = vd_snapshot_reap(image);
    if (!r)
        r = vd_checkpoint(image, NULL);
    if (r)
        return r;
    uint64_t after = image->alloc.used_blocks;
    c->result->bytes_freed = before > after ? (before - after) * VD_BLOCK : 0;
    vd_lock_exclusive(&image->loop, &image->gate);
    vd_blank_drop(image);
    r = vd_alloc_trim(image);
    vd_unlock_exclusive(&image->loop, &image->gate);
    return r ? vd_image_fail(image, r, "space cannot be given back: %s", vdisk_strerror(r)) : 0;
}

int vdisk_compact(struct vdisk_image *image, vdisk_progress *progress, void *opaque,
                  struct vdisk_compact_result *result)
{
    struct vdisk_compact_result ignored = {0};
    struct compaction c = {
        .progress = progress,
        .opaque = opaque,
        .result = result ? result : &ignored,
        .cluster = vd_buffer_new(vd_cluster_bytes(image)),
        .packed = malloc(vd_cluster_bytes(image)),
    };
    *c.result = (struct vdisk_compact_result){0};
    int r = c.cluster && c.packed ? vd_run(image, compact_entry, &c)
                                  : vd_image_fail(image, -ENOMEM, "out of memory");
    free(c.cluster);
    free(c.packed);
    return r;
}
