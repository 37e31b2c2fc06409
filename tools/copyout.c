/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image to sink; see copyout.h.
 *
 * A ring of slots: at its head pieces are begun (a read is submitted, or nothing for zeros), at
 * its tail they are handed to the sink. So the sink sees them in order while the reads overtake
 * each other. Slots between tail and head are in use.
 */
#include "copyout.h"

#include "interrupt.h"
#include "ranges.h"
#include "report.h"

#include <errno.h>
#include <stdlib.h>

#define SLOTS       16u
#define PIECE_BYTES (UINT64_C(1) << 20)
#define ALIGNMENT   4096u

struct slot {
    struct vdisk_request request;
    bool is_zero, is_done;
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

    slot->is_done = true;
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
        .is_done = range->is_zero,
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

static int hand_over(struct ring *ring, struct slot *slot)
{
    struct sink *sink = ring->copy->sink;
    struct vdisk_request *request = &slot->request;
    int result;

    if (request->result) {
        progress_clear(&ring->progress);
        return session_fail(ring->copy->session, request->result);
    }
    if (slot->is_zero)
        result = sink->ops->zeros(sink, request->offset, request->length);
    else
        result = sink->ops->data(sink, request->offset, request->data, request->length);
    if (result) {
        progress_clear(&ring->progress);
        return report(sink->name, result, &sink->error);
    }
    ring->handed_over += request->length;
    progress_update(&ring->progress, ring->handed_over, ring->copy->length);
    return STATUS_DONE;
}

static int run(struct ring *ring)
{
    struct session *session = ring->copy->session;

    for (;;) {
        struct slot *slot;
        int status = fill(ring);

        if (status != STATUS_DONE || ring->head == ring->tail)
            return status;
        slot = &ring->slots[ring->tail % SLOTS];
        while (!slot->is_done)
            vdisk_poll(session->image, true);
        if (interrupt_pending()) {
            progress_clear(&ring->progress);
            return report(session->spec.text, -ECANCELED, NULL);
        }
        status = hand_over(ring, slot);
        ring->tail++;
        if (status != STATUS_DONE)
            return status;
        vdisk_poll(session->image, false);
    }
}

/* The buffers are the image's until every read is done. */
static void drain(struct ring *ring)
{
    for (; ring->tail != ring->head; ring->tail++) {
        while (!ring->slots[ring->tail % SLOTS].is_done)
            vdisk_poll(ring->copy->session->image, true);
    }
}

int copyout_run(const struct copyout *copy)
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
