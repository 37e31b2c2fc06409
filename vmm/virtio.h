/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device of virtio, as its transport (virtio_mmio.c) and its kind (virtio_rng.c, ...) see it.
 * VIRTIO 1.2, section 2.
 *
 * `lock` guards all of a device. The transport takes it for each access of a register, in a vCPU's
 * thread; kicks and what else a device waits for come on the reactor's thread, which takes it too
 * (virtio.c does so for kicks). All functions of `ops` are called with it held.
 *
 * The guest is hostile. What it breaks is its own device: virtio_fail() sets NEEDS_RESET, and
 * nothing is served until the driver resets it.
 */
#ifndef VMM_VIRTIO_H
#define VMM_VIRTIO_H

#include "line.h"
#include "memory.h"
#include "reactor.h"

#include "vdisk/error.h"

#include <jansson.h>
#include <linux/virtio_config.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define VIRTIO_QUEUES_MAX 16u

struct virtio_device;

struct virtio_queue_settings {
    bool ready;
    uint16_t size;
    uint64_t desc, avail, used; /* guest addresses, as the driver gave them */
};

struct virtio_ops {
    /* Of the device's configuration; offset + size is at most config_bytes. NULL: there is none to
     * be written. */
    void (*read_config)(struct virtio_device *device, uint32_t offset, uint8_t *data,
                        unsigned size);
    void (*write_config)(struct virtio_device *device, uint32_t offset, const uint8_t *data,
                         unsigned size);
    /* DRIVER_OK: `accepted` and the queues are settled. -errno: the device needs a reset. */
    int (*start)(struct virtio_device *device);
    /* After it nothing of the device reaches the guest's memory or line. With `keep` it is to go on
     * from where it was (pause); else it is reset. Called when started; and without `keep` also to
     * forget what a stop with it, or load, has left. */
    void (*stop)(struct virtio_device *device, bool keep);
    /* The queue was kicked, on the reactor's thread, and the device is started. NULL: the kick
     * descriptors are another's to read (vhost-user). */
    void (*kicked)(struct virtio_device *device, unsigned queue);
    /* What is the kind's own, while stopped with `keep`, into and out of an object. NULL: nothing.
     * save: -ENOMEM, load: -EINVAL, for which virtio_save() and virtio_load() have the sentence, or
     * another with its own. */
    int (*save)(struct virtio_device *device, json_t *to, struct vdisk_error *error);
    int (*load)(struct virtio_device *device, const json_t *from, struct vdisk_error *error);
    /* Ends and frees it. */
    void (*free)(struct virtio_device *device);
};

struct virtio_device {
    const struct virtio_ops *ops;
    const char *name; /* for people: "rng", "drive 0" */
    uint32_t id;      /* VIRTIO_ID_... */
    uint64_t offered; /* features; VIRTIO_F_VERSION_1 is among them */
    unsigned queues;
    uint16_t queue_max;
    uint32_t config_bytes;
    /* Its interrupts by others than the VMM are not seen by it: the status register always says
     * that buffers were used. */
    bool outside_interrupts;

    /* The common part's (virtio.c) from virtio_init() on. */
    pthread_mutex_t lock;
    const struct vm_memory *memory;
    struct reactor *reactor;
    struct vm_line line;
    int kick[VIRTIO_QUEUES_MAX]; /* eventfds */
    struct virtio_kick *kicks;   /* their reads in the reactor */
    uint64_t accepted;
    bool accepted_beyond;        /* a feature past 63, which nobody offers */
    uint32_t status, interrupts; /* registers */
    uint32_t generation;         /* of the configuration */
    uint32_t features_select, accepted_select, queue_select; /* registers */
    bool started, paused; /* started: between ops->start() and ops->stop() */
    bool kept;            /* it is stopped, and to go on from where it was */
    struct virtio_queue_settings queue[VIRTIO_QUEUES_MAX];
};

/* Of a device whose first part is filled in: lock, line, kicks. -errno; then nothing is held. */
int virtio_init(struct virtio_device *device, const struct vm_memory *memory,
                struct reactor *reactor);
/* By the reactor's thread, with the machine stopped and the reactor able to run (it is stepped):
 * stops the device, ends what virtio_init() began, and calls ops->free. NULL is allowed. */
void virtio_free(struct virtio_device *device);

/* ---- for kinds, with the lock held ---- */

/* Tells the driver that buffers of a queue were used. */
void virtio_interrupt(struct virtio_device *device);
/* Tells it that the configuration is another. */
void virtio_config_changed(struct virtio_device *device);
/* The driver broke the rules, or the device is broken: NEEDS_RESET. It stays started, for who calls
 * this is amid serving it, but is not to serve any more. */
void virtio_fail(struct virtio_device *device);
/* Whether it is to serve: for what a kind waits for besides kicks. ops->kicked() is called only
 * then. */
static inline bool virtio_serves(const struct virtio_device *device)
{
    return device->started && !(device->status & VIRTIO_CONFIG_S_NEEDS_RESET);
}
/* As if the driver had kicked the queue: in a later round, so that others get their turn. By any
 * thread, with or without the lock. */
void virtio_kick(const struct virtio_device *device, unsigned queue);
static inline bool virtio_has(const struct virtio_device *device, unsigned feature)
{
    return device->accepted >> feature & 1;
}

/* ---- for the transport, with the lock held ---- */

/* Writes of the status register; 0 resets. Does what the steps of VIRTIO 1.2, 3.1.1 ask for; a step
 * before its turn is not taken. While paused it may only be reset. */
void virtio_set_status(struct virtio_device *device, uint32_t status);
/* QueueReady. A queue can be made ready once it has a size and until DRIVER_OK, and taken back at
 * any time: nothing of it is served afterwards. */
void virtio_set_ready(struct virtio_device *device, unsigned queue, bool ready);
/* Whether features, or queues, may be set now. */
bool virtio_can_set_features(const struct virtio_device *device);
bool virtio_can_set_queue(const struct virtio_device *device, unsigned queue);
/* Whether a queue of the device may be that large. */
bool virtio_is_size(const struct virtio_device *device, uint32_t size);

/* ---- for suspending; these take the lock ---- */

/* While the machine is stopped. A paused device reads no kick and changes no memory. */
void virtio_pause(struct virtio_device *device);
/* As if all queues were kicked, since a kick may have come meanwhile. */
void virtio_resume(struct virtio_device *device);
/* Of a paused device. A new reference; NULL: the error says why. */
json_t *virtio_save(struct virtio_device *device, struct vdisk_error *error);
/* Of a new device, before the machine runs; it is then paused. -EINVAL; -ENOTSUP: the device does
 * not offer what the driver had accepted. */
int virtio_load(struct virtio_device *device, const json_t *from, struct vdisk_error *error);

#endif
