/* SPDX-License-Identifier: Apache-2.0 */
/* See vm_slow.h. */
#include "vm_slow.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct vm_slow *slow_of(struct virtio_device *device)
{
    return (struct vm_slow *)device;
}

static void read_config(struct virtio_device *device, uint32_t offset, uint8_t *data, unsigned size)
{
    memcpy(data, slow_of(device)->config + offset, size);
}

static void write_config(struct virtio_device *device, uint32_t offset, const uint8_t *data,
                         unsigned size)
{
    memcpy(slow_of(device)->config + offset, data, size);
}

static void kicked(struct virtio_device *device, unsigned queue)
{
    struct vm_slow *slow = slow_of(device);
    int rc = 0;

    slow->kicks++;
    while (slow->held_count < VM_SLOW_HELD_MAX && (rc = vm_queue_fetch(slow->queues, queue)) > 0) {
        const struct vring_chain *chain = &slow->queues->chain;

        if (chain->writable_bytes == 0) {
            rc = -EPROTO;
            break;
        }
        slow->held[slow->held_count++] =
            (struct vm_slow_held){queue, chain->head, chain->segment[chain->readable].guest};
    }
    if (rc < 0)
        virtio_fail(device);
}

void vm_slow_answer(struct vm_slow *slow, unsigned count)
{
    pthread_mutex_lock(&slow->device.lock);
    for (unsigned i = 0; i < count; i++) {
        const struct vm_slow_held *held = &slow->held[i];
        uint8_t *at = vm_memory_at(slow->device.memory, held->guest, 1);

        ++*at;
        vm_queue_put(slow->queues, held->queue, held->head, 1, 1);
        vm_queue_publish(slow->queues, held->queue, &slow->device);
    }
    slow->held_count -= count;
    memmove(slow->held, slow->held + count, slow->held_count * sizeof(slow->held[0]));
    pthread_mutex_unlock(&slow->device.lock);
}

static int start(struct virtio_device *device)
{
    struct vm_slow *slow = slow_of(device);

    slow->starts++;
    return slow->refuse ? slow->refuse : vm_queues_start(slow->queues, device);
}

static void stop(struct virtio_device *device, bool keep)
{
    struct vm_slow *slow = slow_of(device);

    slow->stops++;
    vm_queues_stop(slow->queues, keep);
    if (!keep)
        slow->held_count = 0;
}

static int save(struct virtio_device *device, json_t *to, struct vdisk_error *error)
{
    const struct vm_slow *slow = slow_of(device);
    json_t *held = json_array();

    (void)error;
    for (unsigned i = 0; i < slow->held_count; i++)
        json_array_append_new(held, json_pack("[i, i, I]", slow->held[i].queue, slow->held[i].head,
                                              (json_int_t)slow->held[i].guest));
    return json_object_set_new(to, "held", held) ||
                   json_object_set_new(to, "queues", vm_queues_save(slow->queues))
               ? -ENOMEM
               : 0;
}

static int load(struct virtio_device *device, const json_t *from, struct vdisk_error *error)
{
    struct vm_slow *slow = slow_of(device);
    json_t *held = json_object_get(from, "held");

    (void)error;
    if (json_array_size(held) > VM_SLOW_HELD_MAX)
        return -EINVAL;
    for (slow->held_count = 0; slow->held_count < json_array_size(held); slow->held_count++) {
        int queue, head;
        json_int_t guest;

        if (json_unpack(json_array_get(held, slow->held_count), "[i, i, I!]", &queue, &head,
                        &guest))
            return -EINVAL;
        slow->held[slow->held_count] =
            (struct vm_slow_held){(unsigned)queue, (uint16_t)head, (uint64_t)guest};
    }
    return vm_queues_load(slow->queues, json_object_get(from, "queues"));
}

static void free_slow(struct virtio_device *device)
{
    vm_queues_free(slow_of(device)->queues);
    free(device);
}

struct vm_slow *vm_slow_new(const struct vm_memory *memory, struct reactor *reactor)
{
    static const struct virtio_ops ops = {
        .read_config = read_config,
        .write_config = write_config,
        .start = start,
        .stop = stop,
        .kicked = kicked,
        .save = save,
        .load = load,
        .free = free_slow,
    };
    struct vm_slow *slow = calloc(1, sizeof(*slow));

    assert_non_null(slow);
    slow->device = (struct virtio_device){
        .ops = &ops,
        .name = "slow",
        .id = VM_SLOW_ID,
        .offered = VM_QUEUE_FEATURES | VM_SLOW_FEATURES,
        .queues = VM_SLOW_QUEUES,
        .queue_max = VM_SLOW_QUEUE,
        .config_bytes = VM_SLOW_CONFIG,
    };
    slow->queues = vm_queues_new(memory, VM_SLOW_QUEUES);
    assert_non_null(slow->queues);
    assert_int_equal(virtio_init(&slow->device, memory, reactor), 0);
    return slow;
}
