/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated disk (sim_io.h): requests, their order, their faults, and what a sync does.
 */
#include "sim_io.h"

#include "sim_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void *sim_must(void *memory)
{
    if (!memory)
        abort(); /* a test cannot go on */
    return memory;
}

/* ---- operations ---- */

void sim_ops_add(struct sim_op_list *list, struct sim_op *op)
{
    if (list->count == list->room) {
        list->room = list->room ? list->room * 2 : 16;
        list->ops = sim_must(realloc(list->ops, list->room * sizeof(struct sim_op *)));
    }
    list->ops[list->count++] = op;
}

static void ops_remove(struct sim_op_list *list, size_t index)
{
    list->count--;
    memmove(list->ops + index, list->ops + index + 1,
            (list->count - index) * sizeof(struct sim_op *));
}

static void ops_release(struct sim_op_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        sim_op_free(list->ops[i]);
    free(list->ops);
    *list = (struct sim_op_list){0};
}

void sim_op_free(struct sim_op *op)
{
    for (uint64_t i = 0; op->pages && i < op->count; i++)
        sim_page_drop(op->pages[i]);
    free(op->pages);
    free(op);
}

/* Forgets all but the first `count` pages. */
static void op_shorten(struct sim_op *op, uint64_t count)
{
    for (uint64_t i = count; op->pages && i < op->count; i++)
        sim_page_drop(op->pages[i]);
    op->count = count;
}

static bool changes_disk(const struct sim_op *op)
{
    return op->op != VDISK_IO_READ && op->op != VDISK_IO_SYNC;
}

static void extend(struct sim_pages *pages, uint64_t bytes)
{
    if (pages->bytes < bytes)
        pages->bytes = bytes;
}

void sim_op_apply(struct sim_pages *pages, const struct sim_op *op)
{
    switch (op->op) {
    case VDISK_IO_WRITE:
        for (uint64_t i = 0; i < op->count; i++)
            sim_pages_set(pages, op->first + i, op->pages[i]);
        extend(pages, (op->first + op->count) * SIM_PAGE_BYTES);
        break;
    case VDISK_IO_PUNCH:
        sim_pages_clear(pages, op->first, op->count);
        break;
    case VDISK_IO_ALLOCATE:
        for (uint64_t i = 0; i < op->count; i++) {
            if (sim_pages_get(pages, op->first + i) == SIM_HOLE)
                sim_pages_set(pages, op->first + i, SIM_ZEROS);
        }
        extend(pages, (op->first + op->count) * SIM_PAGE_BYTES);
        break;
    case VDISK_IO_TRUNCATE:
        sim_pages_truncate(pages, op->first);
        break;
    case VDISK_IO_READ:
    case VDISK_IO_SYNC:
        break;
    }
}

enum tear_kind {
    TEAR_PREFIX,
    TEAR_SUFFIX,
    TEAR_SECTORS,
    TEAR_PAGES,
    TEAR_KINDS
};

/* Which sectors of a torn write arrive. */
struct tear {
    enum tear_kind kind;
    uint64_t cut; /* sectors before it arrive, or those from it on */
};

static unsigned tear_mask(const struct tear *tear, uint64_t page, struct sim_rng *rng)
{
    const unsigned all = (1u << SIM_SECTORS) - 1;
    unsigned mask = 0;

    if (tear->kind == TEAR_SECTORS)
        return (unsigned)sim_rng_next(rng) & all;
    if (tear->kind == TEAR_PAGES)
        return sim_rng_chance(rng, 1, 2) ? all : 0;
    for (unsigned i = 0; i < SIM_SECTORS; i++) {
        if ((page * SIM_SECTORS + i < tear->cut) == (tear->kind == TEAR_PREFIX))
            mask |= 1u << i;
    }
    return mask;
}

static void apply_torn_write(struct sim_pages *pages, const struct sim_op *op, struct sim_rng *rng)
{
    struct tear tear = {
        .kind = (enum tear_kind)sim_rng_below(rng, TEAR_KINDS),
        .cut = 1 + sim_rng_below(rng, op->count * SIM_SECTORS - 1),
    };

    for (uint64_t i = 0; i < op->count; i++) {
        unsigned mask = tear_mask(&tear, i, rng);
        unsigned last = SIM_SECTORS;
        sim_page mixed;

        if (mask == 0)
            continue;
        mixed = sim_page_mix(sim_pages_get(pages, op->first + i), op->pages[i], mask);
        sim_pages_set(pages, op->first + i, mixed);
        sim_page_drop(mixed);
        while (!(mask >> (last - 1) & 1))
            last--;
        extend(pages, (op->first + i) * SIM_PAGE_BYTES + last * SIM_SECTOR_BYTES);
    }
    if (sim_rng_chance(rng, 1, 2)) /* the new length can arrive without the data */
        extend(pages, (op->first + op->count) * SIM_PAGE_BYTES);
}

void sim_op_apply_torn(struct sim_pages *pages, const struct sim_op *op, struct sim_rng *rng)
{
    struct sim_op part = *op;

    if (op->op == VDISK_IO_WRITE && op->count > 0) {
        apply_torn_write(pages, op, rng);
        return;
    }
    if (op->op != VDISK_IO_TRUNCATE) /* that one is atomic */
        part.count = sim_rng_below(rng, op->count + 1);
    sim_op_apply(pages, &part);
}

/* ---- what completions do ---- */

static uint64_t pages_missing(const struct sim *sim, const struct sim_op *op, uint64_t count)
{
    uint64_t missing = 0;

    for (uint64_t i = 0; i < count; i++)
        missing += sim_pages_get(&sim->view, op->first + i) == SIM_HOLE;
    return missing;
}

/* How many of its first pages find room. */
static uint64_t pages_fitting(const struct sim *sim, const struct sim_op *op)
{
    uint64_t used = sim->view.allocated;
    uint64_t i;

    if (sim->capacity == 0 || used + pages_missing(sim, op, op->count) <= sim->capacity)
        return op->count;
    for (i = 0; i < op->count; i++) {
        used += sim_pages_get(&sim->view, op->first + i) == SIM_HOLE;
        if (used > sim->capacity)
            break;
    }
    return i;
}

/* Now reads see it and a later sync will save it; takes the op. */
static void arrive(struct sim *sim, struct sim_op *op)
{
    op->request = NULL;
    op->sequence = sim->next_sequence++;
    sim_op_apply(&sim->view, op);
    sim_ops_add(&sim->log, op);
}

/* A WRITE or ALLOCATE: takes the op. */
static int complete_growing(struct sim *sim, struct sim_op *op)
{
    uint64_t fitting = pages_fitting(sim, op);
    int result = op->error ? op->error : fitting < op->count ? -ENOSPC : 0;

    if (result)
        op_shorten(op, sim_rng_below(&sim->rng, fitting + 1));
    if (op->count > 0)
        arrive(sim, op);
    else
        sim_op_free(op);
    return result;
}

static void make_durable(struct sim *sim, uint64_t end)
{
    size_t kept = 0;

    for (size_t i = 0; i < sim->log.count; i++) {
        struct sim_op *op = sim->log.ops[i];

        if (op->sequence < end) {
            sim_op_apply(&sim->durable, op);
            sim_op_free(op);
        } else {
            sim->log.ops[kept++] = op;
        }
    }
    sim->log.count = kept;
}

static void drop_some(struct sim *sim, uint64_t end)
{
    size_t kept = 0;

    for (size_t i = 0; i < sim->log.count; i++) {
        struct sim_op *op = sim->log.ops[i];

        if (op->op == VDISK_IO_WRITE && op->sequence < end && sim_rng_chance(&sim->rng, 1, 2))
            sim_op_free(op);
        else
            sim->log.ops[kept++] = op;
    }
    sim->log.count = kept;
}

static int complete_sync(struct sim *sim, const struct sim_op *sync)
{
    if (sync->error == 0)
        make_durable(sim, sync->sequence);
    else if (sync->drop)
        drop_some(sim, sync->sequence);
    return sync->error;
}

static void assert_unchanged(const struct sim_op *op)
{
    for (uint64_t i = 0; i < op->count; i++)
        assert(!memcmp(sim_page_data(op->pages[i]),
                       (const uint8_t *)op->request->data + i * SIM_PAGE_BYTES, SIM_PAGE_BYTES));
    (void)op;
}

/* Takes the op; returns the result of its request. */
static int complete(struct sim *sim, struct sim_op *op)
{
    int result = op->error;

    switch (op->op) {
    case VDISK_IO_WRITE:
        assert_unchanged(op);
        return complete_growing(sim, op);
    case VDISK_IO_ALLOCATE:
        return complete_growing(sim, op);
    case VDISK_IO_PUNCH:
    case VDISK_IO_TRUNCATE:
        if (result)
            break;
        arrive(sim, op);
        return 0;
    case VDISK_IO_READ:
        if (!result)
            sim_pages_read(&sim->view, op->first * SIM_PAGE_BYTES, op->request->data,
                           op->count * SIM_PAGE_BYTES);
        break;
    case VDISK_IO_SYNC:
        result = complete_sync(sim, op);
        break;
    }
    sim_op_free(op);
    return result;
}

/* ---- submission ---- */

static void decide_fault(struct sim *sim, struct sim_op *op)
{
    for (unsigned i = 0; i < sim->fault_count; i++) {
        struct sim_fault *fault = &sim->faults[i];

        if (fault->op != SIM_ANY_OP && fault->op != (int)op->op)
            continue;
        if (fault->nth > 1) {
            fault->nth--;
            continue;
        }
        if (fault->nth == 0 || op->error) /* it has fired, or another comes first */
            continue;
        op->error = fault->error;
        op->drop = fault->drop;
        sim->fired++;
        if (!fault->sticky)
            fault->nth = 0;
    }
}

static struct sim_op *op_new(struct sim *sim, struct vdisk_io_request *request)
{
    struct sim_op *op = sim_must(calloc(1, sizeof(*op)));

    op->op = request->op;
    op->request = request;
    op->sequence = sim->next_sequence;
    op->late = sim->late_part && sim_rng_chance(&sim->rng, sim->late_part, sim->late_whole);
    if (request->op == VDISK_IO_SYNC)
        return op;
    assert(request->offset % SIM_PAGE_BYTES == 0);
    if (request->op == VDISK_IO_TRUNCATE) {
        op->first = request->offset;
        return op;
    }
    assert(request->length % SIM_PAGE_BYTES == 0);
    op->first = request->offset / SIM_PAGE_BYTES;
    op->count = request->length / SIM_PAGE_BYTES;
    if (request->op != VDISK_IO_READ && request->op != VDISK_IO_WRITE)
        return op;
    assert((uintptr_t)request->data % SIM_PAGE_BYTES == 0);
    if (request->op == VDISK_IO_READ) {
        memset(request->data, 0xa5, request->length);
        return op;
    }
    op->pages = sim_must(malloc((op->count ? op->count : 1) * sizeof(*op->pages)));
    for (uint64_t i = 0; i < op->count; i++)
        op->pages[i] = sim_page_new((const uint8_t *)request->data + i * SIM_PAGE_BYTES);
    return op;
}

static void bury(struct sim *sim, struct vdisk_io_request *request)
{
    request->next = NULL;
    *sim->dead_tail = request;
    sim->dead_tail = &request->next;
}

/* The log now ends with what was in flight; nothing changes it any more. */
static void crash(struct sim *sim)
{
    sim->crashed = true;
    for (size_t i = 0; i < sim->in_flight.count; i++) {
        struct sim_op *op = sim->in_flight.ops[i];

        bury(sim, op->request);
        op->request = NULL;
        op->sequence = sim->next_sequence++;
        if (changes_disk(op))
            sim_ops_add(&sim->log, op);
        else
            sim_op_free(op);
    }
    sim->in_flight.count = 0;
}

static void sim_submit(struct vdisk_io *io, struct vdisk_io_request *request)
{
    struct sim *sim = (struct sim *)io;
    struct sim_op *op;

    if (!sim->crashed && sim->op_count >= sim->crash_at)
        crash(sim);
    if (sim->crashed) {
        bury(sim, request);
        return;
    }
    sim->op_count++;
    if (sim->trace)
        sim->trace(sim->trace_arg, request->op, request->offset, request->length);
    op = op_new(sim, request);
    decide_fault(sim, op);
    sim_ops_add(&sim->in_flight, op);
}

static int poll_dead(struct sim *sim)
{
    struct vdisk_io_request *head = sim->dead;
    int count = 0;

    if (sim->crash_kind == SIM_CRASH_HANG)
        return 0;
    sim->dead = NULL;
    sim->dead_tail = &sim->dead;
    while (head) {
        struct vdisk_io_request *request = head;

        head = request->next;
        request->result = -EIO;
        request->done(request);
        count++;
    }
    return count;
}

/* A random request in flight; a late one only where there is no other. */
static size_t pick(struct sim *sim)
{
    size_t count = sim->in_flight.count, start = sim_rng_below(&sim->rng, count);

    for (size_t i = 0; i < count; i++) {
        size_t index = (start + i) % count;

        if (!sim->in_flight.ops[index]->late)
            return index;
    }
    return start;
}

static bool only_late(const struct sim *sim)
{
    for (size_t i = 0; i < sim->in_flight.count; i++) {
        if (!sim->in_flight.ops[i]->late)
            return false;
    }
    return true;
}

static int sim_poll(struct vdisk_io *io, bool wait)
{
    struct sim *sim = (struct sim *)io;
    size_t goal = sim->in_flight.count;
    int count = 0;

    if (sim->crashed)
        return poll_dead(sim);
    if (goal > 0 && !sim->ordered)
        goal = wait ? 1 + sim_rng_below(&sim->rng, goal) : sim_rng_below(&sim->rng, goal + 1);
    /* A completion may submit, and that may be the crash. */
    for (; goal > 0 && sim->in_flight.count > 0; goal--) {
        if (sim->late_whole && only_late(sim) && !(wait && count == 0))
            break;
        size_t index = sim->ordered ? 0 : pick(sim);
        struct sim_op *op = sim->in_flight.ops[index];
        struct vdisk_io_request *request = op->request;

        ops_remove(&sim->in_flight, index);
        request->result = complete(sim, op);
        request->done(request);
        count++;
    }
    return count;
}

static int sim_size(struct vdisk_io *io, uint64_t *bytes)
{
    struct sim *sim = (struct sim *)io;

    if (sim->crashed)
        return -EIO;
    *bytes = sim->view.bytes;
    return 0;
}

static int64_t sim_now(struct vdisk_io *io)
{
    struct sim *sim = (struct sim *)io;

    return INT64_C(1700000000000000000) + (int64_t)(sim->ticks++) * 1000000;
}

static void sim_close(struct vdisk_io *io)
{
    struct sim *sim = (struct sim *)io;

    assert(sim->in_flight.count == 0);
    assert(!sim->dead || sim->crash_kind == SIM_CRASH_HANG);
    (void)sim;
}

static const struct vdisk_io_ops sim_ops = {
    .submit = sim_submit,
    .poll = sim_poll,
    .size = sim_size,
    .now = sim_now,
    .close = sim_close,
};

/* ---- the handle ---- */

struct sim *sim_new(uint64_t seed)
{
    struct sim *sim = sim_must(calloc(1, sizeof(*sim)));

    sim->io.ops = &sim_ops;
    sim->dead_tail = &sim->dead;
    sim->crash_at = UINT64_MAX;
    sim_rng_seed(&sim->rng, seed);
    return sim;
}

void sim_free(struct sim *sim)
{
    if (!sim)
        return;
    ops_release(&sim->log);
    ops_release(&sim->in_flight);
    sim_pages_release(&sim->durable);
    sim_pages_release(&sim->view);
    free(sim);
}

struct vdisk_io *sim_io(struct sim *sim)
{
    return &sim->io;
}

void sim_set_ordered(struct sim *sim, bool ordered)
{
    sim->ordered = ordered;
}

void sim_set_late(struct sim *sim, unsigned part, unsigned whole)
{
    sim->late_part = part;
    sim->late_whole = whole;
}

void sim_set_capacity(struct sim *sim, uint64_t pages)
{
    sim->capacity = pages;
}

void sim_add_fault(struct sim *sim, const struct sim_fault *fault)
{
    assert(sim->fault_count < SIM_FAULTS_MAX && fault->nth > 0 && fault->error < 0);
    sim->faults[sim->fault_count++] = *fault;
}

void sim_clear_faults(struct sim *sim)
{
    sim->fault_count = 0;
}

uint64_t sim_faults_fired(const struct sim *sim)
{
    return sim->fired;
}

void sim_crash_at(struct sim *sim, uint64_t op, enum sim_crash_kind kind)
{
    sim->crash_at = op;
    sim->crash_kind = kind;
}

bool sim_crashed(const struct sim *sim)
{
    return sim->crashed;
}

uint64_t sim_op_count(const struct sim *sim)
{
    return sim->op_count;
}

void sim_settle(struct sim *sim)
{
    assert(!sim->crashed);
    make_durable(sim, UINT64_MAX);
}

uint64_t sim_allocated_pages(const struct sim *sim)
{
    return sim->view.allocated;
}

void sim_set_trace(struct sim *sim, sim_trace *trace, void *arg)
{
    sim->trace = trace;
    sim->trace_arg = arg;
}
