/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request of a queue, from its chain to its status. Its data pass through a buffer of ours:
 * what the guest does to its memory meanwhile is its own affair. A long one goes piece by piece,
 * and so do the ranges of a discard.
 */
#include "vhost_conn.h"

#include <linux/virtio_ring.h>
#include <stdlib.h>

#define BIT(number) (UINT64_C(1) << (number))

struct vhost_op *vhost_op_take(struct vhost_queue *queue)
{
    struct vhost_conn *conn = queue->conn;
    struct vhost_op *op = conn->free;

    /* Who holds something looks again when it has less. */
    if (conn->ops >= VHOST_OPS_MAX || conn->share.held >= VHOST_HELD_MAX ||
        !budget_has_room(&conn->share))
        return NULL;
    if (op)
        conn->free = op->next;
    else
        op = malloc(sizeof(*op));
    if (!op)
        return NULL;
    conn->ops++;
    op->queue = queue;
    op->buffer = NULL;
    op->buffer_bytes = 0;
    op->at = 0;
    return op;
}

void vhost_op_release(struct vhost_op *op)
{
    struct vhost_conn *conn = op->queue->conn;

    reactor_give(conn->reactor, op->buffer, op->buffer_bytes);
    budget_give(&conn->share, op->buffer_bytes);
    conn->ops--;
    op->next = conn->free;
    conn->free = op;
}

void vhost_ops_free(struct vhost_conn *conn)
{
    while (conn->free) {
        struct vhost_op *op = conn->free;

        conn->free = op->next;
        free(op);
    }
}

int vhost_op_parse(struct vhost_op *op)
{
    const struct vhost_conn *conn = op->queue->conn;
    struct vhost_blk_limits limits = {
        .size = conn->size,
        .read_only = conn->read_only,
        .flush = conn->features & BIT(VIRTIO_BLK_F_FLUSH),
        .discard = conn->features & BIT(VIRTIO_BLK_F_DISCARD),
        .zeroes = conn->features & BIT(VIRTIO_BLK_F_WRITE_ZEROES),
    };

    return vhost_blk_parse(&op->what, &op->chain, &conn->memory, &limits, &op->status);
}

static void finish(struct vhost_op *op, uint8_t status)
{
    op->status = status;
    vhost_queue_finished(op);
}

/* A driver that cannot flush, or has switched the cache off, expects writes to last. */
static bool is_write_through(const struct vhost_conn *conn)
{
    if (!(conn->features & BIT(VIRTIO_BLK_F_FLUSH)))
        return true;
    return conn->features & BIT(VIRTIO_BLK_F_CONFIG_WCE) && !conn->write_back;
}

static void done(struct export_request *request);

static void submit(struct vhost_op *op, enum vdisk_request_op what, uint64_t offset,
                   uint64_t length)
{
    struct vhost_conn *conn = op->queue->conn;
    bool is_change = what == VDISK_WRITE || what == VDISK_ZERO || what == VDISK_DISCARD;

    op->request.request = (struct vdisk_request){
        .op = what,
        .fua = is_change && is_write_through(conn),
        .outlives = is_change, /* the guest does not notice when we are killed and come back */
        .offset = offset,
        .length = length,
        .data = op->buffer,
    };
    op->request.done = done;
    op->request.owner = op;
    export_submit(conn->session, &op->request);
}

static void next_piece(struct vhost_op *op)
{
    const struct vhost_blk_request *what = &op->what;
    struct vhost_conn *conn = op->queue->conn;
    uint64_t length = what->length - op->at;
    bool is_write = what->kind == VHOST_BLK_WRITE;

    length = length < VHOST_PIECE ? length : VHOST_PIECE;
    if (length == 0)
        finish(op, VIRTIO_BLK_S_OK);
    else if (is_write && vhost_blk_take(&conn->memory, &op->chain, op->at, op->buffer, length))
        finish(op, VIRTIO_BLK_S_IOERR);
    else
        submit(op, is_write ? VDISK_WRITE : VDISK_READ, what->offset + op->at, length);
}

static void next_range(struct vhost_op *op)
{
    const struct vhost_blk_request *what = &op->what;

    while (op->at < what->ranges && what->range[op->at].length == 0)
        op->at++;
    if (op->at == what->ranges) {
        finish(op, VIRTIO_BLK_S_OK);
        return;
    }
    const struct vhost_blk_range *range = &what->range[op->at];

    submit(op, what->kind == VHOST_BLK_DISCARD ? VDISK_DISCARD : VDISK_ZERO, range->offset,
           range->length);
}

static void done(struct export_request *request)
{
    struct vhost_op *op = request->owner;
    struct vhost_memory *memory = &op->queue->conn->memory;
    uint64_t length = request->request.length;
    int result = request->request.result;

    if (result == 0 && op->what.kind == VHOST_BLK_READ)
        result = vhost_blk_fill(memory, &op->chain, op->at, op->buffer, length);
    if (result) {
        finish(op, VIRTIO_BLK_S_IOERR);
    } else if (op->what.kind == VHOST_BLK_FLUSH) {
        finish(op, VIRTIO_BLK_S_OK);
    } else if (op->what.ranges > 0) {
        op->at++;
        next_range(op);
    } else {
        op->at += length;
        next_piece(op);
    }
}

static void start_data(struct vhost_op *op)
{
    struct vhost_conn *conn = op->queue->conn;
    size_t bytes = op->what.length < VHOST_PIECE ? op->what.length : VHOST_PIECE;

    if (bytes > 0) {
        op->buffer = reactor_take(conn->reactor, bytes);
        if (!op->buffer) {
            finish(op, VIRTIO_BLK_S_IOERR);
            return;
        }
        op->buffer_bytes = bytes;
        budget_seize(&conn->share, bytes);
    }
    next_piece(op);
}

void vhost_op_start(struct vhost_op *op)
{
    struct vhost_conn *conn = op->queue->conn;

    if (op->status != VIRTIO_BLK_S_OK) {
        finish(op, op->status);
        return;
    }
    switch (op->what.kind) {
    case VHOST_BLK_READ:
    case VHOST_BLK_WRITE:
        start_data(op);
        break;
    case VHOST_BLK_FLUSH:
        submit(op, VDISK_FLUSH, 0, 0);
        break;
    case VHOST_BLK_DISCARD:
    case VHOST_BLK_ZEROES:
        next_range(op);
        break;
    case VHOST_BLK_GET_ID:
        finish(op, vhost_blk_fill(&conn->memory, &op->chain, 0, conn->serial, op->what.length)
                       ? VIRTIO_BLK_S_IOERR
                       : VIRTIO_BLK_S_OK);
        break;
    }
}
