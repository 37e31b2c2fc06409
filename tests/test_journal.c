/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal's two rules that chance hardly ever tries (SPEC.md 15 and 16): a record whose data
 * did not arrive ends the log, whatever follows it; and no record is overwritten before the
 * checkpoint that covers it is durable in both superblock slots. That recovery finds records
 * wherever they lie in the ring. And when records are written: beside their data where a flush is
 * about to follow, which must do no harm where that data does not arrive.
 */
#include "sim_io.h"
#include "vdisk/vdisk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK  4096u
#define BLOCKS 1024u /* of the drive */

static const struct vdisk_key key = {
    .kind = VDISK_KEY_FILE, .bytes = "a key for journals, 32 bytes long", .length = 32};

static struct vdisk_image *create(struct vdisk_io *io, uint32_t journal_log2)
{
    struct vdisk_image *image = NULL;
    struct vdisk_error error = {0};
    struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                           .size = BLOCKS * BLOCK,
                                           .journal_log2 = journal_log2,
                                           .io = io};
    int r = vdisk_create(NULL, &options, &key, &image, &error);

    if (r)
        fail_msg("create: %d: %s", r, error.text);
    return image;
}

static struct vdisk_image *open_again(struct sim *sim, const char *when)
{
    struct vdisk_image *image = NULL;
    struct vdisk_error error = {0};
    struct vdisk_open_options options = {.struct_bytes = sizeof(options), .io = sim_io(sim)};
    int r = vdisk_open(NULL, &options, &key, &image, &error);

    if (r)
        fail_msg("%s: open: %d: %s", when, r, error.text);
    return image;
}

static void shut(struct vdisk_image *image)
{
    assert_int_equal(vdisk_close(image, NULL), 0);
}

/* No two blocks are alike, none is zeros. */
static void fill(uint8_t *data, unsigned block)
{
    struct sim_rng rng;

    sim_rng_seed(&rng, block + 1);
    sim_rng_fill(&rng, data, BLOCK);
}

static bool is_written(struct vdisk_image *image, unsigned block)
{
    static uint8_t data[BLOCK], want[BLOCK], zeros[BLOCK];

    assert_int_equal(vdisk_read(image, (uint64_t)block * BLOCK, data, BLOCK), 0);
    fill(want, block);
    if (memcmp(data, want, BLOCK) == 0)
        return true;
    assert_memory_equal(data, zeros, BLOCK);
    return false;
}

/* ---- a record without its data ends the log ---- */

#define TAIL_LOG2 7u
#define TAIL      500u /* blocks written and never flushed: several records */

struct places {
    uint64_t data_start, last; /* offsets in the file */
};

static void note_write(void *arg, enum vdisk_io_op op, uint64_t offset, uint64_t length)
{
    struct places *places = arg;

    (void)length;
    if (op == VDISK_IO_WRITE && offset >= places->data_start)
        places->last = offset;
}

/* The blocks that the disk shows are the first ones; returns how many. */
static unsigned shown(struct sim *disk, const char *when)
{
    struct vdisk_image *image = open_again(disk, when);
    unsigned count = 0;

    while (count < TAIL && is_written(image, count))
        count++;
    for (unsigned i = count; i < TAIL; i++) {
        if (is_written(image, i))
            fail_msg("%s: block %u is there, block %u is not", when, i, count);
    }
    shut(image);
    return count;
}

static void test_a_record_without_its_data_ends_the_log(void **state)
{
    static uint8_t data[BLOCK];
    static uint64_t place[TAIL];
    struct places places = {.data_start = ((1u << TAIL_LOG2) + 4) * BLOCK};
    struct sim *sim = sim_new(1);
    struct vdisk_image *image = create(sim_io(sim), TAIL_LOG2);

    (void)state;
    assert_int_equal(vdisk_write(image, (BLOCKS - 1) * BLOCK, data, BLOCK), 0);
    assert_int_equal(vdisk_checkpoint(image), 0);
    sim_set_trace(sim, note_write, &places);
    for (unsigned i = 0; i < TAIL; i++) {
        fill(data, i);
        assert_int_equal(vdisk_write(image, (uint64_t)i * BLOCK, data, BLOCK), 0);
        place[i] = places.last;
    }
    sim_set_trace(sim, NULL, NULL);
    vdisk_abandon(image);

    struct sim *disk = sim_crash_image(sim, 1, SIM_KEEP_ALL);
    unsigned all = shown(disk, "nothing was lost"), before = 0, records = 0;
    sim_free(disk);
    memset(data, 0, BLOCK);
    for (unsigned lost = 0; lost < all; lost += 25) {
        disk = sim_crash_image(sim, 1, SIM_KEEP_ALL);
        sim_raw_write(disk, place[lost], data, BLOCK);
        unsigned count = shown(disk, "a block was lost");
        assert_in_range(count, before, lost);
        records += count > before;
        before = count;
        sim_free(disk);
    }
    assert_true(records >= 2); /* the log ended at the second one, and at the third */
    sim_free(sim);
}

static void expect_written(struct sim *disk, unsigned count, const char *when)
{
    struct vdisk_image *image = open_again(disk, when);

    for (unsigned i = 0; i < count; i++) {
        if (!is_written(image, i))
            fail_msg("%s: write %u of %u is lost", when, i, count);
    }
    shut(image);
    sim_free(disk);
}

/* ---- recovery looks at the ring piece by piece ---- */

#define RING_LOG2 5u
#define RING      ((1u << RING_LOG2) - 4)
#define WIDE_LOG2 10u
#define WINDOW    64u  /* recovery has so many blocks of the ring in memory (recover.c) */
#define LARGE     600u /* blocks of a write whose record has three blocks */

static void note_checkpoint(void *arg, enum vdisk_io_op op, uint64_t offset, uint64_t length)
{
    unsigned *count = arg;

    (void)length;
    *count += op == VDISK_IO_WRITE && offset == 2 * BLOCK; /* slot A */
}

static void write_durably(struct vdisk_image *image, unsigned block, unsigned count)
{
    static uint8_t data[LARGE * BLOCK];

    for (unsigned i = 0; i < count; i++)
        fill(data + (size_t)i * BLOCK, block + i);
    assert_int_equal(vdisk_write(image, (uint64_t)block * BLOCK, data, (size_t)count * BLOCK), 0);
    assert_int_equal(vdisk_flush(image), 0);
}

/* Records of one block, then one of three that begins `before` blocks on. */
static void recover_across(unsigned before)
{
    static uint8_t data[BLOCK];
    struct sim *sim = sim_new(before);
    struct vdisk_image *image = create(sim_io(sim), WIDE_LOG2);
    unsigned checkpoints = 0, count = 0;

    assert_int_equal(vdisk_write(image, (BLOCKS - 1) * BLOCK, data, BLOCK), 0);
    assert_int_equal(vdisk_checkpoint(image), 0);
    sim_set_trace(sim, note_checkpoint, &checkpoints);
    for (; count < before; count++)
        write_durably(image, count, 1);
    write_durably(image, count, LARGE);
    count += LARGE;
    for (unsigned i = 0; i < 10; i++, count++)
        write_durably(image, count, 1);
    assert_int_equal(checkpoints, 0); /* all of it is in the journal only */
    sim_set_trace(sim, NULL, NULL);
    vdisk_abandon(image);
    expect_written(sim_crash_image(sim, 1, SIM_KEEP_NONE), count, "a long journal");
    sim_free(sim);
}

static void test_a_record_may_lie_across_what_recovery_has_in_memory(void **state)
{
    (void)state;
    for (unsigned before = WINDOW - 4; before <= WINDOW; before++)
        recover_across(before);
}

/* A small ring, gone through several times; a record of three blocks may lie across its end. */
static void test_recovery_reads_on_at_the_beginning_of_the_ring(void **state)
{
    struct sim *sim = sim_new(7);
    struct vdisk_image *image = create(sim_io(sim), RING_LOG2);

    (void)state;
    for (unsigned count = 0; count < 4 * RING; count++) {
        write_durably(image, count, 1);
        if (count % 5 == 4)
            write_durably(image, BLOCKS - LARGE, LARGE);
        expect_written(sim_crash_image(sim, count, SIM_KEEP_NONE), count + 1, "around the ring");
    }
    vdisk_abandon(image);
    sim_free(sim);
}

/* ---- the ring waits for both superblock slots ---- */

/* A disk that can be told to keep the write of one block waiting. */
struct gate {
    struct vdisk_io io;
    struct vdisk_io *inner;
    uint64_t block; /* 0: none */
    struct vdisk_io_request *held;
    uint64_t data_start; /* and of the writes from this block on ... */
    unsigned wanted;     /* ... so many */
    struct vdisk_io_request *data[2];
};

static void gate_submit(struct vdisk_io *io, struct vdisk_io_request *request)
{
    struct gate *gate = (struct gate *)io;

    if (gate->wanted && request->op == VDISK_IO_WRITE &&
        request->offset >= gate->data_start * BLOCK) {
        gate->data[2 - gate->wanted--] = request;
        return;
    }
    if (gate->block && request->op == VDISK_IO_WRITE && request->offset == gate->block * BLOCK) {
        assert_null(gate->held);
        gate->held = request;
        return;
    }
    gate->inner->ops->submit(gate->inner, request);
}

static int gate_poll(struct vdisk_io *io, bool wait)
{
    struct gate *gate = (struct gate *)io;

    return gate->inner->ops->poll(gate->inner,
                                  wait && !gate->held && !gate->data[0] && !gate->data[1]);
}

static int gate_size(struct vdisk_io *io, uint64_t *bytes)
{
    struct gate *gate = (struct gate *)io;

    return gate->inner->ops->size(gate->inner, bytes);
}

static int64_t gate_now(struct vdisk_io *io)
{
    struct gate *gate = (struct gate *)io;

    return gate->inner->ops->now(gate->inner);
}

static void gate_close(struct vdisk_io *io)
{
    struct gate *gate = (struct gate *)io;

    gate->inner->ops->close(gate->inner);
}

static const struct vdisk_io_ops gate_ops = {.submit = gate_submit,
                                             .poll = gate_poll,
                                             .size = gate_size,
                                             .now = gate_now,
                                             .close = gate_close};

static void let_go(struct gate *gate)
{
    struct vdisk_io_request *held = gate->held;

    gate->held = NULL;
    gate->block = 0;
    gate->inner->ops->submit(gate->inner, held);
}

static void write_done(struct vdisk_request *request)
{
    assert_int_equal(request->result, 0);
    *(bool *)request->owner = true;
}

/* Polls often enough for whatever does not depend on the write that is held. */
static bool completes(struct vdisk_image *image, const bool *done)
{
    for (unsigned i = 0; i < 10000 && !*done; i++)
        (void)vdisk_poll(image, false);
    return *done;
}

static void wait_for_slot(uint64_t slot, uint64_t other)
{
    static uint8_t data[BLOCK], zeros[BLOCK];
    struct sim *sim = sim_new(slot);
    struct gate gate = {.io.ops = &gate_ops, .inner = sim_io(sim)};
    struct vdisk_image *image = create(&gate.io, RING_LOG2);
    unsigned count = 0;
    bool done = true;

    assert_int_equal(vdisk_write(image, (BLOCKS - 1) * BLOCK, data, BLOCK), 0);
    assert_int_equal(vdisk_checkpoint(image), 0);
    gate.block = slot;
    struct vdisk_request request = {.op = VDISK_WRITE,
                                    .fua = true,
                                    .length = BLOCK,
                                    .data = data,
                                    .done = write_done,
                                    .owner = &done};
    while (done && count <= 2 * RING) { /* each takes a record of its own */
        done = false;
        fill(data, count);
        request.offset = (uint64_t)count * BLOCK;
        vdisk_submit(image, &request);
        count += completes(image, &done);
    }
    assert_non_null(gate.held); /* a checkpoint began when the ring was half full */
    assert_in_range(count, RING / 2, RING);
    expect_written(sim_crash_image(sim, 1, SIM_KEEP_NONE), count, "only what is durable is left");
    expect_written(sim_crash_image(sim, 2, SIM_KEEP_ALL), count, "all of it is left");
    struct sim *disk = sim_crash_image(sim, 3, SIM_KEEP_NONE);
    sim_raw_write(disk, other * BLOCK, zeros, BLOCK);
    expect_written(disk, count, "the other slot is damaged as well");

    let_go(&gate);
    while (!done)
        (void)vdisk_poll(image, true);
    shut(image);
    expect_written(sim_clone(sim), count + 1, "after all of it");
    sim_free(sim);
}

static void test_no_record_is_overwritten_before_slot_a_is_durable(void **state)
{
    (void)state;
    wait_for_slot(2, (1u << RING_LOG2) + 2);
}

static void test_no_record_is_overwritten_before_slot_b_is_durable(void **state)
{
    (void)state;
    wait_for_slot((1u << RING_LOG2) + 2, 2);
}

/* ---- what a flush finds done ---- */

struct progress {
    uint64_t data_start, end; /* offsets in the file; it was written up to the end */
    unsigned records, longer; /* writes of single blocks to the ring; that made the file longer */
};

static void note_progress(void *arg, enum vdisk_io_op op, uint64_t offset, uint64_t length)
{
    struct progress *p = arg;

    if (op != VDISK_IO_WRITE)
        return;
    p->records += offset >= 4 * BLOCK && offset + length <= p->data_start - 4 * BLOCK;
    p->longer += length == BLOCK && offset + length > p->end;
    p->end = offset + length > p->end ? offset + length : p->end;
}

static void note_end(struct vdisk_request *request)
{
    (void)request;
}

/* As a client does it; and whatever the image does after the answer. */
static void write_one(struct vdisk_image *image, unsigned block)
{
    static _Alignas(BLOCK) uint8_t data[BLOCK];
    struct vdisk_request request = {.op = VDISK_WRITE,
                                    .offset = (uint64_t)block * BLOCK,
                                    .length = BLOCK,
                                    .data = data,
                                    .done = note_end};

    fill(data, block);
    vdisk_submit(image, &request);
    while (vdisk_poll(image, true))
        ;
    assert_int_equal(request.result, 0);
}

static void test_the_record_is_written_ahead_of_the_flush_that_is_expected(void **state)
{
    struct progress p = {.data_start = ((1u << TAIL_LOG2) + 4) * BLOCK};
    struct sim *sim = sim_new(3);
    struct vdisk_image *image = create(sim_io(sim), TAIL_LOG2);

    (void)state;
    write_one(image, 0);
    assert_int_equal(vdisk_flush(image), 0);
    sim_set_trace(sim, note_progress, &p);
    write_one(image, 1);
    assert_int_equal(p.records, 1);
    assert_int_equal(vdisk_flush(image), 0);
    assert_int_equal(p.records, 1); /* not again */
    write_one(image, 2);
    write_one(image, 3);
    assert_int_equal(p.records, 2); /* at the first, and no more guesses */
    assert_int_equal(vdisk_flush(image), 0);
    assert_int_equal(p.records, 3);
    write_one(image, 4);
    assert_int_equal(p.records, 3); /* by now two are expected */
    sim_set_trace(sim, NULL, NULL);
    shut(image);
    sim_free(sim);
}

/* ---- a record beside its data ---- */

struct beside {
    uint64_t data_start;
    unsigned polls, data_at, record_at; /* the polls in which they were submitted last */
    unsigned records;
};

static void note_beside(void *arg, enum vdisk_io_op op, uint64_t offset, uint64_t length)
{
    struct beside *b = arg;

    if (op != VDISK_IO_WRITE)
        return;
    if (offset >= b->data_start) {
        b->data_at = b->polls;
    } else if (offset >= 4 * BLOCK && offset + length <= b->data_start - 4 * BLOCK) {
        b->record_at = b->polls;
        b->records++;
    }
}

static void begin_request(struct vdisk_image *image, struct vdisk_request *request, unsigned block,
                          uint8_t *data)
{
    fill(data, block);
    *request = (struct vdisk_request){.op = VDISK_WRITE,
                                      .offset = (uint64_t)block * BLOCK,
                                      .length = BLOCK,
                                      .data = data,
                                      .fua = request->fua,
                                      .outlives = request->outlives,
                                      .result = 1,
                                      .done = note_end};
    vdisk_submit(image, request);
}

/* An image of which one write for each flush is expected, with that of block 0 done. */
static struct vdisk_image *create_expecting(struct sim *sim)
{
    struct vdisk_image *image = create(sim_io(sim), TAIL_LOG2);

    sim_set_ordered(sim, true);
    write_one(image, 0);
    assert_int_equal(vdisk_flush(image), 0);
    return image;
}

static void test_the_record_is_written_beside_its_data_when_a_flush_follows(void **state)
{
    static _Alignas(BLOCK) uint8_t data[BLOCK];

    (void)state;
    for (unsigned fua = 0; fua < 2; fua++) {
        struct beside b = {.data_start = ((1u << TAIL_LOG2) + 4) * BLOCK};
        struct sim *sim = sim_new(5);
        struct vdisk_image *image = fua ? create(sim_io(sim), TAIL_LOG2) : create_expecting(sim);
        struct vdisk_request request = {.fua = fua};

        write_one(image, 1);
        if (!fua)
            assert_int_equal(vdisk_flush(image), 0);
        sim_set_trace(sim, note_beside, &b);
        begin_request(image, &request, 2, data);
        while (vdisk_poll(image, true))
            b.polls++;
        assert_int_equal(request.result, 0);
        assert_int_equal(b.records, 1);
        assert_int_equal(b.record_at, b.data_at);
        assert_int_equal(vdisk_flush(image), 0);
        assert_int_equal(b.records, 1);
        sim_set_trace(sim, NULL, NULL);
        vdisk_abandon(image);
        struct sim *disk = sim_crash_image(sim, 1, SIM_KEEP_NONE);
        image = open_again(disk, "after the flush");
        assert_true(is_written(image, 2));
        shut(image);
        sim_free(disk);
        sim_free(sim);
    }
}

/* After the crash every block is as it was written or as it was before; those marked are written.
 */
static void expect_after_crash(const struct sim *sim, const bool *durable, const bool *never,
                               unsigned count, const char *when)
{
    for (unsigned mode = 0; mode < SIM_CRASH_MODES; mode++) {
        for (uint64_t seed = 1; seed <= 12; seed++) {
            struct sim *disk = sim_crash_image(sim, seed, (enum sim_crash_mode)mode);
            struct vdisk_image *image = open_again(disk, when);

            for (unsigned i = 0; i < count; i++) {
                bool there = is_written(image, i);
                if (durable[i] && !there)
                    fail_msg("%s, mode %u, seed %u: block %u is lost", when, mode, (unsigned)seed,
                             i);
                if (never[i] && there)
                    fail_msg("%s, mode %u, seed %u: block %u is there", when, mode, (unsigned)seed,
                             i);
            }
            shut(image);
            sim_free(disk);
        }
    }
}

/* The write of the data that fails; others go on beside it, and what they were promised stays. */
static void fail_beside(bool others)
{
    static _Alignas(BLOCK) uint8_t data[3][BLOCK];
    enum {
        FAILED = 1,
        OTHER,
        OUTLIVES,
        AFTER,
        LAST,
        COUNT
    };
    bool durable[COUNT] = {[0] = true}, never[COUNT] = {false};
    struct sim *sim = sim_new(6);
    struct vdisk_image *image = create_expecting(sim);
    struct vdisk_request failing = {0}, other = {0}, outliving = {.outlives = true};

    sim_add_fault(sim, &(struct sim_fault){.op = VDISK_IO_WRITE, .nth = 1, .error = -EIO});
    begin_request(image, &failing, FAILED, data[0]);
    if (others) {
        begin_request(image, &other, OTHER, data[1]);
        begin_request(image, &outliving, OUTLIVES, data[2]);
    }
    while (vdisk_poll(image, true)) {
        expect_after_crash(sim, durable, never, COUNT, "while it fails");
    }
    assert_int_equal(sim_faults_fired(sim), 1);
    assert_int_equal(failing.result, -EIO);
    assert_int_equal(vdisk_failed(image), 0);
    assert_false(is_written(image, FAILED));
    expect_after_crash(sim, durable, never, COUNT, "after it failed");
    if (others) {
        assert_int_equal(other.result, 0);
        assert_int_equal(outliving.result, 0);
        struct sim *killed = sim_crash_image(sim, 1, SIM_KEEP_COMPLETED);
        struct vdisk_image *again = open_again(killed, "after a kill");
        assert_true(is_written(again, OUTLIVES));
        shut(again);
        sim_free(killed);
    }
    assert_int_equal(vdisk_flush(image), 0);
    durable[OTHER] = durable[OUTLIVES] = others;
    never[FAILED] = true;
    expect_after_crash(sim, durable, never, COUNT, "after a flush");
    write_one(image, AFTER);
    expect_after_crash(sim, durable, never, COUNT, "after another write");
    assert_int_equal(vdisk_flush(image), 0);
    durable[AFTER] = true;
    write_one(image, LAST);
    expect_after_crash(sim, durable, never, COUNT, "after one more");
    vdisk_abandon(image);
    sim_free(sim);
}

static void test_a_record_whose_data_fails_is_taken_back(void **state)
{
    (void)state;
    fail_beside(false);
}

static void test_others_keep_their_promises_beside_a_record_that_is_taken_back(void **state)
{
    (void)state;
    fail_beside(true);
}

/* Lets everything happen that does not depend on the write that is held; then what was promised
 * must be there after a kill. */
static void expect_kept(struct sim *sim, struct vdisk_image *image,
                        const struct vdisk_request *promised, unsigned block)
{
    for (unsigned i = 0; i < 1000; i++)
        (void)vdisk_poll(image, false);
    struct sim *killed = sim_crash_image(sim, 1, SIM_KEEP_COMPLETED);
    struct vdisk_image *again = open_again(killed, "killed");
    if (promised->result == 0)
        assert_true(is_written(again, block));
    shut(again);
    sim_free(killed);
}

static void let_data_go(struct gate *gate, unsigned which)
{
    struct vdisk_io_request *held = gate->data[which];

    assert_non_null(held);
    gate->data[which] = NULL;
    gate->inner->ops->submit(gate->inner, held);
}

/* A kill while a record is there and its data is not must not cost what was promised. The data of
 * the record is held; that of the other write goes so many polls after the former began. */
static void kill_beside(unsigned polls)
{
    static _Alignas(BLOCK) uint8_t data[2][BLOCK];
    struct sim *sim = sim_new(polls + 1);
    struct gate gate = {
        .io.ops = &gate_ops, .inner = sim_io(sim), .data_start = (1u << TAIL_LOG2) + 4};
    struct vdisk_image *image = create(&gate.io, TAIL_LOG2);
    struct vdisk_request promised = {.outlives = true}, leading = {.fua = true};

    sim_set_ordered(sim, true);
    write_one(image, 0);
    write_one(image, 3);
    assert_int_equal(vdisk_flush(image), 0); /* two are expected: the next does not lead */
    gate.wanted = 2;
    begin_request(image, &promised, 1, data[0]);
    while (!gate.data[0])
        (void)vdisk_poll(image, false);
    begin_request(image, &leading, 2, data[1]);
    for (unsigned i = 0; i < polls; i++)
        (void)vdisk_poll(image, false);
    let_data_go(&gate, 0);
    expect_kept(sim, image, &promised, 1);
    let_data_go(&gate, 1);
    while (vdisk_poll(image, true))
        ;
    assert_int_equal(promised.result, 0);
    assert_int_equal(leading.result, 0);
    vdisk_abandon(image);
    sim_free(sim);
}

/* The same with a write that was kept before. */
static void kill_after(void)
{
    static _Alignas(BLOCK) uint8_t data[2][BLOCK];
    struct sim *sim = sim_new(1);
    struct gate gate = {
        .io.ops = &gate_ops, .inner = sim_io(sim), .data_start = (1u << TAIL_LOG2) + 4};
    struct vdisk_image *image = create(&gate.io, TAIL_LOG2);
    struct vdisk_request promised = {.outlives = true}, leading = {.fua = true};

    write_one(image, 0);
    write_one(image, 3);
    assert_int_equal(vdisk_flush(image), 0); /* two are expected: the next does not lead */
    begin_request(image, &promised, 1, data[0]);
    while (vdisk_poll(image, true))
        ;
    assert_int_equal(promised.result, 0);
    gate.wanted = 1;
    begin_request(image, &leading, 2, data[1]);
    expect_kept(sim, image, &promised, 1);
    let_data_go(&gate, 1);
    while (vdisk_poll(image, true))
        ;
    assert_int_equal(leading.result, 0);
    vdisk_abandon(image);
    sim_free(sim);
}

static void test_nothing_that_outlives_depends_on_data_of_others(void **state)
{
    (void)state;
    for (unsigned polls = 0; polls < 12; polls++)
        kill_beside(polls);
    kill_after();
}

static void test_small_writes_seldom_make_the_file_longer(void **state)
{
    struct progress p = {.data_start = ((1u << TAIL_LOG2) + 4) * BLOCK};
    struct sim *sim = sim_new(4);
    struct vdisk_image *image;

    (void)state;
    sim_set_trace(sim, note_progress, &p);
    image = create(sim_io(sim), TAIL_LOG2);
    assert_in_range(p.end, p.data_start, UINT64_MAX); /* the ring as well is written */
    write_one(image, 0);
    p.longer = 0;
    for (unsigned i = 1; i < 500; i++)
        write_one(image, i);
    assert_in_range(p.longer, 0, 50);
    sim_set_trace(sim, NULL, NULL);
    shut(image);
    sim_free(sim);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_record_without_its_data_ends_the_log),
        cmocka_unit_test(test_a_record_may_lie_across_what_recovery_has_in_memory),
        cmocka_unit_test(test_recovery_reads_on_at_the_beginning_of_the_ring),
        cmocka_unit_test(test_no_record_is_overwritten_before_slot_a_is_durable),
        cmocka_unit_test(test_no_record_is_overwritten_before_slot_b_is_durable),
        cmocka_unit_test(test_the_record_is_written_ahead_of_the_flush_that_is_expected),
        cmocka_unit_test(test_the_record_is_written_beside_its_data_when_a_flush_follows),
        cmocka_unit_test(test_a_record_whose_data_fails_is_taken_back),
        cmocka_unit_test(test_others_keep_their_promises_beside_a_record_that_is_taken_back),
        cmocka_unit_test(test_nothing_that_outlives_depends_on_data_of_others),
        cmocka_unit_test(test_small_writes_seldom_make_the_file_longer),
    };

    if (vdisk_init())
        return 1;
    alarm(300);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
