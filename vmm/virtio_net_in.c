/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames to the guest. One is taken from the link at a time, waits for the limit and for buffers,
 * and is put into them whole; what the link has besides stays there.
 */
#include "virtio_net_impl.h"

#include <endian.h>

#define BUFFERS_MAX  256u /* of a frame: queue_max */
#define HEADER_BYTES ((uint32_t)sizeof(struct virtio_net_hdr_v1))

/* ---- from the link ---- */

/* What the driver did not accept may still be on its way from when another did. */
static bool is_header_fit(const struct net *net, struct virtio_net_hdr_v1 *header)
{
    const struct virtio_device *device = &net->device;
    unsigned type = header->gso_type & ~(unsigned)VIRTIO_NET_HDR_GSO_ECN;

    header->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID;
    if (!virtio_has(device, VIRTIO_NET_F_GUEST_CSUM)) {
        if (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
            return false;
        header->flags = 0;
    }
    if (header->gso_type & VIRTIO_NET_HDR_GSO_ECN && !virtio_has(device, VIRTIO_NET_F_GUEST_ECN))
        return false;
    switch (type) {
    case VIRTIO_NET_HDR_GSO_NONE:
        return true;
    case VIRTIO_NET_HDR_GSO_TCPV4:
        return virtio_has(device, VIRTIO_NET_F_GUEST_TSO4);
    case VIRTIO_NET_HDR_GSO_TCPV6:
        return virtio_has(device, VIRTIO_NET_F_GUEST_TSO6);
    default:
        return false;
    }
}

/* The frame that was received is for the guest. */
static bool accept_frame(struct net *net)
{
    struct net_way *in = &net->in;

    if (!is_header_fit(net, &in->header)) {
        in->counts.drops++;
        return false;
    }
    if (net->vlan == 0)
        return true;
    if (net_vlan_of(in->frame, in->length) != net->vlan)
        return false;
    if (!net_vlan_remove(&in->header, in->frame)) {
        in->counts.drops++;
        return false;
    }
    in->frame += NET_TAG_BYTES;
    in->length -= NET_TAG_BYTES;
    return true;
}

/* The next frame: 1; 0: none of use was there; -EAGAIN, -ENOTCONN. */
static int take_frame(struct net *net)
{
    struct net_way *in = &net->in;
    int got;

    if (in->length > 0)
        return 1;
    in->frame = in->bytes;
    got = net_link_receive(net->link, &in->header, in->frame);
    if (got == -EBADMSG) {
        in->counts.drops++;
        return 0;
    }
    if (got < 0)
        return got;
    in->length = (size_t)got;
    if (accept_frame(net))
        return 1;
    in->length = 0;
    return 0;
}

/* ---- into buffers ---- */

struct placement {
    size_t placed;        /* bytes of the frame */
    uint64_t count_at[2]; /* guest addresses of both bytes of num_buffers */
    unsigned count;       /* buffers */
    struct {
        uint32_t length;
        uint16_t head, slots;
    } buffer[BUFFERS_MAX];
};

/* The guest address of a byte of the chain's writable part, which is longer. */
static uint64_t address_of(const struct vring_chain *chain, uint64_t skip)
{
    const struct vring_segment *segment = chain->segment + chain->readable;

    while (skip >= segment->length)
        skip -= segment++->length;
    return segment->guest + skip;
}

/* Puts the header, and what it holds of the frame, into the chain that was fetched. -EPROTO. */
static int fill(struct net *net, struct placement *placement)
{
    const struct vring_chain *chain = &net->queues->chain;
    const uint32_t begin = placement->count == 0 ? HEADER_BYTES : 0;
    uint64_t room = chain->writable_bytes;
    size_t part = net->in.length - placement->placed;

    if (chain->readable > 0 || room == 0 || room < begin)
        return -EPROTO;
    if (part > room - begin)
        part = (size_t)(room - begin);
    if (begin > 0) {
        net->in.header.num_buffers = htole16(1);
        if (vm_queue_write(net->queues, 0, &net->in.header, HEADER_BYTES))
            return -EPROTO;
        for (unsigned i = 0; i < 2; i++)
            placement->count_at[i] =
                address_of(chain, offsetof(struct virtio_net_hdr_v1, num_buffers) + i);
    }
    if (vm_queue_write(net->queues, begin, net->in.frame + placement->placed, part))
        return -EPROTO;
    placement->buffer[placement->count].head = chain->head;
    placement->buffer[placement->count].slots = chain->slots;
    placement->buffer[placement->count].length = begin + (uint32_t)part;
    placement->count++;
    placement->placed += part;
    return 0;
}

/* All of the frame is placed. -EPROTO. */
static int hand_over(struct net *net, const struct placement *placement)
{
    const uint16_t count = htole16((uint16_t)placement->count);

    for (unsigned i = 0; i < 2 && placement->count > 1; i++)
        if (vhost_memory_write(&net->queues->memory, placement->count_at[i],
                               (const uint8_t *)&count + i, 1))
            return -EPROTO;
    for (unsigned i = 0; i < placement->count; i++)
        vm_queue_put(net->queues, NET_IN, placement->buffer[i].head, placement->buffer[i].slots,
                     placement->buffer[i].length);
    net_count(&net->in, net->in.length);
    return 0;
}

static void take_back(struct net *net, const struct placement *placement)
{
    for (unsigned i = placement->count; i > 0; i--)
        vm_queue_unfetch(net->queues, NET_IN, placement->buffer[i - 1].head);
}

/* Gives the guest the frame, or drops one that it has no room for in any case: 1; 0: it has too few
 * buffers now, and the driver will kick; -EPROTO. */
static int place(struct net *net)
{
    const unsigned size = net->queues->queue[NET_IN].ring.config.size;
    const unsigned most = virtio_has(&net->device, VIRTIO_NET_F_MRG_RXBUF) ? size : 1;
    struct placement placement;
    int rc = 0;

    placement.placed = placement.count = 0;
    while (placement.placed < net->in.length && placement.count < most) {
        rc = vm_queue_fetch(net->queues, NET_IN);
        if (rc <= 0)
            break;
        if (fill(net, &placement))
            return -EPROTO;
    }
    if (rc < 0)
        return rc;
    if (placement.placed == net->in.length)
        return hand_over(net, &placement) ? -EPROTO : 1;
    take_back(net, &placement);
    if (rc > 0) /* all buffers that there can be are too small */
        net->in.counts.drops++;
    return rc;
}

void net_serve_in(struct net *net)
{
    struct net_way *in = &net->in;
    unsigned looked = 0;
    bool any = false;
    int rc = 0;

    for (; looked < NET_ROUND; looked++) {
        rc = take_frame(net);
        if (rc == 0)
            continue;
        if (rc < 0 || !net_may_pass(net, in, in->length))
            break;
        rc = place(net);
        if (rc <= 0)
            break;
        in->length = 0;
        in->paid = false;
        any = true;
    }
    if (rc <= 0 && looked < NET_ROUND) /* for something else now */
        in->waited = false;
    if (any)
        vm_queue_publish(net->queues, NET_IN, &net->device);
    if (rc == -EPROTO)
        virtio_fail(&net->device);
    else if (rc == -EAGAIN)
        net_link_await_in(net->link);
    else if (looked == NET_ROUND)
        virtio_kick(&net->device, NET_IN);
    net_look_at_link(net);
}
