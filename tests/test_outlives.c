/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes that the end of the process cannot undo (vdisk_request.outlives): whenever it is killed,
 * what had completed is there, and a flush after that makes it durable; the journal does not fill
 * with a block for each of them; and a record that was written again cannot be put back as it was.
 *
 * VDISK_TEST_LONG=1 runs many seeds.
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

#define BLOCK        4096u
#define BLOCKS       96u
#define REQUEST_MAX  8u /* blocks */
#define FLIGHTS      16u
#define JOURNAL_LOG2 5u
#define RING_END     ((UINT64_C(1) << JOURNAL_LOG2) * BLOCK)

static const struct vdisk_key key = {
    .kind = VDISK_KEY_FILE, .bytes = "the key file of outliving writes", .length = 32};

struct disk;

struct flight {
    struct vdisk_request request;
    struct disk *disk;
    uint64_t number;
    bool busy;
    _Alignas(BLOCK) uint8_t data[REQUEST_MAX * BLOCK];
};

/* Each block holds the number of the request that wrote it. */
struct disk {
    struct sim *sim;
    struct sim_rng rng;
    struct vdisk_image *image;
    uint64_t numbers;      /* of requests so far */
    uint64_t kept[BLOCKS]; /* at least this one is there after a kill */
    struct flight *flight;
    unsigned flying, flushed;
    uint64_t syncs, records, last_record; /* seen on the way to the disk; its offset */
};

static void trace(void *arg, enum vdisk_io_op op, uint64_t offset, uint64_t length)
{
    struct disk *disk = arg;
    disk->syncs += op == VDISK_IO_SYNC;
    if (op == VDISK_IO_WRITE && offset >= UINT64_C(4) * BLOCK && offset + length <= RING_END) {
        disk->records++;
        disk->last_record = offset;
    }
}

static struct vdisk_image *open_sim(struct sim *sim, int expected)
{
    struct vdisk_open_options options = {.struct_bytes = sizeof(options), .io = sim_io(sim)};
    struct vdisk_image *image = NULL;
    assert_int_equal(vdisk_open(NULL, &options, &key, &image, NULL), expected);
    return image;
}

static void begin(struct disk *disk, uint64_t seed)
{
    *disk = (struct disk){.sim = sim_new(seed), .flight = NULL};
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options),
        .size = (uint64_t)BLOCKS * BLOCK,
        .cluster_bytes = 16384,
        .journal_log2 = JOURNAL_LOG2,
        .compress = seed & 1,
        .io = sim_io(disk->sim),
    };
    disk->flight = aligned_alloc(BLOCK, FLIGHTS * sizeof(*disk->flight));
    assert_non_null(disk->flight);
    memset(disk->flight, 0, FLIGHTS * sizeof(*disk->flight));
    sim_rng_seed(&disk->rng, seed);
    sim_randombytes_install(seed);
    assert_int_equal(vdisk_create(NULL, &options, &key, &disk->image, NULL), 0);
    sim_set_trace(disk->sim, trace, disk);
}

static void done(struct vdisk_request *request)
{
    struct flight *flight = request->owner;
    struct disk *disk = flight->disk;
    assert_int_equal(request->result, 0);
    for (uint64_t b = request->offset / BLOCK;
         request->outlives && b < (request->offset + request->length) / BLOCK; b++) {
        if (disk->kept[b] < flight->number)
            disk->kept[b] = flight->number;
    }
    flight->busy = false;
    disk->flying--;
    disk->flushed += request->op == VDISK_FLUSH;
}

static void submit(struct disk *disk, struct vdisk_request request)
{
    struct flight *flight = disk->flight;
    while (disk->flying == FLIGHTS)
        vdisk_poll(disk->image, true);
    while (flight->busy)
        flight++;
    flight->request = request;
    flight->request.data = flight->data;
    flight->request.done = done;
    flight->request.owner = flight;
    flight->disk = disk;
    flight->busy = true;
    flight->number = ++disk->numbers;
    for (unsigned b = 0; request.op == VDISK_WRITE && b < request.length / BLOCK; b++) {
        if (disk->numbers % 3)
            sim_rng_fill(&disk->rng, flight->data + (size_t)b * BLOCK, BLOCK);
        memcpy(flight->data + (size_t)b * BLOCK, &flight->number, sizeof(flight->number));
    }
    disk->flying++;
    vdisk_submit(disk->image, &flight->request);
}

static void write_blocks(struct disk *disk, uint64_t block, uint64_t count, bool outlives)
{
    submit(disk, (struct vdisk_request){.op = VDISK_WRITE,
                                        .outlives = outlives,
                                        .offset = block * BLOCK,
                                        .length = count * BLOCK});
}

static void drain(struct disk *disk)
{
    while (disk->flying)
        vdisk_poll(disk->image, true);
}

static void end(struct disk *disk)
{
    drain(disk);
    assert_int_equal(vdisk_close(disk->image, NULL), 0);
    sim_free(disk->sim);
    free(disk->flight);
}

/* On an image of what is left of the disk. */
static void expect_kept(const struct disk *disk, struct sim *left)
{
    static _Alignas(BLOCK) uint8_t data[BLOCKS * BLOCK];
    sim_set_ordered(left, true);
    struct vdisk_image *image = open_sim(left, 0);
    assert_int_equal(vdisk_read(image, 0, data, sizeof(data)), 0);
    for (unsigned b = 0; b < BLOCKS; b++) {
        uint64_t number;
        memcpy(&number, data + (size_t)b * BLOCK, sizeof(number));
        if (number < disk->kept[b] || number > disk->numbers)
            fail_msg("block %u: request %llu, and not %llu, which completed", b,
                     (unsigned long long)number, (unsigned long long)disk->kept[b]);
    }
    vdisk_abandon(image);
    sim_free(left);
}

/* The process may have asked for more than what has completed: that is done, or was never begun. */
static void kill_now(struct disk *disk)
{
    expect_kept(disk, sim_crash_image(disk->sim, 1, SIM_KEEP_COMPLETED));
    expect_kept(disk, sim_crash_image(disk->sim, 1, SIM_KEEP_ALL));
}

static void random_run(uint64_t seed, bool flushes)
{
    struct disk disk;
    begin(&disk, seed);
    for (unsigned step = 0; step < 120; step++) {
        uint64_t count = 1 + sim_rng_below(&disk.rng, REQUEST_MAX);
        uint64_t block = sim_rng_below(&disk.rng, BLOCKS - count + 1);
        if (flushes && sim_rng_chance(&disk.rng, 1, 8))
            submit(&disk, (struct vdisk_request){.op = VDISK_FLUSH});
        else
            write_blocks(&disk, block, count, sim_rng_chance(&disk.rng, 2, 3));
        for (uint64_t polls = sim_rng_below(&disk.rng, 6); polls > 0; polls--)
            vdisk_poll(disk.image, false);
        if (sim_rng_chance(&disk.rng, 1, 4))
            kill_now(&disk);
    }
    drain(&disk);
    kill_now(&disk);
    end(&disk);
}

static uint64_t seeds(void)
{
    return getenv("VDISK_TEST_LONG") ? 3000 : 60;
}

static void test_completed_writes_are_there_after_a_kill(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= seeds(); seed++)
        random_run(seed, false);
}

static void test_completed_writes_are_there_after_a_kill_among_flushes(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= seeds(); seed++)
        random_run(seed, true);
}

/* The flush comes while the first write of the new process is under way, or before it. */
static void flush_after_a_kill(uint64_t seed)
{
    struct disk disk;
    begin(&disk, seed);
    for (unsigned i = 0; i < 20; i++)
        write_blocks(&disk, sim_rng_below(&disk.rng, BLOCKS), 1, true);
    drain(&disk);
    vdisk_abandon(disk.image);
    disk.image = open_sim(disk.sim, 0);
    if (seed % 4)
        write_blocks(&disk, sim_rng_below(&disk.rng, BLOCKS), 1, false);
    for (uint64_t polls = sim_rng_below(&disk.rng, 24); polls > 0; polls--)
        vdisk_poll(disk.image, false);
    submit(&disk, (struct vdisk_request){.op = VDISK_FLUSH});
    while (disk.flushed == 0)
        vdisk_poll(disk.image, true);
    expect_kept(&disk, sim_crash_image(disk.sim, 1, SIM_KEEP_NONE));
    end(&disk);
}

static void test_a_flush_after_a_kill_makes_them_durable(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4 * seeds(); seed++)
        flush_after_a_kill(seed);
}

static void test_they_share_blocks_of_the_journal(void **state)
{
    struct disk disk;
    (void)state;
    begin(&disk, 2);
    write_blocks(&disk, 0, 1, true); /* begins the epoch */
    drain(&disk);
    disk.syncs = disk.records = 0;
    for (unsigned i = 0; i < 1000; i++) {
        write_blocks(&disk, i % BLOCKS, 1, true);
        drain(&disk);
    }
    assert_int_equal(disk.records, 1000);
    assert_int_equal(disk.syncs, 0); /* of a checkpoint, which a full ring needs */
    kill_now(&disk);
    end(&disk);
}

static void test_what_completes_together_shares_a_record(void **state)
{
    struct disk disk;
    (void)state;
    begin(&disk, 2);
    sim_set_ordered(disk.sim, true);
    write_blocks(&disk, 0, 1, true);
    drain(&disk);
    disk.records = 0;
    for (unsigned i = 0; i < FLIGHTS; i++)
        write_blocks(&disk, i, 1, true);
    drain(&disk);
    assert_in_range(disk.records, 1, 2);
    uint64_t before = sim_op_count(disk.sim);
    write_blocks(&disk, 0, 0, true); /* nothing to write, nothing to keep */
    drain(&disk);
    assert_int_equal(sim_op_count(disk.sim), before);
    end(&disk);
}

static void test_an_older_version_of_a_record_cannot_be_put_back(void **state)
{
    static uint8_t older[BLOCK], newer[BLOCK];
    struct disk disk;
    (void)state;
    begin(&disk, 2);
    write_blocks(&disk, 0, 1, true);
    drain(&disk);
    uint64_t place = disk.last_record;
    struct sim *then = sim_crash_image(disk.sim, 1, SIM_KEEP_ALL);
    sim_raw_read(then, place, older, BLOCK);
    sim_free(then);
    write_blocks(&disk, 1, 1, true);
    drain(&disk);
    assert_int_equal(disk.last_record, place);
    for (unsigned i = 0; i < 2; i++) { /* it is durable, and one record or more know that */
        submit(&disk, (struct vdisk_request){.op = VDISK_FLUSH});
        drain(&disk);
        write_blocks(&disk, 2, 1, true);
        drain(&disk);
        assert_int_not_equal(disk.last_record, place);
        expect_kept(&disk, sim_crash_image(disk.sim, 1, SIM_KEEP_ALL));
        struct sim *forged = sim_crash_image(disk.sim, 1, SIM_KEEP_ALL);
        sim_raw_read(forged, place, newer, BLOCK);
        assert_memory_not_equal(older, newer, BLOCK);
        sim_raw_write(forged, place, older, BLOCK);
        open_sim(forged, VDISK_E_NOT_AUTHENTIC);
        sim_free(forged);
    }
    end(&disk);
}

static int set_up(void **state)
{
    (void)state;
    return vdisk_init();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_completed_writes_are_there_after_a_kill),
        cmocka_unit_test(test_completed_writes_are_there_after_a_kill_among_flushes),
        cmocka_unit_test(test_a_flush_after_a_kill_makes_them_durable),
        cmocka_unit_test(test_they_share_blocks_of_the_journal),
        cmocka_unit_test(test_what_completes_together_shares_a_record),
        cmocka_unit_test(test_an_older_version_of_a_record_cannot_be_put_back),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
