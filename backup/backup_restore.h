/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Restoring a backup (SPEC.md B12): every byte is verified before it is given out.
 */
#ifndef BACKUP_BACKUP_RESTORE_H
#define BACKUP_BACKUP_RESTORE_H

#include "chunk_set.h"
#include "manifest.h"

/* Where it goes: takes each range of the drive at most once, in any order, never two at once that
 * overlap. Embed it. */
struct vb_target {
    bool any_thread; /* write() may be called by several threads at once; else by the caller's */
    int (*write)(struct vb_target *target, uint64_t offset, const void *data, size_t length,
                 struct vdisk_error *error);
    /* By the caller's thread; NULL: it reads as zeros already. */
    int (*zeros)(struct vb_target *target, uint64_t offset, uint64_t length,
                 struct vdisk_error *error);
    /* What is there now, by the caller's thread; NULL: nothing that would be of use. With it only
     * chunks that differ are fetched, and of them only blocks that differ are written; zeros() is
     * there, and both are called by the caller's thread alone. VDISK_E_NOT_AUTHENTIC: what is there
     * is damaged, and all of that piece is written. */
    int (*read)(struct vb_target *target, uint64_t offset, void *data, size_t length,
                struct vdisk_error *error);
};

struct vb_restore_options {
    struct vb_repo *repo;
    const struct vb_backup *backup;
    struct vb_target *target;
    const struct vb_chunk_set
        *where;               /* elsewhere the target has what it is to have; NULL: nowhere */
    unsigned threads;         /* 0: one for each processor */
    vdisk_progress *progress; /* NULL: none */
    void *opaque;
};

struct vb_restore_result {
    uint64_t bytes_data;                    /* fetched and verified */
    uint64_t chunks;                        /* likewise */
    uint64_t bytes_compared, bytes_written; /* of a target with read() */
};

/* Whether the repository was opened by who reads data: 0 or VDISK_E_WRONG_KEY. */
int vb_restore_allowed(const struct vb_repo *repo, struct vdisk_error *error);
/* -ECANCELED, VDISK_E_WRONG_KEY (the key's role reads no data), VDISK_E_NOT_FOUND,
 * VDISK_E_NOT_AUTHENTIC, VDISK_E_MALFORMED, errors of the target and the store; then what was
 * written is right, but not all. */
int vb_restore(const struct vb_restore_options *options, struct vb_restore_result *out,
               struct vdisk_error *error);

#endif
