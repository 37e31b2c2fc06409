/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In-flight memory. The fields are in the machine's byte order and are named as in the document.
 */
#include "vhost_inflight.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define VERSION 1u

struct split_entry {
    uint8_t inflight;
    uint8_t padding[5];
    uint16_t next;
    uint64_t counter;
};
struct split_region {
    uint64_t features;
    uint16_t version, desc_num, last_batch_head, used_idx;
    struct split_entry desc[];
};
struct packed_entry {
    uint8_t inflight;
    uint8_t padding;
    uint16_t next, last, num;
    uint64_t counter;
    uint16_t id, flags;
    uint32_t len;
    uint64_t addr;
};
struct packed_region {
    uint64_t features;
    uint16_t version, desc_num, free_head, old_free_head, used_idx, old_used_idx;
    uint8_t used_wrap_counter, old_used_wrap_counter;
    uint8_t padding[7];
    struct packed_entry desc[];
};
_Static_assert(sizeof(struct split_entry) == 16 && sizeof(struct split_region) == 16, "layout");
_Static_assert(sizeof(struct packed_entry) == 32 && sizeof(struct packed_region) == 32, "layout");

/* A store that a reader after a kill finds made only if all before it were. */
#define STORE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)
#define LOAD(field)         __atomic_load_n(&(field), __ATOMIC_ACQUIRE)

static struct split_region *split_region(const struct vhost_inflight *inflight)
{
    return (void *)inflight->region;
}

static struct packed_region *packed_region(const struct vhost_inflight *inflight)
{
    return (void *)inflight->region;
}

/* The larger of the two: the kind of ring may not be known when the memory is made. */
uint64_t vhost_inflight_bytes(uint16_t queue_size)
{
    uint64_t bytes = sizeof(struct packed_region) + queue_size * sizeof(struct packed_entry);

    return (bytes + 63) / 64 * 64;
}

static int by_counter(const void *a, const void *b)
{
    const struct vhost_inflight_lost *x = a, *y = b;

    return (x->counter > y->counter) - (x->counter < y->counter);
}

/* ---- split ---- */

static void begin_split(struct split_region *region, uint16_t size, const struct virtqueue *ring)
{
    region->desc_num = size;
    region->used_idx = ring->next_used;
    STORE(region->version, VERSION);
}

static unsigned recover_split(struct split_region *region, uint16_t size, struct virtqueue *ring,
                              struct vhost_inflight_lost *lost)
{
    uint16_t batch = (uint16_t)(ring->next_used - LOAD(region->used_idx));
    uint16_t at = LOAD(region->last_batch_head);
    unsigned count = 0;

    /* The last batch was published; it was killed before it could say so. */
    for (unsigned i = 0; i < batch && i < size && at < size; i++) {
        STORE(region->desc[at].inflight, 0);
        at = LOAD(region->desc[at].next);
    }
    STORE(region->used_idx, ring->next_used);
    for (uint16_t i = 0; i < size && i < ring->config.size; i++)
        if (LOAD(region->desc[i].inflight))
            lost[count++] =
                (struct vhost_inflight_lost){.counter = LOAD(region->desc[i].counter), .head = i};
    /* What was taken is used or lost; each lost one that is fetched again moves it on. */
    ring->next_avail = ring->next_used;
    return count;
}

static void put_split(struct vhost_inflight *inflight, struct virtqueue *ring,
                      struct vhost_memory *memory, const struct vhost_inflight_used *used,
                      unsigned count)
{
    struct split_region *region = split_region(inflight);

    for (unsigned i = 0; i < count; i++) {
        uint16_t head = used[i].head;

        vring_put(ring, memory, head, used[i].slots, used[i].written);
        STORE(region->desc[head].next, LOAD(region->last_batch_head));
        STORE(region->last_batch_head, head);
    }
    vring_publish(ring, memory);
    for (unsigned i = 0; i < count; i++)
        STORE(region->desc[used[i].head].inflight, 0);
    STORE(region->used_idx, ring->next_used);
}

/* ---- packed ---- */

static void begin_packed(struct packed_region *region, uint16_t size, const struct virtqueue *ring)
{
    for (unsigned i = 0; i < size; i++)
        region->desc[i].next = (uint16_t)(i + 1);
    region->desc_num = size;
    region->free_head = region->old_free_head = 0;
    region->used_idx = region->old_used_idx = ring->next_used;
    region->used_wrap_counter = region->old_used_wrap_counter = ring->used_wrap;
    STORE(region->version, VERSION);
}

/* used_idx, old_used_idx and their two wrap counters are one aligned word, and are only ever stored
 * as one: after a kill an index always has its own wrap counter. */
union packed_position {
    uint64_t word;
    struct {
        uint16_t used_idx, old_used_idx;
        uint8_t used_wrap_counter, old_used_wrap_counter;
        uint8_t padding[2];
    };
};
_Static_assert(offsetof(struct packed_region, used_idx) == 16, "layout");

static uint64_t *position_word(struct packed_region *region)
{
    return (void *)((uint8_t *)region + offsetof(struct packed_region, used_idx));
}

static void commit_packed(struct packed_region *region)
{
    union packed_position position = {.word = LOAD(*position_word(region))};

    STORE(region->old_free_head, LOAD(region->free_head));
    // cppcheck-suppress overlappingWriteUnion ; they are side by side
    position.old_used_idx = position.used_idx;
    // cppcheck-suppress overlappingWriteUnion ; they are side by side
    position.old_used_wrap_counter = position.used_wrap_counter;
    STORE(*position_word(region), position.word);
}

/* Ends or undoes what was under way. -EPROTO. */
static int settle_packed(struct packed_region *region, uint16_t size, struct virtqueue *ring)
{
    union packed_position position = {.word = LOAD(*position_word(region))};
    uint16_t old = position.old_used_idx;
    bool old_wrap = position.old_used_wrap_counter & 1;

    if (old >= ring->config.size || position.used_idx >= ring->config.size)
        return -EPROTO;
    /* Its flags are no more those of an available one: the used one was seen by the driver. */
    if ((position.used_idx != old || (position.used_wrap_counter & 1) != old_wrap) &&
        !vring_packed_is_available(ring, old, old_wrap))
        commit_packed(region);
    STORE(region->free_head, LOAD(region->old_free_head));
    position.word = LOAD(*position_word(region));
    // cppcheck-suppress overlappingWriteUnion ; they are side by side
    position.used_idx = position.old_used_idx;
    // cppcheck-suppress overlappingWriteUnion ; they are side by side
    position.used_wrap_counter = position.old_used_wrap_counter;
    STORE(*position_word(region), position.word);
    uint16_t at = LOAD(region->free_head);

    for (unsigned i = 0; i < size && at < size; i++) {
        STORE(region->desc[at].inflight, 0);
        at = LOAD(region->desc[at].next);
    }
    return 0;
}

static int recover_packed(struct packed_region *region, uint16_t size, struct virtqueue *ring,
                          struct vhost_inflight_lost *lost, unsigned *count)
{
    union packed_position position;
    unsigned slots = 0;
    int rc = settle_packed(region, size, ring);

    if (rc)
        return rc;
    *count = 0;
    for (uint16_t i = 0; i < size; i++) {
        if (!LOAD(region->desc[i].inflight))
            continue;
        uint16_t num = LOAD(region->desc[i].num);

        slots += num;
        if (num == 0 || slots > ring->config.size || *count >= VRING_SIZE_MAX)
            return -EPROTO;
        lost[(*count)++] = (struct vhost_inflight_lost){
            .counter = LOAD(region->desc[i].counter), .entry = i, .count = num};
    }
    position.word = LOAD(*position_word(region));
    if (position.used_idx >= ring->config.size)
        return -EPROTO;
    ring->next_used = ring->next_avail = position.used_idx;
    ring->used_wrap = ring->avail_wrap = position.used_wrap_counter & 1;
    return 0;
}

static int take_packed(struct vhost_inflight *inflight, struct vring_chain *chain)
{
    struct packed_region *region = packed_region(inflight);
    uint16_t head = LOAD(region->old_free_head), at = head, last = head;

    if (head >= inflight->size)
        return -EPROTO;
    STORE(region->desc[head].num, 0);
    STORE(region->desc[head].counter, inflight->counter++);
    STORE(region->desc[head].inflight, 1);
    for (unsigned i = 0; i < chain->slots; i++) {
        if (at >= inflight->size)
            return -EPROTO;
        struct packed_entry *entry = &region->desc[at];

        entry->addr = chain->raw[i].addr;
        entry->len = chain->raw[i].len;
        entry->flags = chain->raw[i].flags;
        entry->id = chain->raw[i].id;
        last = at;
        at = LOAD(entry->next);
        STORE(region->free_head, at);
    }
    STORE(region->desc[head].last, last);
    STORE(region->desc[head].num, chain->slots);
    /* Until here it is on the free list, which makes it not in flight after a kill. */
    STORE(region->old_free_head, at);
    chain->entry = head;
    return 0;
}

/* One at a time: its flags are the store that decides for it alone. In a larger batch those behind
 * the first would be marked as used already if it is undone, where another may come to lie. */
static void put_packed(struct vhost_inflight *inflight, struct virtqueue *ring,
                       struct vhost_memory *memory, const struct vhost_inflight_used *used)
{
    struct packed_region *region = packed_region(inflight);
    struct packed_entry *entry = &region->desc[used->entry];
    uint16_t last = LOAD(entry->last), next = ring->next_used;
    bool wrap = ring->used_wrap;
    union packed_position position;

    if (last < inflight->size)
        STORE(region->desc[last].next, LOAD(region->free_head));
    STORE(region->free_head, used->entry);
    vring_advance(ring, &next, &wrap, used->slots);
    position.word = LOAD(*position_word(region));
    position.used_idx = next;
    position.used_wrap_counter = wrap;
    STORE(*position_word(region), position.word);
    vring_put(ring, memory, used->head, used->slots, used->written);
    STORE(entry->inflight, 0);
    commit_packed(region);
}

/* ---- both ---- */

int vhost_inflight_open(struct vhost_inflight *inflight,
                        uint8_t *region, /* NOLINT(readability-non-const-parameter): it is kept */
                        uint16_t size, struct virtqueue *ring, struct vhost_inflight_lost *lost,
                        unsigned *count)
{
    struct vhost_inflight opened = {.region = region, .size = size, .packed = ring->config.packed};
    uint16_t version, entries;
    int rc = 0;

    *count = 0;
    if (size < ring->config.size || size > VRING_SIZE_MAX || (uintptr_t)region % 8)
        return -EPROTO;
    version = LOAD(split_region(&opened)->version);
    entries = LOAD(split_region(&opened)->desc_num);
    if (version > VERSION || (version == VERSION && entries != size))
        return -EPROTO;
    if (version == 0 && opened.packed)
        begin_packed(packed_region(&opened), size, ring);
    else if (version == 0)
        begin_split(split_region(&opened), size, ring);
    else if (opened.packed)
        rc = recover_packed(packed_region(&opened), size, ring, lost, count);
    else
        *count = recover_split(split_region(&opened), size, ring, lost);
    if (rc)
        return rc;
    qsort(lost, *count, sizeof(*lost), by_counter);
    opened.counter = *count ? lost[*count - 1].counter + 1 : 0;
    *inflight = opened;
    return 0;
}

int vhost_inflight_refetch(struct vhost_inflight *inflight, struct virtqueue *ring,
                           const struct vhost_memory *memory,
                           const struct vhost_inflight_lost *lost, struct vring_chain *chain)
{
    uint16_t at = lost->entry;

    vring_chain_begin(chain);

    for (unsigned i = 0; inflight->packed && i < lost->count; i++) {
        if (at >= inflight->size || i >= VRING_SIZE_MAX)
            return -EPROTO;
        struct packed_entry entry = packed_region(inflight)->desc[at];

        chain->raw[i] = (struct vring_packed_desc){entry.addr, entry.len, entry.id, entry.flags};
        at = entry.next;
    }
    int rc = vring_refetch(ring, memory, lost->head, lost->count, chain);

    chain->entry = lost->entry;
    return rc;
}

int vhost_inflight_taken(struct vhost_inflight *inflight, struct vring_chain *chain)
{
    if (!inflight->region)
        return 0;
    if (inflight->packed)
        return take_packed(inflight, chain);
    if (chain->head >= inflight->size)
        return -EPROTO;
    STORE(split_region(inflight)->desc[chain->head].counter, inflight->counter++);
    STORE(split_region(inflight)->desc[chain->head].inflight, 1);
    return 0;
}

void vhost_inflight_put(struct vhost_inflight *inflight, struct virtqueue *ring,
                        struct vhost_memory *memory, const struct vhost_inflight_used *used,
                        unsigned count)
{
    if (inflight->region && !inflight->packed) {
        put_split(inflight, ring, memory, used, count);
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        if (inflight->region)
            put_packed(inflight, ring, memory, &used[i]);
        else
            vring_put(ring, memory, used[i].head, used[i].slots, used[i].written);
    }
    vring_publish(ring, memory);
}
