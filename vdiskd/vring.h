/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtqueues seen from the device: split (vring_split.c) and packed (vring_packed.c) rings, which
 * share how a chain of descriptors is collected and checked (vring_chain.c). VIRTIO 1.2, 2.7, 2.8.
 *
 * The rings lie in memory that a hostile guest writes at any time. Each field of it is read once,
 * by an atomic load or a copy, checked, and used from the copy; loops are bounded by what we know.
 * A ring that breaks the rules is given up: fetch returns an error from then on, until it is
 * started again.
 */
#ifndef VDISKD_VRING_H
#define VDISKD_VRING_H

#include "vhost_memory.h"

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#define VRING_SIZE_MAX     1024u /* descriptors of a ring */
#define VRING_SEGMENTS_MAX 1024u /* of a chain, with those of its indirect table */

struct vring_segment {
    uint64_t guest;
    uint32_t length;
};

/* A request of the driver: what the device may read, then what it may write. */
struct vring_chain {
    uint16_t head;               /* split: of the head descriptor; packed: the buffer id */
    uint16_t slots;              /* descriptors of the ring that it takes; split: 1 */
    uint16_t entry;              /* packed, in-flight memory: its entry there */
    unsigned readable, writable; /* segments */
    uint64_t readable_bytes, writable_bytes;
    struct vring_segment segment[VRING_SEGMENTS_MAX];
    /* Packed: the descriptors of the ring as they were read, for in-flight memory. */
    struct vring_packed_desc raw[VRING_SIZE_MAX];
};

struct vring_config {
    uint16_t size; /* split: a power of two */
    bool packed, event_index, indirect;
    uint64_t desc, avail, used; /* user addresses; packed: ring, driver event, device event */
    uint64_t log_guest;         /* where writes to `used` are logged */
    bool log;
};

struct virtqueue {
    struct vring_config config;
    bool broken;
    /* Split. */
    struct vring_desc *desc;
    uint16_t *avail, *used;           /* flags, idx, ring... */
    uint8_t busy[VRING_SIZE_MAX / 8]; /* heads that are in flight */
    /* Packed. */
    struct vring_packed_desc *packed;
    struct vring_packed_desc_event *driver_event, *device_event;
    uint64_t packed_guest; /* guest address of the ring, for the log */
    bool avail_wrap, used_wrap;
    unsigned slots_in_flight;
    /* Both: the next descriptor or index to fetch and to use. */
    uint16_t next_avail, next_used;
    /* `next_used` (and its wrap counter) when the driver was last thought of. */
    uint16_t signalled;
    bool signalled_wrap, signalled_valid;
};

/*
 * Translates the addresses of the config. To be called again when the table of regions changes;
 * indices stay. -EINVAL: sizes, alignment; -EFAULT: not in the table.
 */
int vring_resolve(struct virtqueue *ring, const struct vhost_memory *memory);
/* The ring begins at `base`, as SET_VRING_BASE gives it; nothing is in flight. For a split ring the
 * used index is what is in memory. The addresses are resolved. */
void vring_start(struct virtqueue *ring, uint32_t base);
/* As GET_VRING_BASE answers. */
uint32_t vring_base(const struct virtqueue *ring);

/* The next chain: 1, or 0: there is none, or -EPROTO: the ring is broken. */
int vring_fetch(struct virtqueue *ring, const struct vhost_memory *memory,
                struct vring_chain *chain);
/* A chain that was in flight when an earlier process ended: takes its place as if fetched now.
 * Split: by its head; packed: by the `count` descriptors in chain->raw. -EPROTO. */
int vring_refetch(struct virtqueue *ring, const struct vhost_memory *memory, uint16_t head,
                  unsigned count, struct vring_chain *chain);

/*
 * Gives a chain back with `written` bytes. Split: it is seen by the driver with the next
 * vring_publish(); packed: at once.
 */
void vring_put(struct virtqueue *ring, struct vhost_memory *memory, uint16_t head, uint16_t slots,
               uint32_t written);
void vring_publish(struct virtqueue *ring, struct vhost_memory *memory);
/* Once after a round of these: does the driver want to be called? */
bool vring_should_call(struct virtqueue *ring);
/* Whether there is more to fetch. */
bool vring_has_more(const struct virtqueue *ring);
/* Asks for kicks from now on. True: there is more to fetch already, so that a kick may not come. */
bool vring_want_kicks(struct virtqueue *ring, struct vhost_memory *memory);
/* No kicks are needed for now. */
void vring_no_kicks(struct virtqueue *ring, struct vhost_memory *memory);

/* The used index that is in memory (split). */
uint16_t vring_used_index(const struct virtqueue *ring);
/* Whether descriptor `at` (packed) is marked available for that wrap counter. */
bool vring_packed_is_available(const struct virtqueue *ring, uint16_t at, bool wrap);
/* Packed: position and wrap counter `slots` on. */
void vring_advance(const struct virtqueue *ring, uint16_t *at, bool *wrap, unsigned slots);

/* ---- copies of a chain, from `skip` bytes into its readable or writable part ---- */

/* -EFAULT: memory that is not there; -EINVAL: past the end of the part. */
int vring_chain_read(const struct vhost_memory *memory, const struct vring_segment *segment,
                     unsigned count, uint64_t skip, void *to, size_t length);
int vring_chain_write(struct vhost_memory *memory, const struct vring_segment *segment,
                      unsigned count, uint64_t skip, const void *from, size_t length);

/* ---- for the two kinds of ring ---- */

void vring_chain_begin(struct vring_chain *chain);
/* -EPROTO. */
int vring_chain_add(struct vring_chain *chain, uint64_t guest, uint32_t length, bool writable);
/* The table of an indirect descriptor, of either kind of ring. -EPROTO. */
int vring_chain_indirect(struct vring_chain *chain, const struct vhost_memory *memory,
                         bool is_packed, uint64_t guest, uint32_t length);

int vring_split_fetch(struct virtqueue *ring, const struct vhost_memory *memory,
                      struct vring_chain *chain);
int vring_split_collect(struct virtqueue *ring, const struct vhost_memory *memory, uint16_t head,
                        struct vring_chain *chain);
void vring_split_put(struct virtqueue *ring, struct vhost_memory *memory, uint16_t head,
                     uint32_t written);
void vring_split_publish(struct virtqueue *ring, struct vhost_memory *memory);
bool vring_split_should_call(struct virtqueue *ring);
void vring_split_kicks(struct virtqueue *ring, struct vhost_memory *memory, bool wanted);
bool vring_split_pending(const struct virtqueue *ring);

int vring_packed_fetch(struct virtqueue *ring, const struct vhost_memory *memory,
                       struct vring_chain *chain);
int vring_packed_collect(struct virtqueue *ring, const struct vhost_memory *memory,
                         struct vring_chain *chain);
void vring_packed_put(struct virtqueue *ring, struct vhost_memory *memory, uint16_t head,
                      uint16_t slots, uint32_t written);
bool vring_packed_should_call(struct virtqueue *ring);
void vring_packed_kicks(struct virtqueue *ring, struct vhost_memory *memory, bool wanted);

#endif
