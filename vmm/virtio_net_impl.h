/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the network device share. */
#ifndef VMM_VIRTIO_NET_IMPL_H
#define VMM_VIRTIO_NET_IMPL_H

#include "net_link.h"
#include "net_vlan.h"
#include "queue.h"
#include "virtio_net.h"

#define NET_IN    0u /* queues */
#define NET_OUT   1u
#define NET_ROUND 64u /* frames before others get their turn */

/* One way through the device, and the frame on it. */
struct net_way {
    struct net_wait limit; /* until the limit may let it pass */
    bool waited;           /* for the limit, and there has been a next frame ever since */
    bool paid;             /* the limit has let the next frame pass */
    struct virtio_net_direction counts;
    struct virtio_net_hdr_v1 header;
    uint8_t *frame; /* in bytes; one tag may be put before it */
    size_t length;  /* 0: there is none */
    uint8_t bytes[NET_TAG_BYTES + NET_FRAME_MAX];
};

struct net {
    struct virtio_device device; /* first */
    struct vm_queues *queues;
    struct net_link *link;
    struct limit_group *limits; /* reads: in; writes: out */
    bool is_up;                 /* as the driver is told */
    uint8_t mac[6];
    unsigned vlan, mtu;
    struct net_way in, out;
};

/* All with the lock held, on the reactor's thread, while it serves. */

/* Serves the queue of received frames, or of those to be sent, until there is something to wait for
 * or the round ends. */
void net_serve_in(struct net *net);
void net_serve_out(struct net *net);
/* Has the limit let the frame of `length` bytes pass? If not, the queue is served again in time. */
bool net_may_pass(struct net *net, struct net_way *way, size_t length);
/* A frame went through. */
void net_count(struct net_way *way, size_t length);
/* Tells the driver when the link is up or down. */
void net_look_at_link(struct net *net);

#endif
