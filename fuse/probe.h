/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is on a drive or a partition, as libblkid tells by its superblock.
 */
#ifndef FUSE_PROBE_H
#define FUSE_PROBE_H

#include "drive.h"

#define PROBE_KIND_BYTES  32u
#define PROBE_LABEL_BYTES 256u
#define PROBE_UUID_BYTES  64u

struct probe {
    char kind[PROBE_KIND_BYTES];   /* "ext4", "xfs", "swap", "crypto_LUKS", ...; "" if none */
    char label[PROBE_LABEL_BYTES]; /* valid UTF-8, control characters are '?'; "" without */
    char uuid[PROBE_UUID_BYTES];
    bool is_file_system; /* not swap, a part of a RAID, or encrypted */
};

/* Reads up to 4 MiB of the drive. Nothing known, or more than one thing, is no error but kind "".
 * 0, -ENOMEM, -errno, or an error of the drive. */
int probe_drive(struct drive *drive, struct probe *out);

#endif
