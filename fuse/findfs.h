/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file system that is meant by a path on a drive: that of a partition, or of the whole drive.
 */
#ifndef FUSE_FINDFS_H
#define FUSE_FINDFS_H

#include "ext_files.h"

/* Stays where it is while it is open. */
struct findfs {
    unsigned number; /* of the partition; 0: the drive has no table */
    struct drive part;
    struct ext_files *files;
};

/*
 * Opens that of partition `number`. With 0 the only one that can be read, or of several the only
 * one with a folder /etc. On a drive without a table of partitions that of the drive itself.
 * findfs_close() is due after success. Errors: VDISK_E_NOT_FOUND or VDISK_E_UNSUPPORTED, naming
 * what is there; those of ext_files_open() and of the drive.
 */
int findfs_open(struct drive *drive, unsigned number, struct findfs *out,
                struct vdisk_error *error);
void findfs_close(struct findfs *found);

#endif
