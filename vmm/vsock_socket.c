/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection as the host's program sees it: a Unix socket, non-blocking. Each has three polls:
 * for bytes and for room, made when they are waited for, and one for the program's going, which is
 * there all the time. The transfers themselves are done on the spot.
 *
 * A descriptor is closed when no poll is in flight. None is ever cancelled: shutdown() ends them
 * all, and shows the program the end at once.
 */
#include "vsock_handshake.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

int vsock_socket_connect(const struct vsock_conns *conns, uint32_t port)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rc;

    if (fd < 0)
        return -errno;
    /* There is room: see vsock_conns_new(). */
    snprintf(address.sun_path, sizeof(address.sun_path), "%.*s/" VSOCK_LISTENER "_%u",
             (int)conns->folder_length, conns->address.sun_path, port);
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    rc = -errno;
    close(fd);
    return rc;
}

void vsock_socket_close(struct vsock_conn *conn)
{
    if (conn->closed)
        return;
    conn->closed = conn->in_done = conn->out_done = true;
    vsock_buffer_clear(&conn->buffer);
    (void)shutdown(conn->fd, SHUT_RDWR);
}

/* ---- to the program ---- */

/* Nothing can be sent any more. What was to be counts as taken, so that the guest is not held. */
static void end_out(struct vsock_conn *conn)
{
    conn->out_done = true;
    conn->credit.forwarded += conn->buffer.length;
    vsock_buffer_clear(&conn->buffer);
}

/* How many bytes went out; -errno, -EAGAIN among them. */
static ssize_t send_some(const struct vsock_conn *conn, struct iovec *vectors, unsigned count)
{
    struct msghdr message = {.msg_iov = vectors, .msg_iovlen = count};
    ssize_t sent;

    do {
        sent = sendmsg(conn->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

bool vsock_socket_greet(struct vsock_conn *conn)
{
    char line[sizeof("OK 4294967295\n")];
    int length = snprintf(line, sizeof(line), "OK %u\n", conn->local_port);
    struct iovec vector = {line, (size_t)length};

    return send_some(conn, &vector, 1) == length; /* into an empty socket */
}

void vsock_socket_send(struct vsock_conn *conn, const uint8_t *data, uint32_t length)
{
    struct iovec vector = {(void *)(uintptr_t)data, length};
    ssize_t sent = -EAGAIN;

    if (conn->buffer.length == 0 && length > 0)
        sent = send_some(conn, &vector, 1);
    if (sent < 0 && sent != -EAGAIN) {
        conn->credit.forwarded += length;
        end_out(conn);
        return;
    }
    if (sent < 0)
        sent = 0;
    conn->credit.forwarded += (uint32_t)sent;
    if (vsock_buffer_add(&conn->buffer, data + sent, length - (uint32_t)sent))
        vsock_conn_break(conn); /* no memory */
}

static void flush(struct vsock_conn *conn)
{
    struct iovec vectors[2];
    unsigned count;

    while (!conn->out_done && (count = vsock_buffer_peek(&conn->buffer, vectors)) > 0) {
        ssize_t sent = send_some(conn, vectors, count);

        if (sent == -EAGAIN)
            return;
        if (sent < 0) {
            end_out(conn);
            return;
        }
        conn->credit.forwarded += (uint32_t)sent;
        vsock_buffer_drop(&conn->buffer, (uint32_t)sent);
    }
}

/* ---- from the program ---- */

uint32_t vsock_socket_receive(struct vsock_conn *conn, uint8_t *data, uint32_t room)
{
    ssize_t got;

    do {
        got = recv(conn->fd, data, room, MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EAGAIN) {
        conn->is_readable = false;
        return 0;
    }
    if (got <= 0) {
        conn->at_end = conn->in_done = true;
        if (got < 0)
            end_out(conn);
        return 0;
    }
    if (got < (ssize_t)room) /* was all, for now */
        conn->is_readable = false;
    return (uint32_t)got;
}

/* The program has gone, for both directions. */
static void hung_up(struct vsock_conn *conn)
{
    conn->is_hung_up = true;
    conn->is_readable = true; /* at least the end */
    if (conn->state == VSOCK_REQUESTED)
        vsock_conn_break(conn);
    else
        end_out(conn);
}

static void take_events(struct vsock_conn *conn, const struct vsock_poll *poll)
{
    int events = poll->op.result;

    if (poll == &conn->out)
        flush(conn);
    else if (conn->state == VSOCK_HANDSHAKE)
        vsock_handshake_read(conn);
    else if (events < 0 || events & (POLLHUP | POLLERR | POLLNVAL))
        hung_up(conn);
    else
        conn->is_readable = true;
}

/* ---- waiting ---- */

static struct vsock_poll *poll_of(struct vsock_conn *conn, const struct reactor_op *op)
{
    if (op == &conn->in.op)
        return &conn->in;
    return op == &conn->out.op ? &conn->out : &conn->gone;
}

static void polled(struct reactor_op *op)
{
    struct vsock_conn *conn = op->owner;
    struct vsock_conns *conns = conn->conns;
    struct vsock_poll *poll = poll_of(conn, op);

    conns->in_flight--;
    if (conns->ending)
        return;
    conns->options.enter(conns->options.opaque);
    poll->armed = false;
    if (!conn->closed)
        take_events(conn, poll);
    vsock_conn_settle(conn);
    conns->options.leave(conns->options.opaque);
}

static void watch(struct vsock_conn *conn, struct vsock_poll *poll, unsigned events)
{
    struct vsock_conns *conns = conn->conns;

    if (poll->armed)
        return;
    poll->op = (struct reactor_op){
        .kind = REACTOR_POLL,
        .fd = conn->fd,
        .events = events,
        .done = polled,
        .owner = conn,
    };
    poll->armed = true;
    conns->in_flight++;
    reactor_submit(conns->options.reactor, &poll->op);
}

bool vsock_socket_watch(struct vsock_conn *conn)
{
    if (!conn->closed) {
        if (conn->state == VSOCK_HANDSHAKE ||
            (conn->state == VSOCK_OPEN && !conn->in_done && !conn->is_readable))
            watch(conn, &conn->in, POLLIN);
        if (conn->buffer.length > 0)
            watch(conn, &conn->out, POLLOUT);
        if (conn->state != VSOCK_HANDSHAKE && !conn->is_hung_up)
            watch(conn, &conn->gone, POLLHUP);
        return false;
    }
    if (conn->in.armed || conn->out.armed || conn->gone.armed)
        return false;
    if (conn->fd >= 0)
        close(conn->fd);
    conn->fd = -1;
    return true;
}
