/* SPDX-License-Identifier: Apache-2.0 */
/* A device that gives the guest random numbers of the host's kernel. VIRTIO 1.2, 5.4. */
#ifndef VMM_VIRTIO_RNG_H
#define VMM_VIRTIO_RNG_H

#include "virtio.h"

/* -errno; freed with virtio_free(). */
int virtio_rng_new(const struct vm_memory *memory, struct reactor *reactor,
                   struct virtio_device **out);

#endif
