/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plain backend on one file (libvdisk/io_plain.c): the operations, the queue, faults.
 */
#include "plain_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- one file ---- */

static void test_what_is_written_is_read_back(void **state)
{
    struct vdisk_io *io = plain_open_ok(VDISK_OPEN_CREATE);

    (void)state;
    assert_int_equal(plain_size_of(io), 0);
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 2 * PAGE, plain_buffer, 3 * PAGE), 0);
    assert_int_equal(plain_size_of(io), 5 * PAGE);
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    plain_shut(io);

    io = plain_open_ok(VDISK_OPEN_READ_ONLY);
    assert_int_equal(plain_run(io, VDISK_IO_READ, 2 * PAGE, plain_back, 3 * PAGE), 0);
    assert_memory_equal(plain_back, plain_buffer, 3 * PAGE);
    plain_shut(io);
}

static void test_bytes_past_the_end_read_as_zeros(void **state)
{
    struct vdisk_io *io = plain_open_ok(VDISK_OPEN_CREATE);
    static const uint8_t zeros[4 * PAGE];

    (void)state;
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 0, plain_buffer, PAGE), 0);
    memset(plain_back, 0xff, sizeof(plain_back));
    assert_int_equal(plain_run(io, VDISK_IO_READ, 0, plain_back, 4 * PAGE), 0);
    assert_memory_equal(plain_back, plain_buffer, PAGE);
    assert_memory_equal(plain_back + PAGE, zeros, 3 * PAGE);
    memset(plain_back, 0xff, sizeof(plain_back));
    assert_int_equal(plain_run(io, VDISK_IO_READ, 1 << 30, plain_back, 4 * PAGE), 0);
    assert_memory_equal(plain_back, zeros, 4 * PAGE);
    plain_shut(io);
}

static void test_a_file_that_ends_inside_a_block_reads_as_zeros_behind(void **state)
{
    struct vdisk_io *io;
    int fd = open(plain_image, O_WRONLY | O_CREAT, 0600);
    static const uint8_t zeros[PAGE];

    (void)state;
    assert_int_equal(write(fd, plain_buffer, 100), 100);
    close(fd);
    io = plain_open_ok(VDISK_OPEN_READ_ONLY);
    memset(plain_back, 0xff, sizeof(plain_back));
    assert_int_equal(plain_run(io, VDISK_IO_READ, 0, plain_back, PAGE), 0);
    assert_memory_equal(plain_back, plain_buffer, 100);
    assert_memory_equal(plain_back + 100, zeros, PAGE - 100);
    assert_int_equal(plain_size_of(io), 100);
    plain_shut(io);
}

static void test_punched_ranges_read_as_zeros_and_keep_the_size(void **state)
{
    struct vdisk_io *io = plain_open_ok(VDISK_OPEN_CREATE);
    static const uint8_t zeros[PAGE];

    (void)state;
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 0, plain_buffer, 4 * PAGE), 0);
    assert_int_equal(plain_run(io, VDISK_IO_PUNCH, PAGE, NULL, PAGE), 0);
    assert_int_equal(plain_run(io, VDISK_IO_READ, 0, plain_back, 4 * PAGE), 0);
    assert_memory_equal(plain_back, plain_buffer, PAGE);
    assert_memory_equal(plain_back + PAGE, zeros, PAGE);
    assert_memory_equal(plain_back + 2 * PAGE, plain_buffer + 2 * PAGE, 2 * PAGE);
    assert_int_equal(plain_run(io, VDISK_IO_PUNCH, 2 * PAGE, NULL, 8 * PAGE), 0);
    assert_int_equal(plain_size_of(io), 4 * PAGE);
    plain_shut(io);
}

static void test_allocating_extends_the_file_and_leaves_its_content(void **state)
{
    struct vdisk_io *io = plain_open_ok(VDISK_OPEN_CREATE);
    static const uint8_t zeros[PAGE];
    struct stat status;
    int result;

    (void)state;
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 0, plain_buffer, PAGE), 0);
    result = plain_run(io, VDISK_IO_ALLOCATE, 0, NULL, 8 * PAGE);
    if (result == -EOPNOTSUPP) {
        plain_shut(io);
        print_message("the filesystem has no fallocate\n");
        skip();
    }
    assert_int_equal(result, 0);
    assert_int_equal(plain_size_of(io), 8 * PAGE);
    assert_int_equal(stat(plain_image, &status), 0);
    assert_true(status.st_blocks * 512 >= 8 * PAGE);
    assert_int_equal(plain_run(io, VDISK_IO_READ, 0, plain_back, 2 * PAGE), 0);
    assert_memory_equal(plain_back, plain_buffer, PAGE);
    assert_memory_equal(plain_back + PAGE, zeros, PAGE);
    plain_shut(io);
}

static void test_truncate_sets_the_length_both_ways(void **state)
{
    struct vdisk_io *io = plain_open_ok(VDISK_OPEN_CREATE);
    static const uint8_t zeros[PAGE];

    (void)state;
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 0, plain_buffer, 2 * PAGE), 0);
    assert_int_equal(plain_run(io, VDISK_IO_TRUNCATE, PAGE, NULL, 0), 0);
    assert_int_equal(plain_size_of(io), PAGE);
    assert_int_equal(plain_run(io, VDISK_IO_TRUNCATE, 4 * PAGE, NULL, 0), 0);
    assert_int_equal(plain_size_of(io), 4 * PAGE);
    assert_int_equal(plain_run(io, VDISK_IO_READ, PAGE, plain_back, PAGE), 0);
    assert_memory_equal(plain_back, zeros, PAGE);
    plain_shut(io);
}

static void test_impossible_ranges_are_refused(void **state)
{
    struct vdisk_io *io = plain_open_ok(VDISK_OPEN_CREATE);

    (void)state;
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, UINT64_MAX - PAGE + 1, plain_buffer, PAGE),
                     -EFBIG);
    assert_int_equal(plain_run(io, VDISK_IO_READ, INT64_MAX - PAGE + 1, plain_back, 2 * PAGE),
                     -EFBIG);
    assert_int_equal(plain_run(io, VDISK_IO_TRUNCATE, UINT64_MAX, NULL, 0), -EFBIG);
    assert_int_equal(plain_run(io, VDISK_IO_READ, 0, NULL, 0), 0);
    plain_shut(io);
}

static void test_the_clock_runs(void **state)
{
    struct vdisk_io *io = plain_open_ok(VDISK_OPEN_CREATE);

    (void)state;
    assert_true(io->ops->now(io) > INT64_C(1600000000000000000));
    plain_shut(io);
}

/* ---- the queue ---- */

struct chain {
    struct vdisk_io *io;
    struct vdisk_io_request second;
    int done;
};

static void submit_another(struct vdisk_io_request *request)
{
    struct chain *chain = request->owner;

    chain->done++;
    if (request != &chain->second)
        chain->io->ops->submit(chain->io, &chain->second);
}

static void test_what_a_completion_submits_waits_for_the_next_poll(void **state)
{
    struct vdisk_io *io = plain_open_ok(VDISK_OPEN_CREATE);
    struct chain chain = {.io = io};
    struct vdisk_io_request first = {.op = VDISK_IO_SYNC, .done = submit_another, .owner = &chain};

    (void)state;
    chain.second = first;
    assert_int_equal(io->ops->poll(io, true), 0);
    io->ops->submit(io, &first);
    assert_int_equal(io->ops->poll(io, false), 1);
    assert_int_equal(chain.done, 1);
    assert_int_equal(io->ops->poll(io, false), 1);
    assert_int_equal(chain.done, 2);
    plain_shut(io);
}

static void test_contiguous_writes_become_one_call(void **state)
{
    struct vdisk_io *io = plain_open_faked(VDISK_OPEN_CREATE);
    struct vdisk_io_request requests[6];

    (void)state;
    plain_write_blocks(io, requests, (const unsigned[]){3, 4, 5, 9, 10, 0}, 6);
    assert_int_equal(plain_fake.writes, 3);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(requests[i].result, 0);
    assert_int_equal(plain_run(io, VDISK_IO_READ, 3 * PAGE, plain_back, 3 * PAGE), 0);
    assert_memory_equal(plain_back, plain_buffer, 3 * PAGE);
    assert_int_equal(plain_run(io, VDISK_IO_READ, 9 * PAGE, plain_back, 2 * PAGE), 0);
    assert_memory_equal(plain_back, plain_buffer + 3 * PAGE, 2 * PAGE);
    plain_shut(io);
}

static void count_done(struct vdisk_io_request *request)
{
    ++*(int *)request->owner;
}

static void test_more_writes_than_one_call_takes_are_all_made(void **state)
{
    enum {
        COUNT = IOV_MAX + 500
    };
    struct vdisk_io *io = plain_open_faked(VDISK_OPEN_CREATE);
    struct vdisk_io_request *requests = calloc(COUNT, sizeof(*requests));
    int done = 0;

    (void)state;
    for (unsigned i = 0; i < COUNT; i++) {
        requests[i] = (struct vdisk_io_request){.op = VDISK_IO_WRITE,
                                                .offset = (uint64_t)i * PAGE,
                                                .data = plain_buffer + (size_t)(i % 16) * PAGE,
                                                .length = PAGE,
                                                .done = count_done,
                                                .owner = &done};
        io->ops->submit(io, &requests[i]);
    }
    assert_int_equal(io->ops->poll(io, true), COUNT);
    assert_int_equal(plain_fake.writes, 2);
    for (unsigned i = 0; i < COUNT; i += 16) {
        unsigned blocks = COUNT - i < 16 ? COUNT - i : 16;

        assert_int_equal(
            plain_run(io, VDISK_IO_READ, (uint64_t)i * PAGE, plain_back, blocks * PAGE), 0);
        assert_memory_equal(plain_back, plain_buffer, blocks * PAGE);
    }
    free(requests);
    plain_shut(io);
}

/* ---- faults ---- */

static void test_short_and_interrupted_transfers_are_completed(void **state)
{
    struct vdisk_io *io = plain_open_faked(VDISK_OPEN_CREATE);
    struct vdisk_io_request requests[3];

    (void)state;
    plain_fake.short_bytes = 1000;
    plain_fake.interruptions = 3;
    plain_write_blocks(io, requests, (const unsigned[]){0, 1, 2}, 3);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(requests[i].result, 0);
    assert_true(plain_fake.writes >= 15);
    plain_fake.interruptions = 2;
    assert_int_equal(plain_run(io, VDISK_IO_READ, 0, plain_back, 3 * PAGE), 0);
    assert_memory_equal(plain_back, plain_buffer, 3 * PAGE);
    plain_fake.interruptions = 2;
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    plain_fake.interruptions = 2;
    assert_int_equal(plain_run(io, VDISK_IO_TRUNCATE, PAGE, NULL, 0), 0);
    plain_fake.interruptions = 2;
    assert_int_equal(plain_run(io, VDISK_IO_PUNCH, 0, NULL, PAGE), 0);
    assert_int_equal(plain_fake.interruptions, 0);
    plain_shut(io);
}

static void test_errors_reach_their_requests(void **state)
{
    struct vdisk_io *io = plain_open_faked(VDISK_OPEN_CREATE);

    (void)state;
    plain_fake.read_error = EIO;
    assert_int_equal(plain_run(io, VDISK_IO_READ, 0, plain_back, PAGE), -EIO);
    plain_fake.write_error = ENOSPC;
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 0, plain_buffer, PAGE), -ENOSPC);
    plain_fake.write_error = 0;
    plain_fake.zero_writes = true;
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 0, plain_buffer, PAGE), -EIO);
    plain_fake.fallocate_error = ENOSPC;
    assert_int_equal(plain_run(io, VDISK_IO_ALLOCATE, 0, NULL, PAGE), -ENOSPC);
    assert_int_equal(plain_fake.last_mode, 0);
    plain_fake.fallocate_error = EOPNOTSUPP;
    assert_int_equal(plain_run(io, VDISK_IO_ALLOCATE, 0, NULL, PAGE), -EOPNOTSUPP);
    plain_shut(io);
}

static void test_a_bad_block_fails_only_the_write_that_hits_it(void **state)
{
    struct vdisk_io *io = plain_open_faked(VDISK_OPEN_CREATE);
    struct vdisk_io_request requests[4];

    (void)state;
    plain_fake.write_error = EIO;
    plain_fake.bad_offset = 2 * PAGE;
    plain_write_blocks(io, requests, (const unsigned[]){0, 1, 2, 3}, 4);
    assert_int_equal(requests[0].result, 0);
    assert_int_equal(requests[1].result, 0);
    assert_int_equal(requests[2].result, -EIO);
    assert_int_equal(requests[3].result, 0);
    assert_int_equal(plain_run(io, VDISK_IO_READ, 3 * PAGE, plain_back, PAGE), 0);
    assert_memory_equal(plain_back, plain_buffer + 3 * PAGE, PAGE);
    plain_shut(io);
}

static void test_punching_is_best_effort(void **state)
{
    struct vdisk_io *io = plain_open_faked(VDISK_OPEN_CREATE);

    (void)state;
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 0, plain_buffer, PAGE), 0);
    plain_fake.fallocate_error = EOPNOTSUPP;
    assert_int_equal(plain_run(io, VDISK_IO_PUNCH, 0, NULL, PAGE), 0);
    assert_int_equal(plain_fake.last_mode, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    plain_fake.fallocate_error = EIO;
    assert_int_equal(plain_run(io, VDISK_IO_PUNCH, 0, NULL, PAGE), -EIO);
    plain_shut(io);
}

static void test_sync_reaches_what_changed_and_only_that(void **state)
{
    struct vdisk_io *io = plain_open_faked(VDISK_OPEN_CREATE);

    (void)state;
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    assert_int_equal(plain_fake.syncs, 1);
    assert_int_equal(plain_fake.directory_syncs, 1); /* the new name */
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    assert_int_equal(plain_fake.syncs, 1);
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 0, plain_buffer, PAGE), 0);
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    assert_int_equal(plain_fake.syncs, 2);
    assert_int_equal(plain_run(io, VDISK_IO_READ, 0, plain_back, PAGE), 0);
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    assert_int_equal(plain_fake.syncs, 2);
    assert_int_equal(plain_run(io, VDISK_IO_PUNCH, 0, NULL, PAGE), 0);
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    assert_int_equal(plain_fake.syncs, 3);
    assert_int_equal(plain_run(io, VDISK_IO_TRUNCATE, 0, NULL, 0), 0);
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    assert_int_equal(plain_fake.syncs, 4);
    assert_int_equal(plain_fake.directory_syncs, 1);
    plain_shut(io);
}

static void test_the_first_sync_reaches_what_a_killed_process_wrote(void **state)
{
    (void)state;
    plain_shut(plain_open_ok(VDISK_OPEN_CREATE));
    struct vdisk_io *io = plain_open_faked(0);
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    assert_int_equal(plain_fake.syncs, 1);
    plain_shut(io);
    io = plain_open_faked(VDISK_OPEN_READ_ONLY);
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    assert_int_equal(plain_fake.syncs, 0);
    plain_shut(io);
}

static void test_after_a_failed_sync_no_later_one_succeeds(void **state)
{
    struct vdisk_io *io = plain_open_faked(VDISK_OPEN_CREATE);

    (void)state;
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 0, plain_buffer, PAGE), 0);
    plain_fake.sync_error = EIO;
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), -EIO);
    plain_fake.sync_error = 0;
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), -EIO);
    plain_shut(io);
}

static void test_a_failed_directory_sync_is_a_failed_sync(void **state)
{
    struct vdisk_io *io = plain_open_faked(VDISK_OPEN_CREATE);

    (void)state;
    plain_fake.directory_error = EIO;
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), -EIO);
    plain_shut(io);
    assert_int_equal(unlink(plain_image), 0);
    io = plain_open_faked(VDISK_OPEN_CREATE);
    plain_fake.directory_error = EINVAL; /* a filesystem without it */
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    plain_shut(io);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, plain_set_up, plain_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_is_written_is_read_back),
        TEST(test_bytes_past_the_end_read_as_zeros),
        TEST(test_a_file_that_ends_inside_a_block_reads_as_zeros_behind),
        TEST(test_punched_ranges_read_as_zeros_and_keep_the_size),
        TEST(test_allocating_extends_the_file_and_leaves_its_content),
        TEST(test_truncate_sets_the_length_both_ways),
        TEST(test_impossible_ranges_are_refused),
        TEST(test_the_clock_runs),
        TEST(test_what_a_completion_submits_waits_for_the_next_poll),
        TEST(test_contiguous_writes_become_one_call),
        TEST(test_more_writes_than_one_call_takes_are_all_made),
        TEST(test_short_and_interrupted_transfers_are_completed),
        TEST(test_errors_reach_their_requests),
        TEST(test_a_bad_block_fails_only_the_write_that_hits_it),
        TEST(test_punching_is_best_effort),
        TEST(test_sync_reaches_what_changed_and_only_that),
        TEST(test_the_first_sync_reaches_what_a_killed_process_wrote),
        TEST(test_after_a_failed_sync_no_later_one_succeeds),
        TEST(test_a_failed_directory_sync_is_a_failed_sync),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
