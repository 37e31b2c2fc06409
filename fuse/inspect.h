/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot that a vdiskd makes so that a drive can be looked at while it is used, and where to
 * read it.
 *
 * It is called vdisk-mount-PID-START, after the process that asked for it and when that began. It
 * goes when that process ends; what one that was killed left goes when the next one comes.
 */
#ifndef FUSE_INSPECT_H
#define FUSE_INSPECT_H

#include "vdisk/vdisk.h"

#include "served.h"

#define INSPECT_PREFIX "vdisk-mount-"

struct inspect {
    struct served_export of;
    char snapshot[VDISK_NAME_MAX + 1];
    bool made;         /* the snapshot is ours */
    json_t *snapshots; /* as snapshot-list has them, without such of ours */
};

/* `snapshot` NULL: one is made. After any result inspect_end() is due. VDISK_E_NOT_FOUND: no such
 * export or snapshot; -EPERM: this user may not; -errno: there is no daemon. */
int inspect_begin(struct inspect *inspect, const char *socket, const char *export,
                  const char *snapshot, struct vdisk_error *error);
/* Removes what was made; its clients are gone. */
int inspect_end(struct inspect *inspect, struct vdisk_error *error);

#endif
