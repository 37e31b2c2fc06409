/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fewer and larger index objects, without packs that have gone for ever (SPEC.md B13).
 */
#ifndef BACKUP_INDEX_MERGE_H
#define BACKUP_INDEX_MERGE_H

#include "repo_index.h"

/*
 * Writes small index objects of a place anew as few large ones, and such as name packs that are
 * neither there nor in the trash; the old ones go to the trash when the new ones are durable.
 * Counts these. A pack that may come back from the trash stays named. One object after the other is
 * in memory, with the new one. VDISK_E_*, -errno.
 */
int vb_index_merge(struct vb_repo *repo, enum vb_place place, uint64_t *merged);

#endif
