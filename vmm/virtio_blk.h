/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A drive: a virtio-blk device of which the queues are served by another process (vdiskd) that a
 * Unix socket leads to, by vhost-user. The VMM is not in the way of requests: kicks and interrupts
 * go between the guest and that process.
 *
 * When the process goes away, requests wait, and the guest sees nothing of it; the socket is tried
 * for ever, so its path must be reachable for as long as the machine runs. The process that comes
 * takes over what was outstanding, by its in-flight memory. Where that is not known (QEMU's storage
 * daemon) and something was outstanding, or the drive is not what it was, the guest is told that it
 * needs a reset.
 */
#ifndef VMM_VIRTIO_BLK_H
#define VMM_VIRTIO_BLK_H

#include "virtio.h"

struct virtio_blk_options {
    const char *name;   /* for people: "drive 0" */
    const char *socket; /* a path */
    bool read_only;  /* the drive must be served read-only; the VMM could not hold a write back */
    unsigned queues; /* 0: as many as the back end has, at most `cpus` */
    unsigned cpus;
    int64_t patience; /* nanoseconds for an answer of the back end; 0: 10 s */
    /* That the drive is gone, back, or of no more use: a sentence, not the same one again and
     * again. By a thread of the drive's; it may not call the device, and a vCPU may be waiting for
     * it to return. NULL: nobody listens. */
    void (*told)(void *opaque, const char *what);
    void *opaque;
};

/*
 * Connects on the spot. The strings are copied; memory and reactor stay the caller's.
 * -ENOTSUP: not a back end of a drive, or one that is not read-only though that is asked for;
 * -EINVAL; -ETIMEDOUT, -errno of connect().
 */
int virtio_blk_new(const struct virtio_blk_options *options, const struct vm_memory *memory,
                   struct reactor *reactor, struct virtio_device **out, struct vdisk_error *error);

#endif
