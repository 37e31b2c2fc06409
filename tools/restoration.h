/* SPDX-License-Identifier: Apache-2.0 */
/* What `vdisk backup restore` was told, for cmd_backup_restore.c (something new) and
 * restore_in_place.c (over an image that is there). */
#ifndef TOOLS_RESTORATION_H
#define TOOLS_RESTORATION_H

#include "backup_restore.h"
#include "backup_session.h"

struct restoration {
    struct backup_options options;
    struct keyopt image_key;
    const char *drive, *to, *base;
    bool in_place, other_drive, compare, quiet, json;
    struct backup_session session;
    const struct vb_backup *backup;
    /* What came of it. */
    struct vb_restore_result result;
    char snapshot[VDISK_NAME_MAX + 1]; /* in place: has what was there before */
    const struct vb_backup *since;     /* whose snapshot told what to look at; NULL: all was read */
};

/* The verified bytes to a target, with a bar. 0 or an error, not reported. */
int restoration_run(struct restoration *restoration, struct vb_target *target,
                    const struct vb_ranges *where, struct vdisk_error *error);

/* The key of the image that was named, into `held`; of none, the repository's into *key. An exit
 * status, reported; keyopt_release() is due in any case. */
int restoration_key(struct restoration *restoration, enum keyopt_use use, struct held_key *held,
                    struct vdisk_key *key);

/* Over the image that is there: a snapshot of it first; where that cannot be finished, back to it.
 * An exit status, reported. */
int restore_in_place(struct restoration *restoration);

#endif
