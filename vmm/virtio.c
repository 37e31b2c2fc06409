/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What devices of virtio have in common: the driver's steps, kicks, interrupts, pausing.
 *
 * Invariants:
 * - `started` is true exactly between an ops->start() that succeeded and ops->stop().
 * - What a kind keeps for going on is forgotten with a reset, also when it could not go on.
 * - A device that starts, or goes on, finds all its queues kicked: what the driver had made
 *   available while nobody looked is not forgotten.
 * - While paused no edge leaves; what has come up meanwhile is in `interrupts`, and told with
 *   virtio_resume().
 */
#include "virtio.h"

#include <errno.h>
#include <linux/virtio_mmio.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define BIT(number) (UINT64_C(1) << (number))

struct virtio_kick {
    struct virtio_device *device;
    unsigned queue;
    bool armed, ending;
    struct reactor_op poll;
};

/* ---- interrupts ---- */

static void signal_driver(struct virtio_device *device, uint32_t reason)
{
    device->interrupts |= reason;
    if (!device->paused)
        vm_line_pulse(&device->line);
}

void virtio_interrupt(struct virtio_device *device)
{
    signal_driver(device, VIRTIO_MMIO_INT_VRING);
}

void virtio_config_changed(struct virtio_device *device)
{
    device->generation++;
    if (device->status & VIRTIO_CONFIG_S_DRIVER)
        signal_driver(device, VIRTIO_MMIO_INT_CONFIG);
}

void virtio_fail(struct virtio_device *device)
{
    if (device->status & VIRTIO_CONFIG_S_NEEDS_RESET)
        return;
    device->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    if (device->status & VIRTIO_CONFIG_S_DRIVER_OK)
        signal_driver(device, VIRTIO_MMIO_INT_CONFIG);
}

/* ---- kicks ---- */

void virtio_kick(const struct virtio_device *device, unsigned queue)
{
    (void)eventfd_write(device->kick[queue], 1); /* a full counter is a kick already */
}

static void kick_ready(const struct virtio_device *device)
{
    for (unsigned i = 0; i < device->queues; i++)
        if (device->queue[i].ready)
            virtio_kick(device, i);
}

static void arm(struct virtio_kick *kick);

static void kicked(struct reactor_op *op)
{
    struct virtio_kick *kick = op->owner;
    struct virtio_device *device = kick->device;
    eventfd_t count;

    kick->armed = false;
    if (kick->ending)
        return;
    pthread_mutex_lock(&device->lock);
    if (op->result < 0 || (eventfd_read(device->kick[kick->queue], &count) && errno != EAGAIN)) {
        virtio_fail(device);
    } else {
        if (virtio_serves(device))
            device->ops->kicked(device, kick->queue);
        arm(kick);
    }
    pthread_mutex_unlock(&device->lock);
}

static void arm(struct virtio_kick *kick)
{
    kick->poll = (struct reactor_op){
        .kind = REACTOR_POLL,
        .fd = kick->device->kick[kick->queue],
        .events = POLLIN,
        .done = kicked,
        .owner = kick,
    };
    kick->armed = true;
    reactor_submit(kick->device->reactor, &kick->poll);
}

static int watch_kicks(struct virtio_device *device)
{
    if (!device->ops->kicked)
        return 0;
    device->kicks = calloc(VIRTIO_QUEUES_MAX, sizeof(*device->kicks));
    if (!device->kicks)
        return -ENOMEM;
    for (unsigned i = 0; i < device->queues; i++) {
        device->kicks[i].device = device;
        device->kicks[i].queue = i;
        arm(&device->kicks[i]);
    }
    return 0;
}

static void forget_kicks(struct virtio_device *device)
{
    if (!device->kicks)
        return;
    for (unsigned i = 0; i < device->queues; i++) {
        device->kicks[i].ending = true;
        if (device->kicks[i].armed)
            reactor_cancel(device->reactor, &device->kicks[i].poll);
    }
    for (unsigned i = 0; i < device->queues; i++)
        while (device->kicks[i].armed)
            reactor_step(device->reactor, true);
    free(device->kicks);
    device->kicks = NULL;
}

/* ---- begin and end ---- */

static void close_all(struct virtio_device *device)
{
    for (unsigned i = 0; i < device->queues; i++)
        if (device->kick[i] >= 0)
            close(device->kick[i]);
    vm_line_free(&device->line);
    pthread_mutex_destroy(&device->lock);
}

int virtio_init(struct virtio_device *device, const struct vm_memory *memory,
                struct reactor *reactor)
{
    int rc;

    if (device->queues == 0 || device->queues > VIRTIO_QUEUES_MAX ||
        !(device->offered & BIT(VIRTIO_F_VERSION_1)))
        return -EINVAL;
    device->memory = memory;
    device->reactor = reactor;
    for (unsigned i = 0; i < device->queues; i++)
        device->kick[i] = -1;
    pthread_mutex_init(&device->lock, NULL);
    rc = vm_line_new(&device->line);
    for (unsigned i = 0; rc == 0 && i < device->queues; i++) {
        device->kick[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        rc = device->kick[i] < 0 ? -errno : 0;
    }
    if (rc == 0)
        rc = watch_kicks(device);
    if (rc)
        close_all(device);
    return rc;
}

static void stop(struct virtio_device *device, bool keep)
{
    if (!device->started && (keep || !device->kept))
        return;
    device->ops->stop(device, keep);
    device->started = false;
    device->kept = keep;
}

void virtio_free(struct virtio_device *device)
{
    if (!device)
        return;
    pthread_mutex_lock(&device->lock);
    stop(device, false);
    pthread_mutex_unlock(&device->lock);
    forget_kicks(device);
    close_all(device);
    device->ops->free(device);
}

/* ---- the driver's steps ---- */

static void start(struct virtio_device *device)
{
    if (device->status & VIRTIO_CONFIG_S_NEEDS_RESET)
        return;
    if (device->ops->start(device)) {
        virtio_fail(device);
        return;
    }
    device->started = true;
    device->kept = false;
    kick_ready(device);
}

static void reset(struct virtio_device *device)
{
    stop(device, false);
    device->status = device->interrupts = 0;
    device->accepted = 0;
    device->accepted_beyond = false;
    device->features_select = device->accepted_select = device->queue_select = 0;
    memset(device->queue, 0, sizeof(device->queue));
}

static bool are_features_fit(const struct virtio_device *device)
{
    return !(device->accepted & ~device->offered) && !device->accepted_beyond &&
           virtio_has(device, VIRTIO_F_VERSION_1);
}

void virtio_set_status(struct virtio_device *device, uint32_t status)
{
    /* Each wants those before it, of this write or an earlier one. */
    static const uint32_t steps[] = {VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER,
                                     VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_DRIVER_OK};
    const uint32_t before = device->status;

    if (status == 0) {
        reset(device);
        return;
    }
    device->status |= status & VIRTIO_CONFIG_S_FAILED;
    for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        if (before & steps[i])
            continue;
        if (!(status & steps[i]) ||
            (steps[i] == VIRTIO_CONFIG_S_FEATURES_OK && !are_features_fit(device)))
            return;
        device->status |= steps[i];
    }
    if (!(before & VIRTIO_CONFIG_S_DRIVER_OK))
        start(device);
}

bool virtio_can_set_features(const struct virtio_device *device)
{
    return (device->status & VIRTIO_CONFIG_S_DRIVER) &&
           !(device->status & VIRTIO_CONFIG_S_FEATURES_OK);
}

bool virtio_can_set_queue(const struct virtio_device *device, unsigned queue)
{
    return queue < device->queues && !device->queue[queue].ready &&
           (device->status & VIRTIO_CONFIG_S_FEATURES_OK) &&
           !(device->status & VIRTIO_CONFIG_S_DRIVER_OK);
}

bool virtio_is_size(const struct virtio_device *device, uint32_t size)
{
    return size > 0 && size <= device->queue_max &&
           (virtio_has(device, VIRTIO_F_RING_PACKED) || !(size & (size - 1)));
}

void virtio_set_ready(struct virtio_device *device, unsigned queue, bool ready)
{
    bool started = device->started;

    if (queue >= device->queues || device->queue[queue].ready == ready)
        return;
    if (ready) {
        device->queue[queue].ready =
            virtio_can_set_queue(device, queue) && device->queue[queue].size > 0;
        return;
    }
    /* The others go on where they were. */
    stop(device, true);
    device->queue[queue].ready = false;
    if (started)
        start(device);
}

/* ---- suspending ---- */

void virtio_pause(struct virtio_device *device)
{
    pthread_mutex_lock(&device->lock);
    device->paused = true;
    stop(device, true);
    pthread_mutex_unlock(&device->lock);
}

void virtio_resume(struct virtio_device *device)
{
    pthread_mutex_lock(&device->lock);
    if (device->paused) {
        device->paused = false;
        if (device->status & VIRTIO_CONFIG_S_DRIVER_OK)
            start(device);
        if (device->interrupts)
            vm_line_pulse(&device->line);
    }
    pthread_mutex_unlock(&device->lock);
}
