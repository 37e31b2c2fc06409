/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What only a key may do: a header that was changed together with its checksum, which everybody
 * can compute, is not taken; and a copy of an image that goes its own way does so under other keys.
 */
#include "crash_run.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sodium.h>
#include <string.h>

#define HEADER_BYTES 8192u
#define CHECKSUM_AT  4064u
#define BLOCKS       64u

static _Alignas(4096) uint8_t data[BLOCKS * CRASH_BLOCK];

static struct vdisk_image *open_disk(struct sim *disk, int expected)
{
    struct vdisk_open_options options = {.struct_bytes = sizeof(options), .io = sim_io(disk)};
    struct vdisk_image *image = NULL;
    assert_int_equal(vdisk_open(NULL, &options, &crash_key, &image, NULL), expected);
    return image;
}

/* A closed image with some data. */
static struct sim *make_disk(void)
{
    struct sim *disk = sim_new(1);
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options),
        .size = sizeof(data),
        .cluster_bytes = CRASH_CLUSTER,
        .journal_log2 = CRASH_JOURNAL_LOG2,
        .io = sim_io(disk),
    };
    struct vdisk_image *image;
    memset(data, 'a', sizeof(data));
    assert_int_equal(vdisk_create(NULL, &options, &crash_key, &image, NULL), 0);
    assert_int_equal(vdisk_write(image, 0, data, sizeof(data)), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
    sim_settle(disk);
    return disk;
}

static void forge(struct sim *disk, unsigned at, uint8_t flip)
{
    for (unsigned copy = 0; copy < 2; copy++) {
        uint8_t header[HEADER_BYTES], checksum[32];
        uint64_t place = copy ? (uint64_t)CRASH_BLOCK << CRASH_JOURNAL_LOG2 : 0;
        sim_raw_read(disk, place, header, sizeof(header));
        header[at] ^= flip;
        memset(header + CHECKSUM_AT, 0, sizeof(checksum));
        crypto_generichash(checksum, sizeof(checksum), header, sizeof(header), NULL, 0);
        memcpy(header + CHECKSUM_AT, checksum, sizeof(checksum));
        sim_raw_write(disk, place, header, sizeof(header));
    }
}

static void test_a_changed_header_with_a_right_checksum_is_not_authentic(void **state)
{
    static const struct {
        unsigned at;
        uint8_t flip;
    } fields[] = {
        {32, 4},       /* generation */
        {48, 1},       /* compatible features */
        {56, 1},       /* cluster size */
        {60, 1},       /* set of the parts */
        {67, 1},       /* size of a part */
        {4032, 1},     /* the MAC itself */
        {4096 + 56, 1} /* a keyslot's time */
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        struct sim *disk = make_disk();
        vdisk_abandon(open_disk(disk, 0));
        forge(disk, fields[i].at, fields[i].flip);
        assert_null(open_disk(disk, VDISK_E_NOT_AUTHENTIC));
        sim_free(disk);
    }
}

static void test_two_copies_of_an_image_seal_the_same_data_differently(void **state)
{
    struct sim *disk[2] = {make_disk()};
    uint64_t compared = 0;
    (void)state;
    disk[1] = sim_clone(disk[0]);
    uint64_t before = sim_raw_size(disk[0]);
    memset(data, 'b', sizeof(data));
    for (unsigned i = 0; i < 2; i++) {
        struct vdisk_image *image = open_disk(disk[i], 0);
        assert_int_equal(vdisk_write(image, 0, data, sizeof(data)), 0);
        assert_int_equal(vdisk_close(image, NULL), 0);
    }
    /* Both wrote the same things in the same places, where nothing had been or over what was. */
    for (uint64_t at = CRASH_BLOCK * 36; at < sim_raw_size(disk[0]); at += CRASH_BLOCK) {
        static const uint8_t zeros[CRASH_BLOCK];
        uint8_t block[2][CRASH_BLOCK];
        sim_raw_read(disk[0], at, block[0], CRASH_BLOCK);
        sim_raw_read(disk[1], at, block[1], CRASH_BLOCK);
        if (at < before || memcmp(block[0], zeros, CRASH_BLOCK) == 0)
            continue;
        for (unsigned k = 0; k < CRASH_BLOCK; k += 16)
            assert_memory_not_equal(block[0] + k, block[1] + k, 16);
        compared++;
    }
    assert_true(compared >= BLOCKS / 2);
    sim_free(disk[0]);
    sim_free(disk[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_changed_header_with_a_right_checksum_is_not_authentic),
        cmocka_unit_test(test_two_copies_of_an_image_seal_the_same_data_differently),
    };
    if (vdisk_init())
        return 2;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
