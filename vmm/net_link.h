/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the frames of a network device go and come from: a tap (net_tap.h) or a socket
 * (net_socket.h). Nothing blocks; the memory that it takes is of one size.
 *
 * A link that is down neither gives nor takes frames. Belongs to the reactor's thread, but for
 * net_link_set_offloads().
 */
#ifndef VMM_NET_LINK_H
#define VMM_NET_LINK_H

#include "net_wait.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NET_FRAME_MIN 14u            /* two addresses and the type */
#define NET_FRAME_MAX (65535u + 18u) /* an IP packet of any size, with one tag */

struct net_link;

/* What the functions below are of a kind. */
struct net_link_ops {
    int (*receive)(struct net_link *link, struct virtio_net_hdr_v1 *header, uint8_t *frame);
    int (*send)(struct net_link *link, const struct virtio_net_hdr_v1 *header, const uint8_t *frame,
                size_t length);
    int (*flush)(struct net_link *link);
    int (*set_offloads)(struct net_link *link, uint64_t features);
    void (*free)(struct net_link *link);
};

struct net_link {
    const struct net_link_ops *ops;
    int fd; /* -1: none */
    bool is_up;
    unsigned mtu;      /* 0: not known */
    uint64_t offloads; /* bits of virtio-net's features that it can do */
    struct net_wait in, out;
    /* The owner's, in a round of the reactor; to be set before the first. */
    void (*readable)(void *opaque);
    void (*writable)(void *opaque);
    void (*changed)(void *opaque); /* is_up is another, and no call below said so */
    void *opaque;
};

/* For kinds: `link` is zeroed but for what only they know. */
void net_link_init(struct net_link *link, const struct net_link_ops *ops, struct reactor *reactor);
/* For a kind's free(), with its own waits stopped: nothing is in flight any more, and fd closed. */
void net_link_end(struct net_link *link);

/* Steps the reactor. NULL is allowed. */
void net_link_free(struct net_link *link);

/*
 * The next frame, of NET_FRAME_MAX bytes at most, and its header (all zeros without offloads): its
 * bytes. -EAGAIN: none now; -ENOTCONN: the link is down, perhaps only now; -EBADMSG: there was one
 * that cannot be had.
 */
static inline int net_link_receive(struct net_link *link, struct virtio_net_hdr_v1 *header,
                                   uint8_t *frame)
{
    return link->is_up ? link->ops->receive(link, header, frame) : -ENOTCONN;
}

/* 0; -EAGAIN: not now; -ENOTCONN as above; another: this frame cannot be sent. It is on its way
 * after net_link_flush(). */
static inline int net_link_send(struct net_link *link, const struct virtio_net_hdr_v1 *header,
                                const uint8_t *frame, size_t length)
{
    return link->is_up ? link->ops->send(link, header, frame, length) : -ENOTCONN;
}

/* After a round of sending. 0; -EAGAIN: some wait, for net_link_await_out(). */
static inline int net_link_flush(struct net_link *link)
{
    return link->is_up && link->ops->flush ? link->ops->flush(link) : 0;
}

/* Calls readable() once, when there may be something to receive. Nothing when it is down. */
void net_link_await_in(struct net_link *link);
/* The same of writable(), after what waits was flushed. */
void net_link_await_out(struct net_link *link);

/* What the driver accepted, of link->offloads. By any thread. -errno. */
static inline int net_link_set_offloads(struct net_link *link, uint64_t features)
{
    return link->ops->set_offloads ? link->ops->set_offloads(link, features) : 0;
}

#endif
