/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image to sink; see copyout.h.
 *
 * A ring of slots, in use from tail to head. At the head pieces are begun: a read is submitted, or
 * nothing for zeros. From `next` on they are not yet with the sink, which gets them in order
 * while the reads overtake each other. Writing to a file takes as long as reading and decrypting,
 * so it is done on a thread of its own.
 */
#include "copyout.h"

#include "interrupt.h"
#include "ranges.h"
#include "report.h"
#include "workers.h"

#include <errno.h>
#include <stdlib.h>

#define SLOTS       16u
#define PIECE_BYTES (UINT64_C(1) << 18)
#define ALIGNMENT   4096u

struct slot {
    struct vdisk_job job; /* first: the writing of it */
    struct vdisk_request request;
    struct sink *sink;
    bool is_zero, is_read, is_written;
    int result; /* of the sink */
};

struct ring {
    const struct copyout *copy;
    struct ranges ranges;
    struct progress progress;
    struct vdisk_workers *writer; /* NULL: the sink wants the main thread */
    struct slot slots[SLOTS];
    uint8_t *memory; /* SLOTS * PIECE_BYTES */
    unsigned head, next, tail;
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
        .sink = ring->copy->sink,
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

static void write_slot(struct vdisk_job *job)
{
    struct slot *slot = (struct slot *)job;
    struct vdisk_request *request = &slot->request;
    struct sink *sink = slot->sink;

    if (sink->error.code) /* of an earlier piece */
        slot->result = sink->error.code;
    else if (slot->is_zero)
        slot->result = sink->ops->zeros(sink, request->offset, request->length);
    else
        slot->result = sink->ops->data(sink, request->offset, request->data, request->length);
}

static void slot_written(struct vdisk_job *job)
{
    ((struct slot *)job)->is_written = true;
}

/* To the sink with what has been read, in order. */
static int hand_over(struct ring *ring)
{
    while (ring->next != ring->head && ring->slots[ring->next % SLOTS].is_read) {
        struct slot *slot = &ring->slots[ring->next % SLOTS];

        if (slot->request.result) {
            progress_clear(&ring->progress);
            return session_fail(ring->copy->session, slot->request.result);
        }
        slot->job = (struct vdisk_job){.run = write_slot, .done = slot_written};
        ring->next++;
        if (ring->writer) {
            ring->writer->ops->submit(ring->writer, &slot->job);
            continue;
        }
        write_slot(&slot->job);
        slot_written(&slot->job);
        if (slot->result)
            return STATUS_DONE; /* nothing more for this sink */
    }
    return STATUS_DONE;
}

/* Frees the slots that are written. */
static int retire(struct ring *ring)
{
    while (ring->tail != ring->next && ring->slots[ring->tail % SLOTS].is_written) {
        struct slot *slot = &ring->slots[ring->tail % SLOTS];

        if (slot->result) {
            progress_clear(&ring->progress);
            return report(slot->sink->name, slot->result, &slot->sink->error);
        }
        ring->tail++;
        ring->handed_over += slot->request.length;
        progress_update(&ring->progress, ring->handed_over, ring->copy->length);
    }
    return STATUS_DONE;
}

/* Until something has been read or written. */
static void wait_for_some(struct ring *ring)
{
    bool is_reading = ring->next != ring->head && !ring->slots[ring->next % SLOTS].is_read;

    if (ring->writer)
        ring->writer->ops->poll(ring->writer, !is_reading);
    vdisk_poll(ring->copy->session->image, is_reading);
}

static int run(struct ring *ring)
{
    for (;;) {
        int status = fill(ring);

        if (status != STATUS_DONE || ring->head == ring->tail)
            return status;
        wait_for_some(ring);
        if (interrupt_pending()) {
            progress_clear(&ring->progress);
            return report(ring->copy->session->spec.text, -ECANCELED, NULL);
        }
        status = hand_over(ring);
        if (status == STATUS_DONE)
            status = retire(ring);
        if (status != STATUS_DONE)
            return status;
    }
}

/* The buffers are the image's and the writer's until all is done. */
static void drain(struct ring *ring)
{
    for (unsigned i = ring->tail; i != ring->head; i++) {
        while (!ring->slots[i % SLOTS].is_read)
            vdisk_poll(ring->copy->session->image, true);
    }
    if (ring->writer) {
        while (ring->writer->ops->poll(ring->writer, true) > 0)
            continue;
        ring->writer->ops->close(ring->writer);
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
    /* Without a thread for it, this one writes. */
    if (copy->sink->any_thread && vd_workers_open(1, &ring->writer))
        ring->writer = NULL;
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
