/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nodes of a drive's tree (SPEC.md B9): their codec, and reading them.
 */
#ifndef BACKUP_NODE_H
#define BACKUP_NODE_H

#include "record.h"

#define VB_NODE_CHILDREN 128u
#define VB_LEVEL_MAX     5u
#define VB_NODE_MAX      (8u + VB_NODE_CHILDREN * (2u + 3u * 32u)) /* bytes */

enum vb_slot_state {
    VB_NODE_ZERO = 0, /* no entry */
    VB_NODE_BASE = 1,
    VB_NODE_PATCHED = 2,
    VB_NODE_CHILD = 3, /* of an inner node */
};

struct vb_node_entry {
    uint8_t state;   /* enum vb_slot_state */
    struct vb_id id; /* of the base or the child */
    uint8_t bitmap[VB_BITMAP_BYTES];
    struct vb_id patch;
};

struct vb_node {
    uint8_t level;
    struct vb_node_entry entry[VB_NODE_CHILDREN];
};

/* Number of entries that are not zero. */
unsigned vb_node_count(const struct vb_node *node);
/* Returns the length, at most VB_NODE_MAX. There must be an entry. */
size_t vb_node_encode(const struct vb_node *node, uint8_t bytes[static VB_NODE_MAX]);
/* VDISK_E_MALFORMED. */
int vb_node_decode(struct vb_node *node, const uint8_t *bytes, size_t length);

/* The lowest level whose node 0 covers a drive of so many bytes. */
unsigned vb_tree_level(uint64_t drive_bytes);
/* Chunks below one child of a node of the level. */
uint64_t vb_tree_span(unsigned level);
unsigned vb_bitmap_count(const uint8_t bitmap[static VB_BITMAP_BYTES]);

/* Reads and verifies a node, which must be of the level. Errors of vb_record_read(). */
int vb_node_read(struct vb_reader *reader, const struct vb_index *tree, const struct vb_id *id,
                 unsigned level, struct vb_node *node, struct vdisk_error *error);

/*
 * Walks a tree from the first chunk on: each leaf, with its index. Returns what each() returned if
 * that is not 0. A node that cannot be read is told to bad(), which decides: 0 goes on behind it.
 */
struct vb_walk {
    int (*leaf)(void *opaque, uint64_t index, const struct vb_node *leaf);
    /* Before a node is read; false passes it over. NULL: all are. */
    bool (*enter)(void *opaque, const struct vb_id *id, unsigned level, uint64_t index);
    /* A node that is not to be had; NULL: ends the walk. */
    int (*bad)(void *opaque, const struct vb_id *id, unsigned level, uint64_t index, int result,
               const struct vdisk_error *error);
    /* After all below it (and with how many of them bad). NULL: nothing. */
    void (*leave)(void *opaque, const struct vb_id *id, unsigned level);
    void *opaque;
};
int vb_tree_walk(struct vb_reader *reader, const struct vb_index *tree, const struct vb_id *root,
                 unsigned level, const struct vb_walk *walk, struct vdisk_error *error);

#endif
