/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All connections of a vsock device: the table, whose turn it is, the listener, the timer.
 *
 * Invariants:
 * - A connection with a packet for the guest is on the list `ready`, unless nothing was done to it
 *   since it has; each gives one packet and goes to the end of the list. One that is on it may have
 *   lost its packet.
 * - Operations are submitted by the reactor's thread alone. What another thread does
 *   (vsock_conns_reset()) changes states, and posts a message that has them settled.
 */
#include "vsock_conn.h"

#include "report.h"
#include "unix_listen.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SECOND            INT64_C(1000000000)
#define HANDSHAKE_TIMEOUT (2 * SECOND)
#define ANSWER_TIMEOUT    (10 * SECOND)
#define ACCEPT_PAUSE      (SECOND / 10) /* out of descriptors, perhaps */
/* Ports of the host's side begin where no service is. */
#define FIRST_PORT        (UINT32_C(1) << 30)

/* ---- the table ---- */

static uint64_t key_of(uint32_t local_port, uint32_t guest_port)
{
    return (uint64_t)local_port << 32 | guest_port;
}

struct vsock_conn *vsock_conn_new(struct vsock_conns *conns, enum vsock_state state, int fd)
{
    struct vsock_conn *conn =
        conns->count < VSOCK_CONNS_MAX ? calloc(1, sizeof(struct vsock_conn)) : NULL;
    unsigned slot = 0;

    if (!conn) {
        close(fd);
        return NULL;
    }
    while (conns->conn[slot])
        slot++;
    conn->conns = conns;
    conn->slot = slot;
    conn->state = state;
    conn->fd = fd;
    conns->conn[slot] = conn;
    conns->key[slot] = 0;
    conns->count++;
    return conn;
}

void vsock_conn_set_ports(struct vsock_conn *conn, uint32_t local_port, uint32_t guest_port)
{
    conn->local_port = local_port;
    conn->guest_port = guest_port;
    conn->conns->key[conn->slot] = key_of(local_port, guest_port);
}

/* That the guest knows, or is to know. */
static struct vsock_conn *find(const struct vsock_conns *conns, uint32_t local_port,
                               uint32_t guest_port)
{
    const uint64_t key = key_of(local_port, guest_port);

    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
        struct vsock_conn *conn = conns->key[i] == key ? conns->conn[i] : NULL;

        if (conn && conn->state != VSOCK_HANDSHAKE && conn->state != VSOCK_GONE)
            return conn;
    }
    return NULL;
}

uint32_t vsock_conns_free_port(struct vsock_conns *conns, uint32_t guest_port)
{
    uint32_t port;

    do {
        port = FIRST_PORT + conns->next_port++ % FIRST_PORT;
    } while (find(conns, port, guest_port));
    return port;
}

static void unready(struct vsock_conn *conn)
{
    struct vsock_conn **place = &conn->conns->ready;

    if (!conn->is_ready)
        return;
    while (*place != conn)
        place = &(*place)->next_ready;
    *place = conn->next_ready;
    if (!*place)
        conn->conns->ready_tail = place;
    conn->is_ready = false;
}

static void make_ready(struct vsock_conn *conn)
{
    if (conn->is_ready)
        return;
    conn->is_ready = true;
    conn->next_ready = NULL;
    *conn->conns->ready_tail = conn;
    conn->conns->ready_tail = &conn->next_ready;
}

static void free_conn(struct vsock_conn *conn)
{
    struct vsock_conns *conns = conn->conns;

    unready(conn);
    conns->conn[conn->slot] = NULL;
    conns->count--;
    vsock_buffer_clear(&conn->buffer);
    free(conn);
}

void vsock_conn_settle(struct vsock_conn *conn)
{
    vsock_conn_conclude(conn);
    if (vsock_socket_watch(conn) && conn->state == VSOCK_GONE) {
        free_conn(conn);
        return;
    }
    if (vsock_conn_has_packet(conn))
        make_ready(conn);
    if (conn->deadline)
        vsock_conns_set_timer(conn->conns, conn->deadline);
}

/* ---- time ---- */

static void time_is_up(struct reactor_op *op)
{
    struct vsock_conns *conns = op->owner;
    int64_t now = reactor_now();

    conns->in_flight--;
    if (conns->ending)
        return;
    conns->options.enter(conns->options.opaque);
    conns->timer_armed = conns->timer_cancelled = false;
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
        struct vsock_conn *conn = conns->conn[i];

        if (!conn || !conn->deadline)
            continue;
        if (conn->deadline <= now)
            vsock_conn_break(conn);
        vsock_conn_settle(conn);
    }
    conns->options.leave(conns->options.opaque);
}

void vsock_conns_set_timer(struct vsock_conns *conns, int64_t deadline)
{
    if (conns->timer_armed) {
        if (deadline < conns->timer.deadline && !conns->timer_cancelled) {
            conns->timer_cancelled = true;
            reactor_cancel(conns->options.reactor, &conns->timer);
        }
        return;
    }
    conns->timer = (struct reactor_op){
        .kind = REACTOR_SLEEP,
        .deadline = deadline,
        .done = time_is_up,
        .owner = conns,
    };
    conns->timer_armed = true;
    conns->in_flight++;
    reactor_submit(conns->options.reactor, &conns->timer);
}

/* ---- packets ---- */

/* An RST for what is no connection, or cannot become one. It is never answered by one. */
static void refuse(struct vsock_conns *conns, const struct vsock_header *header)
{
    if (header->op == VIRTIO_VSOCK_OP_RST || conns->refusals == VSOCK_REFUSALS_MAX)
        return;
    conns->refusal[(conns->refusal_begin + conns->refusals++) % VSOCK_REFUSALS_MAX] =
        (struct vsock_refusal){
            .from_cid = header->dst_cid,
            .local_port = header->dst_port,
            .guest_port = header->src_port,
            .type = header->type,
        };
}

bool vsock_conns_can_take(const struct vsock_conns *conns)
{
    return conns->refusals < VSOCK_REFUSALS_MAX;
}

static void connect_guest(struct vsock_conns *conns, const struct vsock_header *header)
{
    struct vsock_conn *conn = NULL;
    int fd =
        conns->count < VSOCK_CONNS_MAX ? vsock_socket_connect(conns, header->dst_port) : -EMFILE;

    if (fd >= 0)
        conn = vsock_conn_new(conns, VSOCK_OPEN, fd);
    if (!conn) {
        refuse(conns, header);
        return;
    }
    vsock_conn_set_ports(conn, header->dst_port, header->src_port);
    conn->owes_response = true;
    conn->credit.alloc = header->buf_alloc;
    conn->credit.taken = header->fwd_cnt;
    vsock_conn_settle(conn);
}

void vsock_conns_take(struct vsock_conns *conns, const struct vsock_header *header,
                      const uint8_t *data)
{
    struct vsock_conn *conn;

    if (header->src_cid != conns->options.cid)
        return; /* an answer would go to whom the guest is not */
    if (header->dst_cid != VSOCK_HOST_CID || header->type != VIRTIO_VSOCK_TYPE_STREAM) {
        refuse(conns, header);
        return;
    }
    conn = find(conns, header->dst_port, header->src_port);
    if (conn) {
        vsock_conn_take(conn, header, data);
        vsock_conn_settle(conn);
    } else if (header->op == VIRTIO_VSOCK_OP_REQUEST) {
        connect_guest(conns, header);
    } else {
        refuse(conns, header);
    }
}

bool vsock_conns_has_packet(struct vsock_conns *conns)
{
    while (conns->ready && !vsock_conn_has_packet(conns->ready))
        unready(conns->ready);
    return conns->refusals > 0 || conns->ready;
}

void vsock_conns_next(struct vsock_conns *conns, struct vsock_header *header, uint8_t *data,
                      uint32_t room)
{
    struct vsock_conn *conn = conns->ready;

    if (conns->refusals > 0) {
        const struct vsock_refusal *refusal = &conns->refusal[conns->refusal_begin];

        *header = (struct vsock_header){
            .src_cid = refusal->from_cid,
            .dst_cid = conns->options.cid,
            .src_port = refusal->local_port,
            .dst_port = refusal->guest_port,
            .type = refusal->type,
            .op = VIRTIO_VSOCK_OP_RST,
        };
        conns->refusal_begin = (conns->refusal_begin + 1) % VSOCK_REFUSALS_MAX;
        conns->refusals--;
        return;
    }
    unready(conn);
    vsock_conn_next(conn, header, data, room);
    vsock_conn_settle(conn);
}

/* ---- programs of the host ---- */

static void accept_next(struct vsock_conns *conns, bool after_pause);

static void accepted(struct reactor_op *op)
{
    struct vsock_conns *conns = op->owner;
    struct vsock_conn *conn = NULL;
    bool was_sleep = op->kind == REACTOR_SLEEP, has_failed = false;
    int fd = was_sleep ? -EAGAIN : op->result;

    conns->in_flight--;
    conns->accept_armed = false;
    if (conns->ending) {
        if (fd >= 0)
            close(fd);
        return;
    }
    conns->options.enter(conns->options.opaque);
    if (fd >= 0 && !conns->admit)
        close(fd);
    else if (fd >= 0)
        conn = vsock_conn_new(conns, VSOCK_HANDSHAKE, fd);
    else
        has_failed = !was_sleep && fd != -ECONNABORTED && fd != -EINTR && fd != -EAGAIN;
    if (conn) {
        conn->deadline = reactor_now() + conns->options.handshake_timeout;
        vsock_conn_settle(conn);
    }
    accept_next(conns, has_failed);
    conns->options.leave(conns->options.opaque);
}

static void accept_next(struct vsock_conns *conns, bool after_pause)
{
    conns->accept = (struct reactor_op){
        .kind = after_pause ? REACTOR_SLEEP : REACTOR_ACCEPT,
        .fd = conns->listener,
        .done = accepted,
        .owner = conns,
    };
    if (after_pause)
        conns->accept.deadline = reactor_now() + ACCEPT_PAUSE;
    conns->accept_armed = true;
    conns->in_flight++;
    reactor_submit(conns->options.reactor, &conns->accept);
}

void vsock_conns_admit(struct vsock_conns *conns, bool admit)
{
    conns->admit = admit;
}

/* ---- begin and end ---- */

static void swept(struct reactor_message *message)
{
    struct vsock_conns *conns =
        (struct vsock_conns *)((char *)message - offsetof(struct vsock_conns, sweep));

    if (conns->ending) {
        conns->sweeping = false;
        return;
    }
    conns->options.enter(conns->options.opaque);
    conns->sweeping = false;
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
        if (conns->conn[i])
            vsock_conn_settle(conns->conn[i]);
    conns->options.leave(conns->options.opaque);
}

void vsock_conns_reset(struct vsock_conns *conns)
{
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
        struct vsock_conn *conn = conns->conn[i];

        if (!conn)
            continue;
        conn->state = VSOCK_GONE;
        conn->deadline = 0;
        vsock_socket_close(conn);
    }
    conns->refusals = 0;
    if (conns->sweeping || conns->count == 0)
        return;
    conns->sweeping = true;
    conns->sweep.run = swept;
    reactor_post(conns->options.reactor, &conns->sweep);
}

static int listen_in(struct vsock_conns *conns, struct vdisk_error *error)
{
    const char *folder = conns->options.folder;
    char *path = conns->address.sun_path;
    const size_t longest = sizeof(VSOCK_LISTENER "_4294967295") + 1; /* with a slash and the NUL */

    conns->folder_length = strlen(folder);
    if (conns->folder_length == 0)
        return error_set(error, -EINVAL, "the folder of the vsock device has no name");
    if (conns->folder_length + longest > sizeof(conns->address.sun_path))
        return error_set(error, -ENAMETOOLONG,
                         "the name of the vsock folder %s is too long: at most %zu bytes", folder,
                         sizeof(conns->address.sun_path) - longest);
    snprintf(path, sizeof(conns->address.sun_path), "%s/" VSOCK_LISTENER, folder);
    conns->listener = unix_listen(path);
    if (conns->listener == -EADDRINUSE)
        return error_set(error, -EADDRINUSE, "somebody else is listening at %s", path);
    if (conns->listener < 0)
        return error_set(error, conns->listener, "the socket %s cannot be made: %s", path,
                         vdisk_strerror(conns->listener));
    return 0;
}

int vsock_conns_new(const struct vsock_conns_options *options, struct vsock_conns **out,
                    struct vdisk_error *error)
{
    struct vsock_conns *conns;
    int rc;

    /* Of the 64 bits of a CID the upper half is reserved, as are these. */
    if (options->cid <= VSOCK_HOST_CID || options->cid >= UINT32_MAX)
        return error_set(error, -EINVAL, "the CID of a guest is from 3 to 4294967294");
    conns = calloc(1, sizeof(*conns));
    if (!conns)
        return error_set(error, -ENOMEM, "no memory for the vsock device");
    conns->options = *options;
    if (!conns->options.handshake_timeout)
        conns->options.handshake_timeout = HANDSHAKE_TIMEOUT;
    if (!conns->options.answer_timeout)
        conns->options.answer_timeout = ANSWER_TIMEOUT;
    conns->address.sun_family = AF_UNIX;
    conns->ready_tail = &conns->ready;
    rc = listen_in(conns, error);
    if (rc) {
        free(conns);
        return rc;
    }
    conns->options.folder = NULL; /* the caller's; `address` has it */
    accept_next(conns, false);
    *out = conns;
    return 0;
}

static void end_all(struct vsock_conns *conns)
{
    struct reactor *reactor = conns->options.reactor;

    if (conns->accept_armed)
        reactor_cancel(reactor, &conns->accept);
    if (conns->timer_armed)
        reactor_cancel(reactor, &conns->timer);
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++)
        if (conns->conn[i])
            vsock_socket_close(conns->conn[i]); /* ends its polls */
}

void vsock_conns_free(struct vsock_conns *conns)
{
    if (!conns)
        return;
    conns->ending = true;
    end_all(conns);
    while (conns->in_flight > 0 || conns->sweeping)
        reactor_step(conns->options.reactor, true);
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
        if (!conns->conn[i])
            continue;
        if (conns->conn[i]->fd >= 0)
            close(conns->conn[i]->fd);
        free_conn(conns->conn[i]);
    }
    (void)unlink(conns->address.sun_path);
    close(conns->listener);
    free(conns);
}
