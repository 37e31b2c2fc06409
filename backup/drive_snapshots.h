/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots that an image keeps for its next backup (SPEC.md B11, 2 and 6), whoever has the image
 * open: their names, which backup the newest of them is of, and what goes when a backup is made.
 */
#ifndef BACKUP_DRIVE_SNAPSHOTS_H
#define BACKUP_DRIVE_SNAPSHOTS_H

#include "manifest.h"

/* Those that are in the image. */
struct vb_snapshots {
    struct vdisk_snapshot_info *info;
    size_t count, room;
};

int vb_snapshots_add(struct vb_snapshots *list,
                     const struct vdisk_snapshot_info *info); /* -ENOMEM */
void vb_snapshots_release(struct vb_snapshots *list);
const struct vdisk_snapshot_info *vb_snapshots_find(const struct vb_snapshots *list,
                                                    const char *name);

/* Of the snapshot for the backup with that number. */
void vb_snapshot_name(const struct vb_repo *repo, uint64_t sequence,
                      char name[static VDISK_NAME_MAX + 1]);
/* Whether it was made for a backup into this repository, and is not `keep`. */
bool vb_snapshot_is_old(const struct vb_repo *repo, const char *name, const char *keep);

/* Whether the backup's snapshot is in the list as it was. */
bool vb_snapshots_have(const struct vb_snapshots *list, const struct vb_manifest *manifest);

struct vb_base_wish {
    const struct vb_repo *repo;
    const struct vb_backups *backups;
    const uint8_t *drive;       /* VB_DRIVE_ID_BYTES */
    uint64_t size_max;          /* bytes; larger ones will not do */
    const struct vb_id *signer; /* taken at its word, beside those that are trusted; NULL: nobody */
};
/* The newest backup of the drive for which that is so; NULL: none. */
const struct vb_backup *vb_snapshots_base(const struct vb_snapshots *list,
                                          const struct vb_base_wish *wish);

/* What a manifest says of the snapshot that is backed up. */
void vb_snapshot_describe(const struct vdisk_snapshot_info *info, struct vb_manifest *manifest);

#endif
