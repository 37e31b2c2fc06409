/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Source to image; see copyin.h.
 *
 * A slot goes from free to reading to writing and back to free. What it read is written as runs of
 * units that are not all zeros, each a request of its own.
 */
#include "copyin.h"

#include "interrupt.h"
#include "progress.h"
#include "report.h"
#include "zeros.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS     SOURCE_READS_MAX
#define ALIGNMENT 4096u
#define RUNS_MAX  (SOURCE_PIECE_MAX / ZEROS_BLOCK_BYTES / 2 + 1)

enum phase {
    FREE,
    READING,
    WRITING,
};

struct slot {
    enum phase phase;
    struct nbd_read read;
    uint8_t *data; /* SOURCE_PIECE_MAX */
    struct vdisk_request runs[RUNS_MAX];
    unsigned writes; /* in flight */
    int result;
};

struct pump {
    const struct copyin *copy;
    struct progress progress;
    struct slot slots[SLOTS];
    uint8_t *memory;
    unsigned reading, writing; /* slots */
    uint64_t at;               /* of the source, not begun yet */
    uint64_t range_end;        /* of the range that `at` is in */
    uint64_t done_bytes;
};

static int source_fail(struct pump *pump, int code)
{
    progress_clear(&pump->progress);
    return report(pump->copy->source->name, code, &pump->copy->source->error);
}

static int image_fail(struct pump *pump, int code)
{
    progress_clear(&pump->progress);
    return report(pump->copy->path, code, vdisk_last_error(pump->copy->image));
}

static void advance(struct pump *pump, uint64_t bytes)
{
    pump->done_bytes += bytes;
    progress_update(&pump->progress, pump->done_bytes, pump->copy->source->size);
}

/* --- writing ------------------------------------------------------------------------------ */

static void write_done(struct vdisk_request *request)
{
    struct slot *slot = request->owner;

    if (request->result && slot->result == 0)
        slot->result = request->result;
    slot->writes--;
}

static void write_run(struct pump *pump, struct slot *slot, unsigned index, uint64_t at,
                      uint64_t length)
{
    slot->runs[index] = (struct vdisk_request){
        .op = VDISK_WRITE,
        .offset = slot->read.offset + at,
        .length = length,
        .data = slot->data + at,
        .done = write_done,
        .owner = slot,
    };
    slot->writes++;
    vdisk_submit(pump->copy->image, &slot->runs[index]);
}

static void begin_writing(struct pump *pump, struct slot *slot)
{
    uint64_t unit = pump->copy->unit, length = slot->read.length, at = 0;
    unsigned count = 0;

    slot->phase = WRITING;
    pump->reading--;
    pump->writing++;
    while (at < length) {
        uint64_t run;

        at += zeros_run(slot->data + at, length - at, unit);
        run = zeros_data_run(slot->data + at, length - at, unit);
        if (run)
            write_run(pump, slot, count++, at, run);
        at += run;
    }
}

/* --- reading ------------------------------------------------------------------------------ */

/*
 * Passes over zeros; leaves `at` in a range of data, or at the end. Both stay at multiples of the
 * unit: a unit that is a hole in part counts as data, so that it is written in one.
 */
static int find_data(struct pump *pump)
{
    struct source *source = pump->copy->source;
    uint64_t unit = pump->copy->unit;

    while (pump->at < source->size && pump->at >= pump->range_end) {
        uint64_t length, end;
        bool is_zero;
        int result = source->ops->range(source, pump->at, &length, &is_zero);

        if (result)
            return source_fail(pump, result);
        if (interrupt_pending())
            return source_fail(pump, -ECANCELED);
        end = pump->at + length;
        if (end < source->size)
            end = is_zero ? end / unit * unit : (end + unit - 1) / unit * unit;
        if (is_zero && end > pump->at) {
            advance(pump, end - pump->at);
            pump->at = end;
        } else {
            pump->range_end = end > pump->at ? end : pump->at + unit;
            if (pump->range_end > source->size)
                pump->range_end = source->size;
        }
    }
    return STATUS_DONE;
}

static struct slot *find_free(struct pump *pump)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        if (pump->slots[i].phase == FREE)
            return &pump->slots[i];
    }
    return NULL;
}

/* One piece: up to the end of the range or the next multiple of the piece's size. */
static int begin_reading(struct pump *pump, struct slot *slot)
{
    struct source *source = pump->copy->source;
    uint64_t end = (pump->at / SOURCE_PIECE_MAX + 1) * SOURCE_PIECE_MAX;
    int result;

    if (end > pump->range_end)
        end = pump->range_end;
    slot->read = (struct nbd_read){
        .offset = pump->at,
        .length = (uint32_t)(end - pump->at),
        .data = slot->data,
    };
    slot->result = 0;
    pump->at = end;
    result = source->ops->start(source, &slot->read);
    if (result)
        return source_fail(pump, result);
    slot->phase = READING;
    pump->reading++;
    return STATUS_DONE;
}

static int fill(struct pump *pump)
{
    for (;;) {
        struct slot *slot = find_free(pump);
        int status;

        if (!slot)
            return STATUS_DONE;
        status = find_data(pump);
        if (status != STATUS_DONE || pump->at >= pump->copy->source->size)
            return status;
        status = begin_reading(pump, slot);
        if (status != STATUS_DONE)
            return status;
        if (slot->read.is_done)
            begin_writing(pump, slot);
        vdisk_poll(pump->copy->image, false);
    }
}

/* --- both --------------------------------------------------------------------------------- */

/* Moves every slot on that can. */
static int sweep(struct pump *pump)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        struct slot *slot = &pump->slots[i];

        if (slot->phase == READING && slot->read.is_done) {
            if (slot->read.result)
                return source_fail(pump, slot->read.result);
            begin_writing(pump, slot);
        }
        if (slot->phase == WRITING && slot->writes == 0) {
            if (slot->result)
                return image_fail(pump, slot->result);
            slot->phase = FREE;
            pump->writing--;
            advance(pump, slot->read.length);
        }
    }
    return STATUS_DONE;
}

/* A read whose reply came while another was waited for. */
static bool has_read(const struct pump *pump)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        if (pump->slots[i].phase == READING && pump->slots[i].read.is_done)
            return true;
    }
    return false;
}

static int run(struct pump *pump)
{
    struct source *source = pump->copy->source;

    for (;;) {
        int status = sweep(pump);

        if (status == STATUS_DONE)
            status = fill(pump);
        if (status != STATUS_DONE)
            return status;
        if (interrupt_pending())
            return source_fail(pump, -ECANCELED);
        if (has_read(pump))
            continue;
        if (pump->reading > 0) {
            int result = source->ops->wait(source);

            if (result)
                return source_fail(pump, result);
            vdisk_poll(pump->copy->image, false);
        } else if (pump->writing > 0) {
            vdisk_poll(pump->copy->image, true);
        } else if (pump->at >= source->size) {
            return STATUS_DONE;
        }
    }
}

/* The buffers are the image's until every write is done. */
static void drain(struct pump *pump)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        while (pump->slots[i].writes > 0)
            vdisk_poll(pump->copy->image, true);
    }
}

int copyin_run(const struct copyin *copy)
{
    struct pump *pump = calloc(1, sizeof(*pump));
    int status = STATUS_FAILED;

    if (!pump)
        return report(copy->path, -ENOMEM, NULL);
    pump->copy = copy;
    pump->memory = aligned_alloc(ALIGNMENT, (size_t)SLOTS * SOURCE_PIECE_MAX);
    if (!pump->memory) {
        status = report(copy->path, -ENOMEM, NULL);
        goto out;
    }
    for (unsigned i = 0; i < SLOTS; i++)
        pump->slots[i].data = pump->memory + (size_t)i * SOURCE_PIECE_MAX;
    progress_begin(&pump->progress, "import", copy->quiet);
    status = run(pump);
    progress_clear(&pump->progress);
    drain(pump);
out:
    free(pump->memory);
    free(pump);
    return status;
}
