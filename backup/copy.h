/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A second repository with the same id and keys: objects as they are, verified by their names on
 * the way. It takes no key; with one, single backups can be chosen.
 *
 * Nothing is taken away from the second one. Stopped at any moment it is a repository whose backups
 * restore, and the next copy goes on.
 */
#ifndef BACKUP_COPY_H
#define BACKUP_COPY_H

#include "manifest.h"

struct vb_copy_options {
    struct vb_repo *from; /* keys NULL: all is copied, whatever it is */
    struct vb_store *to;  /* empty, or a copy */
    /* With a key of role maintain or read: these alone, and what they need; NULL: all. */
    const struct vb_backup *const *backups;
    size_t count;
    vdisk_progress *progress; /* bytes of packs; NULL: none */
    void *opaque;
};

struct vb_copy_result {
    uint64_t packs, bytes;     /* copied */
    uint64_t packs_there;      /* already */
    uint64_t backups;          /* manifests copied */
    uint64_t damaged_objects;  /* that are not what their names say, and were not copied */
    uint64_t withheld_backups; /* that need such; without a key all that are not there yet */
};

/*
 * VDISK_E_EXISTS: the second one is another repository; VDISK_E_DAMAGED after the rest was copied;
 * -EPERM (a put key), -ECANCELED, -ENOMEM, errors of the stores.
 */
int vb_copy(const struct vb_copy_options *options, struct vb_copy_result *result,
            struct vdisk_error *error);

#endif
