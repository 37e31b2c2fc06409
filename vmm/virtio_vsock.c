/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The queues of a vsock device: packets in and out of the guest's memory. What they mean is
 * vsock_conns.h's.
 *
 * Each round is bounded, so that neither a guest that sends all the time nor a program that does
 * keeps the thread. The guest's packets are taken whether or not it takes ours, but for answers to
 * what is no connection: when too many of these wait, the guest waits too (VIRTIO 1.2, 5.10.6.1
 * allows it).
 *
 * A guest that goes on elsewhere, from a saved state, finds all its connections gone: the event
 * tells it so, before any packet.
 */
#include "virtio_vsock.h"

#include "queue.h"
#include "report.h"
#include "vsock_conns.h"
#include "vsock_credit.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>

enum queue {
    QUEUE_RX, /* to the guest */
    QUEUE_TX,
    QUEUE_EVENT,
    QUEUES,
};

#define QUEUE_MAX 256u
#define ROUND     64u /* packets */

struct vsock {
    struct virtio_device device; /* first */
    struct vm_queues *queues;
    struct vsock_conns *conns;
    uint64_t cid;
    bool owes_event; /* TRANSPORT_RESET */
    bool tx_waits;   /* for room for answers */
    uint8_t data[VSOCK_BUFFER_BYTES];
};

static struct vsock *vsock_of(struct virtio_device *device)
{
    return (struct vsock *)device;
}

/* ---- to the guest ---- */

static int give_back(struct vsock *vsock, enum queue queue, uint32_t written)
{
    const struct vring_chain *chain = &vsock->queues->chain;

    vm_queue_put(vsock->queues, queue, chain->head, chain->slots, written);
    return 1;
}

/* A buffer with more than `least` bytes to be written is there: 1; 0: none; -EPROTO. */
static int fetch_buffer(struct vsock *vsock, enum queue queue, uint64_t least)
{
    const struct vring_chain *chain = &vsock->queues->chain;
    int rc = vm_queue_fetch(vsock->queues, queue);

    if (rc > 0 && (chain->readable > 0 || chain->writable_bytes < least))
        rc = -EPROTO;
    return rc;
}

/* 1; 0: there is no buffer for it. */
static int send_event(struct vsock *vsock)
{
    const struct virtio_vsock_event event = {.id = htole32(VIRTIO_VSOCK_EVENT_TRANSPORT_RESET)};
    int rc = fetch_buffer(vsock, QUEUE_EVENT, sizeof(event));

    if (rc > 0)
        rc = vm_queue_write(vsock->queues, 0, &event, sizeof(event)) ? -EPROTO : 1;
    if (rc <= 0)
        return rc;
    (void)give_back(vsock, QUEUE_EVENT, sizeof(event));
    vm_queue_publish(vsock->queues, QUEUE_EVENT, &vsock->device);
    vsock->owes_event = false;
    return 1;
}

/* 1; 0: there is no buffer for it. */
static int send_packet(struct vsock *vsock)
{
    uint8_t bytes[VSOCK_HEADER_BYTES];
    struct vsock_header header;
    uint64_t room;
    int rc = fetch_buffer(vsock, QUEUE_RX, VSOCK_HEADER_BYTES + 1);

    if (rc <= 0)
        return rc;
    room = vsock->queues->chain.writable_bytes - VSOCK_HEADER_BYTES;
    vsock_conns_next(vsock->conns, &header, vsock->data,
                     room < sizeof(vsock->data) ? (uint32_t)room : sizeof(vsock->data));
    vsock_header_encode(&header, bytes);
    rc = vm_queue_write(vsock->queues, 0, bytes, sizeof(bytes));
    if (rc == 0 && header.length > 0)
        rc = vm_queue_write(vsock->queues, sizeof(bytes), vsock->data, header.length);
    return rc ? rc : give_back(vsock, QUEUE_RX, VSOCK_HEADER_BYTES + header.length);
}

/* What has come up. -EPROTO: the driver broke the rules. */
static int send_packets(struct vsock *vsock)
{
    unsigned done = 0;
    int rc = 1;

    if (vsock->owes_event && vsock->queues->queue[QUEUE_EVENT].on)
        rc = send_event(vsock);
    while (rc > 0 && done < ROUND && vsock_conns_has_packet(vsock->conns)) {
        rc = send_packet(vsock);
        done += rc > 0;
    }
    if (done > 0)
        vm_queue_publish(vsock->queues, QUEUE_RX, &vsock->device);
    if (done == ROUND)
        virtio_kick(&vsock->device, QUEUE_RX);
    if (vsock->tx_waits && vsock_conns_can_take(vsock->conns)) {
        vsock->tx_waits = false;
        virtio_kick(&vsock->device, QUEUE_TX);
    }
    return rc < 0 ? rc : 0;
}

/* ---- from the guest ---- */

/* The chain that was fetched. */
static int take_packet(struct vsock *vsock)
{
    const struct vring_chain *chain = &vsock->queues->chain;
    uint8_t bytes[VSOCK_HEADER_BYTES];
    struct vsock_header header;
    int rc = chain->writable > 0 ? -EPROTO : 0;

    if (rc == 0)
        rc = vm_queue_read(vsock->queues, 0, bytes, sizeof(bytes));
    if (rc)
        return rc;
    vsock_header_decode(&header, bytes);
    if (header.length > chain->readable_bytes - sizeof(bytes))
        return -EPROTO;
    if (header.length <= sizeof(vsock->data))
        rc = vm_queue_read(vsock->queues, sizeof(bytes), vsock->data, header.length);
    if (rc)
        return rc;
    vsock_conns_take(vsock->conns, &header, vsock->data);
    return give_back(vsock, QUEUE_TX, 0);
}

static int take_packets(struct vsock *vsock)
{
    unsigned done = 0;
    int rc = 1;

    while (rc > 0 && done < ROUND && vsock_conns_can_take(vsock->conns)) {
        rc = vm_queue_fetch(vsock->queues, QUEUE_TX);
        if (rc > 0)
            rc = take_packet(vsock);
        done += rc > 0;
    }
    if (done > 0)
        vm_queue_publish(vsock->queues, QUEUE_TX, &vsock->device);
    if (done == ROUND)
        virtio_kick(&vsock->device, QUEUE_TX);
    vsock->tx_waits = !vsock_conns_can_take(vsock->conns);
    return rc < 0 ? rc : 0;
}

/* ---- the device ---- */

static void end_all(struct vsock *vsock)
{
    vsock_conns_admit(vsock->conns, false);
    vsock_conns_reset(vsock->conns);
    vsock->tx_waits = false;
}

/* A driver that broke the rules: nobody waits for it. */
static void fail(struct vsock *vsock)
{
    virtio_fail(&vsock->device);
    end_all(vsock);
}

static void kicked(struct virtio_device *device, unsigned queue)
{
    struct vsock *vsock = vsock_of(device);
    int rc = queue == QUEUE_TX ? take_packets(vsock) : 0;

    if (rc == 0)
        rc = send_packets(vsock);
    if (rc)
        fail(vsock);
}

static void enter(void *opaque)
{
    struct vsock *vsock = opaque;

    pthread_mutex_lock(&vsock->device.lock);
}

static void leave(void *opaque)
{
    struct vsock *vsock = opaque;

    if (virtio_serves(&vsock->device) && send_packets(vsock))
        fail(vsock);
    pthread_mutex_unlock(&vsock->device.lock);
}

static void read_config(struct virtio_device *device, uint32_t offset, uint8_t *data, unsigned size)
{
    const struct virtio_vsock_config config = {.guest_cid = htole64(vsock_of(device)->cid)};

    memcpy(data, (const uint8_t *)&config + offset, size);
}

static int start(struct virtio_device *device)
{
    struct vsock *vsock = vsock_of(device);
    int rc = vm_queues_start(vsock->queues, device);

    if (rc == 0)
        vsock_conns_admit(vsock->conns, true);
    return rc;
}

/* Paused, connections stay: what programs send waits in their sockets. */
static void stop(struct virtio_device *device, bool keep)
{
    struct vsock *vsock = vsock_of(device);

    vm_queues_stop(vsock->queues, keep);
    if (keep)
        return;
    vsock->owes_event = false;
    end_all(vsock);
}

/* ---- state ---- */

static int save(struct virtio_device *device, json_t *to, struct vdisk_error *error)
{
    const struct vsock *vsock = vsock_of(device);

    (void)error;
    return json_object_set_new(to, "queues", vm_queues_save(vsock->queues)) ? -ENOMEM : 0;
}

static int load(struct virtio_device *device, const json_t *from, struct vdisk_error *error)
{
    struct vsock *vsock = vsock_of(device);

    (void)error;
    vsock->owes_event = device->status & VIRTIO_CONFIG_S_DRIVER_OK;
    return vm_queues_load(vsock->queues, json_object_get(from, "queues"));
}

/* ---- begin and end ---- */

static void free_vsock(struct virtio_device *device)
{
    struct vsock *vsock = vsock_of(device);

    vsock_conns_free(vsock->conns);
    vm_queues_free(vsock->queues);
    free(vsock);
}

static int listen_at(struct vsock *vsock, const struct virtio_vsock_options *options,
                     struct reactor *reactor, struct vdisk_error *error)
{
    const struct vsock_conns_options conns = {
        .reactor = reactor,
        .folder = options->folder,
        .cid = options->cid,
        .handshake_timeout = options->handshake_timeout,
        .answer_timeout = options->answer_timeout,
        .enter = enter,
        .leave = leave,
        .opaque = vsock,
    };

    return vsock_conns_new(&conns, &vsock->conns, error);
}

int virtio_vsock_new(const struct virtio_vsock_options *options, const struct vm_memory *memory,
                     struct reactor *reactor, struct virtio_device **out, struct vdisk_error *error)
{
    static const struct virtio_ops ops = {
        .read_config = read_config,
        .start = start,
        .stop = stop,
        .kicked = kicked,
        .save = save,
        .load = load,
        .free = free_vsock,
    };
    struct vsock *vsock = calloc(1, sizeof(*vsock));
    int rc;

    if (!vsock)
        return error_set(error, -ENOMEM, "no memory for the device %s", options->name);
    vsock->device = (struct virtio_device){
        .ops = &ops,
        .name = options->name,
        .id = VIRTIO_ID_VSOCK,
        .offered = VM_QUEUE_FEATURES,
        .queues = QUEUES,
        .queue_max = QUEUE_MAX,
        .config_bytes = sizeof(struct virtio_vsock_config),
    };
    vsock->cid = options->cid;
    rc = listen_at(vsock, options, reactor, error);
    if (rc) {
        free(vsock);
        return rc;
    }
    vsock->queues = vm_queues_new(memory, QUEUES);
    rc = vsock->queues ? virtio_init(&vsock->device, memory, reactor) : -ENOMEM;
    if (rc) {
        free_vsock(&vsock->device);
        return error_set(error, rc, "the device %s cannot be made: %s", options->name,
                         vdisk_strerror(rc));
    }
    *out = &vsock->device;
    return 0;
}
