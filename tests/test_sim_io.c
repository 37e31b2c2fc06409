/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated disk keeps its word (tests/sim_io.c): order, syncs, faults, space. Crash tests
 * are worth as much as it is.
 */
#include "sim_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sodium.h>
#include <string.h>

/* ---- reads, writes, order ---- */

static void test_reads_see_completed_writes_and_zeros_elsewhere(void **state)
{
    struct sim *sim = sim_new(1);
    uint64_t bytes;

    (void)state;
    assert_int_equal(sim_put(sim, 3, 7, 2), 0);
    assert_int_equal(sim_seen(sim, 3), 7);
    assert_int_equal(sim_seen(sim, 4), 7);
    assert_int_equal(sim_seen(sim, 0), 0);
    assert_int_equal(sim_seen(sim, 1000), 0);
    assert_int_equal(sim_io(sim)->ops->size(sim_io(sim), &bytes), 0);
    assert_int_equal(bytes, 5 * PAGE);
    assert_int_equal(sim_allocated_pages(sim), 2);
    sim_free(sim);
}

static void test_punch_allocate_and_truncate_do_as_files_do(void **state)
{
    struct sim *sim = sim_new(1);
    uint64_t bytes;

    (void)state;
    assert_int_equal(sim_put(sim, 0, 7, 4), 0);
    assert_int_equal(sim_run(sim, VDISK_IO_PUNCH, 1, NULL, 1), 0);
    assert_int_equal(sim_seen(sim, 1), 0);
    assert_int_equal(sim_allocated_pages(sim), 3);
    assert_int_equal(sim_run(sim, VDISK_IO_ALLOCATE, 0, NULL, 8), 0);
    assert_int_equal(sim_allocated_pages(sim), 8);
    assert_int_equal(sim_seen(sim, 0), 7);
    assert_int_equal(sim_seen(sim, 1), 0);
    assert_int_equal(sim_io(sim)->ops->size(sim_io(sim), &bytes), 0);
    assert_int_equal(bytes, 8 * PAGE);
    assert_int_equal(sim_run(sim, VDISK_IO_TRUNCATE, 2, NULL, 0), 0);
    assert_int_equal(sim_allocated_pages(sim), 2);
    assert_int_equal(sim_run(sim, VDISK_IO_TRUNCATE, 4, NULL, 0), 0);
    assert_int_equal(sim_seen(sim, 3), 0);
    assert_int_equal(sim_allocated_pages(sim), 2);
    sim_free(sim);
}

static void test_nothing_completes_inside_submit_and_something_in_each_poll(void **state)
{
    struct sim *sim = sim_new(5);
    struct vdisk_io_request requests[20];
    int polls = 0;

    (void)state;
    sim_done_count = 0;
    for (unsigned i = 0; i < 20; i++)
        sim_queue(sim, &requests[i], VDISK_IO_WRITE, i, sim_data, 1);
    assert_int_equal(sim_done_count, 0);
    while (sim_done_count < 20) {
        assert_true(sim_io(sim)->ops->poll(sim_io(sim), true) > 0);
        polls++;
    }
    assert_true(polls > 1);
    assert_int_equal(sim_io(sim)->ops->poll(sim_io(sim), true), 0);
    sim_free(sim);
}

static struct {
    struct vdisk_io_request *order[8];
    unsigned count;
} completions;

static void record(struct vdisk_io_request *request)
{
    completions.order[completions.count++] = request;
}

/* The order in which eight writes complete, as digits. */
static unsigned long completion_order(uint64_t seed, bool ordered)
{
    struct sim *sim = sim_new(seed);
    struct vdisk_io_request requests[8];
    unsigned long digits = 0;

    sim_set_ordered(sim, ordered);
    completions.count = 0;
    for (unsigned i = 0; i < 8; i++) {
        sim_queue(sim, &requests[i], VDISK_IO_WRITE, i, sim_data, 1);
        requests[i].done = record;
    }
    sim_drain(sim);
    for (unsigned i = 0; i < 8; i++)
        digits = digits * 10 + (unsigned long)(completions.order[i] - requests);
    sim_free(sim);
    return digits;
}

static void test_the_order_of_completions_follows_from_the_seed(void **state)
{
    unsigned different = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        assert_int_equal(completion_order(seed, false), completion_order(seed, false));
        different += completion_order(seed, false) != completion_order(seed + 1, false);
    }
    assert_true(different > 15);
    assert_int_equal(completion_order(3, true), 1234567);
}

static void test_a_late_request_completes_only_when_all_in_flight_are_late(void **state)
{
    struct sim *sim = sim_new(1);
    struct vdisk_io_request late, others[3];
    int before = sim_done_count;

    (void)state;
    memset(sim_data, 7, PAGE);
    sim_set_late(sim, 1, 1);
    sim_queue(sim, &late, VDISK_IO_WRITE, 0, sim_data, 1);
    sim_set_late(sim, 0, 1);
    late.result = 1;
    for (unsigned i = 0; i < 3; i++)
        sim_queue(sim, &others[i], VDISK_IO_WRITE, 1 + i, sim_data, 1);
    while (sim_done_count < before + 3)
        sim_io(sim)->ops->poll(sim_io(sim), true);
    assert_int_equal(late.result, 1);
    sim_io(sim)->ops->poll(sim_io(sim), true);
    assert_int_equal(late.result, 0);
    sim_free(sim);
}

static void test_a_read_buffer_is_garbage_until_the_read_is_done(void **state)
{
    struct sim *sim = sim_new(1);
    struct vdisk_io_request request;

    (void)state;
    memset(sim_back, 0, PAGE);
    sim_queue(sim, &request, VDISK_IO_READ, 0, sim_back, 1);
    assert_int_not_equal(sim_back[17], 0);
    sim_drain(sim);
    assert_int_equal(sim_back[17], 0);
    sim_free(sim);
}

/* ---- sync ---- */

static void test_a_write_is_durable_only_after_a_sync(void **state)
{
    struct sim *sim = sim_new(1);

    (void)state;
    assert_int_equal(sim_put(sim, 0, 7, 1), 0);
    assert_int_equal(sim_kept_after(sim, SIM_KEEP_NONE, 0), 0);
    assert_int_equal(sim_kept_after(sim, SIM_KEEP_ALL, 0), 7);
    assert_int_equal(sim_unsynced(sim), 1);
    assert_int_equal(sim_sync(sim), 0);
    assert_int_equal(sim_unsynced(sim), 0);
    assert_int_equal(sim_kept_after(sim, SIM_KEEP_NONE, 0), 7);
    sim_free(sim);
}

static void test_a_sync_does_not_cover_what_completes_after_its_submission(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct sim *sim = sim_new(seed);
        struct vdisk_io_request in_flight, sync, later;

        memset(sim_data, 7, PAGE);
        assert_int_equal(sim_run(sim, VDISK_IO_WRITE, 0, sim_data, 1), 0);
        sim_queue(sim, &in_flight, VDISK_IO_WRITE, 1, sim_data, 1);
        sim_queue(sim, &sync, VDISK_IO_SYNC, 0, NULL, 0);
        sim_queue(sim, &later, VDISK_IO_WRITE, 2, sim_data, 1);
        sim_drain(sim);
        assert_int_equal(sync.result, 0);
        assert_int_equal(sim_kept(sim, 0), 7);
        assert_int_equal(sim_kept(sim, 1), 0);
        assert_int_equal(sim_kept(sim, 2), 0);
        assert_int_equal(sim_unsynced(sim), 2);
        sim_free(sim);
    }
}

static void test_a_sync_in_flight_promises_nothing(void **state)
{
    struct sim *sim = sim_new(1);
    struct vdisk_io_request sync;

    (void)state;
    assert_int_equal(sim_put(sim, 0, 7, 1), 0);
    sim_queue(sim, &sync, VDISK_IO_SYNC, 0, NULL, 0);
    assert_int_equal(sim_kept_after(sim, SIM_KEEP_NONE, 0), 0);
    sim_drain(sim);
    assert_int_equal(sim_kept_after(sim, SIM_KEEP_NONE, 0), 7);
    sim_free(sim);
}

static void test_rewrites_of_one_block_become_durable_in_order(void **state)
{
    struct sim *sim = sim_new(1);
    struct vdisk_io_request sync;

    (void)state;
    assert_int_equal(sim_put(sim, 0, 1, 1), 0);
    assert_int_equal(sim_put(sim, 0, 2, 1), 0);
    sim_queue(sim, &sync, VDISK_IO_SYNC, 0, NULL, 0);
    sim_set_ordered(sim, true);
    assert_int_equal(sim_put(sim, 0, 3, 1), 0);
    assert_int_equal(sync.result, 0);
    assert_int_equal(sim_kept(sim, 0), 2);
    assert_int_equal(sim_sync(sim), 0);
    assert_int_equal(sim_kept(sim, 0), 3);
    sim_free(sim);
}

static void test_truncate_and_punch_wait_for_a_sync_too(void **state)
{
    struct sim *sim = sim_new(1);

    (void)state;
    assert_int_equal(sim_put(sim, 0, 7, 4), 0);
    assert_int_equal(sim_sync(sim), 0);
    assert_int_equal(sim_run(sim, VDISK_IO_PUNCH, 0, NULL, 1), 0);
    assert_int_equal(sim_run(sim, VDISK_IO_TRUNCATE, 2, NULL, 0), 0);
    assert_int_equal(sim_raw_size(sim), 4 * PAGE);
    assert_int_equal(sim_kept(sim, 0), 7);
    sim_settle(sim);
    assert_int_equal(sim_raw_size(sim), 2 * PAGE);
    assert_int_equal(sim_kept(sim, 0), 0);
    sim_free(sim);
}

/* ---- faults ---- */

static void test_the_nth_operation_of_a_kind_fails_once(void **state)
{
    struct sim *sim = sim_new(1);

    (void)state;
    sim_add_fault(sim, &(struct sim_fault){.op = VDISK_IO_WRITE, .nth = 2, .error = -EIO});
    assert_int_equal(sim_put(sim, 0, 1, 1), 0);
    assert_int_equal(sim_seen(sim, 0), 1);
    assert_int_equal(sim_put(sim, 0, 2, 1), -EIO);
    assert_int_equal(sim_put(sim, 0, 3, 1), 0);
    assert_int_equal(sim_faults_fired(sim), 1);
    sim_free(sim);
}

static void test_a_sticky_fault_stays_until_cleared(void **state)
{
    struct sim *sim = sim_new(1);

    (void)state;
    sim_add_fault(
        sim, &(struct sim_fault){.op = SIM_ANY_OP, .nth = 3, .error = -ENODEV, .sticky = true});
    assert_int_equal(sim_put(sim, 0, 1, 1), 0);
    assert_int_equal(sim_sync(sim), 0);
    assert_int_equal(sim_run(sim, VDISK_IO_READ, 0, sim_back, 1), -ENODEV);
    assert_int_equal(sim_put(sim, 0, 1, 1), -ENODEV);
    assert_int_equal(sim_sync(sim), -ENODEV);
    sim_clear_faults(sim);
    assert_int_equal(sim_put(sim, 0, 1, 1), 0);
    sim_free(sim);
}

static void test_a_failed_write_may_have_arrived_in_part(void **state)
{
    bool arrived[5] = {false};

    (void)state;
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct sim *sim = sim_new(seed);
        unsigned pages = 0;

        sim_add_fault(sim, &(struct sim_fault){.op = VDISK_IO_WRITE, .nth = 1, .error = -EIO});
        assert_int_equal(sim_put(sim, 0, 7, 4), -EIO);
        while (pages < 4 && sim_seen(sim, pages) == 7)
            pages++;
        assert_int_equal(sim_allocated_pages(sim), pages);
        arrived[pages] = true;
        sim_free(sim);
    }
    assert_true(arrived[0] && arrived[1] && arrived[2] && arrived[3] && arrived[4]);
}

static void test_a_failed_sync_saves_nothing_and_may_lose_writes_for_good(void **state)
{
    bool lost = false, saved = false;

    (void)state;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct sim *sim = sim_new(seed);

        sim_add_fault(
            sim, &(struct sim_fault){.op = VDISK_IO_SYNC, .nth = 1, .error = -EIO, .drop = true});
        assert_int_equal(sim_put(sim, 0, 7, 1), 0);
        assert_int_equal(sim_sync(sim), -EIO);
        assert_int_equal(sim_kept(sim, 0), 0);
        assert_int_equal(sim_seen(sim, 0), 7); /* as if all were well */
        assert_int_equal(sim_sync(sim), 0);
        lost |= sim_kept(sim, 0) == 0;
        saved |= sim_kept(sim, 0) == 7;
        sim_free(sim);
    }
    assert_true(lost && saved);
}

static void test_a_full_disk_refuses_new_pages_only(void **state)
{
    struct sim *sim = sim_new(1);

    (void)state;
    sim_set_capacity(sim, 4);
    assert_int_equal(sim_put(sim, 0, 7, 4), 0);
    assert_int_equal(sim_put(sim, 4, 7, 1), -ENOSPC);
    assert_int_equal(sim_put(sim, 1, 8, 2), 0);
    assert_int_equal(sim_run(sim, VDISK_IO_ALLOCATE, 8, NULL, 1), -ENOSPC);
    assert_int_equal(sim_run(sim, VDISK_IO_PUNCH, 0, NULL, 1), 0);
    assert_int_equal(sim_put(sim, 4, 7, 2), -ENOSPC);
    assert_true(sim_allocated_pages(sim) <= 4);
    assert_int_equal(sim_run(sim, VDISK_IO_TRUNCATE, 2, NULL, 0), 0);
    assert_int_equal(sim_run(sim, VDISK_IO_ALLOCATE, 8, NULL, 3), 0);
    assert_int_equal(sim_put(sim, 9, 7, 2), 0);
    assert_int_equal(sim_allocated_pages(sim), 4);
    sim_free(sim);
}

/* ---- handling ---- */

static void test_closing_the_io_leaves_the_disk(void **state)
{
    struct sim *sim = sim_new(1);

    (void)state;
    assert_int_equal(sim_put(sim, 0, 1, 1), 0);
    sim_io(sim)->ops->close(sim_io(sim));
    assert_int_equal(sim_seen(sim, 0), 1);
    assert_int_equal(sim_kept(sim, 0), 0);
    sim_free(sim);
}

static uint64_t traced;

static void trace(void *arg, enum vdisk_io_op op, uint64_t offset, uint64_t length)
{
    assert_ptr_equal(arg, &traced);
    traced = traced * 10 + (uint64_t)op + offset / PAGE + length / PAGE;
}

static void test_the_trace_sees_each_submission(void **state)
{
    struct sim *sim = sim_new(1);

    (void)state;
    traced = 0;
    sim_set_trace(sim, trace, &traced);
    assert_int_equal(sim_put(sim, 3, 1, 2), 0);
    assert_int_equal(sim_sync(sim), 0);
    assert_int_equal(traced, (VDISK_IO_WRITE + 3 + 2) * 10 + VDISK_IO_SYNC);
    sim_free(sim);
}

static void test_sodium_draws_from_the_seed(void **state)
{
    uint8_t one[100], two[100];

    (void)state;
    sim_randombytes_install(42);
    assert_true(sodium_init() >= 0);
    sim_randombytes_install(42);
    randombytes_buf(one, sizeof(one));
    randombytes_buf(two, sizeof(two));
    assert_memory_not_equal(one, two, sizeof(one));
    sim_randombytes_install(42);
    randombytes_buf(two, sizeof(two));
    assert_memory_equal(one, two, sizeof(one));
    sim_randombytes_install(43);
    randombytes_buf(two, sizeof(two));
    assert_memory_not_equal(one, two, sizeof(one));
    assert_true(randombytes_uniform(10) < 10);
    assert_string_equal(randombytes_implementation_name(), "sim");
}

#define TEST(name) cmocka_unit_test_teardown(name, sim_check_leaks)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reads_see_completed_writes_and_zeros_elsewhere),
        TEST(test_punch_allocate_and_truncate_do_as_files_do),
        TEST(test_nothing_completes_inside_submit_and_something_in_each_poll),
        TEST(test_the_order_of_completions_follows_from_the_seed),
        TEST(test_a_late_request_completes_only_when_all_in_flight_are_late),
        TEST(test_a_read_buffer_is_garbage_until_the_read_is_done),
        TEST(test_a_write_is_durable_only_after_a_sync),
        TEST(test_a_sync_does_not_cover_what_completes_after_its_submission),
        TEST(test_a_sync_in_flight_promises_nothing),
        TEST(test_rewrites_of_one_block_become_durable_in_order),
        TEST(test_truncate_and_punch_wait_for_a_sync_too),
        TEST(test_the_nth_operation_of_a_kind_fails_once),
        TEST(test_a_sticky_fault_stays_until_cleared),
        TEST(test_a_failed_write_may_have_arrived_in_part),
        TEST(test_a_failed_sync_saves_nothing_and_may_lose_writes_for_good),
        TEST(test_a_full_disk_refuses_new_pages_only),
        TEST(test_closing_the_io_leaves_the_disk),
        TEST(test_the_trace_sees_each_submission),
        TEST(test_sodium_draws_from_the_seed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
