/* SPDX-License-Identifier: Apache-2.0 */
/* The reader of an NBD connection in transmission: see nbd_conn.h. */
#include "nbd_conn.h"

#include <stdlib.h>
#include <sys/socket.h>

#define SKIP_MAX (UINT64_C(64) << 20) /* a longer payload nobody wants ends the connection */

/* --- bytes ---------------------------------------------------------------------------------- */

/* At least `need` bytes in the buffer. False: the end. */
static bool fill(struct nbd_conn *conn, size_t need)
{
    while (conn->in_to - conn->in_from < need) {
        struct iovec vector;
        ssize_t got;

        if (atomic_load(&conn->ending))
            return false;
        memmove(conn->in, conn->in + conn->in_from, conn->in_to - conn->in_from);
        conn->in_to -= conn->in_from;
        conn->in_from = 0;
        vector = (struct iovec){conn->in + conn->in_to, NBD_IN_BYTES - conn->in_to};
        got = stream_receive(&conn->stream, &vector, 1, TASK_FOREVER);
        if (got <= 0)
            return false;
        conn->in_to += (size_t)got;
    }
    return !atomic_load(&conn->ending);
}

/* A payload: what is in the buffer, and the rest straight to its place, together with whatever
 * follows it. */
static bool take_payload(struct nbd_conn *conn, uint8_t *out, size_t length)
{
    size_t there = conn->in_to - conn->in_from;

    there = there < length ? there : length;
    memcpy(out, conn->in + conn->in_from, there);
    conn->in_from += there;
    budget_owe(&conn->share.to_send, length - there);
    while (there < length) {
        struct iovec vectors[2] = {{out + there, length - there}, {conn->in, NBD_IN_BYTES}};
        ssize_t got = stream_receive(&conn->stream, vectors, 2, TASK_FOREVER);

        if (got <= 0)
            return false;
        conn->in_from = conn->in_to = 0;
        if ((size_t)got > length - there) {
            conn->in_to = (size_t)got - (length - there);
            got = (ssize_t)(length - there);
        }
        there += (size_t)got;
    }
    budget_owe(&conn->share.to_send, 0);
    return true;
}

static bool skip_payload(struct nbd_conn *conn, uint64_t length)
{
    if (length > SKIP_MAX)
        return false;
    while (length > 0) {
        size_t there;

        if (!fill(conn, 1))
            return false;
        there = conn->in_to - conn->in_from;
        there = there < length ? there : (size_t)length;
        conn->in_from += there;
        length -= there;
    }
    return true;
}

/* --- requests ------------------------------------------------------------------------------- */

static void submit(struct nbd_op *op, enum vdisk_request_op what, uint64_t length)
{
    op->request.request = (struct vdisk_request){
        .op = what,
        .fua = op->header.flags & NBD_CMD_FLAG_FUA && what != VDISK_READ && what != VDISK_FLUSH,
        .offset = op->header.offset,
        .length = length,
        .data = op->buffer,
    };
    op->request.done = nbd_op_done;
    op->request.owner = op;
    export_submit(op->conn->session, &op->request);
}

static void ask(struct nbd_op *op)
{
    struct nbd_conn *conn = op->conn;

    if (!conn->is_asking) {
        if (task_spawn(task_reactor(task_current()), nbd_asker, conn)) {
            nbd_op_answer(op, NBD_ENOMEM);
            return;
        }
        conn->is_asking = true;
    }
    nbd_queue_push(&conn->questions, op);
    task_wake(&conn->asker);
}

/* A request that is in order and has its payload. */
static void carry_out(struct nbd_op *op)
{
    const struct nbd_request *header = &op->header;
    uint64_t length = header->length;

    if (length == 0 && header->command != NBD_CMD_FLUSH) {
        nbd_op_answer(op, 0);
        return;
    }
    switch (header->command) {
    case NBD_CMD_CACHE: /* a read that nobody gets, of as much as one may read */
        length = length < NBD_PAYLOAD_MAX ? length : NBD_PAYLOAD_MAX;
        submit(op, VDISK_READ, length);
        break;
    case NBD_CMD_READ:
        submit(op, VDISK_READ, length);
        break;
    case NBD_CMD_WRITE:
        submit(op, VDISK_WRITE, length);
        break;
    case NBD_CMD_FLUSH:
        submit(op, VDISK_FLUSH, 0);
        break;
    case NBD_CMD_TRIM:
        submit(op, VDISK_DISCARD, length);
        break;
    case NBD_CMD_WRITE_ZEROES: /* NO_HOLE: no space is reserved, here as for any other write */
        submit(op, VDISK_ZERO, length);
        break;
    default:
        ask(op);
    }
}

static void judge(struct nbd_conn *conn, const struct nbd_request *header, uint32_t *error)
{
    struct nbd_terms terms = {
        .mode = conn->mode,
        .read_only = export_session_read_only(conn->session),
        .contexts = conn->context_count,
        .size = export_session_size(conn->session),
    };

    *error = nbd_request_check(header, &terms);
}

/* BLOCK_STATUS with a payload: which contexts, of which length. False: the connection ends. */
static bool take_status_payload(struct nbd_conn *conn, struct nbd_op *op, uint32_t *error)
{
    uint8_t payload[8 + 4 * NBD_CONTEXTS_MAX];
    uint32_t ids[NBD_CONTEXTS_MAX];
    unsigned count = 0;

    *error = NBD_EINVAL;
    if (op->header.payload > sizeof(payload))
        return skip_payload(conn, op->header.payload);
    if (!take_payload(conn, payload, (size_t)op->header.payload))
        return false;
    if (!nbd_status_payload_parse(payload, (size_t)op->header.payload, &op->header.length, ids,
                                  &count) ||
        count == 0)
        return true;
    for (unsigned i = 0; i < count; i++) {
        uint32_t bit = ids[i] >= 1 && ids[i] <= conn->context_count ? 1u << (ids[i] - 1) : 0;

        if (!bit || op->context_set & bit) /* unknown, or twice */
            return true;
        op->context_set |= bit;
    }
    judge(conn, &op->header, error);
    return true;
}

/* Bytes of memory that the request needs beside its operation. */
static uint64_t buffer_of(const struct nbd_request *header)
{
    if (header->command == NBD_CMD_READ || header->command == NBD_CMD_WRITE)
        return header->length;
    if (header->command == NBD_CMD_CACHE)
        return header->length < NBD_PAYLOAD_MAX ? header->length : NBD_PAYLOAD_MAX;
    return 0;
}

/* False: the connection ends. */
static bool take_request(struct nbd_conn *conn, const struct nbd_request *header)
{
    bool is_status = header->command == NBD_CMD_BLOCK_STATUS;
    uint64_t bytes = 0;
    uint32_t error = 0;
    struct nbd_op *op;

    if (!(is_status && header->payload))
        judge(conn, header, &error);
    if (!error)
        bytes = buffer_of(header);
    op = nbd_op_take(conn, bytes);
    if (!op)
        return false;
    op->header = *header;
    if (bytes && !nbd_op_buffer(op, (size_t)bytes))
        error = NBD_ENOMEM;
    if (is_status && header->payload) {
        if (!take_status_payload(conn, op, &error)) {
            nbd_op_answer(op, NBD_EINVAL);
            return false;
        }
    } else {
        op->context_set = (1u << conn->context_count) - 1;
        if (header->payload && (error ? !skip_payload(conn, header->payload)
                                      : !take_payload(conn, op->buffer, (size_t)header->payload))) {
            nbd_op_answer(op, NBD_EINVAL);
            return false;
        }
    }
    if (error)
        nbd_op_answer(op, error);
    else
        carry_out(op);
    return true;
}

static void read_requests(struct nbd_conn *conn)
{
    size_t bytes = nbd_request_bytes(conn->mode);
    struct nbd_request header;

    while (!conn->broken && fill(conn, bytes)) {
        if (!nbd_request_parse(conn->mode, conn->in + conn->in_from, &header))
            return;
        conn->in_from += bytes;
        if (header.command == NBD_CMD_DISC || !take_request(conn, &header))
            return;
    }
}

/* Others wait for what it holds. */
static void send_away(struct budget_share *share)
{
    struct nbd_conn *conn = (struct nbd_conn *)((char *)share - offsetof(struct nbd_conn, share));

    budget_end(share);
    atomic_store(&conn->ending, true);
    (void)shutdown(conn->stream.fd, SHUT_RDWR);
}

void nbd_transmit(struct nbd_conn *conn)
{
    conn->share.send_away = send_away;
    export_budget_enter(conn->export, &conn->share);
    conn->in = malloc(NBD_IN_BYTES);
    conn->ops = calloc(NBD_OPS_MAX, sizeof(*conn->ops));
    if (!conn->in || !conn->ops)
        goto out;
    for (unsigned i = 0; i < NBD_OPS_MAX; i++) {
        conn->ops[i].conn = conn;
        conn->ops[i].next = conn->free;
        conn->free = &conn->ops[i];
    }
    if (task_spawn(task_reactor(task_current()), nbd_writer, conn))
        goto out;
    conn->is_writing = true;
    read_requests(conn);
    while (conn->in_flight > 0)
        task_park(&conn->reader);
    conn->closing = true;
    task_wake(&conn->writer);
    task_wake(&conn->asker);
    while (conn->is_writing || conn->is_asking)
        task_park(&conn->reader);
out:
    budget_leave(&conn->share);
    free(conn->in);
    free(conn->ops);
    conn->in = NULL;
    conn->ops = conn->free = NULL;
}
