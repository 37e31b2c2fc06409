/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making a backup (SPEC.md B11): chunks by several threads, packs by one more, the tree and the
 * manifest by the caller's.
 */
#ifndef BACKUP_BACKUP_CREATE_H
#define BACKUP_BACKUP_CREATE_H

#include "backup_drive.h"

struct vb_create_options {
    struct vb_repo *repo;
    struct vb_drive *drive;
    unsigned threads;         /* 0: one for each processor */
    vdisk_progress *progress; /* NULL: none */
    void *opaque;
};

struct vb_create_result {
    struct vb_id name;                                          /* of the manifest */
    uint64_t bytes_read;                                        /* of the drive */
    uint64_t bytes_stored;                                      /* into packs */
    uint64_t chunks_stored, chunks_known, chunks_zero, patches; /* of those that were looked at */
};

/*
 * `manifest` has all but the root, its level and the statistics, which are filled in. Everything is
 * durable when it returns 0. -ECANCELED (progress), VDISK_E_WRONG_KEY (the key's role makes no
 * backups), errors of the drive and the store; what was stored until then helps the next one.
 */
int vb_create(const struct vb_create_options *options, struct vb_manifest *manifest,
              struct vb_create_result *out, struct vdisk_error *error);

#endif
