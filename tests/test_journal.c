/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal's two rules that chance hardly ever tries (SPEC.md 15 and 16): a record whose data
 * did not arrive ends the log, whatever follows it; and no record is overwritten before the
 * checkpoint that covers it is durable in both superblock slots.
 */
#include "sim_io.h"
#include "vdisk/vdisk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

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

/* ---- the ring waits for both superblock slots ---- */

#define RING_LOG2 5u
#define RING      ((1u << RING_LOG2) - 4)

/* A disk that can be told to keep the write of one block waiting. */
struct gate {
    struct vdisk_io io;
    struct vdisk_io *inner;
    uint64_t block; /* 0: none */
    struct vdisk_io_request *held;
};

static void gate_submit(struct vdisk_io *io, struct vdisk_io_request *request)
{
    struct gate *gate = (struct gate *)io;

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

    return gate->inner->ops->poll(gate->inner, wait && !gate->held);
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
        cmocka_unit_test(test_no_record_is_overwritten_before_slot_a_is_durable),
        cmocka_unit_test(test_no_record_is_overwritten_before_slot_b_is_durable),
        cmocka_unit_test(test_the_record_is_written_ahead_of_the_flush_that_is_expected),
        cmocka_unit_test(test_small_writes_seldom_make_the_file_longer),
    };

    if (vdisk_init())
        return 1;
    alarm(300);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
