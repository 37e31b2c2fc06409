/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is on a drive or a partition, as libblkid tells by its superblock.
 */
#ifndef FUSE_FSPROBE_H
#define FUSE_FSPROBE_H

#include "drive.h"

#define FSPROBE_KIND_BYTES  32u
#define FSPROBE_LABEL_BYTES 256u
#define FSPROBE_UUID_BYTES  64u

struct fsprobe {
    char kind[FSPROBE_KIND_BYTES];   /* "ext4", "xfs", "swap", "crypto_LUKS", ...; "" if none */
    char label[FSPROBE_LABEL_BYTES]; /* valid UTF-8, control characters are '?'; "" without */
    char uuid[FSPROBE_UUID_BYTES];
    bool is_file_system; /* not swap, a part of a RAID, or encrypted */
};

/* Reads up to 4 MiB of the drive. Nothing known, or more than one thing, is no error but kind "".
 * 0, -ENOMEM, -errno, or an error of the drive. */
int fsprobe_drive(struct drive *drive, struct fsprobe *out);

#endif
