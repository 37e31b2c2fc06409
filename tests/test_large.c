/* SPDX-License-Identifier: Apache-2.0 */
/* The largest drive there can be: what is asked of all of it costs what is in it, not its size. */
#include "tamper_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#define MIB UINT64_C(1048576)

static struct vdisk_image *large(struct sim *disk, bool fill)
{
    struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                           .size = VDISK_SIZE_MAX,
                                           .cluster_bytes = 65536,
                                           .compress = true,
                                           .io = sim_io(disk)};
    struct vdisk_image *image;

    sim_set_ordered(disk, true);
    assert_int_equal(vdisk_create("simulated", &options, &tamper_key, &image, NULL), 0);
    if (fill) {
        assert_int_equal(tamper_write(image, 5 * MIB, 65536, 1, true), 0);
        assert_int_equal(tamper_write(image, VDISK_SIZE_MAX / 3 / 4096 * 4096, 8192, 2, false), 0);
        assert_int_equal(tamper_write(image, VDISK_SIZE_MAX - 4096, 4096, 3, false), 0);
    }
    return image;
}

struct extents {
    unsigned count;
    uint64_t bytes[5]; /* by kind */
};

static bool add(void *opaque, const struct vdisk_extent *extent)
{
    struct extents *extents = opaque;

    extents->count++;
    extents->bytes[extent->kind] += extent->length;
    return true;
}

static struct extents map_of(struct vdisk_image *image)
{
    struct extents extents = {0};

    assert_int_equal(vdisk_map(image, NULL, 0, VDISK_SIZE_MAX, false, add, &extents), 0);
    return extents;
}

static void assert_zeros(struct vdisk_image *image)
{
    static const uint64_t offsets[] = {0, 5 * MIB, VDISK_SIZE_MAX / 3 / 4096 * 4096,
                                       VDISK_SIZE_MAX - 8192};
    uint8_t data[8192], zeros[8192] = {0};

    for (unsigned i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
        memset(data, 1, sizeof(data));
        assert_int_equal(vdisk_read(image, offsets[i], data, sizeof(data)), 0);
        assert_memory_equal(data, zeros, sizeof(data));
    }
}

static void reopen(struct sim *disk, struct vdisk_image **image)
{
    assert_int_equal(vdisk_close(*image, NULL), 0);
    assert_int_equal(tamper_open(disk, false, image), 0);
}

static void test_all_of_the_largest_drive_can_be_zeroed_and_discarded(void **state)
{
    (void)state;
    for (unsigned k = 0; k < 2; k++) {
        struct sim *disk = sim_new(1);
        struct vdisk_image *image = large(disk, k == 1);
        struct extents extents;
        struct vdisk_check_result result;

        assert_int_equal(vdisk_zero(image, 0, VDISK_SIZE_MAX), 0);
        extents = map_of(image);
        assert_int_equal(extents.count, 1);
        assert_int_equal(extents.bytes[VDISK_EXTENT_ZERO], VDISK_SIZE_MAX);
        reopen(disk, &image);
        assert_zeros(image);
        assert_int_equal(map_of(image).bytes[VDISK_EXTENT_ZERO], VDISK_SIZE_MAX);
        assert_int_equal(vdisk_discard(image, 4096, VDISK_SIZE_MAX - 8192), 0);
        extents = map_of(image);
        assert_true(extents.bytes[VDISK_EXTENT_ZERO] <= 2 * 65536);
        reopen(disk, &image);
        assert_zeros(image);
        assert_int_equal(vdisk_discard(image, 0, VDISK_SIZE_MAX), 0);
        extents = map_of(image);
        assert_int_equal(extents.count, 1);
        assert_int_equal(extents.bytes[VDISK_EXTENT_HOLE], VDISK_SIZE_MAX);
        assert_int_equal(vdisk_check(image, NULL, &result), 0);
        assert_int_equal(vdisk_close(image, NULL), 0);
        sim_free(disk);
    }
}

static void test_states_of_the_largest_drive_can_be_compared(void **state)
{
    struct sim *disk = sim_new(1);
    struct vdisk_image *image = large(disk, true);
    struct extents extents = {0};
    struct vdisk_snapshot *before;

    (void)state;
    assert_int_equal(vdisk_snapshot_create(image, "before"), 0);
    assert_int_equal(vdisk_zero(image, 0, VDISK_SIZE_MAX), 0);
    assert_int_equal(vdisk_snapshot_open(image, "before", &before), 0);
    assert_int_equal(vdisk_diff(image, before, NULL, add, &extents), 0);
    /* Zeros that were not stored before are no difference. */
    assert_int_equal(extents.bytes[VDISK_EXTENT_ZERO], 65536 + 8192 + 4096);
    vdisk_snapshot_close(before);
    assert_int_equal(vdisk_snapshot_rollback(image, "before"), 0);
    assert_int_equal(map_of(image).bytes[VDISK_EXTENT_RAW], 8192 + 4096);
    assert_int_equal(vdisk_snapshot_delete(image, "before"), 0);
    assert_int_equal(vdisk_check(image, NULL, NULL), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
    sim_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_of_the_largest_drive_can_be_zeroed_and_discarded),
        cmocka_unit_test(test_states_of_the_largest_drive_can_be_compared),
    };

    return vdisk_init() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
