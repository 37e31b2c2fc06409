/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pruning (SPEC.md B13): which backups go by the rules, and taking them away; and back.
 */
#ifndef BACKUP_PRUNE_H
#define BACKUP_PRUNE_H

#include "manifest.h"
#include "retention.h"

struct vb_plan_row {
    const struct vb_backup *backup;
    struct vb_retention_verdict verdict;
    bool over_limit; /* of its drive, more would go than one prune may take */
};

struct vb_plan {
    struct vb_plan_row *row; /* as in the list of backups */
    size_t count, removed, over_limit;
};

/* `drive` NULL: of all drives; by name, or digits of the id. 0 or -ENOMEM. free() plan->row. */
int vb_plan_make(const struct vb_backups *backups, const struct vb_retention *rules,
                 const char *drive, int64_t now, vb_retention_calendar *calendar,
                 struct vb_plan *plan);

/*
 * Takes backups away, for the reasons given: a record that names them becomes durable, then they go
 * to the trash. -EPERM (role, or one of them is immutable), -ENOMEM, -errno; then some may have
 * gone, and the record names them.
 */
int vb_prune(struct vb_repo *repo, const struct vb_backup *const *backups,
             const char *const *reasons, size_t count, int64_t now, struct vdisk_error *error);

/*
 * Brings one back from the trash, by the digits that its name begins with, and all that it needs.
 * VDISK_E_NOT_FOUND; -EINVAL (several); VDISK_E_DAMAGED: not all is there any more, it stays in the
 * trash.
 */
int vb_unprune(struct vb_repo *repo, const char *digits, struct vb_id *name,
               struct vdisk_error *error);

#endif
