/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What backups refer to (SPEC.md B13): a walk over their trees that leaves a bit for each entry of
 * the two indexes. It takes the meta key and the node key: every role but none.
 *
 * Memory: the two indexes, and three bits for each of their entries.
 */
#ifndef BACKUP_MARK_H
#define BACKUP_MARK_H

#include "manifest.h"

struct vb_marks;

/* Loads the indexes. VDISK_E_DAMAGED where an index object cannot be read, -ENOMEM, -errno. */
int vb_marks_new(struct vb_repo *repo, struct vb_marks **out, struct vdisk_error *error);
void vb_marks_free(struct vb_marks *marks); /* NULL is allowed */

/*
 * Marks what a backup needs: each node that was read and is right, and for each chunk the records
 * that its writer may have meant. Fast for trees that share nodes, when those of one writer follow
 * each other. VDISK_E_DAMAGED where something is missing, with the backup's name in the error.
 */
int vb_marks_add(struct vb_marks *marks, const struct vb_backup *backup, struct vdisk_error *error);
/* All of them, in an order of its own; calls beat() in between, an error of which ends it. */
int vb_marks_add_all(struct vb_marks *marks, const struct vb_backups *backups,
                     int (*beat)(void *opaque), void *opaque, struct vdisk_error *error);

/* VB_INDEX_DATA or VB_INDEX_TREE, and whether an entry of it, by vb_index_number(), is marked. */
const struct vb_index *vb_marks_index(const struct vb_marks *marks, enum vb_place place);
bool vb_marks_has(const struct vb_marks *marks, enum vb_place place, size_t number);
/* A byte for each pack of the index: whether something marked is in it. free() it; NULL: no
 * memory. */
uint8_t *vb_marks_packs(const struct vb_marks *marks, enum vb_place place);

/* Moves packs back that have something marked in them and are in the trash; counts them. An error:
 * one has gone meanwhile (-ENOENT), -errno. */
int vb_marks_bring_back(const struct vb_marks *marks, uint64_t *count);

/* Whether all that the backup refers to is there, and none of it in the trash: what was is moved
 * back. Errors of the above. */
int vb_backup_secure(struct vb_repo *repo, const struct vb_backup *backup,
                     struct vdisk_error *error);

#endif
