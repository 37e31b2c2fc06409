/* SPDX-License-Identifier: Apache-2.0 */
/* A set of ids, for one thread at a time. */
#ifndef BACKUP_IDSET_H
#define BACKUP_IDSET_H

#include "store.h"

/* All zero is an empty one. */
struct vb_idset {
    struct vb_id *slot; /* zero: free */
    size_t room, count; /* room: a power of two */
};

/* 1: it is new; 0: it was there; -ENOMEM. The id must not be zero. */
int vb_idset_add(struct vb_idset *set, const struct vb_id *id);
bool vb_idset_has(const struct vb_idset *set, const struct vb_id *id);
void vb_idset_release(struct vb_idset *set);

#endif
