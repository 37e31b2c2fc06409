/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The radix trees in memory (SPEC.md 9): nodes are loaded when needed, verified as they are
 * loaded, kept in one cache for all trees of an image, and written by a checkpoint.
 *
 * Invariants:
 *  1. A loaded child pins its parent. A node is in the cache's list, and can be evicted, exactly
 *     when it is clean, not loading and has no pin.
 *  2. The parent of a dirty node is dirty. In a dirty inner node the reference of a dirty child is
 *     out of date; the child's own `ref` is its version on disk.
 *  3. Only code between lookups waits; whoever holds a pin may keep the pointer across waits.
 */
#ifndef VD_TREE_H
#define VD_TREE_H

#include "format.h"

struct vdisk_image;
struct vd_node;

struct vd_inner {
    struct vd_ref ref[VD_FANOUT];
    struct vd_node *kid[VD_FANOUT];
};

struct vd_page {
    uint8_t count[VD_PAGE_BLOCKS / 2];  /* as on disk */
    uint64_t busy[VD_PAGE_BLOCKS / 64]; /* count is not 0, or the block is held */
    uint32_t free;                      /* blocks that are not busy */
    uint32_t held;                      /* busy blocks whose count is 0; they pin the page */
};

struct vd_node {
    struct vd_tree *tree;
    struct vd_node *parent;
    struct vd_node *older, *newer; /* the cache's list */
    struct vd_ref ref;             /* on disk: this version when clean, the one before when dirty */
    uint64_t index;
    size_t charged;
    uint32_t pins;
    struct vd_node **holder; /* set to NULL if the node is freed with its tree */
    uint8_t level;
    bool dirty, loading, listed;
    bool placed; /* in a checkpoint: `place` is its new block (allocation tree) */
    uint64_t place;
    union {
        struct vd_inner *inner;
        struct vd_map_leaf map;
        struct vd_page *page;
        uint8_t (*salts)[VD_SALT_BYTES];
        struct vd_snap_leaf snaps;
    };
};

struct vd_tree {
    struct vdisk_image *image;
    enum vd_tree_type type;
    uint8_t height;
    struct vd_ref root_ref; /* when the root is not loaded */
    struct vd_node *root;
    uint64_t dirty_nodes;
};

struct vd_node_cache {
    struct vd_node *oldest, *newest;
    size_t bytes, limit, dirty_bytes;
    uint64_t hits, misses;
};

/* What stands where no node does. */
enum vd_absent {
    VD_ABSENT_HOLE,
    VD_ABSENT_ZERO,
};

void vd_tree_init(struct vd_tree *tree, struct vdisk_image *image, enum vd_tree_type type,
                  uint8_t height, const struct vd_ref *root);
/* Frees all nodes; none may be pinned from outside. */
void vd_tree_release(struct vd_tree *tree);
/* Raises the height (never lowers it). -ENOMEM. */
int vd_tree_grow(struct vd_tree *tree, uint8_t height);
/* The root's current reference; not to be called while the root is dirty. */
const struct vd_ref *vd_tree_root_ref(const struct vd_tree *tree);

/*
 * The node at (level, index), pinned. Where there is none: with `create` a fresh one that
 * reads the same, else *out is NULL and *absent (may be NULL) says what is there. May wait.
 */
int vd_tree_get(struct vd_tree *tree, unsigned level, uint64_t index, bool create,
                struct vd_node **out, enum vd_absent *absent);
/* The reference at (level, index), a hole past the tree's end. *known is false where there is none
 * to compare: the node is dirty, or lies above the root and holds it. May wait. */
int vd_tree_ref(struct vd_tree *tree, unsigned level, uint64_t index, struct vd_ref *ref,
                bool *known);
/* The first leaf at or after *index that is not in a hole; *found false past the last. */
int vd_tree_next(struct vd_tree *tree, uint64_t *index, bool *found);

void vd_node_pin(struct vd_node *node);
/* NULL is allowed. */
void vd_node_unpin(struct vd_node *node);
/* Marks it and its ancestors dirty. Pinned by the caller. */
void vd_node_dirty(struct vd_node *node);
/* A checkpoint has written it: clean under its new reference. */
void vd_node_clean(struct vd_node *node);
/* Serialised length in blocks; 0 when it holds nothing (or only zeros: *all_zero). */
unsigned vd_node_blocks(const struct vd_node *node, bool *all_zero);
void vd_node_encode(const struct vd_node *node, uint8_t *bytes, size_t length);
/* Makes a map leaf writable without further allocation. -ENOMEM. */
int vd_node_prepare(struct vd_node *node);
/* What the parent should say of the free space below (SPEC.md 11). */
uint8_t vd_node_hint(const struct vd_node *node);
/* Evicts all that can be. */
/* Down to its limit, but for what is in use. */
void vd_cache_trim(struct vdisk_image *image);
void vd_cache_drop(struct vdisk_image *image);

/* Reads and verifies one node's bytes without decoding. `bytes` is 4096-aligned, ref->blocks
 * blocks. May wait. */
int vd_node_fetch(struct vdisk_image *image, enum vd_tree_type type, unsigned level, uint64_t index,
                  const struct vd_ref *ref, uint8_t *bytes);

#endif
