/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packs written anew (SPEC.md B7, B13): sealed records of data packs are copied as they are, with
 * the headers of their segments, by who cannot read them; nodes are sealed anew.
 */
#ifndef BACKUP_REPACK_H
#define BACKUP_REPACK_H

#include "mark.h"

#define VB_REPACK_SEGMENTS (VB_PACK_SEGMENTS - 1) /* of data, in one pack */

struct vb_repacking {
    struct vb_repo *repo;
    const struct vb_marks *marks;
    const uint8_t *chosen;     /* a byte for each pack of the index: is written anew */
    uint8_t *done;             /* likewise: all that is marked in it has another place; filled in */
    int (*beat)(void *opaque); /* now and then; an error ends it */
    void *opaque;
    uint64_t packs, bytes; /* written; filled in */
};

/*
 * Copies what is marked in the chosen packs, and puts packs and index objects; sync() is the
 * caller's. A pack that is not what its name says is left as it is. Errors of the store, -ENOMEM.
 */
int vb_repack_data(struct vb_repacking *repacking);
int vb_repack_tree(struct vb_repacking *repacking);

#endif
