/* SPDX-License-Identifier: Apache-2.0 */
/* Block status of an NBD connection: one question after the other, by a task of its own. */
#include "nbd_conn.h"

#include <errno.h>

struct answer {
    struct nbd_op *op;
    struct nbd_extents extents[NBD_CONTEXTS_MAX];
    unsigned dirty; /* the context that is looked at */
    bool is_full;
};

static bool is_asked(const struct nbd_op *op, unsigned i)
{
    return op->context_set & 1u << i;
}

/* What base:allocation and qemu:allocation-depth say of a range. */
static uint32_t state_of(enum nbd_context_kind kind, const struct vdisk_extent *extent)
{
    if (kind == NBD_CONTEXT_DEPTH)
        return extent->kind == VDISK_EXTENT_HOLE ? 0 : extent->depth + 1;
    if (extent->kind == VDISK_EXTENT_HOLE || extent->kind == VDISK_EXTENT_ZERO)
        return NBD_STATE_HOLE | NBD_STATE_ZERO;
    return 0;
}

static bool each_extent(void *opaque, const struct vdisk_extent *extent)
{
    struct answer *answer = opaque;
    const struct nbd_conn *conn = answer->op->conn;
    bool want_more = false;

    for (unsigned i = 0; i < conn->context_count; i++) {
        struct nbd_extents *extents = &answer->extents[i];
        enum nbd_context_kind kind = conn->context[i].kind;

        /* One that was full stays behind, and takes nothing more. */
        if (is_asked(answer->op, i) && kind != NBD_CONTEXT_DIRTY && extents->at == extent->offset &&
            nbd_extents_add(extents, extent->length, state_of(kind, extent)))
            want_more = true;
    }
    return want_more;
}

/* What there is to look at: the request's range of the state that is served. */
static int range_of(const struct nbd_op *op, struct vdisk_range *range)
{
    range->offset = op->header.offset;
    range->length = op->header.length;
    range->wanted = op->header.flags & NBD_CMD_FLAG_REQ_ONE ? 2 : 0; /* where the first one ends */
    return export_session_snapshot(op->conn->session, &range->state);
}

static int look_at_map(struct vdisk_image *image, void *arg)
{
    struct answer *answer = arg;
    struct vdisk_range range;
    uint64_t reached;
    int result = range_of(answer->op, &range);

    return result ? result : vdisk_map_part(image, &range, true, each_extent, answer, &reached);
}

static bool each_change(void *opaque, const struct vdisk_extent *extent)
{
    struct answer *answer = opaque;
    struct nbd_extents *extents = &answer->extents[answer->dirty];

    answer->is_full = !nbd_extents_add(extents, extent->offset - extents->at, 0) ||
                      !nbd_extents_add(extents, extent->length, NBD_STATE_DIRTY);
    return !answer->is_full;
}

static int look_at_changes(struct vdisk_image *image, void *arg)
{
    struct answer *answer = arg;
    struct nbd_extents *extents = &answer->extents[answer->dirty];
    struct vdisk_snapshot *since = NULL;
    struct vdisk_range range;
    uint64_t reached;
    int result = range_of(answer->op, &range);

    if (result == 0)
        result = export_session_snapshot(answer->op->conn->context[answer->dirty].since, &since);
    if (result == 0)
        result = vdisk_diff_part(image, since, &range, each_change, answer, &reached);
    if (result == 0 && !answer->is_full && reached > extents->at)
        (void)nbd_extents_add(extents, reached - extents->at, 0);
    return result;
}

/* Into the operation's buffer. */
static int encode(struct answer *answer)
{
    struct nbd_op *op = answer->op;
    const struct nbd_conn *conn = op->conn;
    unsigned last = 0;
    size_t bytes = 0;
    uint8_t *at;

    for (unsigned i = 0; i < conn->context_count; i++) {
        if (!is_asked(op, i))
            continue;
        if (answer->extents[i].result)
            return answer->extents[i].result;
        if (answer->extents[i].count == 0)
            return -EIO;
        bytes += nbd_extents_bytes(&answer->extents[i], conn->mode);
        last = i;
    }
    if (!budget_take(&op->conn->share, bytes))
        return -ESHUTDOWN;
    op->taken = bytes;
    if (!nbd_op_buffer(op, bytes))
        return -ENOMEM;
    at = op->buffer;
    for (unsigned i = 0; i < conn->context_count; i++) {
        if (!is_asked(op, i))
            continue;
        nbd_extents_encode(&answer->extents[i], at, conn->mode, &op->header, i + 1, i == last);
        at += nbd_extents_bytes(&answer->extents[i], conn->mode);
    }
    op->data_bytes = bytes;
    return 0;
}

static void answer_question(struct nbd_op *op)
{
    struct nbd_conn *conn = op->conn;
    struct answer answer = {.op = op};
    unsigned cap = op->header.flags & NBD_CMD_FLAG_REQ_ONE ? 1 : NBD_DESCRIPTORS_MAX;
    struct vdisk_error error;
    bool needs_map = false;
    int result = 0;

    for (unsigned i = 0; i < conn->context_count; i++) {
        if (!is_asked(op, i))
            continue;
        nbd_extents_begin(&answer.extents[i], op->header.offset, op->header.length, cap);
        answer.dirty = i;
        answer.is_full = false;
        if (conn->context[i].kind != NBD_CONTEXT_DIRTY)
            needs_map = true;
        else if (result == 0)
            result = export_call(conn->export, look_at_changes, &answer, &error);
    }
    if (needs_map && result == 0)
        result = export_call(conn->export, look_at_map, &answer, &error);
    if (result == 0)
        result = encode(&answer);
    for (unsigned i = 0; i < conn->context_count; i++)
        nbd_extents_free(&answer.extents[i]);
    if (result)
        nbd_op_answer(op, nbd_error_code(result, false));
    else
        nbd_op_finish(op);
}

void nbd_asker(void *arg)
{
    struct nbd_conn *conn = arg;

    while (conn->questions.head || !conn->closing) {
        struct nbd_op *op = conn->questions.head;

        if (!op) {
            task_park(&conn->asker);
            continue;
        }
        conn->questions.head = op->next;
        answer_question(op);
    }
    conn->is_asking = false;
    task_wake(&conn->reader);
}
