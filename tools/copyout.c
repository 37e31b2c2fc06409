/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image to sink; see copyout.h.
 *
 * A sink that takes pieces in any order is filled by lanes.c. For the others there is a ring of
 * slots, in use from tail to head. At the head pieces are begun: a read is submitted, or nothing
 * for zeros. At the tail the sink gets them in order, while the reads overtake each other.
 */
#include "copyout.h"

#include "interrupt.h"
#include "lanes.h"
#include "ranges.h"
#include "report.h"

#include <errno.h>
#include <stdlib.h>

#define SLOTS       16u
#define PIECE_BYTES (UINT64_C(1) << 18)
#define ALIGNMENT   4096u

struct slot {
    struct vdisk_request request;
    bool is_zero, is_read;
};

struct ring {
    const struct copyout *copy;
    struct ranges ranges;
    struct progress progress;
    struct slot slots[SLOTS];
    uint8_t *memory; /* SLOTS * PIECE_BYTES */
    unsigned head, tail;
    uint64_t handed_over;
};

static void read_done(struct vdisk_request *request)
{
    struct slot *slot = request->owner;

    slot->is_read = true;
}

static void begin(struct ring *ring, const struct range *range)
{
    struct session *session = ring->copy->session;
    unsigned index = ring->head++ % SLOTS;
    struct slot *slot = &ring->slots[index];

    *slot = (struct slot){
        .request = {.op = VDISK_READ,
                    .offset = range->offset,
                    .length = range->length,
                    .data = ring->memory + index * PIECE_BYTES,
                    .snapshot = session->snapshot,
                    .done = read_done,
                    .owner = slot},
        .is_zero = range->is_zero,
        .is_read = range->is_zero,
    };
    if (!range->is_zero)
        vdisk_submit(session->image, &slot->request);
}

static int fill(struct ring *ring)
{
    while (ring->head - ring->tail < SLOTS) {
        struct range range;
        int result = ranges_next(&ring->ranges, &range);

        if (result)
            return session_fail(ring->copy->session, result);
        if (range.length == 0)
            return STATUS_DONE;
        begin(ring, &range);
    }
    return STATUS_DONE;
}

/* To the sink with what has been read, in order. */
static int hand_over(struct ring *ring)
{
    struct sink *sink = ring->copy->sink;

    while (ring->tail != ring->head && ring->slots[ring->tail % SLOTS].is_read) {
        const struct slot *slot = &ring->slots[ring->tail % SLOTS];
        const struct vdisk_request *request = &slot->request;
        int result;

        if (request->result) {
            progress_clear(&ring->progress);
            return session_fail(ring->copy->session, request->result);
        }
        result = slot->is_zero
                     ? sink->ops->zeros(sink, request->offset, request->length)
                     : sink->ops->data(sink, request->offset, request->data, request->length);
        if (result) {
            progress_clear(&ring->progress);
            return report(sink->name, result, &sink->error);
        }
        ring->tail++;
        ring->handed_over += request->length;
        progress_update(&ring->progress, ring->handed_over, ring->copy->length);
    }
    return STATUS_DONE;
}

static int run(struct ring *ring)
{
    for (;;) {
        int status = fill(ring);

        if (status != STATUS_DONE || ring->head == ring->tail)
            return status;
        vdisk_poll(ring->copy->session->image, !ring->slots[ring->tail % SLOTS].is_read);
        if (interrupt_pending()) {
            progress_clear(&ring->progress);
            return report(ring->copy->session->spec.text, -ECANCELED, NULL);
        }
        status = hand_over(ring);
        if (status != STATUS_DONE)
            return status;
    }
}

/* The buffers are the image's until all is read. */
static void drain(struct ring *ring)
{
    for (unsigned i = ring->tail; i != ring->head; i++) {
        while (!ring->slots[i % SLOTS].is_read)
            vdisk_poll(ring->copy->session->image, true);
    }
}

static int run_in_order(const struct copyout *copy)
{
    struct ring *ring = calloc(1, sizeof(*ring));
    int status = STATUS_FAILED;

    if (!ring)
        return report(copy->session->spec.text, -ENOMEM, NULL);
    ring->copy = copy;
    ring->memory = aligned_alloc(ALIGNMENT, SLOTS * PIECE_BYTES);
    if (!ring->memory) {
        status = report(copy->session->spec.text, -ENOMEM, NULL);
        goto out;
    }
    ranges_begin(&ring->ranges, copy->session, copy->offset, copy->length, copy->use_map,
                 PIECE_BYTES);
    progress_begin(&ring->progress, copy->verb, copy->quiet);
    status = run(ring);
    progress_clear(&ring->progress);
    drain(ring);
out:
    free(ring->memory);
    free(ring);
    return status;
}

int copyout_run(const struct copyout *copy)
{
    int status;

    if (copy->sink->any_order && lanes_run(copy, &status))
        return status;
    return run_in_order(copy);
}
