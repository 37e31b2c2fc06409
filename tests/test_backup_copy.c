/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies to a second repository: without a key, or of chosen backups; stopped at each change; with
 * damage on the way; while the first one, or the second, is collected. And what changed between two
 * backups, and figures.
 *
 * Of the steps each seventh is tried; VDISK_TEST_LONG=1 tries all.
 */
#include "backup_care_kit.h"
#include "copy.h"
#include "prune.h"
#include "repo_stats.h"
#include "tree_diff.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DAY (24 * CARE_HOUR)

/* From one step to the next that is tried. */
static unsigned stride(void)
{
    return getenv("VDISK_TEST_LONG") ? 1 : 7;
}

static int copy(struct kit_store *from, struct kit_store *to, const struct vdisk_key *key,
                const struct vb_backup *const *backups, size_t count, struct vb_copy_result *result)
{
    struct vb_store *store = kit_store_handle(to);
    struct vdisk_error error = {0};
    struct vb_copy_options options = {.to = store, .backups = backups, .count = count};
    int outcome = vb_repo_open(kit_store_handle(from), key, &options.from, &error);

    assert_int_equal(outcome, 0);
    outcome = vb_copy(&options, result, &error);
    if (outcome && !to->fail_at && !from->fail_at)
        print_message("copy: %s\n", error.text);
    vb_repo_close(options.from);
    store->ops->close(store);
    return outcome;
}

static void make_history(struct care *care, uint64_t seed)
{
    care_begin(care, seed, 4 * CARE_MIB);
    for (unsigned i = 0; i < 5; i++) {
        kit_drive_scribble(care->drive[i % 2], &care->rng, 4);
        assert_int_equal(care_back_up(care, i % 2, i % 2 ? &kit_put_key : &kit_read_key, false), 0);
    }
    care->kit->now += 3 * DAY;
}

static void test_a_copy_needs_no_key(void **state)
{
    struct kit_store *to = kit_store_new(1);
    struct vb_copy_result result;
    struct care care;

    (void)state;
    make_history(&care, 1);
    assert_int_equal(copy(care.kit, to, NULL, NULL, 0, &result), 0);
    assert_int_equal(result.backups, 5);
    assert_int_equal(result.packs, kit_store_count(care.kit, VB_PACKS));
    care_check(&care, to);
    /* Again: nothing. With one more: that one. */
    assert_int_equal(copy(care.kit, to, NULL, NULL, 0, &result), 0);
    assert_int_equal(result.backups + result.packs, 0);
    kit_drive_scribble(care.drive[0], &care.rng, 1);
    assert_int_equal(care_back_up(&care, 0, &kit_read_key, false), 0);
    assert_int_equal(copy(care.kit, to, NULL, NULL, 0, &result), 0);
    assert_int_equal(result.backups, 1);
    assert_true(result.packs <= 2);
    care_check(&care, to);
    assert_int_equal(kit_store_count(to, VB_LEASES), 0);
    kit_store_free(to);
    /* Another repository is no place for it. */
    to = kit_repo_make(7);
    assert_int_equal(copy(care.kit, to, NULL, NULL, 0, &result), VDISK_E_EXISTS);
    kit_store_free(to);
    care_end(&care);
}

static void test_chosen_backups(void **state)
{
    struct kit_store *to = kit_store_new(1);
    struct vb_repo *repo;
    struct vb_backups backups;
    const struct vb_backup *chosen[1];
    struct vb_copy_result result;
    struct vdisk_error error = {0};
    struct kit_verdict verdict;
    struct care care;

    (void)state;
    make_history(&care, 2);
    repo = kit_repo_open(care.kit, &kit_maintain_key);
    assert_int_equal(vb_backups_load(repo, &backups, &error), 0);
    chosen[0] = vb_backups_find(&backups, &care.backup[4].name);
    assert_int_equal(copy(care.kit, to, NULL, chosen, 1, &result), -EPERM);
    assert_int_equal(copy(care.kit, to, &kit_put_key, chosen, 1, &result), -EPERM);
    assert_int_equal(copy(care.kit, to, &kit_maintain_key, chosen, 1, &result), 0);
    assert_int_equal(kit_store_count(to, VB_BACKUPS), 2); /* and why the one before is not */
    vb_repo_close(repo);
    repo = kit_repo_open(to, &kit_read_key);
    assert_int_equal(kit_restore(repo, &care.backup[4].name, care.backup[4].state, &error), 0);
    assert_int_equal(kit_restore(repo, &care.backup[3].name, care.backup[3].state, &error),
                     VDISK_E_NOT_FOUND);
    assert_int_equal(kit_verify(repo, true, &verdict), 0);
    assert_int_equal(verdict.findings, 0);
    vb_repo_close(repo);
    /* Then all: the rest comes. */
    assert_int_equal(copy(care.kit, to, &kit_maintain_key, NULL, 0, &result), 0);
    care_check(&care, to);
    vb_backups_release(&backups);
    kit_store_free(to);
    care_end(&care);
}

static void stop_at_each(const struct vdisk_key *key)
{
    struct vb_copy_result result;
    struct care care;
    int outcome = -EIO;
    unsigned n;

    make_history(&care, 3);
    for (n = 1; outcome; n += stride()) {
        struct kit_store *to = kit_store_new(n);
        struct vdisk_error error;

        to->fail_at = n;
        outcome = copy(care.kit, to, key, NULL, 0, &result);
        kit_store_crash(to);
        if (kit_store_count(to, VB_BACKUPS)) { /* what is there restores */
            struct vb_repo *repo = kit_repo_open(to, &kit_read_key);
            struct vb_backups backups;

            assert_int_equal(vb_backups_load(repo, &backups, &error), 0);
            for (unsigned i = 0; i < care.count; i++) {
                if (vb_backups_find(&backups, &care.backup[i].name))
                    assert_int_equal(
                        kit_restore(repo, &care.backup[i].name, care.backup[i].state, &error), 0);
            }
            vb_backups_release(&backups);
            vb_repo_close(repo);
        }
        assert_int_equal(copy(care.kit, to, key, NULL, 0, &result), 0);
        care_check(&care, to);
        kit_store_free(to);
        assert_true(n < 500);
    }
    print_message("%u steps\n", n - 1);
    care_end(&care);
}

static void test_stopped_copy(void **state)
{
    (void)state;
    stop_at_each(NULL);
    stop_at_each(&kit_maintain_key);
}

static void test_damage_is_not_copied(void **state)
{
    struct kit_store *to = kit_store_new(1);
    struct kit_object *object;
    struct vb_copy_result result;
    struct vdisk_error error;
    struct vb_repo *repo;
    struct care care;
    unsigned good = 0;

    (void)state;
    make_history(&care, 4);
    object = kit_store_find(care.kit, VB_PACKS, kit_store_count(care.kit, VB_PACKS) - 2);
    object->bytes[object->length / 2] ^= 4;
    /* Nobody knows who needs it: no manifest goes. */
    assert_int_equal(copy(care.kit, to, NULL, NULL, 0, &result), VDISK_E_DAMAGED);
    assert_int_equal(result.damaged_objects, 1);
    assert_int_equal(result.withheld_backups, 5);
    assert_int_equal(kit_store_count(to, VB_BACKUPS), 0);
    /* With a key, those that do not. */
    assert_int_equal(copy(care.kit, to, &kit_maintain_key, NULL, 0, &result), VDISK_E_DAMAGED);
    assert_true(result.withheld_backups >= 1 && result.backups >= 3);
    repo = kit_repo_open(to, &kit_read_key);
    for (unsigned i = 0; i < care.count; i++)
        good += kit_restore(repo, &care.backup[i].name, care.backup[i].state, &error) == 0;
    assert_int_equal(good, result.backups);
    vb_repo_close(repo);
    kit_store_free(to);
    care_end(&care);
}

/* --- while something else goes on
 * ----------------------------------------------------------------- */

struct beside {
    struct care *care;
    struct kit_store *kit; /* whose changes are counted */
    uint64_t at;
    bool is_done;
};

static void collect_meanwhile(void *opaque)
{
    struct beside *beside = opaque;
    struct kit_store *kit = beside->care->kit;
    struct vb_gc_result result;

    if (beside->is_done || beside->kit->operations < beside->at)
        return;
    beside->is_done = true;
    beside->care->kit = beside->kit;
    for (unsigned i = 0; i < 3; i++) { /* so late that nobody waits for the copy */
        beside->kit->now += 2 * CARE_HOUR;
        assert_int_equal(care_collect(beside->care, 0, &result), 0);
    }
    beside->care->kit = kit;
}

static void test_the_copy_is_collected_meanwhile(void **state)
{
    struct vb_copy_result result;
    struct kit_store *half = kit_store_new(9);
    struct care care;
    unsigned n;

    (void)state;
    make_history(&care, 5);
    assert_int_equal(copy(care.kit, half, NULL, NULL, 0, &result), 0);
    half->now = care.kit->now;
    for (size_t i = 0; i < half->count; i++) { /* a copy that lost its manifests: all is garbage */
        if (half->object[i].place == VB_BACKUPS)
            half->object[i].is_gone = true;
    }
    for (n = 1;; n++) {
        struct kit_store *to = kit_store_copy(half);
        struct beside beside = {.care = &care, .kit = to};

        to->now += 3 * DAY;
        beside.at = n;
        to->step_opaque = &beside;
        to->step = collect_meanwhile;
        assert_int_equal(copy(care.kit, to, NULL, NULL, 0, &result), 0);
        to->step = NULL;
        care_check(&care, to);
        kit_store_free(to);
        if (!beside.is_done)
            break;
        assert_true(n < 500);
    }
    print_message("%u steps\n", n);
    kit_store_free(half);
    care_end(&care);
}

/* What is copied is tidied up under the reader's hands. */
static void test_the_source_is_collected_meanwhile(void **state)
{
    struct vb_copy_result result;
    struct vb_gc_result collected;
    struct kit_store *to = kit_store_new(1);
    struct care care;

    (void)state;
    make_history(&care, 6);
    assert_int_equal(care_prune(&care, 0), 0);
    care.kit->now += 3 * DAY;
    assert_int_equal(copy(care.kit, to, NULL, NULL, 0, &result), 0);
    assert_int_equal(care_collect(&care, 0, &collected), 0);
    assert_int_equal(copy(care.kit, to, NULL, NULL, 0, &result), 0);
    care_check(&care, to);
    assert_int_equal(copy(care.kit, to, &kit_maintain_key, NULL, 0, &result), 0);
    care_check(&care, to);
    kit_store_free(to);
    care_end(&care);
}

/* --- diff --------------------------------------------------------------------------------- */

struct changes {
    uint8_t *block; /* a byte each */
    uint64_t end, bytes;
};

static bool note(void *opaque, uint64_t offset, uint64_t length, bool is_zero)
{
    struct changes *changes = opaque;

    (void)is_zero;
    assert_true(offset >= changes->end && length > 0);
    changes->end = offset + length;
    changes->bytes += length;
    for (uint64_t i = offset / VB_BLOCK_BYTES; i <= (offset + length - 1) / VB_BLOCK_BYTES; i++)
        changes->block[i] = 1;
    return true;
}

static bool differs(const struct kit_drive *a, const struct kit_drive *b, size_t block)
{
    static const uint8_t zeros[VB_BLOCK_BYTES];
    size_t chunk = block / VB_CHUNK_BLOCKS, at = block % VB_CHUNK_BLOCKS * VB_BLOCK_BYTES;
    const uint8_t *x = chunk < a->chunks && a->chunk[chunk] ? a->chunk[chunk] + at : zeros;
    const uint8_t *y = chunk < b->chunks && b->chunk[chunk] ? b->chunk[chunk] + at : zeros;

    return memcmp(x, y, VB_BLOCK_BYTES) != 0;
}

static void test_diff_names_all_that_differs(void **state)
{
    struct vdisk_error error = {0};
    struct vb_backups backups;
    struct vb_repo *repo;
    struct care care;

    (void)state;
    care_begin(&care, 8, 5 * CARE_MIB);
    for (unsigned i = 0; i < 5; i++) {
        kit_drive_scribble(care.drive[0], &care.rng, 3);
        if (i == 2)
            kit_drive_resize(care.drive[0], 140 * CARE_MIB);
        if (i == 4) /* the first part is empty under a higher root */
            kit_drive_write(care.drive[0], 0, NULL, (size_t)(128 * CARE_MIB));
        assert_int_equal(care_back_up(&care, 0, &kit_put_key, false), 0);
    }
    repo = kit_repo_open(care.kit, &kit_maintain_key);
    assert_int_equal(vb_backups_load(repo, &backups, &error), 0);
    for (unsigned a = 0; a < 5; a++) {
        for (unsigned b = 0; b < 5; b++) {
            const struct kit_drive *before = care.backup[a].state, *after = care.backup[b].state;
            size_t blocks = 140 * VB_CHUNK_BLOCKS;
            struct changes changes = {.block = calloc(blocks, 1)};
            uint64_t before_gets = care.kit->gets;

            assert_non_null(changes.block);
            assert_int_equal(vb_tree_diff(repo, vb_backups_find(&backups, &care.backup[a].name),
                                          vb_backups_find(&backups, &care.backup[b].name), note,
                                          &changes, &error),
                             0);
            for (size_t i = 0; i < blocks; i++)
                assert_true(changes.block[i] || !differs(before, after, i));
            if (a == b) {
                assert_int_equal(changes.bytes, 0);
                assert_true(care.kit->gets - before_gets < 30);
            }
            free(changes.block);
        }
    }
    vb_backups_release(&backups);
    vb_repo_close(repo);
    care_end(&care);
}

/* --- figures ------------------------------------------------------------------------------ */

static void test_figures(void **state)
{
    uint8_t *noise = malloc(CARE_MIB);
    struct vdisk_error error = {0};
    struct vb_backups backups;
    struct vb_stats stats;
    struct vb_repo *repo;
    struct care care;

    (void)state;
    assert_non_null(noise);
    care_begin(&care, 9, 8 * CARE_MIB);
    for (unsigned i = 0; i < 4; i++) {
        sim_rng_fill(&care.rng, noise, CARE_MIB);
        kit_drive_write(care.drive[0], i * CARE_MIB, noise, CARE_MIB);
        kit_drive_write(care.drive[0], (i + 4) * CARE_MIB, noise, CARE_MIB);
    }
    assert_int_equal(care_back_up(&care, 0, &kit_put_key, false), 0);
    sim_rng_fill(&care.rng, noise, CARE_MIB);
    kit_drive_write(care.drive[0], 0, noise, CARE_MIB);
    assert_int_equal(care_back_up(&care, 0, &kit_put_key, false), 0);
    repo = kit_repo_open(care.kit, &kit_maintain_key);
    assert_int_equal(vb_backups_load(repo, &backups, &error), 0);
    assert_int_equal(vb_stats_load(repo, &backups, NULL, NULL, &stats, &error), 0);
    assert_int_equal(stats.backups, 2);
    assert_int_equal(stats.drives, 1);
    assert_int_equal(stats.size_bytes, 16 * CARE_MIB);
    assert_int_equal(stats.data_bytes, 16 * CARE_MIB);
    assert_int_equal(stats.unique_bytes, 5 * CARE_MIB);
    assert_true(stats.stored_bytes > 5 * CARE_MIB && stats.stored_bytes < 6 * CARE_MIB);
    assert_true(stats.pack_bytes >= stats.stored_bytes);
    /* The first chunk's old content is at 4 MiB still; only the new one is the second's own. */
    assert_true(stats.backup[0].unique < 65536);
    assert_true(stats.backup[1].unique > CARE_MIB && stats.backup[1].unique < CARE_MIB + 100000);
    assert_true(stats.backup[1].stored > 5 * CARE_MIB);
    free(stats.backup);
    vb_backups_release(&backups);
    vb_repo_close(repo);
    free(noise);
    care_end(&care);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_copy_needs_no_key),
        cmocka_unit_test(test_chosen_backups),
        cmocka_unit_test(test_stopped_copy),
        cmocka_unit_test(test_damage_is_not_copied),
        cmocka_unit_test(test_the_copy_is_collected_meanwhile),
        cmocka_unit_test(test_the_source_is_collected_meanwhile),
        cmocka_unit_test(test_diff_names_all_that_differs),
        cmocka_unit_test(test_figures),
    };

    return vdisk_init() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
