/* SPDX-License-Identifier: Apache-2.0 */
/* The sealed pieces of an image (pieces.h). */
#include "pieces.h"

#include "bytes.h"
#include "image.h"
#include "snapshot.h"

struct visit {
    struct vdisk_image *image;
    const struct sim *disk;
    void (*each)(void *arg, const struct piece *piece);
    void *arg;
};

/* The secret of an epoch: its salt is in the superblock or the epoch tree. */
static int epoch_secret(struct vdisk_image *image, uint32_t epoch, uint8_t *secret)
{
    uint8_t salt[VD_SALT_BYTES];
    struct vd_node *leaf = NULL;
    int r = 0;

    if (epoch == image->super->epoch) {
        memcpy(salt, image->super->epoch_salt, VD_SALT_BYTES);
    } else {
        r = vd_tree_get(&image->epochs, 0, epoch / VD_SALTS, false, &leaf, NULL);
        if (!r && !leaf)
            r = VDISK_E_MALFORMED;
        if (!r)
            memcpy(salt, leaf->salts[epoch % VD_SALTS], VD_SALT_BYTES);
        vd_node_unpin(leaf);
    }
    if (!r)
        vd_epoch_secret(image->master, image->header.image_id, epoch, salt, secret);
    return r;
}

static int emit(struct visit *v, struct piece *piece, const uint8_t *tag)
{
    int r = 0;

    piece->context.image_id = v->image->header.image_id;
    memcpy(piece->tag, tag, VD_TAG_BYTES);
    if (piece->context.kind == VD_SEAL_EPOCHS)
        vd_epoch_table_secret(v->image->master, v->image->header.image_id, piece->secret);
    else
        r = epoch_secret(v->image, vd_stamp_epoch(piece->context.stamp), piece->secret);
    if (!r)
        v->each(v->arg, piece);
    return r;
}

static int visit_leaf(struct visit *v, const struct vd_node *leaf)
{
    uint64_t base = leaf->index * VD_LEAF_BLOCKS;
    unsigned per = vd_cluster_blocks(v->image);
    int r = 0;

    for (unsigned i = 0; leaf->map.blocks && i < VD_LEAF_BLOCKS && !r; i++) {
        const struct vd_block *b = &leaf->map.blocks[i];
        struct piece piece = {.context = {.kind = VD_SEAL_RAW,
                                          .stamp = b->stamp,
                                          .address = base + i,
                                          .length = VD_BLOCK},
                              .offset = vd_block_host(b) * VD_BLOCK};

        if (vd_block_kind(b) == VD_BLOCK_RAW)
            r = emit(v, &piece, b->tag);
    }
    for (unsigned c = 0; leaf->map.zstd && c < VD_LEAF_BLOCKS / per && !r; c++) {
        const struct vd_zstd *z = &leaf->map.zstd[c];
        struct piece piece = {.context = {.kind = VD_SEAL_ZSTD,
                                          .stamp = z->stamp,
                                          .address = base + c * per,
                                          .length = vd_round16(z->length),
                                          .detail = 1,
                                          .extra = z->length},
                              .offset = z->block * VD_BLOCK + z->offset16 * 16u};

        if (z->length)
            r = emit(v, &piece, z->tag);
    }
    return r;
}

static int visit_subtree(struct visit *v, struct vd_tree *tree, unsigned level, uint64_t index)
{
    struct vd_node *node = NULL;
    int r = vd_tree_get(tree, level, index, false, &node, NULL);

    if (r || !node)
        return r;
    if (vd_ref_is_node(&node->ref)) {
        struct piece piece = {
            .context = {.kind = tree->type == VD_TREE_EPOCHS ? VD_SEAL_EPOCHS : VD_SEAL_NODE,
                        .stamp = node->ref.stamp,
                        .address = index,
                        .length = node->ref.blocks * VD_BLOCK,
                        .detail = (uint8_t)(tree->type * 16 + level)},
            .offset = node->ref.block * VD_BLOCK,
        };

        r = emit(v, &piece, node->ref.tag);
    }
    for (unsigned i = 0; level > 0 && i < VD_FANOUT && !r; i++) {
        if (node->inner->kid[i] || vd_ref_is_node(&node->inner->ref[i]))
            r = visit_subtree(v, tree, level - 1, index * VD_FANOUT + i);
    }
    if (!r && level == 0 && tree->type == VD_TREE_MAP)
        r = visit_leaf(v, node);
    vd_node_unpin(node);
    return r;
}

static int visit_ring(struct visit *v)
{
    uint64_t end = UINT64_C(1) << v->image->header.journal_log2;
    int r = 0;

    for (uint64_t block = 4; block < end && !r; block++) {
        uint8_t head[VD_RECORD_HEAD];

        sim_raw_read(v->disk, block * VD_BLOCK, head, sizeof(head));
        struct piece piece = {
            .context = {.kind = VD_SEAL_RECORD,
                        .stamp = vd_get64(head + 16),
                        .address = vd_get64(head + 24),
                        .length = vd_get32(head + 32) * VD_BLOCK - VD_RECORD_HEAD},
            .offset = block * VD_BLOCK + VD_RECORD_HEAD,
        };

        /* What is no head looks like one by chance of 2^-96. */
        if (vd_stamp_epoch(piece.context.stamp) == v->image->super->epoch &&
            vd_is_zero(head + 36, 12) && vd_get32(head + 32) <= VD_RECORD_BLOCKS_MAX)
            r = emit(v, &piece, head);
    }
    return r;
}

void piece_of_superblock(struct vdisk_image *image, const struct sim *disk, uint64_t block,
                         struct piece *piece)
{
    uint8_t head[VD_SUPER_BODY_AT];

    sim_raw_read(disk, block * VD_BLOCK, head, sizeof(head));
    *piece = (struct piece){
        .context = {.image_id = image->header.image_id,
                    .kind = VD_SEAL_SUPERBLOCK,
                    .length = VD_SUPER_BODY},
        .offset = block * VD_BLOCK + VD_SUPER_BODY_AT,
    };
    memcpy(piece->tag, head + VD_SALT_BYTES, VD_TAG_BYTES);
    vd_superblock_secret(image->master, image->header.image_id, head, piece->secret);
}

static int visit_snapshot(void *arg, struct vd_node *leaf, struct vd_snap *snap)
{
    uint64_t *ids = arg;

    (void)leaf;
    if (ids[0] < 63)
        ids[++ids[0]] = snap->id;
    return 0;
}

static int visit_snapshots(struct visit *v)
{
    uint64_t ids[64] = {0};
    int r = vd_snap_each(v->image, visit_snapshot, ids);

    for (uint64_t i = 1; i <= ids[0] && !r; i++) {
        struct vdisk_snapshot *snapshot = NULL;
        struct vd_node *leaf;
        struct vd_snap *snap;

        r = vd_snap_find_id(v->image, ids[i], &leaf, &snap);
        if (r || snap->id == v->image->super->deleting) { /* part of it is gone */
            if (!r)
                vd_node_unpin(leaf);
            continue;
        }
        r = vd_snapshot_open_record(v->image, snap, &snapshot);
        vd_node_unpin(leaf);
        if (!r)
            r = visit_subtree(v, &snapshot->map, snapshot->map.height, 0);
        vdisk_snapshot_close(snapshot);
    }
    return r;
}

static int visit_entry(struct vdisk_image *image, void *arg)
{
    struct visit *v = arg;
    struct vd_tree *trees[] = {&image->map, &image->alloc.tree, &image->epochs, &image->snaps};
    struct piece piece;
    int r = visit_snapshots(v);

    for (unsigned i = 0; i < 4 && !r; i++)
        r = visit_subtree(v, trees[i], trees[i]->height, 0);
    if (!r)
        r = visit_ring(v);
    for (unsigned i = 0; i < 2 && !r; i++) {
        piece_of_superblock(image, v->disk, 2 + ((uint64_t)i << image->header.journal_log2),
                            &piece);
        v->each(v->arg, &piece);
    }
    return r;
}

int pieces_visit(struct vdisk_image *image, const struct sim *disk,
                 void (*each)(void *arg, const struct piece *piece), void *arg)
{
    struct visit v = {image, disk, each, arg};

    return vd_run(image, visit_entry, &v);
}
