/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decodes a leaf of snapshot records of any bytes; the first byte is its index. What decodes has
 * sound names and parents, and encodes to the same bytes.
 */
#include "format.h"
#include "require.h"

static void check_snap(const struct vd_snap *snap, uint64_t index)
{
    require(snap->id / VD_SNAPS == index && snap->id > 0 && snap->parent < snap->id);
    require(strlen(snap->name) == snap->name_bytes);
    require(snap->deleting || vd_snap_name_valid(snap->name, snap->name_bytes));
    require(snap->height <= VD_HEIGHT_MAX && snap->root.blocks <= VD_NODE_BLOCKS_MAX);
    require(snap->size >= 512 && snap->size <= VDISK_SIZE_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t bytes[VD_NODE_BLOCKS_MAX * VD_BLOCK], again[VD_NODE_BLOCKS_MAX * VD_BLOCK];
    struct vd_snap_leaf leaf = {0};

    if (size == 0)
        return 0;
    uint64_t index = data[0];
    size_t length = (size + VD_BLOCK - 2) / VD_BLOCK * VD_BLOCK;
    length = length < VD_BLOCK ? VD_BLOCK : length > sizeof(bytes) ? sizeof(bytes) : length;
    take_bytes(bytes, length, data + 1, size - 1);
    int r = vd_snap_leaf_decode(&leaf, bytes, length, index);
    require(r == 0 || r == VDISK_E_MALFORMED);
    if (r == 0) {
        size_t needed = vd_snap_leaf_size(&leaf);

        require(needed <= length);
        for (unsigned i = 0; i < VD_SNAPS; i++) {
            if (leaf.snap[i])
                check_snap(leaf.snap[i], index);
        }
        if (needed) {
            vd_snap_leaf_encode(&leaf, again, needed);
            require(memcmp(again, bytes, needed) == 0);
        }
    }
    vd_snap_leaf_release(&leaf);
    return 0;
}
