/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes of an older tree; see tree_path.h. */
#include "tree_path.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct kept {
    bool valid;
    uint64_t index;
    struct vb_node node;
};

struct vb_path {
    struct vb_reader *reader;
    const struct vb_index *tree;
    struct vb_id root;
    unsigned level;
    struct kept kept[VB_LEVEL_MAX + 1];
};

int vb_path_new(struct vb_reader *reader, const struct vb_index *tree, const struct vb_id *root,
                unsigned level, struct vb_path **out)
{
    struct vb_path *path = calloc(1, sizeof(*path));

    if (!path)
        return -ENOMEM;
    path->reader = reader;
    path->tree = tree;
    path->root = *root;
    path->level = level;
    *out = path;
    return 0;
}

void vb_path_free(struct vb_path *path)
{
    free(path);
}

int vb_path_id(struct vb_path *path, unsigned level, uint64_t index, struct vb_id *id,
               struct vdisk_error *error)
{
    const struct vb_node *parent;
    int result;

    memset(id, 0, sizeof(*id));
    if (level >= path->level) {
        if (level == path->level && index == 0)
            *id = path->root;
        return 0;
    }
    result = vb_path_node(path, level + 1, index / VB_NODE_CHILDREN, &parent, error);
    if (result == 0)
        *id = parent->entry[index % VB_NODE_CHILDREN].id;
    return result;
}

/* Above the root: what it would be if it were there. */
static void node_above(const struct vb_path *path, unsigned level, uint64_t index,
                       struct vb_node *node)
{
    memset(node, 0, sizeof(*node));
    node->level = (uint8_t)level;
    if (index == 0 && level == path->level + 1 && !vb_id_is_zero(&path->root)) {
        node->entry[0].state = VB_NODE_CHILD;
        node->entry[0].id = path->root;
    }
}

int vb_path_node(struct vb_path *path, unsigned level, uint64_t index, const struct vb_node **node,
                 struct vdisk_error *error)
{
    struct kept *kept = &path->kept[level];
    struct vb_id id;
    int result;

    *node = &kept->node;
    if (kept->valid && kept->index == index)
        return 0;
    kept->valid = false;
    if (level > path->level) {
        node_above(path, level, index, &kept->node);
    } else {
        result = vb_path_id(path, level, index, &id, error);
        if (result)
            return result;
        if (vb_id_is_zero(&id)) {
            memset(&kept->node, 0, sizeof(kept->node));
            kept->node.level = (uint8_t)level;
        } else {
            result = vb_node_read(path->reader, path->tree, &id, level, &kept->node, error);
            if (result)
                return result;
        }
    }
    kept->index = index;
    kept->valid = true;
    return 0;
}
