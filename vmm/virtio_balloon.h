/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device that has the guest give memory back to the host: as much as it is asked for (the
 * balloon), and what it has free anyway (reporting). VIRTIO 1.2, 5.5.
 *
 * These take the device's lock, and may be called by any thread.
 */
#ifndef VMM_VIRTIO_BALLOON_H
#define VMM_VIRTIO_BALLOON_H

#include "virtio.h"

#include <linux/virtio_balloon.h>

/* What a guest does not tell. */
#define VIRTIO_BALLOON_UNKNOWN UINT64_MAX

/* -errno; freed with virtio_free(). */
int virtio_balloon_new(const struct vm_memory *memory, struct reactor *reactor,
                       struct virtio_device **out);

/* How much the guest is to do without: a multiple of 4096, up to all of its memory. -EINVAL. */
int virtio_balloon_set(struct virtio_device *device, uint64_t bytes);
/* How much it says it does without. */
uint64_t virtio_balloon_actual(struct virtio_device *device);

/* What it said last about its memory, by VIRTIO_BALLOON_S_...; */
void virtio_balloon_stats(struct virtio_device *device, uint64_t stats[VIRTIO_BALLOON_S_NR]);
/* and asks it to say it again, which takes a while. */
void virtio_balloon_ask(struct virtio_device *device);

#endif
