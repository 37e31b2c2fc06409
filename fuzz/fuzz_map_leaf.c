/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decodes a map leaf of any bytes (the first one is the cluster size). What decodes encodes to no
 * more than it came from, and that decodes to the same.
 */
#include "format.h"
#include "require.h"

static void check_same(const struct vd_map_leaf *a, const struct vd_map_leaf *b, unsigned clusters)
{
    static const struct vd_block none;

    require(a->raws == b->raws && a->zeros == b->zeros && a->zstds == b->zstds);
    for (unsigned i = 0; i < VD_LEAF_BLOCKS; i++) {
        const struct vd_block *x = a->blocks ? &a->blocks[i] : &none;
        const struct vd_block *y = b->blocks ? &b->blocks[i] : &none;

        require(x->where == y->where && x->stamp == y->stamp);
        require(memcmp(x->tag, y->tag, VD_TAG_BYTES) == 0);
        require(vd_block_kind(x) <= VD_BLOCK_ZERO && vd_block_host(x) < VD_HOST_BLOCKS_MAX);
    }
    for (unsigned c = 0; a->zstds && c < clusters; c++) {
        const struct vd_zstd *x = &a->zstd[c], *y = &b->zstd[c];

        require(x->block == y->block && x->stamp == y->stamp && x->length == y->length);
        require(x->offset16 == y->offset16 && memcmp(x->tag, y->tag, VD_TAG_BYTES) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t bytes[VD_NODE_BLOCKS_MAX * VD_BLOCK], again[VD_NODE_BLOCKS_MAX * VD_BLOCK];
    struct vd_map_leaf leaf = {0}, copy = {0};

    if (size == 0)
        return 0;
    uint8_t cluster_log2 = (uint8_t)(VD_CLUSTER_LOG2_MIN + data[0] % 7);
    size_t length = (size + VD_BLOCK - 2) / VD_BLOCK * VD_BLOCK;
    length = length < VD_BLOCK ? VD_BLOCK : length > sizeof(bytes) ? sizeof(bytes) : length;
    take_bytes(bytes, length, data + 1, size - 1);
    int r = vd_map_leaf_decode(&leaf, bytes, length, cluster_log2);
    require(r == 0 || r == VDISK_E_MALFORMED);
    if (r == 0) {
        size_t needed = vd_map_leaf_size(&leaf);

        require(needed <= length && needed % VD_BLOCK == 0);
        if (needed) {
            vd_map_leaf_encode(&leaf, cluster_log2, again, needed);
            require(vd_map_leaf_decode(&copy, again, needed, cluster_log2) == 0);
            check_same(&leaf, &copy, VD_LEAF_BLOCKS >> (cluster_log2 - 12));
        }
    }
    vd_map_leaf_release(&leaf);
    vd_map_leaf_release(&copy);
    return 0;
}
