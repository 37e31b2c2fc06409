/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the simulated disk leaves after a crash (tests/sim_crash.c), and its copies and files.
 */
#include "sim_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- the crash ---- */

static void test_after_the_crash_everything_fails_and_the_disk_is_frozen(void **state)
{
    struct sim *sim = sim_new(1);
    struct vdisk_io_request in_flight, sync, late;
    uint64_t bytes;

    (void)state;
    sim_crash_at(sim, 3, SIM_CRASH_EIO);
    assert_int_equal(sim_put(sim, 0, 7, 1), 0);
    memset(sim_data, 8, PAGE);
    sim_queue(sim, &in_flight, VDISK_IO_WRITE, 1, sim_data, 1);
    sim_queue(sim, &sync, VDISK_IO_SYNC, 0, NULL, 0);
    assert_false(sim_crashed(sim));
    sim_queue(sim, &late, VDISK_IO_WRITE, 2, sim_data, 1);
    assert_true(sim_crashed(sim));
    sim_drain(sim);
    assert_int_equal(in_flight.result, -EIO);
    assert_int_equal(sync.result, -EIO);
    assert_int_equal(late.result, -EIO);
    assert_int_equal(sim_run(sim, VDISK_IO_READ, 0, sim_back, 1), -EIO);
    assert_int_equal(sim_io(sim)->ops->size(sim_io(sim), &bytes), -EIO);
    assert_int_equal(sim_op_count(sim), 3);
    assert_int_equal(sim_unsynced(sim), 2);
    assert_int_equal(sim_kept_after(sim, SIM_KEEP_NONE, 0), 0);
    assert_int_equal(sim_kept_after(sim, SIM_KEEP_ALL, 0), 7);
    assert_int_equal(sim_kept_after(sim, SIM_KEEP_ALL, 1), 8);
    assert_int_equal(sim_kept_after(sim, SIM_KEEP_ALL, 2), 0);
    sim_io(sim)->ops->close(sim_io(sim));
    sim_free(sim);
}

static void test_a_kill_keeps_what_has_completed(void **state)
{
    struct sim *sim = sim_new(1);
    struct vdisk_io_request in_flight;

    (void)state;
    assert_int_equal(sim_put(sim, 0, 7, 1), 0);
    sim_queue(sim, &in_flight, VDISK_IO_WRITE, 1, sim_data, 1);
    assert_int_equal(sim_kept_after(sim, SIM_KEEP_NONE, 0), 0);
    assert_int_equal(sim_kept_after(sim, SIM_KEEP_COMPLETED, 0), 7);
    assert_int_equal(sim_kept_after(sim, SIM_KEEP_COMPLETED, 1), 0);
    assert_int_equal(sim_kept_after(sim, SIM_KEEP_ALL, 1), 7);
    sim_drain(sim);
    assert_int_equal(sim_kept_after(sim, SIM_KEEP_COMPLETED, 1), 7);
    sim_free(sim);
}

static void test_a_hanging_crash_completes_nothing(void **state)
{
    struct sim *sim = sim_new(1);
    struct vdisk_io_request requests[2];

    (void)state;
    sim_crash_at(sim, 1, SIM_CRASH_HANG);
    sim_queue(sim, &requests[0], VDISK_IO_WRITE, 0, sim_data, 1);
    sim_queue(sim, &requests[1], VDISK_IO_WRITE, 1, sim_data, 1);
    sim_done_count = 0;
    sim_drain(sim);
    assert_int_equal(sim_done_count, 0);
    assert_int_equal(sim_unsynced(sim), 1);
    sim_io(sim)->ops->close(sim_io(sim));
    sim_free(sim);
}

/* Six blocks of ones, durable; then unsynced writes of twos, the last one still in flight. */
static struct sim *six_writes(struct vdisk_io_request *in_flight)
{
    struct sim *sim = sim_new(1);

    assert_int_equal(sim_put(sim, 0, 1, 6), 0);
    assert_int_equal(sim_sync(sim), 0);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(sim_put(sim, i, 2, 1), 0);
    sim_queue(sim, in_flight, VDISK_IO_WRITE, 5, sim_data, 1);
    return sim;
}

/* Which of the six arrived, as bits; whole blocks only. */
static unsigned arrived(const struct sim *image)
{
    unsigned bits = 0;

    sim_raw_read(image, 0, sim_back, 6 * PAGE);
    for (unsigned i = 0; i < 6; i++) {
        const uint8_t *block = sim_back + i * PAGE;

        assert_true(block[0] == 1 || block[0] == 2);
        assert_int_equal(memcmp(block, block + 1, PAGE - 1), 0);
        bits |= (block[0] == 2 ? 1u : 0) << i;
    }
    return bits;
}

static void test_every_subset_can_survive_a_crash(void **state)
{
    struct vdisk_io_request in_flight;
    struct sim *sim = six_writes(&in_flight);
    const enum sim_crash_mode modes[] = {SIM_KEEP_SUBSET, SIM_ONE_MISSING, SIM_ONE_ONLY};
    unsigned distinct[3] = {0};

    (void)state;
    assert_int_equal(sim_unsynced(sim), 6);
    for (unsigned m = 0; m < 3; m++) {
        bool reached[64] = {false};

        for (uint64_t seed = 0; seed < 4000; seed++) {
            struct sim *image = sim_crash_image(sim, seed, modes[m]);

            reached[arrived(image)] = true;
            sim_free(image);
        }
        for (unsigned i = 0; i < 64; i++)
            distinct[m] += reached[i];
    }
    assert_int_equal(distinct[0], 64);
    assert_int_equal(distinct[1], 6);
    assert_int_equal(distinct[2], 6);
    sim_free(sim);
}

static void test_the_modes_keep_what_they_say(void **state)
{
    struct vdisk_io_request in_flight;
    struct sim *sim = six_writes(&in_flight);
    struct sim *image;

    (void)state;
    for (uint64_t n = 0; n < 6; n++) {
        image = sim_crash_image(sim, n, SIM_ONE_ONLY);
        assert_int_equal(arrived(image), 1u << n);
        sim_free(image);
        image = sim_crash_image(sim, n, SIM_ONE_MISSING);
        assert_int_equal(arrived(image), 63 ^ 1u << n);
        sim_free(image);
    }
    image = sim_crash_image(sim, 9, SIM_KEEP_NONE);
    assert_int_equal(arrived(image), 0);
    sim_free(image);
    image = sim_crash_image(sim, 9, SIM_KEEP_ALL);
    assert_int_equal(arrived(image), 63);
    sim_free(image);
    sim_drain(sim); /* the original went on unharmed */
    assert_int_equal(in_flight.result, 0);
    assert_int_equal(sim_seen(sim, 5), 2);
    sim_free(sim);
}

static void test_writes_tear_at_sectors_and_nowhere_else(void **state)
{
    struct sim *sim = sim_new(1);
    unsigned torn = 0, prefixes = 0, holes = 0;

    (void)state;
    assert_int_equal(sim_put(sim, 0, 1, 2), 0);
    assert_int_equal(sim_sync(sim), 0);
    assert_int_equal(sim_put(sim, 0, 2, 2), 0);
    for (uint64_t seed = 0; seed < 3000; seed++) {
        struct sim *image = sim_crash_image(sim, seed, SIM_KEEP_TORN);
        unsigned changes = 0, news = 0;

        sim_raw_read(image, 0, sim_back, 2 * PAGE);
        for (unsigned i = 0; i < 2 * SIM_SECTORS; i++) {
            const uint8_t *sector = sim_back + i * SECTOR;

            assert_int_equal(memcmp(sector, sector + 1, SECTOR - 1), 0);
            assert_true(sector[0] == 1 || sector[0] == 2);
            news += sector[0] == 2;
            changes += i > 0 && sector[0] != sector[-1];
        }
        torn += news > 0 && news < 2 * SIM_SECTORS;
        prefixes += changes == 1 && sim_back[0] == 2;
        holes += changes > 1;
        assert_int_equal(sim_raw_size(image), 2 * PAGE);
        sim_free(image);
    }
    assert_true(torn > 300);
    assert_true(prefixes > 100);
    assert_true(holes > 100);
    sim_free(sim);
}

static void test_a_torn_write_at_the_end_can_leave_any_length(void **state)
{
    struct sim *sim = sim_new(1);
    bool odd = false, empty = false, zeros = false;

    (void)state;
    assert_int_equal(sim_put(sim, 0, 2, 2), 0);
    for (uint64_t seed = 0; seed < 500; seed++) {
        struct sim *image = sim_crash_image(sim, seed, SIM_KEEP_TORN);

        odd |= sim_raw_size(image) % PAGE != 0;
        empty |= sim_raw_size(image) == 0;
        zeros |= sim_raw_size(image) == 2 * PAGE && sim_kept(image, 0) == 0;
        assert_int_equal(sim_raw_size(image) % SECTOR, 0);
        sim_free(image);
    }
    assert_true(odd && empty && zeros);
    sim_free(sim);
}

static void test_reordering_lets_an_older_rewrite_win(void **state)
{
    struct sim *sim = sim_new(1);
    unsigned wins[7] = {0};

    (void)state;
    for (uint8_t version = 1; version <= 6; version++)
        assert_int_equal(sim_put(sim, 0, version, 1), 0);
    for (uint64_t seed = 0; seed < 3000; seed++) {
        struct sim *image = sim_crash_image(sim, seed, SIM_KEEP_REORDERED);

        wins[sim_kept(image, 0)]++;
        sim_free(image);
    }
    /* In order the first could win only by the loss of all others. */
    assert_true(wins[1] * 2 > wins[6] && wins[6] * 2 > wins[1]);
    assert_true(wins[0] > 0);
    sim_free(sim);
}

static void test_a_crash_image_follows_from_its_seed(void **state)
{
    struct vdisk_io_request in_flight;
    struct sim *sim = six_writes(&in_flight);

    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        enum sim_crash_mode mode = (enum sim_crash_mode)(seed % SIM_CRASH_MODES);
        struct sim *one = sim_crash_image(sim, seed, mode);
        struct sim *two = sim_crash_image(sim, seed, mode);

        sim_raw_read(one, 0, sim_back, 6 * PAGE);
        sim_raw_read(two, 0, sim_data, 6 * PAGE);
        assert_memory_equal(sim_back, sim_data, 6 * PAGE);
        sim_free(one);
        sim_free(two);
    }
    memset(sim_data, 2, PAGE); /* what the write in flight was submitted with */
    sim_free(sim);
}

static void test_a_crash_image_is_a_disk_of_its_own(void **state)
{
    struct sim *sim = sim_new(1);
    struct sim *image, *again;
    int64_t before;

    (void)state;
    sim_set_capacity(sim, 3);
    assert_int_equal(sim_put(sim, 0, 1, 2), 0);
    before = sim_io(sim)->ops->now(sim_io(sim));
    image = sim_crash_image(sim, 1, SIM_KEEP_ALL);
    assert_true(sim_io(image)->ops->now(sim_io(image)) > before);
    assert_int_equal(sim_put(image, 0, 5, 1), 0);
    assert_int_equal(sim_sync(image), 0);
    assert_int_equal(sim_put(image, 2, 5, 2), -ENOSPC);
    assert_int_equal(sim_put(image, 1, 6, 1), 0);
    again = sim_crash_image(image, 1, SIM_KEEP_NONE); /* a crash during recovery */
    assert_int_equal(sim_kept(again, 0), 5);
    assert_int_equal(sim_kept(again, 1), 1);
    assert_int_equal(sim_seen(sim, 0), 1);
    sim_free(sim);
    assert_int_equal(sim_seen(image, 0), 5);
    sim_free(image);
    sim_free(again);
}

/* ---- copies, tampering, files ---- */

static void test_a_clone_goes_the_same_way_independently(void **state)
{
    struct sim *sim = sim_new(4);
    struct sim *copy;

    (void)state;
    assert_int_equal(sim_put(sim, 0, 1, 3), 0);
    copy = sim_clone(sim);
    assert_int_equal(sim_put(sim, 0, 2, 1), 0);
    assert_int_equal(sim_seen(copy, 0), 1);
    assert_int_equal(sim_unsynced(copy), 1);
    assert_int_equal(sim_sync(copy), 0);
    assert_int_equal(sim_kept(copy, 2), 1);
    assert_int_equal(sim_kept(sim, 2), 0);
    sim_free(sim);
    assert_int_equal(sim_seen(copy, 1), 1);
    sim_free(copy);
}

static void test_raw_bytes_can_be_tampered_with(void **state)
{
    struct sim *sim = sim_new(1);
    uint8_t bytes[3] = {9, 9, 9};

    (void)state;
    assert_int_equal(sim_put(sim, 0, 1, 2), 0);
    sim_settle(sim);
    sim_raw_write(sim, PAGE - 1, bytes, 3);
    assert_int_equal(sim_run(sim, VDISK_IO_READ, 0, sim_back, 2), 0);
    assert_int_equal(sim_back[PAGE - 2], 1);
    assert_int_equal(sim_back[PAGE - 1], 9);
    assert_int_equal(sim_back[PAGE + 1], 9);
    assert_int_equal(sim_back[PAGE + 2], 1);
    sim_raw_truncate(sim, PAGE + 1);
    assert_int_equal(sim_run(sim, VDISK_IO_READ, 0, sim_back, 2), 0);
    assert_int_equal(sim_back[PAGE], 9);
    assert_int_equal(sim_back[PAGE + 1], 0);
    assert_int_equal(sim_raw_size(sim), PAGE + 1);
    sim_free(sim);
}

static void test_files_come_and_go_unchanged(void **state)
{
    const char *base = getenv("TMPDIR");
    char path[4096];
    struct sim *sim = sim_new(1);
    struct sim *loaded;
    struct stat status;
    int fd;

    (void)state;
    snprintf(path, sizeof(path), "%s/vdisk-sim-XXXXXX", base ? base : "/tmp");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(sim_put(sim, 1000, 3, 2), 0);
    assert_int_equal(sim_put(sim, 1, 4, 1), 0);
    sim_settle(sim);
    sim_raw_truncate(sim, 1001 * PAGE + 100);
    assert_int_equal(sim_save_file(sim, path), 0);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_size, 1001 * PAGE + 100);
    loaded = sim_load_file(path, 1);
    assert_non_null(loaded);
    assert_int_equal(sim_raw_size(loaded), 1001 * PAGE + 100);
    assert_int_equal(sim_allocated_pages(loaded), 3);
    assert_int_equal(sim_kept(loaded, 1000), 3);
    assert_int_equal(sim_kept(loaded, 1), 4);
    assert_int_equal(sim_kept(loaded, 2), 0);
    sim_free(loaded);
    sim_free(sim);
    assert_int_equal(unlink(path), 0);
    assert_null(sim_load_file(path, 1));
}

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* A crash run opens a hundred thousand of them. The bound is wide: other work and sanitizers
 * share the machine. */
static void test_crash_images_are_cheap(void **state)
{
    enum {
        IMAGES = 10000
    };
    struct sim *sim = sim_new(1);
    double start;

    (void)state;
    for (unsigned i = 0; i < 512; i += 64)
        assert_int_equal(sim_put(sim, i, 1, 64), 0);
    assert_int_equal(sim_sync(sim), 0);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(sim_put(sim, i * 10, 2, i % 3 + 1), 0);
    for (int mode = SIM_KEEP_ALL; mode < SIM_CRASH_MODES; mode++) {
        double micros;

        start = seconds();
        for (uint64_t seed = 0; seed < IMAGES; seed++)
            sim_free(sim_crash_image(sim, seed, (enum sim_crash_mode)mode));
        micros = (seconds() - start) * 1e6 / IMAGES;
        print_message("mode %d: %.1f us\n", mode, micros);
        assert_true(micros < 1000);
    }
    sim_free(sim);
}

#define TEST(name) cmocka_unit_test_teardown(name, sim_check_leaks)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_after_the_crash_everything_fails_and_the_disk_is_frozen),
        TEST(test_a_kill_keeps_what_has_completed),
        TEST(test_a_hanging_crash_completes_nothing),
        TEST(test_every_subset_can_survive_a_crash),
        TEST(test_the_modes_keep_what_they_say),
        TEST(test_writes_tear_at_sectors_and_nowhere_else),
        TEST(test_a_torn_write_at_the_end_can_leave_any_length),
        TEST(test_reordering_lets_an_older_rewrite_win),
        TEST(test_a_crash_image_follows_from_its_seed),
        TEST(test_a_crash_image_is_a_disk_of_its_own),
        TEST(test_a_clone_goes_the_same_way_independently),
        TEST(test_raw_bytes_can_be_tampered_with),
        TEST(test_files_come_and_go_unchanged),
        TEST(test_crash_images_are_cheap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
