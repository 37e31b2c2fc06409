/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request is a buffer to be filled; it may be given back filled in part. So one is given a page
 * at most, and a round ends after a few: a guest that asks for all there is has the thread no
 * longer than that at a time.
 */
#include "virtio_rng.h"

#include "queue.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define REQUEST_BYTES 4096u
#define ROUND         16u /* requests */

struct rng {
    struct virtio_device device; /* first */
    struct vm_queues *queues;
};

static struct rng *rng_of(struct virtio_device *device)
{
    return (struct rng *)device;
}

/* How many bytes; 0: there are none to be had. */
static size_t draw(uint8_t *bytes, size_t length)
{
    ssize_t got;

    do {
        got = getrandom(bytes, length, 0);
    } while (got < 0 && errno == EINTR);
    return got > 0 ? (size_t)got : 0;
}

/* The chain that was fetched. -EPROTO: the driver, or the host, cannot do that. */
static int fill(struct vm_queues *queues)
{
    const struct vring_chain *chain = &queues->chain;
    const uint64_t room = chain->writable_bytes;
    uint8_t bytes[REQUEST_BYTES];
    size_t length = draw(bytes, room < sizeof(bytes) ? (size_t)room : sizeof(bytes));
    int rc = -EPROTO;

    if (length > 0 && chain->readable == 0)
        rc = vm_queue_write(queues, 0, bytes, length);
    explicit_bzero(bytes, sizeof(bytes));
    if (rc == 0)
        vm_queue_put(queues, 0, chain->head, chain->slots, (uint32_t)length);
    return rc;
}

static void kicked(struct virtio_device *device, unsigned queue)
{
    struct vm_queues *queues = rng_of(device)->queues;
    unsigned done = 0;
    int rc = 1;

    while (done < ROUND && (rc = vm_queue_fetch(queues, queue)) > 0) {
        rc = fill(queues);
        if (rc)
            break;
        done++;
    }
    if (done > 0)
        vm_queue_publish(queues, queue, device);
    if (rc < 0)
        virtio_fail(device);
    else if (done == ROUND)
        virtio_kick(device, queue);
}

static int start(struct virtio_device *device)
{
    return vm_queues_start(rng_of(device)->queues, device);
}

static void stop(struct virtio_device *device, bool keep)
{
    vm_queues_stop(rng_of(device)->queues, keep);
}

static int save(struct virtio_device *device, json_t *to, struct vdisk_error *error)
{
    (void)error;
    return json_object_set_new(to, "queues", vm_queues_save(rng_of(device)->queues)) ? -ENOMEM : 0;
}

static int load(struct virtio_device *device, const json_t *from, struct vdisk_error *error)
{
    (void)error;
    return vm_queues_load(rng_of(device)->queues, json_object_get(from, "queues"));
}

static void free_rng(struct virtio_device *device)
{
    vm_queues_free(rng_of(device)->queues);
    free(device);
}

int virtio_rng_new(const struct vm_memory *memory, struct reactor *reactor,
                   struct virtio_device **out)
{
    static const struct virtio_ops ops = {
        .start = start,
        .stop = stop,
        .kicked = kicked,
        .save = save,
        .load = load,
        .free = free_rng,
    };
    struct rng *rng = calloc(1, sizeof(*rng));
    int rc = -ENOMEM;

    if (!rng)
        return rc;
    rng->device = (struct virtio_device){
        .ops = &ops,
        .name = "rng",
        .id = VIRTIO_ID_RNG,
        .offered = VM_QUEUE_FEATURES,
        .queues = 1,
        .queue_max = 64,
    };
    rng->queues = vm_queues_new(memory, 1);
    if (rng->queues)
        rc = virtio_init(&rng->device, memory, reactor);
    if (rc) {
        vm_queues_free(rng->queues);
        free(rng);
        return rc;
    }
    *out = &rng->device;
    return 0;
}
