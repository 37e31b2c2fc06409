/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A backup over an image that is there (SPEC.md B12): only what differs is fetched and written, and
 * a snapshot keeps what was there before.
 */
#ifndef BACKUP_IN_PLACE_H
#define BACKUP_IN_PLACE_H

#include "backup_restore.h"

struct vb_in_place_options {
    struct vb_repo *repo;
    const struct vb_backups *backups;
    const struct vb_backup *backup; /* one of them */
    const char *path;               /* of the image */
    const char *base_path;          /* of an overlay; NULL: as recorded */
    const struct vdisk_key *key;    /* of the image */
    struct vdisk_workers *workers;  /* may be NULL; not owned */
    bool other_drive;               /* though the image is not the drive that was backed up */
    bool compare;                   /* all of the image, whatever it says of its changes */
    unsigned threads;               /* 0: one for each processor */
    vdisk_progress *progress;       /* NULL: none */
    void *opaque;
};

struct vb_in_place_result {
    struct vb_restore_result restored;
    const struct vb_backup *since; /* whose snapshot told where to look; NULL: all was compared */
    char snapshot[VDISK_NAME_MAX + 1]; /* what was there before */
};

/*
 * The image then has the size of the backup and each of its bytes, durably. After an error it is
 * what it was before, or, where that fails too, the sentence says how to get it back. Errors of
 * vdisk_open(), vb_restore(); -EINVAL: another drive.
 */
int vb_restore_in_place(const struct vb_in_place_options *options, struct vb_in_place_result *out,
                        struct vdisk_error *error);

#endif
