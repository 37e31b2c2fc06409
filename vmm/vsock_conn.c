/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection as the guest sees it: what its packets mean, and which it is to get. VIRTIO 1.2,
 * section 5.10.6.
 *
 * A guest that does what no driver does (data beyond its credit or after its own end, an answer to
 * nothing, an operation that is none) has the connection reset; others are not touched by it.
 */
#include "vsock_conn.h"

/* ---- ends ---- */

void vsock_conn_break(struct vsock_conn *conn)
{
    bool is_heard_of = conn->state == VSOCK_OPEN || conn->state == VSOCK_RESET ||
                       (conn->state == VSOCK_REQUESTED && !conn->owes_request);

    conn->state = is_heard_of ? VSOCK_RESET : VSOCK_GONE;
    conn->deadline = 0;
    vsock_socket_close(conn);
}

/* What the guest has ended ends at the host, when all before it has gone out. */
static void conclude_host(struct vsock_conn *conn)
{
    bool is_left = conn->state == VSOCK_RESET || conn->state == VSOCK_GONE;

    if (!conn->in_done && (is_left || conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV)) {
        conn->in_done = true;
        (void)shutdown(conn->fd, SHUT_RD);
    }
    if (!conn->out_done && conn->buffer.length == 0 &&
        (is_left || conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND)) {
        conn->out_done = true;
        (void)shutdown(conn->fd, SHUT_WR);
    }
    if (conn->in_done && conn->out_done)
        vsock_socket_close(conn);
}

/* What the host has ended is said to the guest. Once both have said all, an RST is the last word:
 * ours if the guest came first, and else the guest's, if it comes in time. */
static void conclude_guest(struct vsock_conn *conn)
{
    if (conn->at_end)
        conn->shut_due |= VIRTIO_VSOCK_SHUTDOWN_SEND;
    if (conn->out_done && !(conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND))
        conn->shut_due |= VIRTIO_VSOCK_SHUTDOWN_RCV;
    if (conn->closed)
        conn->shut_due = VSOCK_SHUTDOWN_ALL;
    if (conn->guest_shut == VSOCK_SHUTDOWN_ALL) {
        conn->state = VSOCK_RESET;
        conn->deadline = 0;
    } else if (conn->shut_due == VSOCK_SHUTDOWN_ALL && !conn->deadline) {
        conn->deadline = reactor_now() + conn->conns->options.answer_timeout;
    }
}

void vsock_conn_conclude(struct vsock_conn *conn)
{
    if (!conn->closed)
        conclude_host(conn);
    if (conn->state == VSOCK_OPEN)
        conclude_guest(conn);
}

/* ---- packets of the guest ---- */

static void take_data(struct vsock_conn *conn, const struct vsock_header *header,
                      const uint8_t *data)
{
    if (conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND ||
        header->length > VSOCK_BUFFER_BYTES - conn->buffer.length)
        vsock_conn_break(conn);
    else if (conn->out_done) /* nobody takes it, as the guest is about to hear */
        conn->credit.forwarded += header->length;
    else
        vsock_socket_send(conn, data, header->length);
}

static void take_open(struct vsock_conn *conn, const struct vsock_header *header,
                      const uint8_t *data)
{
    switch (header->op) {
    case VIRTIO_VSOCK_OP_RW:
        take_data(conn, header, data);
        break;
    case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
        break;
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
        conn->owes_credit = true;
        break;
    case VIRTIO_VSOCK_OP_SHUTDOWN:
        conn->guest_shut |= header->flags & VSOCK_SHUTDOWN_ALL;
        break;
    default:
        vsock_conn_break(conn);
        break;
    }
}

/* The answer to our request. */
static void take_answer(struct vsock_conn *conn, const struct vsock_header *header)
{
    if (conn->owes_request) {
        conn->owes_request = false; /* it knew before it was asked: tell it that this is nothing */
        vsock_conn_break(conn);
    } else if (header->op == VIRTIO_VSOCK_OP_RESPONSE && vsock_socket_greet(conn)) {
        conn->state = VSOCK_OPEN;
        conn->deadline = 0;
    } else {
        vsock_conn_break(conn);
    }
}

/* What the guest sent before it said goodbye is still delivered. */
static void take_reset(struct vsock_conn *conn)
{
    conn->state = VSOCK_GONE;
    conn->deadline = 0;
    if (!(conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND))
        vsock_socket_close(conn);
}

void vsock_conn_take(struct vsock_conn *conn, const struct vsock_header *header,
                     const uint8_t *data)
{
    conn->credit.alloc = header->buf_alloc;
    conn->credit.taken = header->fwd_cnt;
    if (vsock_credit_left(&conn->credit) > 0)
        conn->asked_credit = false;
    if (header->op == VIRTIO_VSOCK_OP_RST)
        take_reset(conn);
    else if (conn->state == VSOCK_REQUESTED)
        take_answer(conn, header);
    else if (conn->state == VSOCK_OPEN && conn->owes_response)
        vsock_conn_break(conn);
    else if (conn->state == VSOCK_OPEN)
        take_open(conn, header, data);
}

/* ---- packets for the guest ---- */

static bool has_data(const struct vsock_conn *conn)
{
    return conn->is_readable && !conn->in_done;
}

bool vsock_conn_has_packet(const struct vsock_conn *conn)
{
    switch (conn->state) {
    case VSOCK_REQUESTED:
        return conn->owes_request;
    case VSOCK_OPEN:
        return conn->owes_response || conn->owes_credit || conn->shut_due & ~conn->shut_told ||
               vsock_credit_is_news(&conn->credit) ||
               (has_data(conn) && (vsock_credit_left(&conn->credit) > 0 || !conn->asked_credit));
    case VSOCK_RESET:
        return true;
    default:
        return false;
    }
}

static void next_open(struct vsock_conn *conn, struct vsock_header *header, uint8_t *data,
                      uint32_t room)
{
    uint32_t left = vsock_credit_left(&conn->credit);

    header->op = VIRTIO_VSOCK_OP_CREDIT_UPDATE;
    if (conn->owes_response) {
        header->op = VIRTIO_VSOCK_OP_RESPONSE;
        conn->owes_response = false;
        return;
    }
    if (has_data(conn) && left == 0 && !conn->asked_credit) {
        header->op = VIRTIO_VSOCK_OP_CREDIT_REQUEST;
        conn->asked_credit = true;
        return;
    }
    if (has_data(conn) && left > 0) {
        header->length = vsock_socket_receive(conn, data, left < room ? left : room);
        if (header->length > 0) {
            header->op = VIRTIO_VSOCK_OP_RW;
            conn->credit.sent += header->length;
            return;
        }
        vsock_conn_conclude(conn); /* it may be the end that was to be received */
    }
    if (conn->shut_due & ~conn->shut_told) {
        header->op = VIRTIO_VSOCK_OP_SHUTDOWN;
        header->flags = conn->shut_told = conn->shut_due;
    }
}

void vsock_conn_next(struct vsock_conn *conn, struct vsock_header *header, uint8_t *data,
                     uint32_t room)
{
    *header = (struct vsock_header){
        .src_cid = VSOCK_HOST_CID,
        .dst_cid = conn->conns->options.cid,
        .src_port = conn->local_port,
        .dst_port = conn->guest_port,
        .type = VIRTIO_VSOCK_TYPE_STREAM,
        .buf_alloc = VSOCK_BUFFER_BYTES,
        .fwd_cnt = conn->credit.forwarded,
    };
    if (conn->state == VSOCK_RESET) {
        header->op = VIRTIO_VSOCK_OP_RST;
        conn->state = VSOCK_GONE;
    } else if (conn->state == VSOCK_REQUESTED) {
        header->op = VIRTIO_VSOCK_OP_REQUEST;
        conn->owes_request = false;
    } else {
        next_open(conn, header, data, room);
    }
    conn->credit.told = conn->credit.forwarded;
    conn->owes_credit = false;
}
