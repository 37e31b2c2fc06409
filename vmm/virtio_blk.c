/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The drive as the guest's driver sees it; the back end is the minder's (blk_minder.h), which does
 * what is wished for here. A start is not waited for: kicks that come before it are not lost.
 */
#include "virtio_blk.h"

#include "blk_minder.h"
#include "report.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

#define BIT(number) (UINT64_C(1) << (number))
#define PATIENCE    INT64_C(10000000000)
#define QUEUE_MAX   256u
#define PACKED_BASE 0x80008000u /* nothing made available or used, both wrap counters 1 */

static struct virtio_blk *blk_of(struct virtio_device *device)
{
    return (struct virtio_blk *)device;
}

/* ---- the configuration ---- */

static void read_config(struct virtio_device *device, uint32_t offset, uint8_t *data, unsigned size)
{
    struct virtio_blk *blk = blk_of(device);

    /* First, so that a change between two reads changes the generation. */
    blk_minder_deliver(blk);
    pthread_mutex_lock(&blk->lock);
    memcpy(data, (const uint8_t *)&blk->config + offset, size);
    pthread_mutex_unlock(&blk->lock);
}

/* The one field that a driver may write: whether writes wait for a flush. What is written
 * afterwards must find it done. */
static void write_config(struct virtio_device *device, uint32_t offset, const uint8_t *data,
                         unsigned size)
{
    struct virtio_blk *blk = blk_of(device);

    if (!virtio_has(device, VIRTIO_BLK_F_CONFIG_WCE) || size != 1 ||
        offset != offsetof(struct virtio_blk_config, wce))
        return;
    pthread_mutex_lock(&blk->lock);
    blk->config.wce = data[0] != 0;
    blk_minder_wish(blk);
    pthread_mutex_unlock(&blk->lock);
    blk_minder_wait(blk);
}

/* ---- start and stop ---- */

static int table_of(const struct vm_memory *memory, struct vhost_memory *table)
{
    int rc = 0;

    memset(table, 0, sizeof(*table));
    for (unsigned i = 0; i < memory->count && rc == 0; i++) {
        const struct vm_region *region = &memory->region[i];

        rc = vhost_memory_add_mapped(table, region->guest, region->size, region->guest,
                                     region->host, NULL);
    }
    return rc;
}

/* A back end that is given addresses of nothing would be asked again after each reconnect. */
static int take_rings(struct virtio_blk *blk)
{
    const struct virtio_device *device = &blk->device;
    struct blk_rings *rings = &blk->rings;
    struct vhost_memory table;
    int rc = table_of(device->memory, &table);

    rings->features = device->accepted;
    for (unsigned i = 0; i < device->queues && rc == 0; i++) {
        const struct virtio_queue_settings *settings = &device->queue[i];

        rings->settings[i] = *settings;
        rings->ring[i].config = (struct vring_config){
            .size = settings->size,
            .packed = virtio_has(device, VIRTIO_F_RING_PACKED),
            .desc = settings->desc,
            .avail = settings->avail,
            .used = settings->used,
        };
        if (!rings->goes_on)
            rings->base[i] = virtio_has(device, VIRTIO_F_RING_PACKED) ? PACKED_BASE : 0;
        if (settings->ready)
            rc = vring_resolve(&rings->ring[i], &table);
    }
    return rc;
}

static int start(struct virtio_device *device)
{
    struct virtio_blk *blk = blk_of(device);
    int rc = take_rings(blk);

    if (rc)
        return rc;
    pthread_mutex_lock(&blk->lock);
    blk->wish.running = true;
    blk_minder_wish(blk);
    pthread_mutex_unlock(&blk->lock);
    return 0;
}

static void forget(struct virtio_blk *blk)
{
    vhost_front_forget_inflight(&blk->rings.inflight);
    blk->rings.goes_on = blk->rings.orphaned = false;
    pthread_mutex_lock(&blk->lock);
    blk->config.wce = blk->first_wce;
    pthread_mutex_unlock(&blk->lock);
}

static void stop(struct virtio_device *device, bool keep)
{
    struct virtio_blk *blk = blk_of(device);

    pthread_mutex_lock(&blk->lock);
    blk->wish.running = false;
    blk->wish.keep = keep;
    blk_minder_wish(blk);
    pthread_mutex_unlock(&blk->lock);
    blk_minder_wait(blk);
    /* What was broken and not told yet is of a life that has ended. */
    pthread_mutex_lock(&blk->lock);
    blk->failed = false;
    pthread_mutex_unlock(&blk->lock);
    if (!keep)
        forget(blk);
}

/* ---- suspending ---- */

static int save(struct virtio_device *device, json_t *to, struct vdisk_error *error)
{
    struct virtio_blk *blk = blk_of(device);
    json_t *bases = json_array();
    struct virtio_blk_config config;
    int rc = bases ? 0 : -ENOMEM;

    pthread_mutex_lock(&blk->lock);
    config = blk->config;
    pthread_mutex_unlock(&blk->lock);
    for (unsigned i = 0; rc == 0 && i < device->queues && blk->rings.goes_on; i++)
        rc = json_array_append_new(bases, json_integer(blk->rings.base[i]));
    /* Requests that only a back end on this host can find are not to be left behind. */
    if (blk->rings.orphaned)
        rc = error_set(error, -EBUSY,
                       "requests to %s are with a vdiskd that is away: try again when the guest "
                       "goes on",
                       blk->name);
    if (rc == 0 &&
        (json_object_set(to, "bases", bases) ||
         json_object_set_new(to, "capacity", json_integer((json_int_t)config.capacity)) ||
         json_object_set_new(to, "write_back", json_boolean(config.wce))))
        rc = -ENOMEM;
    json_decref(bases);
    return rc;
}

static int load(struct virtio_device *device, const json_t *from, struct vdisk_error *error)
{
    struct virtio_blk *blk = blk_of(device);
    json_int_t capacity;
    json_t *bases;
    int write_back;
    size_t count;

    if (json_unpack((json_t *)from, "{s:o, s:I, s:b!}", "bases", &bases, "capacity", &capacity,
                    "write_back", &write_back))
        return -EINVAL;
    count = json_array_size(bases);
    if (!json_is_array(bases) || (count != 0 && count != device->queues))
        return -EINVAL;
    for (size_t i = 0; i < count; i++) {
        json_int_t base = json_integer_value(json_array_get(bases, i));

        if (!json_is_integer(json_array_get(bases, i)) || base < 0 || base > UINT32_MAX)
            return -EINVAL;
        blk->rings.base[i] = (uint32_t)base;
    }
    blk->rings.goes_on = count > 0;
    pthread_mutex_lock(&blk->lock);
    bool is_smaller = blk->config.capacity < (uint64_t)capacity;

    blk->changed = blk->config.capacity != (uint64_t)capacity;
    blk->config.wce = write_back != 0;
    blk->wish.keep = true;
    pthread_mutex_unlock(&blk->lock);
    return is_smaller ? error_set(error, -ENOTSUP, "%s is smaller than when the guest was saved",
                                  blk->name)
                      : 0;
}

/* ---- begin and end ---- */

static void free_parts(struct virtio_blk *blk)
{
    vhost_front_close(&blk->front);
    vhost_front_forget_inflight(&blk->rings.inflight);
    if (blk->wake >= 0)
        close(blk->wake);
    if (blk->err >= 0)
        close(blk->err);
    pthread_cond_destroy(&blk->on_grant);
    pthread_mutex_destroy(&blk->lock);
    free(blk->name);
    free(blk->socket);
    free(blk);
}

static void free_blk(struct virtio_device *device)
{
    blk_minder_end(blk_of(device));
    free_parts(blk_of(device));
}

static struct virtio_blk *new_parts(const struct virtio_blk_options *options)
{
    struct virtio_blk *blk = calloc(1, sizeof(*blk));

    if (!blk)
        return NULL;
    vhost_front_init(&blk->front);
    pthread_mutex_init(&blk->lock, NULL);
    pthread_cond_init(&blk->on_grant, NULL);
    blk->rings.inflight.fd = -1;
    blk->wce = -1;
    blk->patience = options->patience ? options->patience : PATIENCE;
    blk->told = options->told;
    blk->opaque = options->opaque;
    blk->name = strdup(options->name);
    blk->socket = strdup(options->socket);
    blk->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    blk->err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (blk->name && blk->socket && blk->wake >= 0 && blk->err >= 0)
        return blk;
    free_parts(blk);
    return NULL;
}

static int count_queues(const struct virtio_blk *blk, const struct virtio_blk_options *options,
                        unsigned *queues, struct vdisk_error *error)
{
    unsigned theirs = blk->front.queues;

    if (!(blk_minder_features(blk) & BIT(VIRTIO_BLK_F_MQ)))
        theirs = 1;
    *queues = options->queues ? options->queues : options->cpus;
    if (options->queues > theirs || *queues > VIRTIO_QUEUES_MAX) {
        if (options->queues)
            return error_set(error, -EINVAL, "%u queues, of which there can be %u", *queues,
                             theirs < VIRTIO_QUEUES_MAX ? theirs : VIRTIO_QUEUES_MAX);
        *queues = VIRTIO_QUEUES_MAX;
    }
    *queues = *queues < theirs ? *queues : theirs;
    *queues = *queues ? *queues : 1;
    return 0;
}

/* What the drive is like, from what the back end said. */
static int describe(struct virtio_blk *blk, const struct virtio_blk_options *options,
                    struct vdisk_error *error)
{
    struct virtio_device *device = &blk->device;
    uint64_t offered = blk_minder_features(blk);
    unsigned queues = 0;
    int rc = count_queues(blk, options, &queues, error);

    if (rc)
        return rc;
    if (!(offered & BIT(VIRTIO_F_VERSION_1)))
        return error_set(error, -ENOTSUP, "the back end knows only drives of before VIRTIO 1.0");
    if (options->read_only && !(offered & BIT(VIRTIO_BLK_F_RO)))
        return error_set(error, -ENOTSUP,
                         "it is to be read-only, and is served writable: export it read-only");
    if (queues == 1)
        offered &= ~BIT(VIRTIO_BLK_F_MQ);
    blk->config = blk->theirs;
    blk->config.num_queues = (uint16_t)queues;
    blk->first_wce = blk->config.wce = blk->theirs.wce != 0;
    device->name = blk->name;
    device->id = VIRTIO_ID_BLOCK;
    device->offered = offered;
    device->queues = queues;
    device->queue_max = QUEUE_MAX;
    device->config_bytes = BLK_CONFIG_BYTES;
    device->outside_interrupts = true;
    return 0;
}

static int begin(struct virtio_blk *blk, const struct vm_memory *memory, struct reactor *reactor,
                 struct vdisk_error *error)
{
    int rc = blk_minder_start(blk);

    if (rc)
        return error_set(error, rc, "no thread: %s", vdisk_strerror(rc));
    rc = virtio_init(&blk->device, memory, reactor);
    if (rc) {
        blk_minder_end(blk);
        error_set(error, rc, "no device: %s", vdisk_strerror(rc));
    }
    return rc;
}

int virtio_blk_new(const struct virtio_blk_options *options, const struct vm_memory *memory,
                   struct reactor *reactor, struct virtio_device **out, struct vdisk_error *error)
{
    static const struct virtio_ops ops = {
        .read_config = read_config,
        .write_config = write_config,
        .start = start,
        .stop = stop,
        .save = save,
        .load = load,
        .free = free_blk,
    };
    struct virtio_blk *blk = new_parts(options);
    struct vdisk_error why = {.code = 0};
    int rc;

    if (!blk)
        return error_set(error, -ENOMEM, "%s: there is no memory", options->name);
    blk->device.ops = &ops;
    rc = blk_minder_connect(blk, &why);
    if (rc == 0)
        rc = describe(blk, options, &why);
    if (rc == 0)
        rc = begin(blk, memory, reactor, &why);
    if (rc) {
        error_set(error, rc, "%s at %s: %s", options->name, options->socket, why.text);
        free_parts(blk);
        return rc;
    }
    *out = &blk->device;
    return 0;
}
