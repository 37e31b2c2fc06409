/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queues of a device that the VMM serves itself: a virtqueue (vring.h) over the guest's RAM, begun
 * from what the driver settled. With the device's lock held.
 *
 * A queue that is off (the driver did not make it ready, or the device is stopped) has no requests,
 * and takes none back. After a stop with `keep` it goes on with what was not fetched yet; requests
 * that the device still holds then are its own to remember, and can be given back once it goes on.
 */
#ifndef VMM_QUEUE_H
#define VMM_QUEUE_H

#include "virtio.h"
#include "vring.h"

struct vm_queue {
    struct virtqueue ring;
    bool on;
    uint32_t base; /* where it begins, while it is off */
};

struct vm_queues {
    struct vhost_memory memory; /* of the guest, for vring.h */
    unsigned count;
    struct vm_queue queue[VIRTIO_QUEUES_MAX];
    struct vring_chain chain; /* the one that was fetched last */
};

/* The features of rings that vm_queues serve, to be offered. */
#define VM_QUEUE_FEATURES                                                                          \
    (UINT64_C(1) << VIRTIO_F_VERSION_1 | UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX |                  \
     UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC)

/* For `count` queues. NULL without memory. */
struct vm_queues *vm_queues_new(const struct vm_memory *memory, unsigned count);
void vm_queues_free(struct vm_queues *queues);

/* For ops->start: each queue that is ready begins, at 0, or where vm_queues_stop() or
 * vm_queues_load() left it. -EINVAL, -EFAULT: an address that is not RAM. */
int vm_queues_start(struct vm_queues *queues, const struct virtio_device *device);
/* For ops->stop. */
void vm_queues_stop(struct vm_queues *queues, bool keep);

/* The next request, in queues->chain: 1; 0: none, and the driver will kick; -EPROTO. */
int vm_queue_fetch(struct vm_queues *queues, unsigned index);
/* Undoes the last fetch of the queue that was not undone, whose chain has that head: it comes again
 * with the next. */
void vm_queue_unfetch(struct vm_queues *queues, unsigned index, uint16_t head);
/* Gives the chain of `head` and `slots` back. */
void vm_queue_put(struct vm_queues *queues, unsigned index, uint16_t head, uint16_t slots,
                  uint32_t written);
/* After a round of these: shows them, and raises the interrupt if the driver wants it. */
void vm_queue_publish(struct vm_queues *queues, unsigned index, struct virtio_device *device);

/* Copies out of and into queues->chain, from `skip` bytes on. -EFAULT, -EINVAL. */
int vm_queue_read(struct vm_queues *queues, uint64_t skip, void *to, size_t length);
int vm_queue_write(struct vm_queues *queues, uint64_t skip, const void *from, size_t length);

/* Where each queue is, for virtio_ops.save and load; a new reference. */
json_t *vm_queues_save(const struct vm_queues *queues);
int vm_queues_load(struct vm_queues *queues, const json_t *from);

#endif
