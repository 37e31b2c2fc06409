/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver: rings. See vhost_client.h.
 *
 * A queue's memory: RING_BYTES of ring (descriptors, from CLIENT_AVAIL_AT what the driver writes,
 * from CLIENT_USED_AT what the device writes), then for each slot an indirect table, a header with
 * room for ranges and the status, and the data.
 */
#include "vhost_client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#define RING_BYTES   16384u
#define TABLE_BYTES  256u
#define HEADER_BYTES 2048u
#define STATUS_AT    2040u
#define DIRECT       4u /* descriptors of a slot without indirect tables */
#define AVAIL_BIT    (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED_BIT     (1u << VRING_PACKED_DESC_F_USED)
#define WRAP_BIT     (1u << VRING_PACKED_EVENT_F_WRAP_CTR)

struct piece {
    uint64_t guest;
    uint32_t length;
    bool writable;
};

static bool has(const struct client *client, unsigned feature)
{
    return client->features & CLIENT_BIT(feature);
}

static uint16_t load(const void *at)
{
    return __atomic_load_n((const uint16_t *)at, __ATOMIC_ACQUIRE);
}

static void store(void *at, uint16_t value)
{
    __atomic_store_n((uint16_t *)at, value, __ATOMIC_RELEASE);
}

static uint16_t *avail_of(const struct client_queue *queue)
{
    return (void *)(queue->ring + CLIENT_AVAIL_AT);
}

static uint16_t *used_of(const struct client_queue *queue)
{
    return (void *)(queue->ring + CLIENT_USED_AT);
}

/* ---- where things are ---- */

size_t client_queue_bytes(const struct client_options *options)
{
    size_t bytes =
        RING_BYTES + options->ring_size * (TABLE_BYTES + HEADER_BYTES + options->data_bytes);

    return (bytes + 4095) / 4096 * 4096;
}

void client_queue_reset(struct client *client, unsigned index)
{
    struct client_queue *queue = &client->queue[index];

    memset(queue->ring, 0, RING_BYTES);
    memset(queue->slot, 0, sizeof(queue->slot));
    queue->next_avail = queue->next_used = queue->added = 0;
    queue->avail_wrap = queue->used_wrap = true;
    queue->descriptors_free = client->options.ring_size;
}

void client_queue_init(struct client *client, unsigned index, uint8_t *memory)
{
    struct client_queue *queue = &client->queue[index];
    size_t size = client->options.ring_size;

    queue->ring = memory;
    queue->data = memory + RING_BYTES;
    queue->headers = queue->data + size * client->options.data_bytes;
    queue->tables = queue->headers + size * HEADER_BYTES;
    client_queue_reset(client, index);
}

uint64_t client_guest(const struct client *client, const void *at)
{
    return CLIENT_GUEST + (uint64_t)((const uint8_t *)at - client->memory);
}

void client_queue_address(const struct client *client, unsigned index,
                          struct vhost_wire_address *address)
{
    const uint8_t *ring = client->queue[index].ring;

    *address = (struct vhost_wire_address){
        .index = index,
        .desc = (uintptr_t)ring,
        .avail = (uintptr_t)ring + CLIENT_AVAIL_AT,
        .used = (uintptr_t)ring + CLIENT_USED_AT,
        .log = client_guest(client, ring + CLIENT_USED_AT),
    };
}

uint32_t client_queue_base(const struct client *client, unsigned index)
{
    const struct client_queue *queue = &client->queue[index];
    uint32_t position = queue->next_used | (uint32_t)queue->used_wrap << 15;

    if (!has(client, VIRTIO_F_RING_PACKED))
        return load(used_of(queue) + 1);
    return position | position << 16;
}

int client_slot(struct client *client, unsigned index)
{
    struct client_queue *queue = &client->queue[index];
    bool is_indirect = has(client, VIRTIO_RING_F_INDIRECT_DESC);
    unsigned slots = client->options.ring_size / (is_indirect ? 1 : DIRECT);

    if (queue->descriptors_free < (is_indirect ? 1 : DIRECT))
        return -1;
    for (unsigned i = 0; i < slots; i++)
        if (!queue->slot[i].busy)
            return (int)i;
    return -1;
}

uint8_t *client_data(struct client *client, unsigned index, int slot)
{
    return client->queue[index].data + (size_t)slot * client->options.data_bytes;
}

static uint8_t *header_of(struct client_queue *queue, int slot)
{
    return queue->headers + (size_t)slot * HEADER_BYTES;
}

/* ---- making available ---- */

/* The data in `segments` pieces of unequal lengths. */
static unsigned cut(struct piece *pieces, uint64_t guest, uint32_t length, bool writable,
                    unsigned segments)
{
    unsigned count = 0;

    for (; length > 0; count++) {
        uint32_t part = count + 1 < segments ? length / (segments - count) / 2 + 1 : length;

        pieces[count] = (struct piece){guest, part, writable};
        guest += part;
        length -= part;
    }
    return count;
}

static void make_split(struct client *client, struct client_queue *queue, int slot,
                       const struct piece *pieces, unsigned count)
{
    bool is_indirect = has(client, VIRTIO_RING_F_INDIRECT_DESC);
    struct vring_desc *ring = (void *)queue->ring;
    struct vring_desc *table = (void *)(queue->tables + (size_t)slot * TABLE_BYTES);
    unsigned first = is_indirect ? 0 : (unsigned)slot * DIRECT;
    struct vring_desc *to = is_indirect ? table : ring + first;
    uint16_t *avail = avail_of(queue);

    for (unsigned i = 0; i < count; i++)
        to[i] = (struct vring_desc){
            .addr = pieces[i].guest,
            .len = pieces[i].length,
            .flags = (uint16_t)((pieces[i].writable ? VRING_DESC_F_WRITE : 0) |
                                (i + 1 < count ? VRING_DESC_F_NEXT : 0)),
            .next = (uint16_t)(i + 1 < count ? first + i + 1 : 0),
        };
    if (is_indirect)
        ring[slot] = (struct vring_desc){.addr = client_guest(client, table),
                                         .len = count * (uint32_t)sizeof(*table),
                                         .flags = VRING_DESC_F_INDIRECT};
    avail[2 + queue->next_avail % client->options.ring_size] =
        (uint16_t)(is_indirect ? (unsigned)slot : first);
    store(&avail[1], ++queue->next_avail);
    queue->added++;
}

static void advance(const struct client *client, uint16_t *at, bool *wrap, unsigned by)
{
    unsigned next = *at + by;

    if (next >= client->options.ring_size) {
        next -= client->options.ring_size;
        *wrap = !*wrap;
    }
    *at = (uint16_t)next;
}

static void make_packed(struct client *client, struct client_queue *queue, int slot,
                        const struct piece *pieces, unsigned count)
{
    struct vring_packed_desc *ring = (void *)queue->ring;
    struct vring_packed_desc *table = (void *)(queue->tables + (size_t)slot * TABLE_BYTES);
    struct piece indirect = {client_guest(client, table), count * (uint32_t)sizeof(*table), false};
    bool is_indirect = has(client, VIRTIO_RING_F_INDIRECT_DESC);
    uint16_t head = queue->next_avail, head_flags = 0;

    if (is_indirect) {
        for (unsigned i = 0; i < count; i++)
            table[i] =
                (struct vring_packed_desc){.addr = pieces[i].guest,
                                           .len = pieces[i].length,
                                           .flags = pieces[i].writable ? VRING_DESC_F_WRITE : 0};
        pieces = &indirect;
        count = 1;
    }
    for (unsigned i = 0; i < count; i++) {
        struct vring_packed_desc *desc = &ring[queue->next_avail];
        uint16_t flags = (uint16_t)((queue->avail_wrap ? AVAIL_BIT : USED_BIT) |
                                    (pieces[i].writable ? VRING_DESC_F_WRITE : 0) |
                                    (is_indirect ? VRING_DESC_F_INDIRECT : 0) |
                                    (i + 1 < count ? VRING_DESC_F_NEXT : 0));

        desc->addr = pieces[i].guest;
        desc->len = pieces[i].length;
        desc->id = (uint16_t)slot;
        if (i == 0)
            head_flags = flags; /* last, for it makes all of them available */
        else
            desc->flags = flags;
        advance(client, &queue->next_avail, &queue->avail_wrap, 1);
    }
    store(&ring[head].flags, head_flags);
    queue->slot[slot].descriptors = (uint16_t)count;
    queue->descriptors_free -= count;
    queue->added = (uint16_t)(queue->added + count);
}

void client_submit(struct client *client, unsigned index, int slot, uint32_t type, uint64_t offset,
                   uint32_t out, uint32_t in, unsigned segments)
{
    struct client_queue *queue = &client->queue[index];
    struct client_slot *state = &queue->slot[slot];
    struct virtio_blk_outhdr header = {.type = type, .sector = offset / 512};
    uint64_t data = client_guest(client, client_data(client, index, slot));
    unsigned limit = has(client, VIRTIO_RING_F_INDIRECT_DESC) ? CLIENT_SEGMENTS : DIRECT - 2;
    struct piece pieces[CLIENT_SEGMENTS + 2];
    uint8_t *place = header_of(queue, slot);
    unsigned count = 1;

    *state = (struct client_slot){.busy = true,
                                  .type = type,
                                  .offset = offset,
                                  .length = out + in,
                                  .answers = state->answers};
    memcpy(place, &header, sizeof(header));
    place[STATUS_AT] = 255;
    pieces[0] = (struct piece){client_guest(client, place), sizeof(header), false};
    segments = segments < limit ? segments : limit;
    count += cut(pieces + count, data, out + in, in > 0, segments ? segments : 1);
    pieces[count++] = (struct piece){client_guest(client, place + STATUS_AT), 1, true};
    if (has(client, VIRTIO_F_RING_PACKED))
        make_packed(client, queue, slot, pieces, count);
    else
        make_split(client, queue, slot, pieces, count);
}

static bool wants_kick(const struct client *client, const struct client_queue *queue)
{
    const uint16_t *used = used_of(queue);
    uint16_t size = client->options.ring_size, old = (uint16_t)(queue->next_avail - queue->added);

    __sync_synchronize();
    if (!has(client, VIRTIO_F_RING_PACKED)) {
        if (!has(client, VIRTIO_RING_F_EVENT_IDX))
            return !(load(used) & VRING_USED_F_NO_NOTIFY);
        return vring_need_event(load(&used[2 + 4u * size]), queue->next_avail, old);
    }
    uint16_t off_wrap = load(used), flags = load(used + 1) & 3;

    if (flags != VRING_PACKED_EVENT_FLAG_DESC)
        return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
    uint16_t event = off_wrap & (WRAP_BIT - 1);

    if (queue->avail_wrap != (off_wrap >> VRING_PACKED_EVENT_F_WRAP_CTR))
        event = (uint16_t)(event - size);
    return vring_need_event(event, queue->next_avail, old);
}

void client_kick(struct client *client, unsigned index)
{
    struct client_queue *queue = &client->queue[index];

    if (wants_kick(client, queue))
        (void)eventfd_write(queue->kick, 1);
    queue->added = 0;
}

/* ---- what has ended ---- */

static bool next_used(struct client *client, struct client_queue *queue, unsigned *slot,
                      uint32_t *written)
{
    if (!has(client, VIRTIO_F_RING_PACKED)) {
        const uint16_t *used = used_of(queue);
        unsigned at = queue->next_used % client->options.ring_size;
        struct vring_used_elem element;

        if (load(&used[1]) == queue->next_used)
            return false;
        memcpy(&element, &used[2 + 4 * at], sizeof(element));
        *slot = element.id / (has(client, VIRTIO_RING_F_INDIRECT_DESC) ? 1 : DIRECT);
        *written = element.len;
        queue->next_used++;
        return true;
    }
    const struct vring_packed_desc *desc =
        (const struct vring_packed_desc *)(const void *)queue->ring + queue->next_used;
    unsigned flags = load(&desc->flags);

    if (!!(flags & AVAIL_BIT) != queue->used_wrap || !!(flags & USED_BIT) != queue->used_wrap)
        return false;
    *slot = desc->id;
    *written = desc->len;
    queue->descriptors_free += queue->slot[*slot % CLIENT_RING_MAX].descriptors;
    advance(client, &queue->next_used, &queue->used_wrap,
            queue->slot[*slot % CLIENT_RING_MAX].descriptors);
    return true;
}

static void want_calls(struct client *client, struct client_queue *queue)
{
    uint16_t *avail = avail_of(queue);

    if (!has(client, VIRTIO_RING_F_EVENT_IDX))
        return; /* always */
    if (has(client, VIRTIO_F_RING_PACKED)) {
        store(avail, (uint16_t)(queue->next_used | (queue->used_wrap ? WRAP_BIT : 0)));
        store(avail + 1, VRING_PACKED_EVENT_FLAG_DESC);
    } else {
        store(&avail[2 + client->options.ring_size], queue->next_used);
    }
    __sync_synchronize();
}

unsigned client_poll(struct client *client, unsigned index)
{
    struct client_queue *queue = &client->queue[index];
    unsigned slot, count = 0;
    uint32_t written;

    while (next_used(client, queue, &slot, &written)) {
        struct client_slot *state = &queue->slot[slot % CLIENT_RING_MAX];

        state->status = header_of(queue, (int)slot)[STATUS_AT];
        state->written = written;
        state->answers++;
        state->busy = false;
        state->ended = true;
        count++;
    }
    return count;
}

int client_wait(struct client *client, unsigned index)
{
    struct client_queue *queue = &client->queue[index];
    eventfd_t ignored;

    while (client_poll(client, index) == 0) {
        struct pollfd ready = {.fd = queue->call, .events = POLLIN};

        want_calls(client, queue);
        if (client_poll(client, index) > 0)
            return 0;
        if (poll(&ready, 1, CLIENT_PATIENCE) <= 0)
            return -ETIMEDOUT;
        (void)eventfd_read(queue->call, &ignored);
    }
    return 0;
}

int client_request(struct client *client, unsigned index, uint32_t type, uint64_t offset,
                   void *data, uint32_t length)
{
    bool is_in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
    int slot = client_slot(client, index), result;

    if (slot < 0 || length > client->options.data_bytes)
        return -EBUSY;
    if (!is_in && length > 0)
        memcpy(client_data(client, index, slot), data, length);
    client_submit(client, index, slot, type, offset, is_in ? 0 : length, is_in ? length : 0, 3);
    client_kick(client, index);
    while (!client->queue[index].slot[slot].ended) {
        result = client_wait(client, index);
        if (result)
            return result;
    }
    if (is_in && length > 0)
        memcpy(data, client_data(client, index, slot), length);
    return client->queue[index].slot[slot].status;
}
