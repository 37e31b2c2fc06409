/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See net_socket.h. Frames are received and sent many at once, by way of two buffers.
 *
 * A connection that ended is closed only when no wait for it is in flight any more: its number is
 * not given anew before.
 */
#include "net_socket.h"

#include "vhost_mapping.h"

#include <endian.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define RETRY        100000000 /* ns */
#define PREFIX_BYTES 4u
#define BUFFER_BYTES (128u << 10) /* a frame at least */

struct stream {
    size_t begin, end; /* what is in it */
    uint8_t bytes[BUFFER_BYTES];
};

struct socket_link {
    struct net_link link; /* first */
    struct sockaddr_un address;
    struct net_wait hangup, retry;
    struct stream in, out;
};

static struct socket_link *socket_of(struct net_link *link)
{
    return (struct socket_link *)link;
}

/* ---- the connection ---- */

static void go_down(struct socket_link *self)
{
    if (!self->link.is_up)
        return;
    self->link.is_up = false;
    (void)shutdown(self->link.fd, SHUT_RDWR); /* ends all waits */
    self->in.begin = self->in.end = self->out.begin = self->out.end = 0;
    net_wait_until(&self->retry, reactor_now() + RETRY);
}

/* A Unix socket connects at once, or not at all. */
static void dial(struct socket_link *self)
{
    struct net_link *link = &self->link;

    if (link->in.in_flight || link->out.in_flight || self->hangup.in_flight)
        return;
    if (link->fd >= 0)
        close(link->fd);
    link->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (link->fd < 0 ||
        connect(link->fd, (const struct sockaddr *)&self->address, sizeof(self->address)))
        return;
    link->is_up = true;
    net_wait_events(&self->hangup, link->fd, POLLRDHUP);
}

static void try_again(void *opaque, int result)
{
    struct socket_link *self = opaque;

    (void)result;
    dial(self);
    if (self->link.is_up)
        self->link.changed(self->link.opaque);
    else
        net_wait_until(&self->retry, reactor_now() + RETRY);
}

static void hung_up(void *opaque, int result)
{
    struct socket_link *self = opaque;

    (void)result;
    if (!self->link.is_up)
        return;
    go_down(self);
    self->link.changed(self->link.opaque);
}

/* ---- frames ---- */

static void compact(struct stream *stream)
{
    memmove(stream->bytes, stream->bytes + stream->begin, stream->end - stream->begin);
    stream->end -= stream->begin;
    stream->begin = 0;
}

/* The next frame of the buffer: its bytes; 0: not all of it is there; -EBADMSG: one that is too
 * short; -ENOTCONN: none. */
static int cut(struct socket_link *self, uint8_t *frame)
{
    struct stream *in = &self->in;
    size_t have = in->end - in->begin;
    const uint8_t *at = in->bytes + in->begin;
    uint32_t length;

    if (have < PREFIX_BYTES)
        return 0;
    memcpy(&length, at, PREFIX_BYTES);
    length = be32toh(length);
    if (length > NET_FRAME_MAX) {
        go_down(self);
        return -ENOTCONN;
    }
    if (have < PREFIX_BYTES + length)
        return 0;
    in->begin += PREFIX_BYTES + length;
    if (length < NET_FRAME_MIN)
        return -EBADMSG;
    memcpy(frame, at + PREFIX_BYTES, length);
    return (int)length;
}

static int socket_receive(struct net_link *link, struct virtio_net_hdr_v1 *header, uint8_t *frame)
{
    struct socket_link *self = socket_of(link);
    struct stream *in = &self->in;

    *header = (struct virtio_net_hdr_v1){.flags = 0};
    for (;;) {
        int length = cut(self, frame);
        ssize_t got;

        if (length)
            return length;
        compact(in);
        got = recv(link->fd, in->bytes + in->end, sizeof(in->bytes) - in->end, MSG_DONTWAIT);
        if (got > 0) {
            in->end += (size_t)got;
        } else if (got < 0 && errno == EAGAIN) {
            return -EAGAIN;
        } else if (got == 0 || errno != EINTR) {
            go_down(self);
            return -ENOTCONN;
        }
    }
}

static int socket_flush(struct net_link *link)
{
    struct socket_link *self = socket_of(link);
    struct stream *out = &self->out;

    while (out->begin < out->end) {
        ssize_t sent = send(link->fd, out->bytes + out->begin, out->end - out->begin,
                            MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent >= 0) {
            out->begin += (size_t)sent;
        } else if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM) {
            return -EAGAIN;
        } else if (errno != EINTR) {
            go_down(self);
            return 0;
        }
    }
    out->begin = out->end = 0;
    return 0;
}

static int socket_send(struct net_link *link, const struct virtio_net_hdr_v1 *header,
                       const uint8_t *frame, size_t length)
{
    struct socket_link *self = socket_of(link);
    struct stream *out = &self->out;
    const uint32_t prefix = htobe32((uint32_t)length);

    (void)header;
    if (sizeof(out->bytes) - out->end < PREFIX_BYTES + length) {
        (void)socket_flush(link);
        compact(out);
    }
    if (!link->is_up)
        return -ENOTCONN;
    if (sizeof(out->bytes) - out->end < PREFIX_BYTES + length)
        return -EAGAIN;
    memcpy(out->bytes + out->end, &prefix, PREFIX_BYTES);
    memcpy(out->bytes + out->end + PREFIX_BYTES, frame, length);
    out->end += PREFIX_BYTES + length;
    return 0;
}

/* ---- begin and end ---- */

static void socket_free(struct net_link *link)
{
    struct socket_link *self = socket_of(link);

    net_wait_stop(&self->hangup);
    net_wait_stop(&self->retry);
    net_link_end(link);
    net_wait_finish(&self->hangup);
    net_wait_finish(&self->retry);
    free(self);
}

int net_socket_open(const char *path, struct reactor *reactor, struct net_link **out,
                    struct vdisk_error *error)
{
    static const struct net_link_ops ops = {
        .receive = socket_receive,
        .send = socket_send,
        .flush = socket_flush,
        .free = socket_free,
    };
    struct socket_link *self;
    size_t length = strlen(path);

    if (length == 0 || length >= sizeof(self->address.sun_path))
        return vhost_fail(error, -EINVAL, "the path of a socket has 1 to %zu bytes",
                          sizeof(self->address.sun_path) - 1);
    self = calloc(1, sizeof(*self));
    if (!self)
        return vhost_fail(error, -ENOMEM, "out of memory");
    net_link_init(&self->link, &ops, reactor);
    net_wait_init(&self->hangup, reactor, hung_up, self);
    net_wait_init(&self->retry, reactor, try_again, self);
    self->address.sun_family = AF_UNIX;
    memcpy(self->address.sun_path, path, length + 1);
    dial(self);
    if (!self->link.is_up)
        net_wait_until(&self->retry, reactor_now() + RETRY);
    *out = &self->link;
    return 0;
}
