/* SPDX-License-Identifier: Apache-2.0 */
/* The largest drive there can be: what is asked of all of it costs what is in it, not its size. */
#include "sim_random.h"
#include "tamper_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
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

/* --- in parts --- */

#define SCATTERED 9000u
#define PART_MAX  5000u /* ranges: a bit more than 4096, as a leaf is taken whole */

struct list {
    struct vdisk_extent *extent;
    size_t count, in_part;
    uint64_t at; /* parts come in order and do not overlap */
};

static bool append(void *opaque, const struct vdisk_extent *extent)
{
    struct list *list = opaque;
    struct vdisk_extent *last = list->count ? &list->extent[list->count - 1] : NULL;

    assert_true(extent->length > 0 && extent->offset >= list->at);
    list->at = extent->offset + extent->length;
    list->in_part++;
    if (last && last->kind == extent->kind && last->offset + last->length == extent->offset) {
        last->length += extent->length;
        return true;
    }
    list->extent = realloc(list->extent, (list->count + 1) * sizeof(*list->extent));
    assert_non_null(list->extent);
    list->extent[list->count++] = *extent;
    return true;
}

static void assert_same(const struct list *a, const struct list *b)
{
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        assert_true(a->extent[i].offset == b->extent[i].offset);
        assert_true(a->extent[i].length == b->extent[i].length);
        assert_true(a->extent[i].kind == b->extent[i].kind);
    }
}

/* All of [from, to) in parts; how many. */
static unsigned in_parts(struct vdisk_image *image, struct vdisk_snapshot *since, uint64_t from,
                         uint64_t to, unsigned wanted, struct list *list)
{
    unsigned parts = 0;

    for (uint64_t at = from, reached; at < to; at = reached, parts++) {
        struct vdisk_range range = {NULL, at, to - at, wanted};
        int r;

        list->in_part = 0;
        r = since ? vdisk_diff_part(image, since, &range, append, list, &reached)
                  : vdisk_map_part(image, &range, true, append, list, &reached);
        assert_int_equal(r, 0);
        assert_true(reached > at && reached <= to && list->at <= reached);
        assert_true(list->in_part <= (wanted ? wanted + 2 : PART_MAX));
    }
    return parts;
}

static struct list cut(const struct list *list, uint64_t from, uint64_t to)
{
    struct list out = {0};

    for (size_t i = 0; i < list->count; i++) {
        struct vdisk_extent extent = list->extent[i];
        uint64_t end = extent.offset + extent.length < to ? extent.offset + extent.length : to;

        extent.offset = extent.offset > from ? extent.offset : from;
        extent.length = end > extent.offset ? end - extent.offset : 0;
        if (extent.length)
            append(&out, &extent);
    }
    return out;
}

static void check_parts(struct vdisk_image *image, struct vdisk_snapshot *since,
                        const struct list *whole, struct sim_rng *rng, unsigned parts_min)
{
    struct list list = {0}, want;

    for (unsigned wanted = 0; wanted < 3; wanted += 2) {
        list = (struct list){0};
        assert_true(in_parts(image, since, 0, VDISK_SIZE_MAX, wanted, &list) >=
                    (wanted ? SCATTERED / 6 : parts_min));
        assert_same(&list, whole);
        free(list.extent);
    }
    for (unsigned i = 0; i < 40; i++) {
        uint64_t from =
            whole->extent[sim_rng_below(rng, whole->count)].offset + sim_rng_below(rng, 3 * 4096);
        uint64_t to = from + 1 + sim_rng_below(rng, UINT64_C(1) << sim_rng_below(rng, 50));

        to = to < VDISK_SIZE_MAX ? to : VDISK_SIZE_MAX;
        want = cut(whole, from, to);
        list = (struct list){0};
        (void)in_parts(image, since, from, to, i % 5, &list);
        assert_same(&list, &want);
        free(list.extent);
        free(want.extent);
    }
}

/* Block status is asked for in parts: each costs what it tells, and together they tell the same. */
static void test_parts_are_bounded_and_together_the_whole(void **state)
{
    struct sim *disk = sim_new(1);
    struct vdisk_image *image = large(disk, true);
    struct list map = {0}, diff = {0};
    struct vdisk_snapshot *since;
    struct sim_rng rng;

    (void)state;
    sim_rng_seed(&rng, 1);
    assert_int_equal(vdisk_snapshot_create(image, "since"), 0);
    for (uint64_t i = 0; i < SCATTERED; i++) {
        uint64_t at = i * 2 * MIB + sim_rng_below(&rng, 512) * 4096;

        if (i % 3 == 2)
            assert_int_equal(vdisk_zero(image, at, 4096), 0);
        else
            assert_int_equal(tamper_write(image, at, 4096, i, false), 0);
    }
    assert_int_equal(vdisk_snapshot_open(image, "since", &since), 0);
    assert_int_equal(vdisk_map(image, NULL, 0, VDISK_SIZE_MAX, true, append, &map), 0);
    assert_int_equal(vdisk_diff(image, since, NULL, append, &diff), 0);
    assert_true(map.count > SCATTERED && diff.count > SCATTERED / 2);
    check_parts(image, NULL, &map, &rng, SCATTERED / 4096);
    check_parts(image, since, &diff, &rng, SCATTERED / 4096);
    vdisk_snapshot_close(since);
    free(map.extent);
    free(diff.extent);
    assert_int_equal(vdisk_close(image, NULL), 0);
    sim_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_of_the_largest_drive_can_be_zeroed_and_discarded),
        cmocka_unit_test(test_states_of_the_largest_drive_can_be_compared),
        cmocka_unit_test(test_parts_are_bounded_and_together_the_whole),
    };

    return vdisk_init() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
