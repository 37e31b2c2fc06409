/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes and walking (SPEC.md B9); see node.h. */
#include "node.h"

#include "cursor.h"
#include "report.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>

#define NODE_HEAD 8u

unsigned vb_node_count(const struct vb_node *node)
{
    unsigned count = 0;

    for (unsigned i = 0; i < VB_NODE_CHILDREN; i++)
        count += node->entry[i].state != VB_NODE_ZERO;
    return count;
}

size_t vb_node_encode(const struct vb_node *node, uint8_t bytes[static VB_NODE_MAX])
{
    struct vb_pen pen = {.at = bytes, .end = bytes + VB_NODE_MAX};

    vb_write_le(&pen, node->level, 1);
    vb_write_zero(&pen, 1);
    vb_write_le(&pen, vb_node_count(node), 2);
    vb_write_zero(&pen, 4);
    for (unsigned i = 0; i < VB_NODE_CHILDREN; i++) {
        const struct vb_node_entry *entry = &node->entry[i];

        if (entry->state == VB_NODE_ZERO)
            continue;
        vb_write_le(&pen, i, 1);
        vb_write_le(&pen, entry->state, 1);
        vb_write_bytes(&pen, entry->id.b, VB_ID_BYTES);
        if (entry->state == VB_NODE_PATCHED) {
            vb_write_bytes(&pen, entry->bitmap, VB_BITMAP_BYTES);
            vb_write_bytes(&pen, entry->patch.b, VB_ID_BYTES);
        }
    }
    return (size_t)(pen.at - bytes);
}

static bool take_entry(struct vb_cursor *cursor, unsigned level, struct vb_node_entry *entry)
{
    entry->state = (uint8_t)vb_take_le(cursor, 1);
    vb_take_bytes(cursor, entry->id.b, VB_ID_BYTES);
    if (level > 0)
        return entry->state == VB_NODE_CHILD;
    if (entry->state == VB_NODE_PATCHED) {
        vb_take_bytes(cursor, entry->bitmap, VB_BITMAP_BYTES);
        vb_take_bytes(cursor, entry->patch.b, VB_ID_BYTES);
        return !sodium_is_zero(entry->bitmap, VB_BITMAP_BYTES);
    }
    return entry->state == VB_NODE_BASE;
}

int vb_node_decode(struct vb_node *node, const uint8_t *bytes, size_t length)
{
    struct vb_cursor cursor = {.at = bytes, .end = bytes + length};
    unsigned count, next = 0;

    memset(node, 0, sizeof(*node));
    node->level = (uint8_t)vb_take_le(&cursor, 1);
    vb_take_zero(&cursor, 1);
    count = (unsigned)vb_take_le(&cursor, 2);
    vb_take_zero(&cursor, 4);
    if (cursor.failed || node->level > VB_LEVEL_MAX || count < 1 || count > VB_NODE_CHILDREN)
        return VDISK_E_MALFORMED;
    for (unsigned i = 0; i < count; i++) {
        unsigned slot = (unsigned)vb_take_le(&cursor, 1);

        if (cursor.failed || slot < next || slot >= VB_NODE_CHILDREN ||
            !take_entry(&cursor, node->level, &node->entry[slot]))
            return VDISK_E_MALFORMED;
        next = slot + 1;
    }
    return cursor.failed || cursor.at != cursor.end ? VDISK_E_MALFORMED : 0;
}

uint64_t vb_tree_span(unsigned level)
{
    return UINT64_C(1) << (7 * level);
}

unsigned vb_tree_level(uint64_t drive_bytes)
{
    uint64_t chunks = (drive_bytes + VB_CHUNK_BYTES - 1) / VB_CHUNK_BYTES;
    unsigned level = 0;

    while (level < VB_LEVEL_MAX && chunks > vb_tree_span(level + 1))
        level++;
    return level;
}

unsigned vb_bitmap_count(const uint8_t bitmap[static VB_BITMAP_BYTES])
{
    unsigned count = 0;

    for (unsigned i = 0; i < VB_BITMAP_BYTES; i++)
        count += (unsigned)__builtin_popcount(bitmap[i]);
    return count;
}

int vb_node_read(struct vb_reader *reader, const struct vb_index *tree, const struct vb_id *id,
                 unsigned level, struct vb_node *node, struct vdisk_error *error)
{
    const uint8_t *bytes;
    size_t length;
    int result = vb_record_read(reader, tree, VB_RECORD_NODE, id, &bytes, &length, error);

    if (result)
        return result;
    result = vb_node_decode(node, bytes, length);
    if (result == 0 && node->level != level)
        result = VDISK_E_MALFORMED;
    if (result)
        error_set(error, result, "a node of the tree is malformed");
    return result;
}

/* --- walking ------------------------------------------------------------------------------ */

struct walking {
    struct vb_reader *reader;
    const struct vb_index *tree;
    const struct vb_walk *walk;
    struct vdisk_error *error;
    struct vb_node node[VB_LEVEL_MAX + 1]; /* the path to where it is */
};

static int step(struct walking *walking, const struct vb_id *id, unsigned level, uint64_t index)
{
    const struct vb_walk *walk = walking->walk;
    struct vb_node *node = &walking->node[level];
    int result;

    if (walk->enter && !walk->enter(walk->opaque, id, level, index))
        return 0;
    result = vb_node_read(walking->reader, walking->tree, id, level, node, walking->error);
    if (result)
        return walk->bad ? walk->bad(walk->opaque, id, level, index, result, walking->error)
                         : result;
    if (level == 0)
        result = walk->leaf(walk->opaque, index, node);
    for (unsigned i = 0; level > 0 && i < VB_NODE_CHILDREN && result == 0; i++) {
        if (node->entry[i].state == VB_NODE_CHILD)
            result = step(walking, &node->entry[i].id, level - 1, index * VB_NODE_CHILDREN + i);
    }
    if (result == 0 && walk->leave)
        walk->leave(walk->opaque, id, level);
    return result;
}

int vb_tree_walk(struct vb_reader *reader, const struct vb_index *tree, const struct vb_id *root,
                 unsigned level, const struct vb_walk *walk, struct vdisk_error *error)
{
    struct walking *walking;
    struct vb_id id = *root;
    int result;

    if (vb_id_is_zero(root))
        return 0;
    walking = malloc(sizeof(*walking));
    if (!walking)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    walking->reader = reader;
    walking->tree = tree;
    walking->walk = walk;
    walking->error = error;
    result = step(walking, &id, level, 0);
    free(walking);
    return result;
}
