/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `vdisk backup create` makes a backup of: an image, an export of a vdiskd, an export of NBD,
 * a raw file or device; told apart by how they are named and by what is in them.
 */
#ifndef TOOLS_BACKUP_FROM_H
#define TOOLS_BACKUP_FROM_H

#include "backup_create.h"
#include "backup_session.h"

struct creation {
    struct backup_options options;
    struct keyopt image_key;
    const char *path; /* the operand */
    const char *base, *drive_name, *socket, *vm, *bitmap;
    struct option_list tags;
    const char *immutable, *freeze_hook, *thaw_hook;
    bool quiet, json;
    struct backup_session session;
    struct vb_manifest manifest;
    struct vb_create_result result;
};

/* Whether the options go with the kind of source that the operand names; an exit status, having
 * reported. */
int backup_from_check(const struct creation *creation);
/* Makes the backup and remembers it; the manifest has what does not depend on the source. Likewise.
 */
int backup_from(struct creation *creation);

#endif
