/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In-flight memory: which requests of a queue were taken from its ring and not given back, kept in
 * memory that the front end holds, so that a back end that was killed finds them again. Layout and
 * order of the stores are those of QEMU's docs/interop/vhost-user.rst, "Inflight I/O tracking".
 *
 * The process may be killed between any two stores; the machine is not. So what counts is the order
 * in which they are made, and for each step one store decides. The front end can write there:
 * every index that is read is checked, every list bounded.
 */
#ifndef VDISKD_VHOST_INFLIGHT_H
#define VDISKD_VHOST_INFLIGHT_H

#include "vring.h"

/* In the region of one queue. */
struct vhost_inflight {
    uint8_t *region; /* NULL: there is none, and every function does nothing */
    uint16_t size;   /* entries */
    bool packed;
    uint64_t counter; /* of the next request */
};

/* A request that an earlier process had taken and not given back. */
struct vhost_inflight_lost {
    uint64_t counter;
    uint16_t head;  /* split: the head descriptor */
    uint16_t entry; /* packed: its first entry */
    uint16_t count; /* packed: descriptors */
};

/* Bytes of the region of a queue, of either kind of ring; a multiple of 64. */
uint64_t vhost_inflight_bytes(uint16_t queue_size);

/*
 * Takes a region into use, for a ring that was started at its base. One that is new (zeros) is
 * initialised. One that was in use before is recovered: the ring continues where it was, and in
 * lost[] (of VRING_SIZE_MAX) are the *count requests to do again, in their order. -EPROTO: it holds
 * nonsense, or is of another size.
 */
int vhost_inflight_open(struct vhost_inflight *inflight, uint8_t *region, uint16_t size,
                        struct virtqueue *ring, struct vhost_inflight_lost *lost, unsigned *count);
/* Fetches a lost one again, in the order of lost[]. -EPROTO. */
int vhost_inflight_refetch(struct vhost_inflight *inflight, struct virtqueue *ring,
                           const struct vhost_memory *memory,
                           const struct vhost_inflight_lost *lost, struct vring_chain *chain);

/* After a fetch; fills in chain->entry. -EPROTO: the region holds nonsense. */
int vhost_inflight_taken(struct vhost_inflight *inflight, struct vring_chain *chain);

struct vhost_inflight_used {
    uint16_t head, slots, entry; /* of the chain */
    uint32_t written;
};
/* Gives `count` chains back to the ring and publishes them, with the stores that go with it. */
void vhost_inflight_put(struct vhost_inflight *inflight, struct virtqueue *ring,
                        struct vhost_memory *memory, const struct vhost_inflight_used *used,
                        unsigned count);

#endif
