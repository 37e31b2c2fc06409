/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of the guest. What cannot go yet, for the limit or the link, stays in the driver's queue:
 * its fetch is undone.
 */
#include "virtio_net_impl.h"

#include <endian.h>

#define HEADER_BYTES sizeof(struct virtio_net_hdr_v1)
#define TAGS_BYTES   8u /* of the guest's own, which no MTU counts */

static bool is_segmentation_fit(const struct net *net, const struct virtio_net_hdr_v1 *header)
{
    const struct virtio_device *device = &net->device;
    unsigned type = header->gso_type & ~(unsigned)VIRTIO_NET_HDR_GSO_ECN;

    if (header->gso_type == VIRTIO_NET_HDR_GSO_NONE)
        return true;
    if (!(header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || header->gso_size == 0 ||
        (header->gso_type & VIRTIO_NET_HDR_GSO_ECN && !virtio_has(device, VIRTIO_NET_F_HOST_ECN)))
        return false;
    return (type == VIRTIO_NET_HDR_GSO_TCPV4 && virtio_has(device, VIRTIO_NET_F_HOST_TSO4)) ||
           (type == VIRTIO_NET_HDR_GSO_TCPV6 && virtio_has(device, VIRTIO_NET_F_HOST_TSO6));
}

/* What the driver says of the frame is what it may say, and lies within it. */
static bool is_header_fit(const struct net *net, struct virtio_net_hdr_v1 *header, size_t length)
{
    unsigned start = le16toh(header->csum_start), end = start + le16toh(header->csum_offset) + 2u;

    header->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM; /* others are not for the device */
    header->num_buffers = 0;
    if (header->flags &&
        (!virtio_has(&net->device, VIRTIO_NET_F_CSUM) || start < NET_FRAME_MIN || end > length))
        return false;
    if (le16toh(header->hdr_len) > length) /* a hint, to be relied on by nobody */
        header->hdr_len = 0;
    return is_segmentation_fit(net, header);
}

static bool is_size_fit(const struct net *net, const struct virtio_net_hdr_v1 *header,
                        size_t length)
{
    if (virtio_has(&net->device, VIRTIO_NET_F_MTU) && header->gso_type == VIRTIO_NET_HDR_GSO_NONE &&
        length > net->mtu + NET_FRAME_MIN + TAGS_BYTES)
        return false;
    return length <= NET_FRAME_MAX - (net->vlan ? NET_TAG_BYTES : 0);
}

/* Copies the frame of the chain that was fetched: 1; 0: it is not to be sent; -EPROTO. */
static int read_frame(struct net *net, size_t length)
{
    struct net_way *out = &net->out;

    out->frame = out->bytes + NET_TAG_BYTES;
    if (vm_queue_read(net->queues, 0, &out->header, HEADER_BYTES))
        return -EPROTO;
    if (!is_header_fit(net, &out->header, length) || !is_size_fit(net, &out->header, length))
        return 0;
    if (vm_queue_read(net->queues, HEADER_BYTES, out->frame, length))
        return -EPROTO;
    out->length = length;
    if (net->vlan == 0)
        return 1;
    if (net_vlan_is_tagged(out->frame) || !net_vlan_add(&out->header, out->frame, net->vlan))
        return 0;
    out->frame -= NET_TAG_BYTES;
    out->length += NET_TAG_BYTES;
    return 1;
}

/* Sends the frame of the chain that was fetched, or drops it: 0; -EAGAIN: not now; -EPROTO. */
static int send_frame(struct net *net)
{
    const struct vring_chain *chain = &net->queues->chain;
    struct net_way *out = &net->out;
    size_t length;
    int rc;

    if (chain->writable > 0)
        return -EPROTO;
    if (chain->readable_bytes < HEADER_BYTES + NET_FRAME_MIN || !net->link->is_up) {
        out->counts.drops++;
        return 0;
    }
    length = (size_t)chain->readable_bytes - HEADER_BYTES;
    rc = read_frame(net, length);
    if (rc > 0) {
        if (!net_may_pass(net, out, length))
            return -EAGAIN;
        rc = net_link_send(net->link, &out->header, out->frame, out->length);
        if (rc == -EAGAIN) {
            net_link_await_out(net->link);
            out->waited = false;
            return rc;
        }
        out->paid = false;
        if (rc == 0) {
            net_count(out, length);
            return 0;
        }
        rc = 0;
    }
    if (rc == 0)
        out->counts.drops++;
    return rc;
}

void net_serve_out(struct net *net)
{
    struct vm_queues *queues = net->queues;
    unsigned done = 0;
    int rc = 0;

    while (done < NET_ROUND && (rc = vm_queue_fetch(queues, NET_OUT)) > 0) {
        rc = send_frame(net);
        if (rc) {
            if (rc == -EAGAIN)
                vm_queue_unfetch(queues, NET_OUT, queues->chain.head);
            break;
        }
        vm_queue_put(queues, NET_OUT, queues->chain.head, queues->chain.slots, 0);
        done++;
    }
    if (rc == 0 && done < NET_ROUND) /* for the driver now */
        net->out.waited = false;
    if (net_link_flush(net->link))
        net_link_await_out(net->link);
    if (done > 0)
        vm_queue_publish(queues, NET_OUT, &net->device);
    if (rc == -EPROTO)
        virtio_fail(&net->device);
    else if (done == NET_ROUND)
        virtio_kick(&net->device, NET_OUT);
    net_look_at_link(net);
}
