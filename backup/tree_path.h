/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nodes of an older tree, one after the other, with the path to the last one in memory.
 *
 * A tree may be asked for nodes above its root: there it is the first child of each.
 */
#ifndef BACKUP_TREE_PATH_H
#define BACKUP_TREE_PATH_H

#include "node.h"

struct vb_path;

/* `root` zero: an empty tree. -ENOMEM. */
int vb_path_new(struct vb_reader *reader, const struct vb_index *tree, const struct vb_id *root,
                unsigned level, struct vb_path **out);
void vb_path_free(struct vb_path *path); /* NULL is allowed */

/* A node, which the path keeps until the next call; an empty one where there is none. Errors of
 * vb_record_read(). */
int vb_path_node(struct vb_path *path, unsigned level, uint64_t index, const struct vb_node **node,
                 struct vdisk_error *error);
/* Its id, zero where there is none. */
int vb_path_id(struct vb_path *path, unsigned level, uint64_t index, struct vb_id *id,
               struct vdisk_error *error);

#endif
