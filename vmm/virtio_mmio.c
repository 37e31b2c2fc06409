/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registers: below 0x100 of 4 bytes each, which are read and written only as a whole, from
 * there on the device's configuration. What is not there, or not of that size, reads as zeros and
 * is not written; so is what comes before its turn (virtio.c knows the order).
 */
#include "virtio_mmio.h"

#include "layout.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_mmio.h>
#include <string.h>

#define MAGIC        0x74726976u /* "virt" */
#define VERSION      2u
#define VENDOR       0x6b736476u /* "vdsk" */
#define CONFIG_BYTES (VM_VIRTIO_BYTES - VIRTIO_MMIO_CONFIG)

static bool is_config(const struct virtio_device *device, uint64_t offset, unsigned size)
{
    return offset >= VIRTIO_MMIO_CONFIG && size <= device->config_bytes &&
           offset - VIRTIO_MMIO_CONFIG <= device->config_bytes - size;
}

static bool is_register(uint64_t offset, unsigned size)
{
    return offset < VIRTIO_MMIO_CONFIG && size == 4 && offset % 4 == 0;
}

/* ---- reads ---- */

static uint32_t read_features(const struct virtio_device *device)
{
    return device->features_select < 2 ? (uint32_t)(device->offered >> 32 * device->features_select)
                                       : 0;
}

static uint32_t read_queue(const struct virtio_device *device, uint64_t offset)
{
    if (device->queue_select >= device->queues)
        return 0;
    return offset == VIRTIO_MMIO_QUEUE_NUM_MAX ? device->queue_max
                                               : device->queue[device->queue_select].ready;
}

/* Another process raises interrupts without telling us. */
static uint32_t read_interrupts(const struct virtio_device *device)
{
    return device->interrupts | (device->outside_interrupts ? VIRTIO_MMIO_INT_VRING : 0);
}

static uint32_t read_register(const struct virtio_device *device, uint64_t offset)
{
    switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
        return MAGIC;
    case VIRTIO_MMIO_VERSION:
        return VERSION;
    case VIRTIO_MMIO_DEVICE_ID:
        return device->id;
    case VIRTIO_MMIO_VENDOR_ID:
        return VENDOR;
    case VIRTIO_MMIO_DEVICE_FEATURES:
        return read_features(device);
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
    case VIRTIO_MMIO_QUEUE_READY:
        return read_queue(device, offset);
    case VIRTIO_MMIO_INTERRUPT_STATUS:
        return read_interrupts(device);
    case VIRTIO_MMIO_STATUS:
        return device->status;
    case VIRTIO_MMIO_CONFIG_GENERATION:
        return device->generation;
    case VIRTIO_MMIO_SHM_LEN_LOW: /* there is no shared memory */
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
        return UINT32_MAX;
    default:
        return 0;
    }
}

static void mmio_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    struct virtio_device *device = opaque;

    memset(data, 0, size);
    pthread_mutex_lock(&device->lock);
    if (is_register(offset, size)) {
        uint32_t value = htole32(read_register(device, offset));

        memcpy(data, &value, sizeof(value));
    } else if (is_config(device, offset, size) && device->ops->read_config) {
        device->ops->read_config(device, (uint32_t)offset - VIRTIO_MMIO_CONFIG, data, size);
    }
    pthread_mutex_unlock(&device->lock);
}

/* ---- writes ---- */

static void set_half(uint64_t *whole, bool high, uint32_t value)
{
    const unsigned shift = high ? 32 : 0;

    *whole = (*whole & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)value << shift;
}

static void write_features(struct virtio_device *device, uint32_t value)
{
    if (!virtio_can_set_features(device))
        return;
    if (device->accepted_select < 2)
        set_half(&device->accepted, device->accepted_select == 1, value);
    else
        device->accepted_beyond |= value != 0;
}

static void write_queue(struct virtio_device *device, uint64_t offset, uint32_t value)
{
    struct virtio_queue_settings *queue;

    if (!virtio_can_set_queue(device, device->queue_select))
        return;
    queue = &device->queue[device->queue_select];
    switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
        if (virtio_is_size(device, value))
            queue->size = (uint16_t)value;
        break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
        set_half(&queue->desc, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
        break;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
        set_half(&queue->avail, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
        break;
    default:
        set_half(&queue->used, offset == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
    }
}

static void write_register(struct virtio_device *device, uint64_t offset, uint32_t value)
{
    switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
        device->features_select = value;
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
        device->accepted_select = value;
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES:
        write_features(device, value);
        break;
    case VIRTIO_MMIO_QUEUE_SEL:
        device->queue_select = value;
        break;
    case VIRTIO_MMIO_QUEUE_READY:
        virtio_set_ready(device, device->queue_select, value == 1);
        break;
    case VIRTIO_MMIO_QUEUE_NOTIFY: /* where KVM did not catch it */
        if (value < device->queues)
            virtio_kick(device, value);
        break;
    case VIRTIO_MMIO_INTERRUPT_ACK:
        device->interrupts &= ~value;
        break;
    case VIRTIO_MMIO_STATUS:
        virtio_set_status(device, value);
        break;
    case VIRTIO_MMIO_QUEUE_NUM:
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
    case VIRTIO_MMIO_QUEUE_USED_LOW:
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
        write_queue(device, offset, value);
        break;
    default:
        break;
    }
}

static void mmio_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct virtio_device *device = opaque;

    pthread_mutex_lock(&device->lock);
    if (is_register(offset, size)) {
        uint32_t value;

        memcpy(&value, data, sizeof(value));
        write_register(device, offset, le32toh(value));
    } else if (is_config(device, offset, size) && device->ops->write_config) {
        device->ops->write_config(device, (uint32_t)offset - VIRTIO_MMIO_CONFIG, data, size);
    }
    pthread_mutex_unlock(&device->lock);
}

int virtio_mmio_add(struct vm_bus *mmio, uint64_t address, struct virtio_device *device)
{
    static const struct vm_bus_ops ops = {mmio_read, mmio_write};

    if (device->config_bytes > CONFIG_BYTES)
        return -EINVAL;
    return vm_bus_add(mmio, address, VM_VIRTIO_BYTES, &ops, device);
}
