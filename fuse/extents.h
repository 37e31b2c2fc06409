/* SPDX-License-Identifier: Apache-2.0 */
/* Holes of a view: where they are, and how much is stored beside them. */
#ifndef FUSE_EXTENTS_H
#define FUSE_EXTENTS_H

#include "tree.h"

/* Where from `offset` (bytes, within the view) on the next hole begins, which at the latest is the
 * view's end, or the next data: -ENXIO without. What reads as zeros and is not stored is a hole. */
int extents_seek(struct access *access, const struct tree_view *view, uint64_t offset,
                 bool for_hole, uint64_t *found);

/* Bytes of the view that are no holes. */
int extents_stored(struct access *access, const struct tree_view *view, uint64_t *bytes);

#endif
