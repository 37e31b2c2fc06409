/* SPDX-License-Identifier: Apache-2.0 */
/* Operations of an NBD connection, their buffers, and the task that sends replies: nbd_conn.h. */
#include "nbd_conn.h"
#include "zeros.h"

#include <stdlib.h>
#include <sys/socket.h>

#define HOLE_MIN 4096u /* shorter reads of zeros are sent as they are */

/* --- buffers -------------------------------------------------------------------------------- */

bool nbd_op_buffer(struct nbd_op *op, size_t bytes)
{
    op->buffer = reactor_take(export_reactor(op->conn->export), bytes);
    if (!op->buffer)
        return false;
    op->buffer_bytes = bytes;
    return true;
}

void nbd_op_drop_buffer(struct nbd_op *op)
{
    if (op->taken == 0)
        return;
    reactor_give(export_reactor(op->conn->export), op->buffer, op->buffer_bytes);
    budget_give(&op->conn->share, op->taken);
    op->buffer = NULL;
    op->buffer_bytes = op->taken = 0;
}

/* --- operations ----------------------------------------------------------------------------- */

void nbd_queue_push(struct nbd_queue *queue, struct nbd_op *op)
{
    op->next = NULL;
    if (queue->head)
        queue->tail->next = op;
    else
        queue->head = op;
    queue->tail = op;
}

struct nbd_op *nbd_op_take(struct nbd_conn *conn, uint64_t bytes)
{
    struct nbd_op *op;

    while (!conn->broken && (!conn->free || conn->share.held + bytes > NBD_HELD_MAX))
        task_park(&conn->reader);
    if (conn->broken || !budget_take(&conn->share, bytes))
        return NULL;
    op = conn->free;
    conn->free = op->next;
    conn->in_flight++;
    op->taken = bytes;
    op->data_bytes = op->reply_bytes = 0;
    op->context_set = 0;
    return op;
}

static void release(struct nbd_op *op)
{
    struct nbd_conn *conn = op->conn;

    nbd_op_drop_buffer(op);
    op->next = conn->free;
    conn->free = op;
    conn->in_flight--;
}

void nbd_op_finish(struct nbd_op *op)
{
    nbd_queue_push(&op->conn->finished, op);
    task_wake(&op->conn->writer);
}

void nbd_op_answer(struct nbd_op *op, uint32_t error)
{
    nbd_op_drop_buffer(op);
    op->reply_bytes = nbd_reply_encode(op->reply, op->conn->mode, &op->header, error);
    nbd_op_finish(op);
}

/* Outside of tasks. */
void nbd_op_done(struct export_request *request)
{
    struct nbd_op *op = request->owner;
    const struct nbd_request *header = &op->header;
    int result = request->request.result;
    bool is_hole;

    if (result || header->command != NBD_CMD_READ) {
        nbd_op_answer(op, nbd_error_code(result, header->flags & NBD_CMD_FLAG_FAST_ZERO));
        return;
    }
    is_hole = op->conn->mode != NBD_SIMPLE && header->length >= HOLE_MIN &&
              zeros_is_all(op->buffer, header->length);
    op->reply_bytes = nbd_read_reply_encode(op->reply, op->conn->mode, header, is_hole);
    if (is_hole)
        nbd_op_drop_buffer(op);
    else
        op->data_bytes = header->length;
    nbd_op_finish(op);
}

/* Everything that has ended, in one message. */
static void send_finished(struct nbd_conn *conn, struct iovec *vectors)
{
    struct nbd_op *first = conn->finished.head, *op;
    uint64_t bytes = 0;
    unsigned count = 0;
    int result = 0;

    conn->finished.head = NULL;
    for (op = first; op; op = op->next) {
        vectors[count++] = (struct iovec){op->reply, op->reply_bytes};
        if (op->data_bytes)
            vectors[count++] = (struct iovec){op->buffer, op->data_bytes};
        bytes += op->reply_bytes + op->data_bytes;
    }
    budget_owe(&conn->share.to_take, bytes);
    if (!conn->broken)
        result = stream_send(&conn->stream, vectors, count, TASK_FOREVER);
    budget_owe(&conn->share.to_take, 0);
    if (result) { /* the reader is to notice */
        conn->broken = true;
        budget_end(&conn->share);
        (void)shutdown(conn->stream.fd, SHUT_RDWR);
    }
    while (first) {
        op = first;
        first = op->next;
        release(op);
    }
    task_wake(&conn->reader);
}

void nbd_writer(void *arg)
{
    struct nbd_conn *conn = arg;
    struct iovec vectors[2 * NBD_OPS_MAX];

    while (conn->finished.head || !conn->closing) {
        if (conn->finished.head)
            send_finished(conn, vectors);
        else
            task_park(&conn->writer);
    }
    conn->is_writing = false;
    task_wake(&conn->reader);
}
