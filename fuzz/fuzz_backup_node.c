/* SPDX-License-Identifier: Apache-2.0 */
/* Decodes a node of a drive's tree of any bytes. What decodes encodes to the same bytes. */
#include "node.h"
#include "require.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t again[VB_NODE_MAX];
    static struct vb_node node;
    int result = vb_node_decode(&node, data, size);

    require(result == 0 || result == VDISK_E_MALFORMED);
    if (result)
        return 0;
    require(node.level <= VB_LEVEL_MAX && vb_node_count(&node) > 0);
    for (unsigned i = 0; i < VB_NODE_CHILDREN; i++) {
        const struct vb_node_entry *entry = &node.entry[i];

        require(entry->state == VB_NODE_ZERO ||
                (entry->state == VB_NODE_CHILD) == (node.level > 0));
        require(entry->state != VB_NODE_PATCHED || vb_bitmap_count(entry->bitmap) > 0);
    }
    require(vb_node_encode(&node, again) == size && memcmp(again, data, size) == 0);
    return 0;
}
