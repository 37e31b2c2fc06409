/* SPDX-License-Identifier: Apache-2.0 */
/* The queues of vm_driver.h: split rings, with or without event index. */
#include "vm_driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <endian.h>
#include <string.h>

#define FLAGS 0
#define INDEX 1
#define RING  2

static bool has_event_index(const struct vm_driver *driver)
{
    return driver->features >> VIRTIO_RING_F_EVENT_IDX & 1;
}

static uint16_t load(const uint16_t *from)
{
    return le16toh(__atomic_load_n(from, __ATOMIC_ACQUIRE));
}

static void store(uint16_t *to, /* NOLINT(readability-non-const-parameter): stored to */
                  uint16_t value)
{
    __atomic_store_n(to, htole16(value), __ATOMIC_RELEASE);
}

/* ---- giving ---- */

static void fill(struct vring_desc *desc, const struct vm_buffer *buffer, bool more)
{
    desc->addr = htole64(buffer->guest);
    desc->len = htole32(buffer->length);
    desc->flags = htole16(
        (uint16_t)((buffer->writable ? VRING_DESC_F_WRITE : 0) | (more ? VRING_DESC_F_NEXT : 0)));
}

static void offer(struct vm_driver_queue *queue, uint16_t head)
{
    uint16_t index = load(&queue->avail[INDEX]);

    store(&queue->avail[RING + index % queue->size], head);
    store(&queue->avail[INDEX], (uint16_t)(index + 1));
}

uint16_t vm_driver_add(struct vm_driver *driver, unsigned index, const struct vm_buffer *buffers,
                       unsigned count)
{
    struct vm_driver_queue *queue = &driver->queue[index];
    uint16_t head = queue->free, at = head;

    assert_in_range(count, 1, queue->free_count);
    for (unsigned i = 0; i < count; i++) {
        fill(&queue->desc[at], &buffers[i], i + 1 < count);
        queue->free = at = le16toh(queue->desc[at].next);
    }
    queue->free_count = (uint16_t)(queue->free_count - count);
    queue->chain[head] = (uint16_t)count;
    offer(queue, head);
    return head;
}

uint16_t vm_driver_add_indirect(struct vm_driver *driver, unsigned index,
                                const struct vm_buffer *buffers, unsigned count)
{
    struct vm_driver_queue *queue = &driver->queue[index];
    uint64_t table_at = vm_driver_alloc(driver, 16u * count);
    struct vring_desc *table = vm_driver_at(driver, table_at, 16u * count);
    uint16_t head = queue->free;

    assert_in_range(queue->free_count, 1, queue->size);
    for (unsigned i = 0; i < count; i++) {
        fill(&table[i], &buffers[i], i + 1 < count);
        table[i].next = htole16((uint16_t)(i + 1));
    }
    queue->desc[head].addr = htole64(table_at);
    queue->desc[head].len = htole32(16u * count);
    queue->desc[head].flags = htole16(VRING_DESC_F_INDIRECT);
    queue->free = le16toh(queue->desc[head].next);
    queue->free_count--;
    queue->chain[head] = 1;
    offer(queue, head);
    return head;
}

bool vm_driver_kick(struct vm_driver *driver, unsigned index)
{
    struct vm_driver_queue *queue = &driver->queue[index];
    uint16_t before = queue->kicked, now = load(&queue->avail[INDEX]);
    bool wanted;

    __sync_synchronize();
    queue->kicked = now;
    if (has_event_index(driver))
        wanted = vring_need_event(load(&queue->used[RING + 4u * queue->size]), now, before);
    else
        wanted = !(load(&queue->used[FLAGS]) & VRING_USED_F_NO_NOTIFY);
    if (wanted && driver->by_register)
        vm_driver_write(driver, VIRTIO_MMIO_QUEUE_NOTIFY, index);
    else if (wanted)
        assert_int_equal(eventfd_write(driver->device->kick[index], 1), 0);
    return wanted;
}

/* ---- getting back ---- */

bool vm_driver_take(struct vm_driver *driver, unsigned index, uint16_t *head, uint32_t *length)
{
    struct vm_driver_queue *queue = &driver->queue[index];
    struct vring_used_elem element;
    uint16_t last, id;

    assert_in_range((uint16_t)(load(&queue->used[INDEX]) - queue->seen), 0, queue->size);
    if (load(&queue->used[INDEX]) == queue->seen)
        return false;
    memcpy(&element, (const uint8_t *)queue->used + 4 + 8u * (queue->seen % queue->size),
           sizeof(element));
    assert_in_range(le32toh(element.id), 0, queue->size - 1u);
    id = (uint16_t)le32toh(element.id);
    assert_int_not_equal(queue->chain[id], 0); /* neither twice nor what was not given */
    last = id;
    for (unsigned i = 1; i < queue->chain[id]; i++)
        last = le16toh(queue->desc[last].next);
    queue->desc[last].next = htole16(queue->free);
    queue->free = id;
    queue->free_count = (uint16_t)(queue->free_count + queue->chain[id]);
    queue->chain[id] = 0;
    queue->seen++;
    if (has_event_index(driver))
        store(&queue->avail[RING + queue->size], queue->seen);
    __sync_synchronize();
    *head = id;
    *length = le32toh(element.len);
    return true;
}

uint32_t vm_driver_wait(struct vm_driver *driver, unsigned index, uint16_t *head)
{
    uint32_t length;

    while (!vm_driver_take(driver, index, head, &length))
        (void)vm_driver_interrupt(driver);
    return length;
}

uint32_t vm_driver_do(struct vm_driver *driver, unsigned index, const struct vm_buffer *buffers,
                      unsigned count)
{
    uint16_t head = vm_driver_add(driver, index, buffers, count), used;
    uint32_t length;

    (void)vm_driver_kick(driver, index);
    length = vm_driver_wait(driver, index, &used);
    assert_int_equal(used, head);
    return length;
}
