/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device's state in JSON. What comes in is checked as what a driver writes: registers that no
 * driver could have brought about are refused. Numbers of 64 bits appear as signed ones.
 */
#include "virtio.h"

#include "report.h"

#include <errno.h>
#include <linux/virtio_mmio.h>

#define STATUS_BITS                                                                                \
    (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK |            \
     VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)
#define INTERRUPT_BITS (VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG)

struct state {
    json_int_t id, status, interrupts, generation, features;
    json_int_t features_select, accepted_select, queue_select;
    int accepted_beyond;
    json_t *queues, *own;
    struct virtio_queue_settings queue[VIRTIO_QUEUES_MAX];
};

/* ---- out ---- */

static json_t *save_queue(const struct virtio_queue_settings *queue)
{
    return json_pack("{s:b, s:i, s:I, s:I, s:I}", "ready", queue->ready, "size", (int)queue->size,
                     "desc", (json_int_t)queue->desc, "avail", (json_int_t)queue->avail, "used",
                     (json_int_t)queue->used);
}

static json_t *save(struct virtio_device *device, struct vdisk_error *error)
{
    json_t *queues = json_array(), *own = json_object(), *root;
    int rc = queues && own ? 0 : -ENOMEM;

    for (unsigned i = 0; rc == 0 && i < device->queues; i++)
        rc = json_array_append_new(queues, save_queue(&device->queue[i]));
    if (rc == 0 && device->ops->save)
        rc = device->ops->save(device, own, error);
    root = rc ? NULL
              : json_pack("{s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:I, s:I, s:O, s:O}", "id",
                          (json_int_t)device->id, "status", (json_int_t)device->status,
                          "interrupts", (json_int_t)device->interrupts, "generation",
                          (json_int_t)device->generation, "features", (json_int_t)device->accepted,
                          "features_beyond", device->accepted_beyond, "features_select",
                          (json_int_t)device->features_select, "accepted_select",
                          (json_int_t)device->accepted_select, "queue_select",
                          (json_int_t)device->queue_select, "queues", queues, "own", own);
    json_decref(queues);
    json_decref(own);
    if (!root && (rc == 0 || rc == -ENOMEM))
        error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    return root;
}

json_t *virtio_save(struct virtio_device *device, struct vdisk_error *error)
{
    json_t *root;

    pthread_mutex_lock(&device->lock);
    root = save(device, error);
    pthread_mutex_unlock(&device->lock);
    return root;
}

/* ---- in ---- */

static bool is_register(json_int_t value)
{
    return value >= 0 && value <= UINT32_MAX;
}

static bool read_queue(const json_t *from, struct virtio_queue_settings *queue)
{
    json_int_t size, desc, avail, used;
    int ready;

    if (json_unpack((json_t *)from, "{s:b, s:I, s:I, s:I, s:I!}", "ready", &ready, "size", &size,
                    "desc", &desc, "avail", &avail, "used", &used) ||
        size < 0 || size > UINT16_MAX || (ready && size == 0))
        return false;
    *queue = (struct virtio_queue_settings){.ready = ready,
                                            .size = (uint16_t)size,
                                            .desc = (uint64_t)desc,
                                            .avail = (uint64_t)avail,
                                            .used = (uint64_t)used};
    return true;
}

/* Whether a driver's steps lead to that status. */
static bool is_status(json_int_t status)
{
    return !(status & ~(json_int_t)STATUS_BITS) &&
           (!(status & VIRTIO_CONFIG_S_DRIVER) || status & VIRTIO_CONFIG_S_ACKNOWLEDGE) &&
           (!(status & VIRTIO_CONFIG_S_FEATURES_OK) || status & VIRTIO_CONFIG_S_DRIVER) &&
           (!(status & VIRTIO_CONFIG_S_DRIVER_OK) || status & VIRTIO_CONFIG_S_FEATURES_OK);
}

static bool read_state(const struct virtio_device *device, const json_t *from, struct state *state)
{
    if (json_unpack((json_t *)from, "{s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:I, s:I, s:o, s:o!}",
                    "id", &state->id, "status", &state->status, "interrupts", &state->interrupts,
                    "generation", &state->generation, "features", &state->features,
                    "features_beyond", &state->accepted_beyond, "features_select",
                    &state->features_select, "accepted_select", &state->accepted_select,
                    "queue_select", &state->queue_select, "queues", &state->queues, "own",
                    &state->own) ||
        state->id != device->id || !is_status(state->status) ||
        state->interrupts & ~(json_int_t)INTERRUPT_BITS || !is_register(state->generation) ||
        !is_register(state->features_select) || !is_register(state->accepted_select) ||
        !is_register(state->queue_select) || !json_is_object(state->own) ||
        json_array_size(state->queues) != device->queues)
        return false;
    for (unsigned i = 0; i < device->queues; i++)
        if (!read_queue(json_array_get(state->queues, i), &state->queue[i]) ||
            (state->queue[i].ready && !(state->status & VIRTIO_CONFIG_S_FEATURES_OK)))
            return false;
    return true;
}

/* What a device like the one that was saved may have, and this one has not. */
static bool is_served(struct virtio_device *device, const struct state *state)
{
    const uint64_t features = (uint64_t)state->features;

    if (!(state->status & VIRTIO_CONFIG_S_FEATURES_OK))
        return true;
    if (features & ~device->offered || state->accepted_beyond ||
        !(features >> VIRTIO_F_VERSION_1 & 1))
        return false;
    device->accepted = features;
    for (unsigned i = 0; i < device->queues; i++)
        if (state->queue[i].size > 0 && !virtio_is_size(device, state->queue[i].size))
            return false;
    return true;
}

static int fail_senseless(const struct virtio_device *device, struct vdisk_error *error)
{
    return error_set(error, -EINVAL, "the saved state of the device %s makes no sense",
                     device->name);
}

static int load(struct virtio_device *device, const json_t *from, struct vdisk_error *error)
{
    struct state state = {.id = -1};
    int rc;

    if (!read_state(device, from, &state))
        return fail_senseless(device, error);
    if (!is_served(device, &state))
        return error_set(error, -ENOTSUP,
                         "the guest uses features of the device %s that it does not have here",
                         device->name);
    device->status = (uint32_t)state.status;
    device->interrupts = (uint32_t)state.interrupts;
    device->generation = (uint32_t)state.generation;
    device->accepted = (uint64_t)state.features;
    device->accepted_beyond = state.accepted_beyond;
    device->features_select = (uint32_t)state.features_select;
    device->accepted_select = (uint32_t)state.accepted_select;
    device->queue_select = (uint32_t)state.queue_select;
    for (unsigned i = 0; i < device->queues; i++)
        device->queue[i] = state.queue[i];
    device->kept = true;
    rc = device->ops->load ? device->ops->load(device, state.own, error) : 0;
    return rc == -EINVAL ? fail_senseless(device, error) : rc;
}

int virtio_load(struct virtio_device *device, const json_t *from, struct vdisk_error *error)
{
    int rc;

    pthread_mutex_lock(&device->lock);
    device->paused = true;
    rc = load(device, from, error);
    pthread_mutex_unlock(&device->lock);
    return rc;
}
