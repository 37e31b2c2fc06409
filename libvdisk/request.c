/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests: each runs in a coroutine of its own, so many at a time; the rest waits in line. What
 * has ended is handed out by vdisk_poll, outside of any coroutine.
 */
#include "data.h"
#include "journal.h"

#include <errno.h>
#include <stdlib.h>

#define RUNNING_MAX 128u

static int check_bounds(const struct vdisk_request *request, const struct vdisk_image *image)
{
    uint64_t size = request->snapshot ? request->snapshot->snap.size : image->size;
    if (request->offset > size || request->length > size - request->offset)
        return -EINVAL;
    if (request->op <= VDISK_WRITE && request->length > VDISK_REQUEST_MAX)
        return -EINVAL;
    if (request->op != VDISK_READ && request->snapshot)
        return -EROFS;
    return 0;
}

static int perform(struct vdisk_image *image, struct vdisk_request *request)
{
    uint64_t offset = request->offset, length = request->length;
    int r = request->op == VDISK_FLUSH ? 0 : check_bounds(request, image);
    if (r)
        return vd_image_fail(image, r,
                             r == -EROFS ? "snapshots are read-only"
                                         : "the range is not within the drive");
    if (request->op != VDISK_READ && image->read_only)
        return request->op == VDISK_FLUSH
                   ? 0
                   : vd_image_fail(image, -EROFS, "the image is open read-only");
    if (request->op != VDISK_READ && image->failed)
        return vd_image_fail(image, VDISK_E_FAILED,
                             "an earlier write to the image file failed; open it again");
    bool lead = request->fua || vd_journal_expects_flush(image);
    switch (request->op) {
    case VDISK_READ:
        return length ? vd_do_read(image, request->snapshot, offset, request->data, length) : 0;
    case VDISK_WRITE:
        r = length ? vd_do_write(image, offset, request->data, length, lead) : 0;
        break;
    case VDISK_DISCARD:
    case VDISK_ZERO:
        r = length ? vd_do_clear(image, offset, length, request->op == VDISK_DISCARD) : 0;
        break;
    case VDISK_FLUSH:
        vd_journal_note_flush(image);
        return vd_commit(image);
    }
    if (r)
        return r;
    if (request->fua)
        return vd_commit(image);
    return request->outlives ? vd_journal_keep(image) : 0;
}

static void append(struct vdisk_request **head, struct vdisk_request **tail,
                   struct vdisk_request *request)
{
    request->next = NULL;
    if (*head)
        (*tail)->next = request;
    else
        *head = request;
    *tail = request;
}

struct running {
    struct vdisk_image *image;
    struct vdisk_request *request;
};

static void run_request(void *arg)
{
    struct running running = *(struct running *)arg;
    struct vdisk_image *image = running.image;
    free(arg);
    running.request->result = vd_image_explain(image, perform(image, running.request));
    image->running_requests--;
    bool changed =
        running.request->op == VDISK_WRITE && running.request->result == 0 && !running.request->fua;
    append(&image->ended_head, &image->ended_tail, running.request);
    if (changed)
        vd_journal_expect(image);
}

static void dispatch(struct vdisk_image *image)
{
    while (image->incoming_head && image->running_requests < RUNNING_MAX) {
        struct vdisk_request *request = image->incoming_head;
        struct running *running = malloc(sizeof(*running));
        image->incoming_head = request->next;
        if (running)
            *running = (struct running){image, request};
        if (!running || vd_loop_spawn(&image->loop, run_request, running)) {
            free(running);
            request->result = vd_image_fail(image, -ENOMEM, "out of memory");
            append(&image->ended_head, &image->ended_tail, request);
            continue;
        }
        image->running_requests++;
    }
}

static bool deliver(struct vdisk_image *image)
{
    bool any = image->ended_head != NULL;
    while (image->ended_head) {
        struct vdisk_request *request = image->ended_head;
        image->ended_head = request->next;
        image->requests--;
        request->done(request);
    }
    return any;
}

void vdisk_submit(struct vdisk_image *image, struct vdisk_request *request)
{
    image->requests++;
    append(&image->incoming_head, &image->incoming_tail, request);
}

bool vdisk_poll(struct vdisk_image *image, bool wait)
{
    do {
        dispatch(image);
        if (deliver(image))
            return true;
        if (!vd_loop_step(&image->loop, wait) && image->requests == 0)
            return false;
        dispatch(image);
        if (deliver(image))
            return true;
    } while (wait && image->requests);
    return image->requests || image->loop.coroutines;
}

bool vdisk_ready(const struct vdisk_image *image)
{
    const struct vd_loop *loop = image->loop.root;
    return loop->ready.head || loop->inline_jobs_head || image->ended_head ||
           (image->incoming_head && image->running_requests < RUNNING_MAX);
}

/* --- waiting --- */

static int perform_request(struct vdisk_image *image, void *arg)
{
    return perform(image, arg);
}

static int wait_for(struct vdisk_image *image, struct vdisk_request request)
{
    return vd_run(image, perform_request, &request);
}

int vdisk_read(struct vdisk_image *image, uint64_t offset, void *data, uint64_t length)
{
    return wait_for(image, (struct vdisk_request){
                               .op = VDISK_READ, .offset = offset, .data = data, .length = length});
}

int vdisk_snapshot_read(struct vdisk_snapshot *snapshot, uint64_t offset, void *data,
                        uint64_t length)
{
    return wait_for(snapshot->image, (struct vdisk_request){.op = VDISK_READ,
                                                            .snapshot = snapshot,
                                                            .offset = offset,
                                                            .data = data,
                                                            .length = length});
}

int vdisk_write(struct vdisk_image *image, uint64_t offset, const void *data, uint64_t length)
{
    return wait_for(image, (struct vdisk_request){.op = VDISK_WRITE,
                                                  .offset = offset,
                                                  .data = (void *)(uintptr_t)data,
                                                  .length = length});
}

int vdisk_flush(struct vdisk_image *image)
{
    return wait_for(image, (struct vdisk_request){.op = VDISK_FLUSH});
}

int vdisk_discard(struct vdisk_image *image, uint64_t offset, uint64_t length)
{
    return wait_for(
        image, (struct vdisk_request){.op = VDISK_DISCARD, .offset = offset, .length = length});
}

int vdisk_zero(struct vdisk_image *image, uint64_t offset, uint64_t length)
{
    return wait_for(image,
                    (struct vdisk_request){.op = VDISK_ZERO, .offset = offset, .length = length});
}
