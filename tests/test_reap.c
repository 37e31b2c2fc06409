/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A deletion of a snapshot that was cut short: the drive is written over before it goes on, and
 * what an older snapshot shares with the drive stays, in what the deletion has done and in the
 * rest.
 */
#include "image.h"
#include "tamper_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define BLOCK  4096u
#define MIB    UINT64_C(1048576)
#define LEAF   (2 * MIB)
#define LEAVES 66u /* more than one step of a deletion takes */

static void write_all(struct vdisk_image *image, uint64_t block, uint64_t seed)
{
    for (unsigned i = 0; i < LEAVES; i++)
        assert_int_equal(tamper_write(image, i * LEAF + block * BLOCK, BLOCK, seed + i, false), 0);
}

/* Each leaf has a block of "older", one of "victim" and one of the drive's own. */
static struct sim *with_two_snapshots(unsigned journal_log2)
{
    struct sim *disk = sim_new(1);
    struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                           .size = LEAVES * LEAF,
                                           .cluster_bytes = 65536,
                                           .journal_log2 = journal_log2,
                                           .io = sim_io(disk)};
    struct vdisk_image *image;

    sim_set_ordered(disk, true);
    assert_int_equal(vdisk_create("simulated", &options, &tamper_key, &image, NULL), 0);
    write_all(image, 0, 100);
    assert_int_equal(vdisk_snapshot_create(image, "older"), 0);
    write_all(image, 1, 200);
    assert_int_equal(vdisk_snapshot_create(image, "victim"), 0);
    write_all(image, 2, 250);
    assert_int_equal(vdisk_close(image, NULL), 0);
    return disk;
}

static bool within_the_deletion(const struct vdisk_image *image)
{
    uint64_t cursor = image->super->delete_cursor;

    return image->super->deleting && cursor > 0 && cursor < LEAVES;
}

static void expect_older(struct vdisk_image *image)
{
    struct vdisk_snapshot *older;
    struct sim_rng rng;
    uint8_t wanted[BLOCK], found[BLOCK];

    assert_int_equal(vdisk_snapshot_open(image, "older", &older), 0);
    for (unsigned i = 0; i < LEAVES; i++) {
        sim_rng_seed(&rng, 100 + i);
        sim_rng_fill(&rng, wanted, sizeof(wanted));
        assert_int_equal(vdisk_snapshot_read(older, i * LEAF, found, BLOCK), 0);
        assert_memory_equal(wanted, found, BLOCK);
    }
    vdisk_snapshot_close(older);
}

static void expect_sound(struct vdisk_image *image)
{
    struct vdisk_check_options options = {.struct_bytes = sizeof(options)};
    struct vdisk_check_result result = {0};

    assert_int_equal(vdisk_check(image, &options, &result), 0);
    assert_int_equal(result.leaked_blocks, 0);
    expect_older(image);
}

static void test_the_drive_is_written_over_before_a_deletion_goes_on(void **state)
{
    struct sim *whole = with_two_snapshots(5);
    unsigned tried = 0;

    (void)state;
    for (uint64_t nth = 1; nth < 20; nth++) {
        struct sim *disk = tamper_interrupt_deletion(whole, nth);
        struct vdisk_image *image;

        assert_int_equal(tamper_open(disk, false, &image), 0);
        if (within_the_deletion(image)) {
            tried++;
            write_all(image, 0, 300);
            write_all(image, 1, 400);
            assert_int_equal(vdisk_close(image, NULL),
                             0); /* what it freed may be used from here on */
            assert_int_equal(tamper_open(disk, false, &image), 0);
            write_all(image, 3, 500);
            expect_sound(image);
            assert_int_equal(vdisk_snapshot_delete(image, "older"), 0); /* ends the other one too */
            assert_int_equal(image->super->deleting, 0);
        }
        assert_int_equal(vdisk_close(image, NULL), 0);
        sim_free(disk);
    }
    sim_free(whole);
    assert_true(tried > 0);
}

static uint64_t checkpoints(const struct vdisk_image *image)
{
    struct vdisk_figures figures;

    vdisk_get_figures(image, &figures);
    return figures.checkpoints;
}

/* A stamp of the epoch, that it has taken. */
static void expect_stamp(const struct vdisk_image *image)
{
    uint64_t stamp = image->super->parent_stamp;

    assert_int_equal(vd_stamp_epoch(stamp), image->super->epoch);
    assert_true(stamp > (uint64_t)image->super->epoch << VD_STAMP_COUNTER);
    assert_true(stamp <= image->super->last_stamp);
}

/* The first change begins the epoch, too; a deletion is marked and made in one. */
static void test_nobody_waits_for_more_than_one_checkpoint(void **state)
{
    struct sim *disk = with_two_snapshots(9);
    struct vdisk_image *image;

    (void)state;
    assert_int_equal(tamper_open(disk, false, &image), 0);
    assert_int_equal(vdisk_snapshot_delete(image, "none"), VDISK_E_NOT_FOUND);
    assert_int_equal(vdisk_close(image, NULL), 0);
    assert_int_equal(tamper_open(disk, false, &image), 0);
    assert_int_equal(vdisk_snapshot_delete(image, "victim"), 0);
    assert_int_equal(checkpoints(image), 1);
    assert_int_equal(vdisk_snapshot_create(image, "newest"), 0);
    assert_int_equal(checkpoints(image), 2);
    expect_sound(image);
    assert_int_equal(vdisk_close(image, NULL), 0);
    assert_int_equal(tamper_open(disk, false, &image), 0);
    assert_int_equal(vdisk_snapshot_create(image, "last"), 0);
    assert_int_equal(checkpoints(image), 1);
    expect_stamp(image);
    expect_sound(image);
    assert_int_equal(vdisk_close(image, NULL), 0);
    sim_free(disk);
}

struct deletion {
    struct vdisk_image *image;
    bool done;
};

static void delete_victim(void *opaque)
{
    struct deletion *deletion = opaque;

    assert_int_equal(vdisk_snapshot_delete(deletion->image, "victim"), 0);
    deletion->done = true;
}

static void read_meanwhile(void *opaque)
{
    struct deletion *deletion = opaque;
    uint8_t found[BLOCK];

    for (uint64_t i = 0; !deletion->done; i++)
        assert_int_equal(vdisk_read(deletion->image, i % LEAVES * LEAF, found, BLOCK), 0);
}

static void test_others_wait_for_a_few_leaves_at_a_time(void **state)
{
    struct sim *disk = with_two_snapshots(9);
    struct deletion deletion = {.done = false};

    (void)state;
    assert_int_equal(tamper_open(disk, false, &deletion.image), 0);
    assert_int_equal(vdisk_spawn(deletion.image, read_meanwhile, &deletion), 0);
    assert_int_equal(vdisk_spawn(deletion.image, delete_victim, &deletion), 0);
    while (vdisk_poll(deletion.image, true))
        ;
    assert_true(deletion.done);
    assert_int_equal(checkpoints(deletion.image), (LEAVES + 31) / 32);
    expect_sound(deletion.image);
    assert_int_equal(vdisk_close(deletion.image, NULL), 0);
    sim_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_drive_is_written_over_before_a_deletion_goes_on),
        cmocka_unit_test(test_nobody_waits_for_more_than_one_checkpoint),
        cmocka_unit_test(test_others_wait_for_a_few_leaves_at_a_time),
    };

    if (vdisk_init())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
