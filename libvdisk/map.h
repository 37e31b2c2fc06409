/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changing the live map by journal operations (SPEC.md 14), the same way while writing and
 * while replaying: what the map had is replaced, and freed where the live state owns it.
 */
#ifndef VD_MAP_H
#define VD_MAP_H

#include "image.h"

/* The leaf, pinned and writable, with room for all that one operation on it frees. May wait; to be
 * called anew, or vd_map_ready, after any wait. */
int vd_map_leaf(struct vdisk_image *image, uint64_t index, struct vd_node **leaf);
/* Room for `ops` further operations; never waits. -ENOMEM. */
int vd_map_ready(struct vdisk_image *image, struct vd_node *leaf, unsigned ops);
/* The part of `op` that lies in this leaf. Counts of new extents are the caller's to raise. */
void vd_map_apply(struct vdisk_image *image, struct vd_node *leaf, const struct vd_op *op);
/* A zero or hole operation over any range, as far as it gets with about `budget` leaves in memory:
 * blocks below *reached are done, also when it fails. May wait. */
int vd_map_clear(struct vdisk_image *image, uint64_t first, uint64_t end, bool hole,
                 unsigned budget, uint64_t *reached);
/* What has a stamp above this belongs to the live state alone; for a node or leaf that
 * covers map leaves below `leaf_end`. */
uint64_t vd_parent_stamp(const struct vdisk_image *image, uint64_t leaf_end);

#endif
