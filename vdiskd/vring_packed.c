/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packed virtqueues (VIRTIO 1.2, 2.8): one ring of descriptors, which both sides write; each lap
 * has its wrap counter, to which two bits of the flags are compared.
 */
#include "vring.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#define AVAIL_BIT (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED_BIT  (1u << VRING_PACKED_DESC_F_USED)
#define WRAP_BIT  (1u << VRING_PACKED_EVENT_F_WRAP_CTR)

static uint16_t load(const uint16_t *from)
{
    return le16toh(__atomic_load_n(from, __ATOMIC_ACQUIRE));
}

static void store(uint16_t *to, /* NOLINT(readability-non-const-parameter): stored to */
                  uint16_t value)
{
    __atomic_store_n(to, htole16(value), __ATOMIC_RELEASE);
}

bool vring_packed_is_available(const struct virtqueue *ring, uint16_t at, bool wrap)
{
    unsigned flags = load(&ring->packed[at].flags);

    return !!(flags & AVAIL_BIT) == wrap && !!(flags & USED_BIT) != wrap;
}

/* Each word is loaded once; after the flags, which the caller has seen to be available. */
static struct vring_packed_desc load_desc(const struct vring_packed_desc *from)
{
    union {
        uint64_t words[2];
        struct vring_packed_desc desc;
    } copy;

    for (unsigned i = 0; i < 2; i++)
        copy.words[i] = __atomic_load_n((const uint64_t *)from + i, __ATOMIC_RELAXED);
    return copy.desc;
}

/* chain->raw and slots are there. */
int vring_packed_collect(struct virtqueue *ring, const struct vhost_memory *memory,
                         struct vring_chain *chain)
{
    unsigned count = chain->slots;

    if (ring->slots_in_flight + count > ring->config.size)
        return -EPROTO;
    for (unsigned i = 0; i < count; i++) {
        const struct vring_packed_desc *desc = &chain->raw[i];
        unsigned flags = le16toh(desc->flags);
        uint64_t guest = le64toh(desc->addr);
        uint32_t length = le32toh(desc->len);
        int rc;

        /* A chain has one table and nothing else (2.8.19); entries of an earlier life are checked
         * as if they came from the ring. */
        if (flags & VRING_DESC_F_INDIRECT)
            rc = ring->config.indirect && count == 1
                     ? vring_chain_indirect(chain, memory, true, guest, length)
                     : -EPROTO;
        else
            rc = vring_chain_add(chain, guest, length, flags & VRING_DESC_F_WRITE);
        if (rc)
            return rc;
    }
    /* The buffer id is in the last one (2.8.6). */
    chain->head = le16toh(chain->raw[count - 1].id);
    ring->slots_in_flight += count;
    return 0;
}

int vring_packed_fetch(struct virtqueue *ring, const struct vhost_memory *memory,
                       struct vring_chain *chain)
{
    uint16_t at = ring->next_avail;
    bool wrap = ring->avail_wrap;
    unsigned count = 0;

    if (!vring_packed_is_available(ring, at, wrap))
        return 0;
    /* The rest of the chain was made available before its first descriptor (2.8.21.1). */
    do {
        if (count == ring->config.size)
            return -EPROTO; /* a loop */
        chain->raw[count] = load_desc(&ring->packed[at]);
        vring_advance(ring, &at, &wrap, 1);
    } while (le16toh(chain->raw[count++].flags) & VRING_DESC_F_NEXT);
    chain->slots = (uint16_t)count;
    int rc = vring_packed_collect(ring, memory, chain);

    if (rc)
        return rc;
    ring->next_avail = at;
    ring->avail_wrap = wrap;
    return 1;
}

static void log_packed(const struct virtqueue *ring, struct vhost_memory *memory, uint64_t from,
                       uint64_t length)
{
    if (ring->config.log)
        vhost_log_mark(&memory->log, ring->packed_guest + from, length);
}

void vring_packed_put(struct virtqueue *ring, struct vhost_memory *memory, uint16_t head,
                      uint16_t slots, uint32_t written)
{
    struct vring_packed_desc *desc = &ring->packed[ring->next_used];
    unsigned flags =
        (ring->used_wrap ? AVAIL_BIT | USED_BIT : 0) | (written > 0 ? VRING_DESC_F_WRITE : 0);

    __atomic_store_n(&desc->id, htole16(head), __ATOMIC_RELAXED);
    __atomic_store_n(&desc->len, htole32(written), __ATOMIC_RELAXED);
    store(&desc->flags, (uint16_t)flags);
    log_packed(ring, memory, ring->next_used * sizeof(*desc), sizeof(*desc));
    ring->slots_in_flight -= slots;
    vring_advance(ring, &ring->next_used, &ring->used_wrap, slots);
}

bool vring_packed_should_call(struct virtqueue *ring)
{
    uint16_t flags = load(&ring->driver_event->flags) & 3;
    uint16_t off_wrap = load(&ring->driver_event->off_wrap);
    uint16_t old = ring->signalled, new = ring->next_used, event = off_wrap &(WRAP_BIT - 1);
    bool old_wrap = ring->signalled_wrap, valid = ring->signalled_valid;

    ring->signalled = new;
    ring->signalled_wrap = ring->used_wrap;
    ring->signalled_valid = true;
    if (flags != VRING_PACKED_EVENT_FLAG_DESC || !ring->config.event_index)
        return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
    /* Everything relative to the lap that `new` is in. */
    if (ring->used_wrap != (off_wrap >> VRING_PACKED_EVENT_F_WRAP_CTR))
        event = (uint16_t)(event - ring->config.size);
    if (ring->used_wrap != old_wrap)
        old = (uint16_t)(old - ring->config.size);
    return !valid || vring_need_event(event, new, old);
}

void vring_packed_kicks(struct virtqueue *ring, struct vhost_memory *memory, bool wanted)
{
    struct vring_packed_desc_event *event = ring->device_event;
    uint16_t flags = VRING_PACKED_EVENT_FLAG_DISABLE;

    if (wanted && ring->config.event_index) {
        store(&event->off_wrap, (uint16_t)(ring->next_avail | (ring->avail_wrap ? WRAP_BIT : 0)));
        flags = VRING_PACKED_EVENT_FLAG_DESC;
    } else if (wanted) {
        flags = VRING_PACKED_EVENT_FLAG_ENABLE;
    }
    store(&event->flags, flags);
    if (ring->config.log)
        vhost_log_mark(&memory->log, ring->config.log_guest, sizeof(*event));
}
