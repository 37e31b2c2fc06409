/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stream sockets between a guest and its host, without a network: virtio-vsock (VIRTIO 1.2, section
 * 5.10) in user space. At the host they are Unix sockets in a folder: vsock_conns.h.
 */
#ifndef VMM_VIRTIO_VSOCK_H
#define VMM_VIRTIO_VSOCK_H

#include "virtio.h"

struct virtio_vsock_options {
    const char *folder;        /* of the sockets */
    uint64_t cid;              /* the guest's: from 3 to 4294967294 */
    const char *name;          /* for people; stays the caller's */
    int64_t handshake_timeout; /* see vsock_conns.h */
    int64_t answer_timeout;
};

/*
 * Listens at FOLDER/vsock, and lets nobody in before the guest has a driver. The socket is removed
 * with the device; FOLDER/vsock_PORT is connected to when the guest asks for it. By the reactor's
 * thread. -EINVAL, -ENAMETOOLONG, -EADDRINUSE, -errno.
 */
int virtio_vsock_new(const struct virtio_vsock_options *options, const struct vm_memory *memory,
                     struct reactor *reactor, struct virtio_device **out,
                     struct vdisk_error *error);

#endif
