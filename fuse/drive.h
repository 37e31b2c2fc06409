/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A drive to read from: a size, and a function that reads. What looks into drives (partitions, file
 * systems) knows nothing else of where they are.
 *
 * A drive is used by one thread at a time, and outlives the parts that are cut out of it.
 */
#ifndef FUSE_DRIVE_H
#define FUSE_DRIVE_H

#include "vdisk/vdisk.h"

#include <stdbool.h>
#include <stdint.h>

struct drive {
    uint64_t size; /* bytes, of any alignment */
    /* Reads a range that lies within the drive. 0, or an error: -errno or VDISK_E_*. */
    int (*read)(struct drive *drive, uint64_t offset, void *data, uint64_t length);
    void *owner; /* what `read` needs: these three */
    void *part;
    uint64_t start;
};

/* The live state of an image, or a snapshot of it; both stay the caller's and must outlive it. */
void drive_of_image(struct drive *drive, struct vdisk_image *image,
                    struct vdisk_snapshot *snapshot);

/* A range of another drive, cut off at the end of that one. */
void drive_of_range(struct drive *drive, struct drive *whole, uint64_t offset, uint64_t length);

/* Reads all of the range, which may be any: -EINVAL if it does not lie within the drive. */
int drive_get(struct drive *drive, uint64_t offset, void *data, uint64_t length);

#endif
