/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See queue.h. The addresses that a driver gives are the guest's; vring.h's "user addresses" are
 * made the same.
 */
#include "queue.h"

#include <errno.h>
#include <stdlib.h>

/* How often the driver may take back what it has just made available, before we wait for it. */
#define LOOKS 4

struct vm_queues *vm_queues_new(const struct vm_memory *memory, unsigned count)
{
    struct vm_queues *queues = calloc(1, sizeof(*queues));

    if (!queues)
        return NULL;
    queues->count = count;
    for (unsigned i = 0; i < memory->count; i++) {
        const struct vm_region *region = &memory->region[i];

        if (vhost_memory_add_mapped(&queues->memory, region->guest, region->size, region->guest,
                                    region->host, NULL)) {
            free(queues);
            return NULL;
        }
    }
    return queues;
}

void vm_queues_free(struct vm_queues *queues)
{
    free(queues);
}

/* ---- start and stop ---- */

static int start_queue(struct vm_queues *queues, unsigned index, const struct virtio_device *device)
{
    const struct virtio_queue_settings *settings = &device->queue[index];
    struct vm_queue *queue = &queues->queue[index];
    int rc;

    queue->ring.config = (struct vring_config){
        .size = settings->size,
        .event_index = virtio_has(device, VIRTIO_RING_F_EVENT_IDX),
        .indirect = virtio_has(device, VIRTIO_RING_F_INDIRECT_DESC),
        .desc = settings->desc,
        .avail = settings->avail,
        .used = settings->used,
    };
    rc = vring_resolve(&queue->ring, &queues->memory);
    if (rc == 0) {
        vring_start(&queue->ring, queue->base);
        queue->on = true;
    }
    return rc;
}

int vm_queues_start(struct vm_queues *queues, const struct virtio_device *device)
{
    for (unsigned i = 0; i < queues->count; i++) {
        int rc = device->queue[i].ready ? start_queue(queues, i, device) : 0;

        if (rc) {
            vm_queues_stop(queues, false);
            return rc;
        }
    }
    return 0;
}

void vm_queues_stop(struct vm_queues *queues, bool keep)
{
    for (unsigned i = 0; i < queues->count; i++) {
        struct vm_queue *queue = &queues->queue[i];

        if (queue->on)
            queue->base = vring_base(&queue->ring);
        if (!keep)
            queue->base = 0;
        queue->on = false;
    }
}

/* ---- requests ---- */

int vm_queue_fetch(struct vm_queues *queues, unsigned index)
{
    struct vm_queue *queue = &queues->queue[index];
    int rc = 0;

    if (!queue->on)
        return 0;
    for (unsigned i = 0; i < LOOKS; i++) {
        rc = vring_fetch(&queue->ring, &queues->memory, &queues->chain);
        if (rc || !vring_want_kicks(&queue->ring, &queues->memory))
            break;
    }
    return rc;
}

void vm_queue_unfetch(struct vm_queues *queues, unsigned index, uint16_t head)
{
    struct virtqueue *ring = &queues->queue[index].ring;

    ring->next_avail--;
    ring->busy[head / 8] &= (uint8_t) ~(1u << head % 8);
}

void vm_queue_put(struct vm_queues *queues, unsigned index, uint16_t head, uint16_t slots,
                  uint32_t written)
{
    struct vm_queue *queue = &queues->queue[index];

    if (queue->on)
        vring_put(&queue->ring, &queues->memory, head, slots, written);
}

void vm_queue_publish(struct vm_queues *queues, unsigned index, struct virtio_device *device)
{
    struct vm_queue *queue = &queues->queue[index];

    if (!queue->on)
        return;
    vring_publish(&queue->ring, &queues->memory);
    if (vring_should_call(&queue->ring))
        virtio_interrupt(device);
}

int vm_queue_read(struct vm_queues *queues, uint64_t skip, void *to, size_t length)
{
    const struct vring_chain *chain = &queues->chain;

    return vring_chain_read(&queues->memory, chain->segment, chain->readable, skip, to, length);
}

int vm_queue_write(struct vm_queues *queues, uint64_t skip, const void *from, size_t length)
{
    const struct vring_chain *chain = &queues->chain;

    return vring_chain_write(&queues->memory, chain->segment + chain->readable, chain->writable,
                             skip, from, length);
}

/* ---- state ---- */

json_t *vm_queues_save(const struct vm_queues *queues)
{
    json_t *bases = json_array();

    for (unsigned i = 0; bases && i < queues->count; i++) {
        if (json_array_append_new(bases, json_integer(queues->queue[i].base))) {
            json_decref(bases);
            bases = NULL;
        }
    }
    return bases;
}

int vm_queues_load(struct vm_queues *queues, const json_t *from)
{
    if (json_array_size(from) != queues->count)
        return -EINVAL;
    for (unsigned i = 0; i < queues->count; i++) {
        const json_t *base = json_array_get(from, i);

        /* Rings are split, and their index has 16 bits. */
        if (!json_is_integer(base) || json_integer_value(base) < 0 ||
            json_integer_value(base) > UINT16_MAX)
            return -EINVAL;
        queues->queue[i].base = (uint32_t)json_integer_value(base);
    }
    return 0;
}
