/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether the backups of a repository would restore: of everything that a backup needs, that it is
 * there and authentic; on demand, every byte of it.
 */
#ifndef BACKUP_BACKUP_VERIFY_H
#define BACKUP_BACKUP_VERIFY_H

#include "manifest.h"

struct vb_verify_options {
    struct vb_repo *repo;
    const struct vb_backups *backups;
    bool data; /* every byte; with a key of role read also that it is what the ids say */
    /* One line on what is not as it should be. */
    void (*finding)(void *opaque, const char *text);
    /* What it comes to for a backup; damaged_bytes of the drive, 0: it restores. */
    void (*verdict)(void *opaque, const struct vb_backup *backup, uint64_t damaged_bytes,
                    const char *why);
    vdisk_progress *progress; /* NULL: none */
    void *opaque;
};

struct vb_verify_result {
    uint64_t findings;
    uint64_t packs, bytes; /* read, with `data` */
    uint64_t backups, damaged_backups;
};

/* 0: all is well; VDISK_E_DAMAGED after findings; -ECANCELED, -ENOMEM, -errno. */
int vb_verify(const struct vb_verify_options *options, struct vb_verify_result *out,
              struct vdisk_error *error);

#endif
