/* SPDX-License-Identifier: Apache-2.0 */
/* What backup_verify.c (objects, trees, verdicts) and verify_packs.c (every byte) share. */
#ifndef BACKUP_VERIFY_IMPL_H
#define BACKUP_VERIFY_IMPL_H

#include "backup_verify.h"

/* Packs of one kind, and what is known to be wrong with their records. */
struct verify_side {
    struct vb_index *index;
    uint8_t *bad; /* by the number of the entry */
};

struct verifying {
    const struct vb_verify_options *options;
    struct vb_repo *repo;
    struct verify_side data, tree;
    struct vb_verify_result counts;
};

__attribute__((format(printf, 2, 3))) void vb_verify_find(struct verifying *verifying,
                                                          const char *format, ...);

/* Reads all packs and marks what is bad. 0, -ECANCELED, -ENOMEM. */
int vb_verify_packs(struct verifying *verifying);

#endif
