/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Split virtqueues (VIRTIO 1.2, 2.7). avail and used are arrays of 16 bits: flags, idx, then the
 * ring (of 16 bits for avail, of two times 32 for used), then the event index of the other side.
 */
#include "vring.h"

#include <endian.h>
#include <errno.h>

#define RING_FLAGS 0
#define RING_INDEX 1
#define RING_FIRST 2

static uint16_t load(const uint16_t *from)
{
    return le16toh(__atomic_load_n(from, __ATOMIC_ACQUIRE));
}

static void store(uint16_t *to, /* NOLINT(readability-non-const-parameter): stored to */
                  uint16_t value)
{
    __atomic_store_n(to, htole16(value), __ATOMIC_RELEASE);
}

/* Bytes [from, from + length) of the used ring were written. */
static void log_used(const struct virtqueue *ring, struct vhost_memory *memory, uint64_t from,
                     uint64_t length)
{
    uint64_t address;

    if (ring->config.log && !__builtin_add_overflow(ring->config.log_guest, from, &address))
        vhost_log_mark(&memory->log, address, length);
}

/* Two loads, each once: never a field that is read again after it was checked. */
static struct vring_desc load_desc(const struct vring_desc *from)
{
    union {
        uint64_t words[2];
        struct vring_desc desc;
    } copy;

    for (unsigned i = 0; i < 2; i++)
        copy.words[i] = __atomic_load_n((const uint64_t *)from + i, __ATOMIC_RELAXED);
    return copy.desc;
}

int vring_split_collect(struct virtqueue *ring, const struct vhost_memory *memory, uint16_t head,
                        struct vring_chain *chain)
{
    unsigned size = ring->config.size, at = head;

    if (at >= size || ring->busy[at / 8] & 1u << at % 8)
        return -EPROTO;
    for (unsigned seen = 0;; seen++) {
        if (seen == size)
            return -EPROTO; /* a loop */
        struct vring_desc desc = load_desc(&ring->desc[at]);
        unsigned flags = le16toh(desc.flags);

        if (flags & VRING_DESC_F_INDIRECT) {
            if (!ring->config.indirect || flags & VRING_DESC_F_NEXT)
                return -EPROTO;
            if (vring_chain_indirect(chain, memory, false, le64toh(desc.addr), le32toh(desc.len)))
                return -EPROTO;
            break;
        }
        if (vring_chain_add(chain, le64toh(desc.addr), le32toh(desc.len),
                            flags & VRING_DESC_F_WRITE))
            return -EPROTO;
        if (!(flags & VRING_DESC_F_NEXT))
            break;
        at = le16toh(desc.next);
        if (at >= size)
            return -EPROTO;
    }
    chain->head = head;
    ring->busy[head / 8] |= (uint8_t)(1u << head % 8);
    return 0;
}

bool vring_split_pending(const struct virtqueue *ring)
{
    return load(&ring->avail[RING_INDEX]) != ring->next_avail;
}

int vring_split_fetch(struct virtqueue *ring, const struct vhost_memory *memory,
                      struct vring_chain *chain)
{
    uint16_t waiting = (uint16_t)(load(&ring->avail[RING_INDEX]) - ring->next_avail);
    unsigned slot = ring->next_avail & (ring->config.size - 1u);

    if (waiting == 0)
        return 0;
    if (waiting > ring->config.size)
        return -EPROTO;
    int rc = vring_split_collect(ring, memory, load(&ring->avail[RING_FIRST + slot]), chain);

    if (rc)
        return rc;
    ring->next_avail++;
    return 1;
}

void vring_split_put(struct virtqueue *ring, struct vhost_memory *memory, uint16_t head,
                     uint32_t written)
{
    unsigned slot = ring->next_used & (ring->config.size - 1u);
    struct vring_used_elem *element =
        (struct vring_used_elem *)(void *)(ring->used + RING_FIRST) + slot;

    __atomic_store_n(&element->id, htole32(head), __ATOMIC_RELAXED);
    __atomic_store_n(&element->len, htole32(written), __ATOMIC_RELAXED);
    log_used(ring, memory, 4 + 8 * slot, 8);
    ring->busy[head / 8] &= (uint8_t) ~(1u << head % 8);
    ring->next_used++;
}

void vring_split_publish(struct virtqueue *ring, struct vhost_memory *memory)
{
    store(&ring->used[RING_INDEX], ring->next_used);
    log_used(ring, memory, 2, 2);
}

bool vring_split_should_call(struct virtqueue *ring)
{
    uint16_t old = ring->signalled, new = ring->next_used;
    bool valid = ring->signalled_valid;

    if (!ring->config.event_index)
        return !(load(&ring->avail[RING_FLAGS]) & VRING_AVAIL_F_NO_INTERRUPT);
    ring->signalled = new;
    ring->signalled_valid = true;
    return !valid || vring_need_event(load(&ring->avail[RING_FIRST + ring->config.size]), new, old);
}

void vring_split_kicks(struct virtqueue *ring, struct vhost_memory *memory, bool wanted)
{
    unsigned event = RING_FIRST + 4u * ring->config.size;

    if (!ring->config.event_index) {
        store(&ring->used[RING_FLAGS], wanted ? 0 : VRING_USED_F_NO_NOTIFY);
        log_used(ring, memory, 0, 2);
    } else if (wanted) {
        store(&ring->used[event], ring->next_avail);
        log_used(ring, memory, 2 * event, 2);
    }
}
