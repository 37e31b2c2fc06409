/* SPDX-License-Identifier: Apache-2.0 */
/* Decodes the references of an inner node; the first byte chooses the tree. What decodes encodes
 * to the same bytes, and is a node, a hole or (in the map) a zero subtree. */
#include "format.h"
#include "require.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t bytes[VD_FANOUT * VD_REF_BYTES];

    if (size == 0)
        return 0;
    enum vd_tree_type type = (enum vd_tree_type)(VD_TREE_MAP + data[0] % 4);
    take_bytes(bytes, sizeof(bytes), data + 1, size - 1);
    for (unsigned i = 0; i < VD_FANOUT; i++) {
        uint8_t again[VD_REF_BYTES];
        struct vd_ref ref;
        int r = vd_ref_decode(&ref, bytes + i * VD_REF_BYTES, type);

        require(r == 0 || r == VDISK_E_MALFORMED);
        if (r)
            continue;
        require(vd_ref_is_node(&ref) + vd_ref_is_hole(&ref) + vd_ref_is_zero(&ref) == 1);
        require(!vd_ref_is_zero(&ref) || type == VD_TREE_MAP);
        require(ref.blocks <= VD_NODE_BLOCKS_MAX && ref.block < VD_HOST_BLOCKS_MAX);
        require(!vd_ref_is_node(&ref) || ref.stamp);
        vd_ref_encode(&ref, again);
        require(memcmp(again, bytes + i * VD_REF_BYTES, VD_REF_BYTES) == 0);
    }
    return 0;
}
