/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chains of descriptors, and what split and packed rings have in common.
 */
#include "vring.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

void vring_chain_begin(struct vring_chain *chain)
{
    chain->readable = chain->writable = 0;
    chain->readable_bytes = chain->writable_bytes = 0;
    chain->slots = 1;
    chain->entry = 0;
}

int vring_chain_add(struct vring_chain *chain, uint64_t guest, uint32_t length, bool writable)
{
    unsigned count = chain->readable + chain->writable;

    if (count >= VRING_SEGMENTS_MAX || (!writable && chain->writable > 0))
        return -EPROTO;
    chain->segment[count] = (struct vring_segment){.guest = guest, .length = length};
    chain->readable += !writable;
    chain->writable += writable;
    *(writable ? &chain->writable_bytes : &chain->readable_bytes) += length;
    /* A driver may not add more (2.7.5.2), and the used length has 32 bits. */
    return chain->readable_bytes + chain->writable_bytes > UINT32_MAX ? -EPROTO : 0;
}

/* In a packed ring the table is in order; in a split one it is linked. */
static int add_packed_table(struct vring_chain *chain, const struct vhost_memory *memory,
                            uint64_t guest, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct vring_packed_desc desc;

        if (vhost_memory_read(memory, guest + i * sizeof(desc), &desc, sizeof(desc)))
            return -EPROTO;
        unsigned flags = le16toh(desc.flags);

        if (flags & VRING_DESC_F_INDIRECT ||
            vring_chain_add(chain, le64toh(desc.addr), le32toh(desc.len),
                            flags & VRING_DESC_F_WRITE))
            return -EPROTO;
    }
    return 0;
}

static int add_split_table(struct vring_chain *chain, const struct vhost_memory *memory,
                           uint64_t guest, unsigned count)
{
    unsigned at = 0;

    for (unsigned seen = 0; seen < count; seen++) {
        struct vring_desc desc;

        if (vhost_memory_read(memory, guest + at * sizeof(desc), &desc, sizeof(desc)))
            return -EPROTO;
        unsigned flags = le16toh(desc.flags);

        if (flags & VRING_DESC_F_INDIRECT ||
            vring_chain_add(chain, le64toh(desc.addr), le32toh(desc.len),
                            flags & VRING_DESC_F_WRITE))
            return -EPROTO;
        if (!(flags & VRING_DESC_F_NEXT))
            return 0;
        at = le16toh(desc.next);
        if (at >= count)
            return -EPROTO;
    }
    return -EPROTO; /* a loop */
}

int vring_chain_indirect(struct vring_chain *chain, const struct vhost_memory *memory,
                         bool is_packed, uint64_t guest, uint32_t length)
{
    uint64_t end;
    unsigned count = length / (unsigned)sizeof(struct vring_desc);

    if (length == 0 || length % sizeof(struct vring_desc) || count > VRING_SEGMENTS_MAX ||
        __builtin_add_overflow(guest, length, &end))
        return -EPROTO;
    return is_packed ? add_packed_table(chain, memory, guest, count)
                     : add_split_table(chain, memory, guest, count);
}

/* Goes over [skip, skip + length) of the segments, and copies in one of the two directions. */
static int copy_chain(const struct vhost_memory *memory, struct vhost_memory *written,
                      const struct vring_segment *segment, unsigned count, uint64_t skip,
                      uint8_t *ours, size_t length)
{
    for (unsigned i = 0; i < count && length > 0; i++) {
        if (skip >= segment[i].length) {
            skip -= segment[i].length;
            continue;
        }
        size_t part = segment[i].length - (size_t)skip;
        uint64_t guest;

        if (__builtin_add_overflow(segment[i].guest, skip, &guest))
            return -EFAULT;
        part = part < length ? part : length;
        int rc = written ? vhost_memory_write(written, guest, ours, part)
                         : vhost_memory_read(memory, guest, ours, part);

        if (rc)
            return rc;
        ours += part;
        length -= part;
        skip = 0;
    }
    return length > 0 ? -EINVAL : 0;
}

int vring_chain_read(const struct vhost_memory *memory, const struct vring_segment *segment,
                     unsigned count, uint64_t skip, void *to, size_t length)
{
    return copy_chain(memory, NULL, segment, count, skip, to, length);
}

int vring_chain_write(struct vhost_memory *memory, const struct vring_segment *segment,
                      unsigned count, uint64_t skip, const void *from, size_t length)
{
    return copy_chain(memory, memory, segment, count, skip, (uint8_t *)from, length);
}

static void *resolve(const struct vhost_memory *memory, uint64_t user, uint64_t length,
                     unsigned alignment)
{
    void *at = vhost_memory_user(memory, user, length);

    return (uintptr_t)at % alignment ? NULL : at;
}

int vring_resolve(struct virtqueue *ring, const struct vhost_memory *memory)
{
    const struct vring_config *config = &ring->config;
    uint64_t size = config->size;

    if (size == 0 || size > VRING_SIZE_MAX || (!config->packed && (size & (size - 1))))
        return -EINVAL;
    ring->desc = NULL;
    ring->packed = NULL;
    if (config->packed) {
        ring->driver_event = resolve(memory, config->avail, sizeof(*ring->driver_event), 4);
        ring->device_event = resolve(memory, config->used, sizeof(*ring->device_event), 4);
        if (!ring->driver_event || !ring->device_event ||
            !vhost_memory_user_to_guest(memory, config->desc, &ring->packed_guest))
            return -EFAULT;
        ring->packed = resolve(memory, config->desc, size * sizeof(*ring->packed), 16);
        return ring->packed ? 0 : -EFAULT;
    }
    /* With the event index at their ends, whether it is used or not: drivers leave room for it. */
    ring->avail = resolve(memory, config->avail, 2 * (3 + size), 2);
    ring->used = resolve(memory, config->used, 6 + 8 * size, 4);
    if (!ring->avail || !ring->used)
        return -EFAULT;
    ring->desc = resolve(memory, config->desc, size * sizeof(*ring->desc), 16);
    return ring->desc ? 0 : -EFAULT;
}

uint16_t vring_used_index(const struct virtqueue *ring)
{
    return le16toh(__atomic_load_n(&ring->used[1], __ATOMIC_ACQUIRE));
}

void vring_start(struct virtqueue *ring, uint32_t base)
{
    memset(ring->busy, 0, sizeof(ring->busy));
    ring->broken = false;
    ring->slots_in_flight = 0;
    ring->signalled_valid = false;
    if (!ring->config.packed) {
        ring->next_avail = (uint16_t)base;
        ring->next_used = vring_used_index(ring);
        return;
    }
    ring->next_avail = base & 0x7fff;
    ring->avail_wrap = base >> 15 & 1;
    ring->next_used = base >> 16 & 0x7fff;
    ring->used_wrap = base >> 31;
    if (ring->next_avail >= ring->config.size || ring->next_used >= ring->config.size)
        ring->broken = true;
}

uint32_t vring_base(const struct virtqueue *ring)
{
    if (!ring->config.packed)
        return ring->next_avail;
    return (uint32_t)ring->next_avail | (uint32_t)ring->avail_wrap << 15 |
           (uint32_t)ring->next_used << 16 | (uint32_t)ring->used_wrap << 31;
}

void vring_advance(const struct virtqueue *ring, uint16_t *at, bool *wrap, unsigned slots)
{
    unsigned next = *at + slots;

    if (next >= ring->config.size) {
        next -= ring->config.size;
        *wrap = !*wrap;
    }
    *at = (uint16_t)next;
}

int vring_fetch(struct virtqueue *ring, const struct vhost_memory *memory,
                struct vring_chain *chain)
{
    int rc = -EPROTO;

    vring_chain_begin(chain);
    if (!ring->broken)
        rc = ring->config.packed ? vring_packed_fetch(ring, memory, chain)
                                 : vring_split_fetch(ring, memory, chain);
    ring->broken = rc < 0;
    return rc;
}

int vring_refetch(struct virtqueue *ring, const struct vhost_memory *memory, uint16_t head,
                  unsigned count, struct vring_chain *chain)
{
    int rc = -EPROTO;

    vring_chain_begin(chain);
    if (!ring->broken && !ring->config.packed) {
        rc = vring_split_collect(ring, memory, head, chain);
        ring->next_avail = (uint16_t)(ring->next_avail + (rc == 0));
    } else if (!ring->broken && count > 0 && count <= ring->config.size) {
        chain->slots = (uint16_t)count;
        rc = vring_packed_collect(ring, memory, chain);
        if (rc == 0)
            vring_advance(ring, &ring->next_avail, &ring->avail_wrap, count);
    }
    ring->broken = rc < 0;
    return rc;
}

void vring_put(struct virtqueue *ring, struct vhost_memory *memory, uint16_t head, uint16_t slots,
               uint32_t written)
{
    if (ring->config.packed)
        vring_packed_put(ring, memory, head, slots, written);
    else
        vring_split_put(ring, memory, head, written);
}

void vring_publish(struct virtqueue *ring, struct vhost_memory *memory)
{
    if (!ring->config.packed)
        vring_split_publish(ring, memory);
}

bool vring_should_call(struct virtqueue *ring)
{
    /* The driver's store to its side and our load, after our store and its load. */
    __sync_synchronize();
    return ring->config.packed ? vring_packed_should_call(ring) : vring_split_should_call(ring);
}

static void set_kicks(struct virtqueue *ring, struct vhost_memory *memory, bool wanted)
{
    if (ring->config.packed)
        vring_packed_kicks(ring, memory, wanted);
    else
        vring_split_kicks(ring, memory, wanted);
}

bool vring_has_more(const struct virtqueue *ring)
{
    return ring->config.packed ? vring_packed_is_available(ring, ring->next_avail, ring->avail_wrap)
                               : vring_split_pending(ring);
}

bool vring_want_kicks(struct virtqueue *ring, struct vhost_memory *memory)
{
    set_kicks(ring, memory, true);
    __sync_synchronize();
    return vring_has_more(ring);
}

void vring_no_kicks(struct virtqueue *ring, struct vhost_memory *memory)
{
    set_kicks(ring, memory, false);
}
