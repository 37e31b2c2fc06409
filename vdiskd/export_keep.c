/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes that were answered and may not be durable yet, kept by an export that waits when its disk
 * fails (export.h), so that they can be made again by an image that was opened anew.
 *
 * Invariants:
 * - The list has, in the order of their answers, all changes since the last flush that succeeded;
 *   a flush (or a change with FUA) covers those that were answered before it was handed to the
 *   image. Making them all again in that order leads to the state that clients have seen,
 *   whichever of them were durable.
 * - Memory is taken before the image gets a change, so that its answer cannot fail for want of it.
 * - While requests are `crowded` a flush is under way, or something else in the image, the end
 *   of which looks after them.
 * - What is kept stays within the limit, but for one change that is longer; that is flushed at
 * once.
 */
#include "export_impl.h"

#include <stdlib.h>
#include <string.h>

#define TRY_AGAIN_NS INT64_C(1000000000)

static bool is_change(const struct vdisk_request *request)
{
    return request->op != VDISK_READ && request->op != VDISK_FLUSH;
}

static void drop(struct export_keeper *keeper, struct export_kept *kept)
{
    keeper->bytes -= kept->bytes;
    free(kept);
}

/* What was answered up to `number` is durable. */
static void forget(struct export_keeper *keeper, uint64_t number)
{
    while (keeper->head && keeper->head->number <= number) {
        struct export_kept *kept = keeper->head;

        keeper->head = kept->next;
        drop(keeper, kept);
    }
}

bool export_keep_begin(struct export_request *request)
{
    struct export_keeper *keeper = &request->session->export->keeper;
    const struct vdisk_request *r = &request->request;
    size_t bytes = sizeof(struct export_kept) + (r->op == VDISK_WRITE ? (size_t)r->length : 0);

    request->kept = NULL;
    request->mark = keeper->number;
    if (!keeper->on || !is_change(r) || request->session->snapshot_name)
        return true;
    if (keeper->bytes > 0 && keeper->bytes + bytes > keeper->limit)
        return false;
    request->kept = malloc(bytes);
    if (!request->kept)
        return false;
    *request->kept =
        (struct export_kept){.op = r->op, .offset = r->offset, .length = r->length, .bytes = bytes};
    keeper->bytes += bytes;
    keeper->is_over = keeper->bytes > keeper->limit; /* one change alone may be */
    return true;
}

void export_keep_end(struct export_request *request)
{
    struct export_keeper *keeper = &request->session->export->keeper;
    struct export_kept *kept = request->kept;

    request->kept = NULL;
    if (kept && request->request.result) {
        drop(keeper, kept);
    } else if (kept) {
        kept->number = ++keeper->number;
        if (kept->op == VDISK_WRITE)
            memcpy(kept->data, request->request.data, kept->length);
        if (!keeper->head)
            keeper->tail = &keeper->head;
        *keeper->tail = kept;
        keeper->tail = &kept->next;
    }
    if (request->request.result == 0 &&
        (request->request.op == VDISK_FLUSH || request->request.fua))
        forget(keeper, request->mark);
}

/* ---- room ---- */

static void room_made(struct vdisk_request *flush)
{
    struct export *export = flush->owner;
    struct export_queue again = export->crowded;
    struct export_request *request;

    export->keeper.flushing = false;
    export->crowded.head = NULL;
    if (flush->result == 0)
        forget(&export->keeper, export->keeper.flush_mark);
    while ((request = export_pop(&again))) {
        request->request.result = flush->result;
        if (flush->result == 0)
            export_start(request);
        else
            export_over(request);
    }
    export_left(export);
}

void export_keep_make_room(struct export *export)
{
    struct export_keeper *keeper = &export->keeper;
    struct export_request *request;

    if ((!export->crowded.head && !keeper->is_over) || keeper->flushing)
        return;
    if (keeper->head && export->image) {
        keeper->flushing = true;
        keeper->is_over = false;
        keeper->flush_mark = keeper->number;
        keeper->flush =
            (struct vdisk_request){.op = VDISK_FLUSH, .done = room_made, .owner = export};
        export->busy++;
        vdisk_submit(export->image, &keeper->flush);
        reactor_kick(export->lane->reactor, &export->ready);
    } else if (export->busy == 0) { /* it is memory that is short */
        while ((request = export_pop(&export->crowded)))
            export_wait(request, TRY_AGAIN_NS);
    }
}

void export_keep_crowded(struct export_request *request)
{
    struct export *export = request->session->export;

    export_push(&export->crowded, request);
    export_keep_make_room(export);
}

void export_keep_limit(struct export *export, size_t bytes)
{
    struct export_keeper *keeper = &export->keeper;

    keeper->limit = bytes;
    keeper->is_over = keeper->bytes > bytes; /* seen to when something leaves the image */
}

/* ---- again ---- */

void export_keep_cut(struct export *export, uint64_t size)
{
    for (struct export_kept *kept = export->keeper.head; kept; kept = kept->next) {
        uint64_t left = kept->offset < size ? size - kept->offset : 0;

        kept->length = kept->length < left ? kept->length : left;
    }
}

int export_keep_replay(struct export *export, struct vdisk_image *image)
{
    uint64_t size = vdisk_size(image);
    int result = 0;

    for (const struct export_kept *kept = export->keeper.head; kept && result == 0;
         kept = kept->next) {
        uint64_t length = kept->length;

        if (kept->offset >= size || length == 0) /* the drive was made smaller after it */
            continue;
        length = length < size - kept->offset ? length : size - kept->offset;
        if (kept->op == VDISK_WRITE)
            result = vdisk_write(image, kept->offset, kept->data, length);
        else if (kept->op == VDISK_DISCARD)
            result = vdisk_discard(image, kept->offset, length);
        else
            result = vdisk_zero(image, kept->offset, length);
    }
    return result;
}

void export_keep_clear(struct export *export)
{
    forget(&export->keeper, UINT64_MAX);
}
