/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What changed from one backup of a drive to another: by their trees, of which only what differs is
 * read; no data is.
 */
#ifndef BACKUP_TREE_DIFF_H
#define BACKUP_TREE_DIFF_H

#include "manifest.h"

/* A range of the drive, not past the larger of the two; false stops. `is_zero`: it reads as zeros
 * afterwards. */
typedef bool vb_diff_range(void *opaque, uint64_t offset, uint64_t length, bool is_zero);

/*
 * Ranges in ascending order, as long as they can be. Where a chunk was stored anew all of it counts
 * as changed, elsewhere what was changed since the base is known by blocks of 4096 bytes; so what
 * is not named is the same, and what is may be. -ECANCELED (stopped), errors of vb_node_read().
 */
int vb_tree_diff(struct vb_repo *repo, const struct vb_backup *before,
                 const struct vb_backup *after, vb_diff_range *range, void *opaque,
                 struct vdisk_error *error);

#endif
