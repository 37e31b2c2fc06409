/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images that are filled from a source: they show it until they have all of it themselves, keep
 * what was written, and never pass zeros off for what is missing.
 */
#include "fill_source.h"
#include "sim_io.h"
#include "workers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 4096u
#define PIECE 65536u
#define SIZE  (UINT64_C(6) << 20)

static const uint8_t key_bytes[32] = "what every one of these is under";
static const struct vdisk_key key = {
    .kind = VDISK_KEY_FILE, .bytes = key_bytes, .length = sizeof(key_bytes)};

struct kit {
    struct sim *sim;
    struct fill_source *source;
    struct vdisk_workers *workers;
    struct vdisk_image *image;
    struct sim_rng rng;
    uint64_t size;
    uint8_t *model;
};

static void begin(struct kit *kit, uint64_t seed, uint64_t source_size, bool compress,
                  unsigned threads)
{
    *kit = (struct kit){.sim = sim_new(seed), .size = SIZE};
    kit->source = fill_source_new(source_size, PIECE, seed);
    sim_rng_seed(&kit->rng, seed);
    kit->model = calloc(1, SIZE);
    assert_non_null(kit->model);
    memcpy(kit->model, kit->source->bytes, source_size < SIZE ? source_size : SIZE);
    if (threads)
        assert_int_equal(vd_workers_open(threads, &kit->workers), 0);
    const struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                                 .size = SIZE,
                                                 .cluster_bytes = 16384,
                                                 .journal_log2 = 6,
                                                 .compress = compress,
                                                 .source = &kit->source->source,
                                                 .workers = kit->workers,
                                                 .io = sim_io(kit->sim)};
    assert_int_equal(vdisk_create("sim", &options, &key, &kit->image, NULL), 0);
}

static int open_with(struct kit *kit, struct vdisk_source *source, bool without,
                     struct vdisk_error *error)
{
    const struct vdisk_open_options options = {.struct_bytes = sizeof(options),
                                               .source = source,
                                               .without_source = without,
                                               .workers = kit->workers,
                                               .io = sim_io(kit->sim)};
    return vdisk_open("sim", &options, &key, &kit->image, error);
}

static void end(struct kit *kit)
{
    if (kit->image)
        assert_int_equal(vdisk_close(kit->image, NULL), 0);
    if (kit->workers)
        kit->workers->ops->close(kit->workers);
    fill_source_free(kit->source);
    sim_free(kit->sim);
    free(kit->model);
}

static void expect_model(struct kit *kit)
{
    uint8_t *found = malloc(SIZE);

    assert_non_null(found);
    assert_int_equal(vdisk_read(kit->image, 0, found, SIZE), 0);
    assert_memory_equal(found, kit->model, SIZE);
    free(found);
}

static void fill_all(struct kit *kit)
{
    for (uint64_t cursor = 0; cursor < SIZE;)
        assert_int_equal(vdisk_fill(kit->image, &cursor, NULL), 0);
}

static void must_write(struct kit *kit, uint64_t offset, uint64_t length, int byte)
{
    uint8_t *data = malloc(length);

    assert_non_null(data);
    memset(data, byte, length);
    assert_int_equal(vdisk_write(kit->image, offset, data, length), 0);
    memset(kit->model + offset, byte, length);
    free(data);
}

static void expect_own_image(struct kit *kit)
{
    struct vdisk_check_options options = {.struct_bytes = sizeof(options)};
    struct vdisk_check_result result;
    struct vdisk_info info;

    assert_int_equal(vdisk_close(kit->image, NULL), 0);
    assert_int_equal(open_with(kit, NULL, false, NULL), 0);
    vdisk_get_info(kit->image, &info);
    assert_false(info.has_source || info.has_base);
    expect_model(kit);
    assert_int_equal(vdisk_check(kit->image, &options, &result), 0);
}

/* ---- tests ---- */

struct flight {
    struct vdisk_request request;
    struct kit *kit;
    bool busy;
    uint8_t *data, *expected;
};

static void flight_done(struct vdisk_request *request)
{
    struct flight *flight = request->owner;

    assert_int_equal(request->result, 0);
    if (request->op == VDISK_READ)
        assert_memory_equal(flight->data, flight->expected, request->length);
    free(flight->data);
    free(flight->expected);
    flight->busy = false;
}

static void launch(struct kit *kit, struct flight *flight)
{
    static const enum vdisk_request_op ops[] = {VDISK_WRITE, VDISK_WRITE, VDISK_READ,
                                                VDISK_READ,  VDISK_ZERO,  VDISK_DISCARD};
    enum vdisk_request_op op = ops[sim_rng_below(&kit->rng, 6)];
    uint64_t length = 1 + sim_rng_below(&kit->rng, sim_rng_below(&kit->rng, 4) ? 9000 : 300000);
    uint64_t offset = sim_rng_below(&kit->rng, SIZE - length);

    if (sim_rng_below(&kit->rng, 2)) {
        offset = offset / BLOCK * BLOCK;
        length = (length + BLOCK - 1) / BLOCK * BLOCK;
        length = offset + length > SIZE ? SIZE - offset : length;
    }
    *flight = (struct flight){.kit = kit, .busy = true};
    flight->data = malloc(length);
    flight->expected = malloc(length);
    assert_true(flight->data && flight->expected);
    if (op == VDISK_READ)
        memcpy(flight->expected, kit->model + offset, length);
    else if (op == VDISK_WRITE)
        sim_rng_fill(&kit->rng, flight->data, length);
    if (op == VDISK_WRITE)
        memcpy(kit->model + offset, flight->data, length);
    else if (op != VDISK_READ)
        memset(kit->model + offset, 0, length);
    flight->request = (struct vdisk_request){.op = op,
                                             .offset = offset,
                                             .length = length,
                                             .data = flight->data,
                                             .done = flight_done,
                                             .owner = flight};
    vdisk_submit(kit->image, &flight->request);
}

struct filler {
    struct vdisk_image *image;
    uint64_t *cursor;
    unsigned *running;
    int result;
};

static void fill_entry(void *arg)
{
    struct filler *filler = arg;

    while (*filler->cursor < SIZE && filler->result == 0)
        filler->result = vdisk_fill(filler->image, filler->cursor, NULL);
    --*filler->running;
}

/* Random requests in flight beside two coroutines that fill: everything reads as it must. */
static void run_random(uint64_t seed, unsigned threads)
{
    struct flight flight[16] = {{.busy = false}};
    struct kit kit;
    uint64_t cursor = 0;
    unsigned running = 2, steps = 0, busy = 0;

    begin(&kit, seed, seed % 3 ? SIZE : SIZE / 2 + 777, seed & 1, threads);
    struct filler filler[2] = {{kit.image, &cursor, &running, 0},
                               {kit.image, &cursor, &running, 0}};
    assert_int_equal(vdisk_spawn(kit.image, fill_entry, &filler[0]), 0);
    assert_int_equal(vdisk_spawn(kit.image, fill_entry, &filler[1]), 0);
    do {
        busy = 0;
        for (unsigned i = 0; i < 16; i++) {
            if (!flight[i].busy && steps < 300 && sim_rng_below(&kit.rng, 3) == 0) {
                launch(&kit, &flight[i]);
                steps++;
            }
            busy += flight[i].busy;
        }
        vdisk_poll(kit.image, busy > 0);
    } while (busy || running);
    assert_true(filler[0].result == 0 && filler[1].result == 0);
    assert_int_equal(vdisk_detach(kit.image), 0);
    expect_model(&kit);
    expect_own_image(&kit);
    end(&kit);
}

static void test_requests_beside_filling(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++)
        run_random(seed, 0);
    for (uint64_t seed = 20; seed <= 23; seed++)
        run_random(seed, 2);
}

static void test_what_was_written_is_not_filled(void **state)
{
    struct kit kit;

    (void)state;
    begin(&kit, 5, SIZE, true, 0);
    must_write(&kit, 3 * BLOCK, BLOCK, 'x');
    must_write(&kit, PIECE + 100, 50, 'y');
    assert_int_equal(vdisk_discard(kit.image, 2 * PIECE, PIECE), 0);
    memset(kit.model + 2 * PIECE, 0, PIECE);
    fill_all(&kit);
    expect_model(&kit);
    assert_int_equal(vdisk_detach(kit.image), 0);
    expect_model(&kit);
    expect_own_image(&kit);
    end(&kit);
}

static uint64_t first_data(const struct kit *kit)
{
    uint64_t at = 0;

    while (!kit->model[at])
        at++;
    return at / PIECE * PIECE;
}

static void test_a_source_that_is_away(void **state)
{
    uint8_t data[2 * BLOCK];
    uint64_t at, cursor = 0;
    struct kit kit;

    (void)state;
    begin(&kit, 8, SIZE, true, 0);
    at = first_data(&kit);
    must_write(&kit, at, BLOCK, 'w');
    kit.source->broken = true;
    assert_int_equal(vdisk_read(kit.image, at, data, BLOCK), 0);
    assert_memory_equal(data, kit.model + at, BLOCK);
    assert_int_equal(vdisk_read(kit.image, at, data, 2 * BLOCK), -EIO);
    assert_non_null(strstr(vdisk_last_error(kit.image)->text, "the source is away"));
    assert_int_equal(vdisk_write(kit.image, at + BLOCK + 1, data, 7), -EIO);
    must_write(&kit, at + 4 * BLOCK, BLOCK, 'z'); /* a whole block needs nothing of it */
    assert_int_equal(vdisk_fill(kit.image, &cursor, NULL), -EIO);
    assert_int_equal(cursor, 0);
    assert_int_equal(vdisk_detach(kit.image), -EIO);
    assert_int_equal(vdisk_close(kit.image, NULL), 0);
    assert_int_equal(open_with(&kit, &kit.source->source, false, NULL), 0);
    kit.source->broken = false;
    kit.source->fail_one_in = 5;
    while (cursor < SIZE)
        (void)vdisk_fill(kit.image, &cursor, NULL);
    kit.source->fail_one_in = 0;
    assert_int_equal(vdisk_detach(kit.image), 0);
    expect_own_image(&kit);
    end(&kit);
}

static void test_opening_without_its_source(void **state)
{
    struct vdisk_error error = {0};
    struct fill_source *other = fill_source_new(SIZE, PIECE, 99);
    uint8_t data[BLOCK];
    uint64_t at;
    struct kit kit;

    (void)state;
    begin(&kit, 9, SIZE, true, 0);
    at = first_data(&kit);
    must_write(&kit, at, BLOCK, 'w');
    assert_int_equal(vdisk_snapshot_create(kit.image, "too early"), VDISK_E_UNFILLED);
    assert_int_equal(vdisk_detach(kit.image), VDISK_E_UNFILLED);
    assert_int_equal(vdisk_close(kit.image, NULL), 0);
    assert_int_equal(open_with(&kit, NULL, false, &error), VDISK_E_UNFILLED);
    assert_non_null(strstr(error.text, "memory::4711"));
    assert_int_equal(open_with(&kit, &other->source, false, &error), VDISK_E_BASE_CHANGED);
    assert_int_equal(open_with(&kit, NULL, true, &error), 0);
    assert_int_equal(vdisk_read(kit.image, at, data, BLOCK), 0);
    assert_memory_equal(data, kit.model + at, BLOCK);
    assert_int_equal(vdisk_read(kit.image, at + BLOCK, data, BLOCK), VDISK_E_UNFILLED);
    assert_int_equal(vdisk_write(kit.image, at + BLOCK, data, 5), VDISK_E_UNFILLED);
    assert_int_equal(vdisk_close(kit.image, NULL), 0);
    assert_int_equal(open_with(&kit, &kit.source->source, false, NULL), 0);
    expect_model(&kit);
    fill_source_free(other);
    end(&kit);
}

/* What a small read has cost is kept: the rest of the piece costs nothing. */
static void test_reads_fill_too(void **state)
{
    uint8_t data[BLOCK];
    uint64_t at, reads;
    struct kit kit;

    (void)state;
    begin(&kit, 11, SIZE, true, 0);
    at = first_data(&kit);
    assert_int_equal(vdisk_read(kit.image, at + BLOCK, data, BLOCK), 0);
    while (vdisk_poll(kit.image, true))
        ;
    reads = kit.source->reads;
    for (unsigned i = 0; i < PIECE / BLOCK; i++) {
        assert_int_equal(vdisk_read(kit.image, at + i * BLOCK, data, BLOCK), 0);
        assert_memory_equal(data, kit.model + at + i * BLOCK, BLOCK);
    }
    assert_int_equal(kit.source->reads, reads);
    end(&kit);
}

struct tally {
    uint64_t bytes[VDISK_EXTENT_MISSING + 1];
    const struct kit *kit;
};

static bool add_extent(void *opaque, const struct vdisk_extent *extent)
{
    struct tally *tally = opaque;

    tally->bytes[extent->kind] += extent->length;
    for (uint64_t i = 0; extent->kind == VDISK_EXTENT_HOLE && i < extent->length; i++)
        assert_int_equal(tally->kit->model[extent->offset + i], 0);
    return true;
}

static void test_the_map_tells_missing_from_zeros(void **state)
{
    struct tally tally = {.kit = NULL};
    struct kit kit;

    (void)state;
    begin(&kit, 13, SIZE, true, 0);
    tally.kit = &kit;
    assert_int_equal(vdisk_map(kit.image, NULL, 0, SIZE, true, add_extent, &tally), 0);
    assert_true(tally.bytes[VDISK_EXTENT_HOLE] > 0 && tally.bytes[VDISK_EXTENT_MISSING] > 0);
    kit.source->broken = true;
    memset(tally.bytes, 0, sizeof(tally.bytes));
    assert_int_equal(vdisk_map(kit.image, NULL, 0, SIZE, true, add_extent, &tally), 0);
    assert_int_equal(tally.bytes[VDISK_EXTENT_MISSING], SIZE);
    end(&kit);
}

static void test_a_full_disk(void **state)
{
    uint64_t cursor = 0;
    struct kit kit;
    int result = 0;

    (void)state;
    begin(&kit, 17, SIZE, false, 0);
    sim_set_capacity(kit.sim, sim_allocated_pages(kit.sim) + 300);
    while (cursor < SIZE && result == 0)
        result = vdisk_fill(kit.image, &cursor, NULL);
    assert_int_equal(result, -ENOSPC);
    expect_model(&kit); /* reads need no room */
    sim_set_capacity(kit.sim, 0);
    fill_all(&kit);
    assert_int_equal(vdisk_detach(kit.image), 0);
    expect_own_image(&kit);
    end(&kit);
}

static void test_sizes(void **state)
{
    struct kit kit;

    (void)state;
    begin(&kit, 19, SIZE, true, 0);
    assert_int_equal(vdisk_resize(kit.image, SIZE / 2 + 512, true), 0);
    memset(kit.model + SIZE / 2 + 512, 0, SIZE / 2 - 512);
    for (uint64_t cursor = 0; cursor < SIZE / 2 + 512;)
        assert_int_equal(vdisk_fill(kit.image, &cursor, NULL), 0);
    assert_int_equal(vdisk_detach(kit.image), 0);
    assert_int_equal(vdisk_resize(kit.image, SIZE, true), 0);
    expect_model(&kit);
    expect_own_image(&kit);
    end(&kit);
}

/* Who does not know whether it is full gives the source, which is not touched. */
static void test_a_source_that_is_not_needed(void **state)
{
    struct kit kit;
    uint64_t reads;

    (void)state;
    begin(&kit, 29, SIZE, true, 0);
    fill_all(&kit);
    assert_int_equal(vdisk_detach(kit.image), 0);
    assert_int_equal(vdisk_discard(kit.image, PIECE, PIECE), 0);
    memset(kit.model + PIECE, 0, PIECE);
    assert_int_equal(vdisk_close(kit.image, NULL), 0);
    reads = kit.source->reads + kit.source->nexts;
    assert_int_equal(open_with(&kit, &kit.source->source, false, NULL), 0);
    expect_model(&kit);
    while (vdisk_poll(kit.image, true))
        ;
    assert_int_equal(kit.source->reads + kit.source->nexts, reads);
    end(&kit);
}

/* A drive that ends within a block, and is smaller than its source. */
static void end_early(struct kit *kit, uint64_t seed, uint64_t end_at)
{
    *kit = (struct kit){.sim = sim_new(seed), .size = SIZE};
    kit->source = fill_source_new(SIZE, PIECE, seed);
    memset(kit->source->bytes + SIZE - PIECE, 'q', PIECE);
    kit->model = calloc(1, SIZE);
    assert_non_null(kit->model);
    memcpy(kit->model, kit->source->bytes, end_at);
    const struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                                 .size = end_at,
                                                 .cluster_bytes = 16384,
                                                 .source = &kit->source->source,
                                                 .io = sim_io(kit->sim)};
    assert_int_equal(vdisk_create("sim", &options, &key, &kit->image, NULL), 0);
}

static void expect_zeros_behind(struct kit *kit, uint64_t end_at)
{
    for (uint64_t cursor = 0; cursor < end_at;)
        assert_int_equal(vdisk_fill(kit->image, &cursor, NULL), 0);
    assert_int_equal(vdisk_detach(kit->image), 0);
    assert_int_equal(vdisk_resize(kit->image, SIZE, false), 0);
    expect_model(kit);
    expect_own_image(kit);
    end(kit);
}

static void test_what_lies_behind_the_end_is_not_filled(void **state)
{
    const uint64_t end_at = SIZE - 7 * 512;
    struct kit kit;

    (void)state;
    end_early(&kit, 23, end_at);
    expect_zeros_behind(&kit, end_at);
}

static void test_what_lies_behind_the_end_is_not_written(void **state)
{
    const uint64_t end_at = SIZE - 7 * 512;
    struct kit kit;

    (void)state;
    end_early(&kit, 31, end_at);
    must_write(&kit, end_at - 512, 512, 'w');
    expect_zeros_behind(&kit, end_at);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_beside_filling),
        cmocka_unit_test(test_what_was_written_is_not_filled),
        cmocka_unit_test(test_a_source_that_is_away),
        cmocka_unit_test(test_opening_without_its_source),
        cmocka_unit_test(test_reads_fill_too),
        cmocka_unit_test(test_the_map_tells_missing_from_zeros),
        cmocka_unit_test(test_a_full_disk),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_what_lies_behind_the_end_is_not_filled),
        cmocka_unit_test(test_what_lies_behind_the_end_is_not_written),
        cmocka_unit_test(test_a_source_that_is_not_needed),
    };

    if (vdisk_init())
        return 2;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
