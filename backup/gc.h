/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Garbage collection (SPEC.md B13): space of what no backup needs any more. Safe beside backups,
 * copies, restores and other collections, and stopped at any moment; needs no key for data.
 */
#ifndef BACKUP_GC_H
#define BACKUP_GC_H

#include "manifest.h"

#define VB_GRACE_DEFAULT_S (24 * 3600)

struct vb_gc_options {
    struct vb_repo *repo;        /* role maintain or read */
    uint64_t grace;              /* seconds */
    bool dry_run;                /* counts what is not needed, changes nothing but the lease */
    bool (*go_on)(void *opaque); /* NULL: always; false cancels */
    void *opaque;
};

struct vb_gc_result {
    uint64_t packs, bytes;               /* that are there in the end */
    uint64_t trashed, trashed_bytes;     /* packs: into the trash, or would be */
    uint64_t rewritten, rewritten_bytes; /* packs with little left in them, and what they had */
    uint64_t written_bytes;              /* in place of these */
    uint64_t brought_back;               /* packs and manifests that are needed after all */
    uint64_t merged;                     /* index objects */
    uint64_t deleted, deleted_bytes;     /* objects of all kinds, for ever */
    uint64_t young_bytes;                /* in packs that nobody needs yet, or not any more */
    uint64_t waiting, waiting_bytes;     /* in the trash, at the end */
    unsigned at_work;                    /* others whose leases are alive */
};

/*
 * VDISK_E_DAMAGED: something is missing or not authentic, so that nothing was taken away (what was
 * in the trash and is needed may have come back). -EPERM: not with this role. -ECANCELED, -ENOMEM,
 * errors of the store.
 */
int vb_gc(const struct vb_gc_options *options, struct vb_gc_result *result,
          struct vdisk_error *error);

#endif
