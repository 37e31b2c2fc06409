/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prune and garbage collection: stopped at each change of the store, and interleaved with backups
 * at each, no complete backup is lost; what nobody needs goes; the role is maintain throughout,
 * which reads no data.
 *
 * Of the steps one in thirteen is tried; VDISK_TEST_LONG=1 tries all.
 */
#include "backup_care_kit.h"
#include "prune.h"
#include "share.h"

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
    return getenv("VDISK_TEST_LONG") ? 1 : 13;
}

/* A number of backups by two hosts and a reader, and some of them pruned. */
static void make_history(struct care *care, uint64_t seed)
{
    static const struct vdisk_key *const keys[] = {&kit_put_key, &kit_other_put_key, &kit_read_key};

    care_begin(care, seed, 3 * CARE_MIB);
    for (unsigned i = 0; i < 8; i++) {
        unsigned drive = i % CARE_DRIVES;

        kit_drive_scribble(care->drive[drive], &care->rng, 4);
        assert_int_equal(care_back_up(care, drive, keys[drive], i % 5 == 4), 0);
    }
    kit_drive_scribble(care->drive[0], &care->rng, 2);
    assert_int_equal(care_back_up(care, 0, &kit_read_key, true), 0);
    for (unsigned i = 0; i < 7; i += i % 3 + 1)
        assert_int_equal(care_prune(care, i), 0);
    care->kit->now += 3 * DAY;
}

/* Another repository in the same state, so that each trial begins at the same point. */
static void fork_history(const struct care *from, struct care *to)
{
    *to = *from;
    to->kit = kit_store_copy(from->kit);
    for (unsigned i = 0; i < CARE_DRIVES; i++) {
        to->drive[i] = kit_drive_copy(from->drive[i]);
        to->drive[i]->base = from->drive[i]->base;
        memcpy(to->drive[i]->dirty, from->drive[i]->dirty,
               from->drive[i]->chunks * VB_CHUNK_BLOCKS);
    }
    for (unsigned i = 0; i < from->count; i++)
        to->backup[i].state = kit_drive_copy(from->backup[i].state);
}

static uint64_t pack_bytes(const struct kit_store *kit)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < kit->count; i++) {
        const struct kit_object *object = &kit->object[i];

        if (!object->is_gone && !object->is_pending && object->place == VB_PACKS)
            bytes += object->length;
    }
    return bytes;
}

/* Nothing is left to do. */
static void check_settled(struct care *care)
{
    struct vb_gc_result result;

    care->kit->now += 3 * DAY;
    assert_int_equal(care_collect(care, 0, &result), 0);
    care->kit->now += 3 * DAY;
    assert_int_equal(care_collect(care, 0, &result), 0);
    assert_int_equal(result.at_work, 0);
    care->kit->now += 3 * DAY;
    assert_int_equal(care_collect(care, 0, &result), 0);
    assert_int_equal(result.trashed, 0);
    assert_int_equal(result.deleted, 0);
    assert_int_equal(result.waiting, 0);
    care_check(care, care->kit);
}

/* --- what it does -------------------------------------------------------------------------------
 */

static void test_what_nobody_needs_goes(void **state)
{
    struct vb_gc_result result;
    struct care care;
    uint64_t before;

    (void)state;
    make_history(&care, 1);
    before = pack_bytes(care.kit);
    /* With a day of grace: into the trash, and a day later for ever. */
    assert_int_equal(care_collect(&care, DAY, &result), 0);
    assert_true(result.trashed > 0);
    assert_true(result.waiting_bytes > 0);
    care_check(&care, care.kit);
    assert_true(result.deleted > 0); /* manifests that were pruned days ago */
    care.kit->now += DAY - 600;
    assert_int_equal(care_collect(&care, DAY, &result), 0);
    assert_int_equal(result.deleted, 0);
    care.kit->now += 1200;
    assert_int_equal(care_collect(&care, DAY, &result), 0);
    assert_true(result.deleted > 0);
    assert_int_equal(result.brought_back, 0);
    care_check(&care, care.kit);
    assert_true(pack_bytes(care.kit) < before);
    assert_int_equal(result.bytes, pack_bytes(care.kit));
    /* All pruned: nothing is left. */
    for (unsigned i = 0; i < care.count; i++) {
        if (!care.backup[i].is_pruned)
            assert_int_equal(care_prune(&care, i), 0);
    }
    check_settled(&care);
    assert_int_equal(pack_bytes(care.kit), 0);
    assert_int_equal(kit_store_count(care.kit, VB_INDEX_DATA), 0);
    assert_int_equal(kit_store_count(care.kit, VB_INDEX_TREE), 0);
    care_end(&care);
}

static void test_young_packs_stay(void **state)
{
    struct vb_gc_result result;
    struct care care;

    (void)state;
    make_history(&care, 2);
    care.kit->now -= 3 * DAY;
    assert_int_equal(care_collect(&care, DAY, &result), 0);
    assert_int_equal(result.trashed, 0);
    assert_true(result.young_bytes > 0);
    care_end(&care);
}

static void test_packs_with_little_left_are_rewritten(void **state)
{
    struct vb_gc_result result;
    struct care care;
    uint8_t *noise = malloc(CARE_MIB);

    (void)state;
    assert_non_null(noise);
    care_begin(&care, 3, 16 * CARE_MIB);
    for (unsigned i = 0; i < 16; i++) {
        sim_rng_fill(&care.rng, noise, CARE_MIB);
        kit_drive_write(care.drive[0], i * CARE_MIB, noise, CARE_MIB);
    }
    assert_int_equal(care_back_up(&care, 0, &kit_put_key, false), 0);
    for (unsigned i = 0; i < 12; i++)
        kit_drive_write(care.drive[0], i * CARE_MIB, NULL, CARE_MIB);
    assert_int_equal(care_back_up(&care, 0, &kit_put_key, false), 0);
    assert_int_equal(care_prune(&care, 0), 0);
    care.kit->now += 3 * DAY;
    assert_int_equal(care_collect(&care, 0, &result), 0);
    assert_true(result.rewritten >= 1);
    assert_true(result.rewritten_bytes > 16 * CARE_MIB);
    assert_true(result.written_bytes < 5 * CARE_MIB);
    assert_true(pack_bytes(care.kit) < 5 * CARE_MIB);
    care_check(&care, care.kit);
    /* Whose they are is still known: its host stores none of it again. */
    sim_rng_fill(&care.rng, noise, 4096);
    kit_drive_write(care.drive[0], 0, noise, 4096);
    assert_int_equal(care_back_up(&care, 0, &kit_put_key, true), 0);
    assert_true(pack_bytes(care.kit) < 6 * CARE_MIB);
    care_check(&care, care.kit);
    check_settled(&care);
    free(noise);
    care_end(&care);
}

static void test_many_small_packs_become_few(void **state)
{
    struct vb_gc_result result;
    struct care care;
    unsigned packs;

    (void)state;
    care_begin(&care, 4, 3 * CARE_MIB);
    for (unsigned i = 0; i < 20; i++) {
        kit_drive_scribble(care.drive[0], &care.rng, 2);
        assert_int_equal(care_back_up(&care, 0, &kit_put_key, false), 0);
    }
    packs = kit_store_count(care.kit, VB_PACKS);
    care.kit->now += 3 * DAY;
    assert_int_equal(care_collect(&care, 0, &result), 0);
    care_check(&care, care.kit);
    assert_true(kit_store_count(care.kit, VB_PACKS) < packs / 2);
    assert_true(kit_store_count(care.kit, VB_INDEX_DATA) <= 2);
    assert_true(kit_store_count(care.kit, VB_INDEX_TREE) <= 2);
    check_settled(&care);
    care_end(&care);
}

/* What one host stored is not another's to build on, also when a maintainer has merged the index.
 */
static void test_merging_makes_nobody_trusted(void **state)
{
    struct vb_gc_result result;
    struct care care;
    uint64_t before;
    uint8_t *noise = malloc(CARE_MIB);

    (void)state;
    assert_non_null(noise);
    care_begin(&care, 5, 8 * CARE_MIB);
    for (unsigned i = 0; i < 8; i++) {
        sim_rng_fill(&care.rng, noise, CARE_MIB);
        kit_drive_write(care.drive[0], i * CARE_MIB, noise, CARE_MIB);
        kit_drive_write(care.drive[1], i * CARE_MIB, noise, CARE_MIB);
        assert_int_equal(care_back_up(&care, 0, &kit_other_put_key, false), 0);
    }
    care.kit->now += 3 * DAY;
    assert_int_equal(care_collect(&care, 0, &result), 0);
    assert_true(result.merged > 0);
    before = pack_bytes(care.kit);
    assert_int_equal(care_back_up(&care, 1, &kit_put_key, true), 0);
    assert_true(pack_bytes(care.kit) - before > 8 * CARE_MIB);
    before = pack_bytes(care.kit);
    assert_int_equal(care_back_up(&care, 1, &kit_other_put_key, true), 0);
    assert_true(pack_bytes(care.kit) - before < 100000);
    care_check(&care, care.kit);
    check_settled(&care);
    free(noise);
    care_end(&care);
}

static void test_damage_stops_it(void **state)
{
    struct vb_gc_result result;
    struct care care, trial;

    (void)state;
    make_history(&care, 6);
    for (unsigned i = 0; i < 3; i++) {
        static const enum vb_place places[] = {VB_BACKUPS, VB_INDEX_TREE, VB_INDEX_DATA};
        struct kit_object *object;

        fork_history(&care, &trial);
        object = kit_store_find(trial.kit, places[i], 0);
        object->bytes[object->length / 2] ^= 1;
        assert_int_equal(care_collect(&trial, 0, &result), VDISK_E_DAMAGED);
        assert_int_equal(result.trashed + result.deleted, 0);
        care_end(&trial);
    }
    fork_history(&care, &trial);
    for (unsigned i = 0; i < trial.count; i++) { /* and a pack that is gone */
        struct kit_object *object = kit_store_find(trial.kit, VB_PACKS, i);

        if (object)
            object->is_gone = true;
    }
    assert_int_equal(care_collect(&trial, 0, &result), VDISK_E_DAMAGED);
    assert_int_equal(result.trashed + result.deleted, 0);
    care_end(&trial);
    care_end(&care);
}

static void test_put_key_may_not(void **state)
{
    struct vb_gc_result result;
    struct vdisk_error error = {0};
    struct care care;
    struct vb_repo *repo;
    struct vb_gc_options options = {.grace = 0};
    const struct vb_backup backup = {0}, *list = &backup;
    const char *reason = "";

    (void)state;
    make_history(&care, 7);
    repo = kit_repo_open(care.kit, &kit_put_key);
    options.repo = repo;
    assert_int_equal(vb_gc(&options, &result, &error), -EPERM);
    assert_int_equal(vb_prune(repo, &list, &reason, 1, 1, &error), -EPERM);
    vb_repo_close(repo);
    care_end(&care);
}

/* --- stopped at each step ------------------------------------------------------------------------
 */

/* Calls `act` with the nth change of the store failing, and all after it, for n = 1, 2, ... */
static void stop_at_each(struct care *from, int (*act)(struct care *care), unsigned may_be_pruned,
                         unsigned seed)
{
    unsigned step = may_be_pruned ? 1 : stride(); /* a prune has few */
    int result = -EIO;
    unsigned n;

    for (n = 1; result; n += step) {
        struct care trial;

        fork_history(from, &trial);
        sim_rng_seed(&trial.kit->rng, seed + n);
        trial.kit->fail_at = trial.kit->operations + n;
        result = act(&trial);
        kit_store_crash(trial.kit);
        if (may_be_pruned)
            care_sort(&trial, may_be_pruned);
        care_check(&trial, trial.kit);
        trial.kit->now += 3 * DAY; /* its lease is over */
        if (act(&trial) == 0 && may_be_pruned)
            care_sort(&trial, may_be_pruned);
        care_check(&trial, trial.kit);
        check_settled(&trial);
        care_end(&trial);
        assert_true(n < 1000);
    }
    print_message("%u steps\n", n - 1);
}

static int collect_at_once(struct care *care)
{
    struct vb_gc_result result;

    return care_collect(care, 0, &result);
}

static int collect_with_grace(struct care *care)
{
    struct vb_gc_result result;

    return care_collect(care, DAY, &result);
}

static void test_stopped_collection(void **state)
{
    unsigned seeds = getenv("VDISK_TEST_LONG") ? 3 : 1;
    struct care care;

    (void)state;
    for (unsigned i = 0; i < seeds; i++) {
        make_history(&care, 10 + i);
        stop_at_each(&care, collect_at_once, 0, 1);
        stop_at_each(&care, collect_with_grace, 0, 1);
        care_end(&care);
    }
}

static int prune_two(struct care *care)
{
    struct vb_repo *repo = kit_repo_open(care->kit, &kit_maintain_key);
    const char *reasons[] = {"a test", "a test"};
    const struct vb_backup *list[2];
    struct vb_backups backups;
    struct vdisk_error error = {0};
    size_t count = 0;
    int result = vb_backups_load(repo, &backups, &error);

    for (unsigned i = 0; i < 2 && result == 0; i++) {
        list[count] = vb_backups_find(&backups, &care->backup[care->count - 1 - i].name);
        count += list[count] != NULL;
    }
    if (result == 0 && count)
        result = vb_prune(repo, list, reasons, count, 2, &error);
    vb_backups_release(&backups);
    vb_repo_close(repo);
    return result;
}

static void test_stopped_prune(void **state)
{
    struct care care;

    (void)state;
    make_history(&care, 20);
    for (unsigned seed = 0; seed < 80; seed += 10)
        stop_at_each(&care, prune_two, 0xffffffff, seed);
    care_end(&care);
}

static int unprune_one(struct care *care)
{
    struct vb_repo *repo = kit_repo_open(care->kit, &kit_maintain_key);
    char text[VB_NAME_TEXT_BYTES];
    struct vdisk_error error = {0};
    struct vb_id name;
    int result = vb_unprune(repo, vb_id_text(text, &care->backup[3].name), &name, &error);

    vb_repo_close(repo);
    if (result == VDISK_E_NOT_FOUND && !care->kit->fail_at)
        result = 0; /* the second time */
    return result;
}

static void test_a_pruned_backup_comes_back(void **state)
{
    struct vb_gc_result result;
    struct care care;

    (void)state;
    care_begin(&care, 21, 6 * CARE_MIB);
    for (unsigned i = 0; i < 5; i++) {
        kit_drive_scribble(care.drive[0], &care.rng, 5);
        assert_int_equal(care_back_up(&care, 0, &kit_put_key, false), 0);
    }
    care.kit->now += 3 * DAY;
    assert_int_equal(care_prune(&care, 3), 0);
    care.kit->now += 60;
    assert_int_equal(care_collect(&care, DAY, &result), 0);
    assert_true(result.trashed > 0);
    care.kit->now += CARE_HOUR;
    stop_at_each(&care, unprune_one, 1u << 3, 1);
    assert_int_equal(unprune_one(&care), 0);
    care.backup[3].is_pruned = false;
    check_settled(&care);
    /* With what it needs gone, it does not. */
    assert_int_equal(care_prune(&care, 3), 0);
    care.kit->now += 3 * DAY;
    assert_int_equal(care_collect(&care, 0, &result), 0);
    care_end(&care);
}

/* --- beside backups ------------------------------------------------------------------------------
 */

struct beside {
    struct care *care;
    uint64_t at; /* change of the store */
    void (*act)(struct beside *beside);
    bool is_done;
    int result;
};

static void step(void *opaque)
{
    struct beside *beside = opaque;

    if (beside->is_done || beside->care->kit->operations < beside->at)
        return;
    beside->is_done = true;
    beside->act(beside);
}

static void collect_meanwhile(struct beside *beside)
{
    struct vb_gc_result result;

    assert_int_equal(care_collect(beside->care, 0, &result), 0);
}

static void collect_meanwhile_with_grace(struct beside *beside)
{
    struct vb_gc_result result;

    beside->care->kit->now += 1;
    assert_int_equal(care_collect(beside->care, DAY, &result), 0);
}

/* The base goes while it is built upon, and what it alone had, too. */
static void prune_and_collect_meanwhile(struct beside *beside)
{
    struct vb_gc_result result;

    for (unsigned i = 0; i < beside->care->count; i++) {
        if (!beside->care->backup[i].is_pruned)
            assert_int_equal(care_prune(beside->care, i), 0);
    }
    assert_int_equal(care_collect(beside->care, 0, &result), 0);
    assert_int_equal(care_collect(beside->care, 0, &result), 0);
}

/* The host was asleep: nobody waits for it, and it finds out. */
static void sleep_and_collect_meanwhile(struct beside *beside)
{
    struct vb_gc_result result;

    for (unsigned i = 0; i < 2; i++) {
        beside->care->kit->now += 2 * CARE_HOUR;
        assert_int_equal(care_collect(beside->care, 0, &result), 0);
    }
}

/* At each change that a backup makes, something else is done as a whole. How often it failed. */
static unsigned backup_with(struct care *from, void (*act)(struct beside *beside), bool whole)
{
    unsigned stale = 0, n;

    for (n = 1;; n += n > 2 ? stride() / 5 + 1 : 1) { /* it has few; first the lease, then packs */
        struct care trial;
        struct beside beside = {.care = &trial, .act = act};
        int result;

        fork_history(from, &trial);
        /* Something new, something old that nobody has any more. */
        kit_drive_scribble(trial.drive[1], &trial.rng, 1);
        beside.at = trial.kit->operations + n - 1;
        trial.kit->step_opaque = &beside;
        trial.kit->step = step;
        result = care_back_up(&trial, 1, &kit_other_put_key, whole);
        trial.kit->step = NULL;
        /* Before it has a lease, what it builds on may go without a day of grace. */
        if (result && n == 1)
            assert_int_equal(result, VDISK_E_NOT_FOUND);
        else if (result)
            assert_int_equal(result, -ESTALE);
        stale += result != 0 && n > 1;
        care_check(&trial, trial.kit);
        check_settled(&trial);
        care_end(&trial);
        if (!beside.is_done)
            break;
        assert_true(n < 1000);
    }
    print_message("%u steps, %u times to be made again\n", n, stale);
    return stale;
}

static void test_collection_within_a_backup(void **state)
{
    struct care care;

    (void)state;
    make_history(&care, 30);
    /* What is in the trash can come back. */
    assert_int_equal(backup_with(&care, collect_meanwhile, true), 0);
    assert_int_equal(backup_with(&care, collect_meanwhile, false), 0);
    assert_int_equal(backup_with(&care, collect_meanwhile_with_grace, true), 0);
    assert_int_equal(backup_with(&care, prune_and_collect_meanwhile, true), 0);
    assert_int_equal(backup_with(&care, prune_and_collect_meanwhile, false), 0);
    assert_true(backup_with(&care, sleep_and_collect_meanwhile, true) > 0);
    assert_true(backup_with(&care, sleep_and_collect_meanwhile, false) > 0);
    /* What it is made of, only backups had that were removed. */
    for (unsigned i = 0; i < care.count; i++) {
        if (!care.backup[i].is_pruned)
            assert_int_equal(care_prune(&care, i), 0);
    }
    care.kit->now += 3 * DAY;
    assert_int_equal(backup_with(&care, collect_meanwhile, true), 0);
    assert_true(backup_with(&care, sleep_and_collect_meanwhile, true) > 0);
    care_end(&care);
}

static void back_up_meanwhile(struct beside *beside)
{
    beside->result = care_back_up(beside->care, 1, &kit_other_put_key, true);
}

/* At each change of a collection, a backup is made of what is about to go. */
static void collect_with(struct care *from, uint64_t grace)
{
    unsigned n;

    for (n = 1;; n += stride()) {
        struct care trial;
        struct beside beside = {.care = &trial, .act = back_up_meanwhile};
        struct vb_gc_result result;
        int outcome;

        fork_history(from, &trial);
        beside.at = trial.kit->operations + n - 1;
        trial.kit->step_opaque = &beside;
        trial.kit->step = step;
        outcome = care_collect(&trial, grace, &result);
        trial.kit->step = NULL;
        assert_int_equal(outcome, 0);
        if (beside.result)
            assert_int_equal(beside.result, -ESTALE);
        care_check(&trial, trial.kit);
        check_settled(&trial);
        care_end(&trial);
        if (!beside.is_done)
            break;
        assert_true(n < 1000);
    }
    print_message("%u steps\n", n);
}

static void test_a_backup_within_a_collection(void **state)
{
    struct care care;

    (void)state;
    make_history(&care, 31);
    for (unsigned i = 0; i < care.count; i++) {
        if (!care.backup[i].is_pruned)
            assert_int_equal(care_prune(&care, i), 0);
    }
    care.kit->now += 3 * DAY;
    collect_with(&care, 0);
    collect_with(&care, DAY);
    care_end(&care);
}

static void collect_too(struct beside *beside)
{
    struct vb_gc_result result;

    beside->result = care_collect(beside->care, 0, &result);
}

static void test_two_collections_at_once(void **state)
{
    struct care care;
    unsigned n;

    (void)state;
    make_history(&care, 32);
    for (n = 1;; n += stride()) {
        struct care trial;
        struct beside beside = {.care = &trial, .act = collect_too};
        struct vb_gc_result result;

        fork_history(&care, &trial);
        beside.at = trial.kit->operations + n - 1;
        trial.kit->step_opaque = &beside;
        trial.kit->step = step;
        assert_int_equal(care_collect(&trial, 0, &result), 0);
        trial.kit->step = NULL;
        assert_int_equal(beside.result, 0);
        care_check(&trial, trial.kit);
        check_settled(&trial);
        care_end(&trial);
        if (!beside.is_done)
            break;
        assert_true(n < 1000);
    }
    care_end(&care);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_nobody_needs_goes),
        cmocka_unit_test(test_young_packs_stay),
        cmocka_unit_test(test_packs_with_little_left_are_rewritten),
        cmocka_unit_test(test_many_small_packs_become_few),
        cmocka_unit_test(test_merging_makes_nobody_trusted),
        cmocka_unit_test(test_damage_stops_it),
        cmocka_unit_test(test_put_key_may_not),
        cmocka_unit_test(test_stopped_collection),
        cmocka_unit_test(test_stopped_prune),
        cmocka_unit_test(test_a_pruned_backup_comes_back),
        cmocka_unit_test(test_collection_within_a_backup),
        cmocka_unit_test(test_a_backup_within_a_collection),
        cmocka_unit_test(test_two_collections_at_once),
    };

    return vdisk_init() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
