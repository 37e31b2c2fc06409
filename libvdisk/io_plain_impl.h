/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plain backend from inside, shared by io_plain.c (requests; the invariants are there) and
 * io_plain_open.c (opening, names, removal).
 */
#ifndef VD_IO_PLAIN_IMPL_H
#define VD_IO_PLAIN_IMPL_H

#include "io_plain.h"

#include <limits.h>

struct vd_plain_part {
    int fd; /* -1: not open yet, or there is none */
    bool exists;
    bool created; /* by this io */
    bool dirty;
};

struct vd_plain {
    struct vdisk_io io;
    const struct vd_plain_calls *calls;
    char *path;       /* absolute where possible: a daemon may change its directory */
    const char *name; /* the last component of path */
    int directory;    /* -1 until names are needed */
    bool directory_dirty;
    bool read_only;
    bool created;
    bool block_device;
    int sync_error;
    uint64_t split_bytes;
    uint32_t part_set;
    unsigned part_end; /* the highest existing part, plus one */
    struct vd_plain_part parts[VD_PLAIN_PARTS_MAX];
    struct vdisk_io_request *head, **tail;
    struct iovec vectors[IOV_MAX];
};

extern const struct vdisk_io_ops vd_plain_ops;

/* The file name of a part in the directory of the image: 0 or -ENAMETOOLONG. */
int vd_plain_part_name(const struct vd_plain *plain, unsigned part, char name[static NAME_MAX + 1]);

#endif
