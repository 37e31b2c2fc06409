/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that a front end shares by a descriptor, mapped. It may make the file shorter at any time,
 * or have promised more huge pages than there are; an access is then a SIGBUS. It must not end the
 * daemon: the mapping becomes zeros of our own, the access is made there, and who mapped it is told
 * by a flag, to be looked at after each use.
 *
 * A mapping is used by the thread that made it, and by no other.
 */
#ifndef VDISKD_VHOST_MAPPING_H
#define VDISKD_VHOST_MAPPING_H

#include "vdisk/error.h"

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

struct vhost_mapping {
    uint8_t *base;
    size_t bytes;
    volatile sig_atomic_t *lost;
    struct vhost_mapping *next;
};

/*
 * Maps `size` bytes of fd from `offset` (of any alignment), shared; the file must be that long, and
 * *at is the first of them. *lost becomes 1 when it is not that long any more. -EINVAL, -errno.
 */
int vhost_map(int fd, uint64_t offset, uint64_t size, volatile sig_atomic_t *lost,
              struct vhost_mapping **out, uint8_t **at, struct vdisk_error *error);
/* NULL is allowed. */
void vhost_unmap(struct vhost_mapping *mapping);

/* Fills in an error; returns code. */
int vhost_fail(struct vdisk_error *error, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
