/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots (SPEC.md 13) inside coroutines. */
#ifndef VD_SNAPSHOT_H
#define VD_SNAPSHOT_H

#include "image.h"

/* The record of an id, in its leaf (pinned), or VDISK_E_NOT_FOUND. */
int vd_snap_find_id(struct vdisk_image *image, uint64_t id, struct vd_node **leaf,
                    struct vd_snap **snap);
/* Visits all records, marked ones too, in order of id; `each` returns non-zero to stop, which is
 * then returned. `each` must not wait. */
int vd_snap_each(struct vdisk_image *image,
                 int (*each)(void *arg, struct vd_node *leaf, struct vd_snap *snap), void *arg);
int vd_snapshot_open(struct vdisk_image *image, const char *name, struct vdisk_snapshot **out);
/* The state of any record, for walking; released by vdisk_snapshot_close. */
int vd_snapshot_open_record(struct vdisk_image *image, const struct vd_snap *snap,
                            struct vdisk_snapshot **out);
/* What an interrupted deletion needs after opening. */
int vd_snapshot_resume(struct vdisk_image *image);
/* One step of that, also the first and the last one of a deletion; within a change that frees trees
 * and gives space back (vd_reserve_relief). *more: there may be another one to take. */
int vd_snapshot_reap_step(struct vdisk_image *image, bool *more);
/* Frees what snapshots marked for deletion hold, as far as that can be. */
int vd_snapshot_reap(struct vdisk_image *image);

#endif
