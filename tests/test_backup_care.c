/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random histories of a repository against a model: writes, backups by several hosts, prunes and
 * their recall, collections, copies, crashes within each. No complete backup is ever lost, here or
 * in the copy, but those that were removed; none restores to anything else than what it was made
 * of.
 *
 * VDISK_TEST_SEED=n runs this one seed; VDISK_TEST_LONG=1 runs 200.
 */
#include "backup_care_kit.h"
#include "copy.h"
#include "prune.h"
#include "share.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* The trash is empty in the end: what was rewritten may be one more small pack, of which there then
 * are enough to be rewritten together; each goes through the trash. */
#define ROUNDS 6u
#define STEPS  40u
#define DAY    (24 * CARE_HOUR)

struct history {
    struct care care;
    struct kit_store *mirror;
    uint32_t mirrored; /* backups that the mirror has, a bit each */
    bool crashes;      /* in this step */
};

static void check_mirror(struct history *history)
{
    struct care *care = &history->care;
    struct vb_repo *repo;
    struct vdisk_error error;

    if (!history->mirrored)
        return;
    repo = kit_repo_open(history->mirror, &kit_read_key);
    for (unsigned i = 0; i < care->count; i++) {
        if (history->mirrored >> i & 1)
            assert_int_equal(
                kit_restore(repo, &care->backup[i].name, care->backup[i].state, &error), 0);
    }
    vb_repo_close(repo);
}

/* The power goes at some change from here on, perhaps behind the step. */
static void arm(struct history *history, struct kit_store *kit)
{
    if (history->crashes)
        kit->fail_at = kit->operations + 1 + sim_rng_below(&history->care.rng, 25);
}

static void disarm(struct history *history, struct kit_store *kit)
{
    if (!history->crashes)
        return;
    kit_store_crash(kit);
    kit->now += 2 * CARE_HOUR; /* leases */
}

static void back_up(struct history *history)
{
    static const struct vdisk_key *const keys[] = {&kit_put_key, &kit_other_put_key, &kit_read_key};
    struct care *care = &history->care;
    unsigned drive = (unsigned)sim_rng_below(&care->rng, CARE_DRIVES);
    const struct vdisk_key *key = keys[sim_rng_below(&care->rng, 3)];
    bool whole = sim_rng_chance(&care->rng, 1, 3);
    int result;

    if (care->count == CARE_BACKUPS)
        return;
    for (unsigned i = 0; i < care->count; i++) { /* its base may have been pruned */
        if (vb_id_equal(&care->backup[i].name, &care->drive[drive]->base.name))
            whole |= care->backup[i].is_pruned;
    }
    kit_drive_scribble(care->drive[drive], &care->rng, (unsigned)sim_rng_below(&care->rng, 6));
    arm(history, care->kit);
    result = care_back_up(care, drive, key, whole);
    disarm(history, care->kit);
    if (result)
        assert_true(history->crashes);
}

static void prune(struct history *history)
{
    struct care *care = &history->care;
    unsigned which = care->count ? (unsigned)sim_rng_below(&care->rng, care->count) : 0;
    uint32_t pruned = 0;

    if (care->count < 3 || care->backup[which].is_pruned)
        return;
    for (unsigned i = 0; i < care->count; i++)
        pruned |= (uint32_t)care->backup[i].is_pruned << i;
    arm(history, care->kit);
    care_prune(care, which);
    disarm(history, care->kit);
    care_sort(care, pruned | 1u << which);
}

static void recall(struct history *history)
{
    struct care *care = &history->care;
    unsigned which = care->count ? (unsigned)sim_rng_below(&care->rng, care->count) : 0;
    struct vb_repo *repo;
    struct vdisk_error error = {0};
    char text[VB_NAME_TEXT_BYTES];
    uint32_t pruned = 0;
    struct vb_id name;
    int result;

    if (care->count == 0 || !care->backup[which].is_pruned)
        return;
    for (unsigned i = 0; i < care->count; i++)
        pruned |= (uint32_t)care->backup[i].is_pruned << i;
    repo = kit_repo_open(care->kit, &kit_maintain_key);
    arm(history, care->kit);
    result = vb_unprune(repo, vb_id_text(text, &care->backup[which].name), &name, &error);
    vb_repo_close(repo);
    disarm(history, care->kit);
    assert_true(result == 0 || result == VDISK_E_NOT_FOUND || history->crashes);
    care_sort(care, pruned);
    if (result == 0 && !history->crashes)
        assert_false(care->backup[which].is_pruned);
}

static void collect(struct history *history, struct kit_store *kit)
{
    struct care *care = &history->care;
    struct kit_store *own = care->kit;
    struct vb_gc_result result;
    int outcome;

    if (kit == history->mirror && !history->mirrored)
        return;
    care->kit = kit;
    arm(history, kit);
    outcome = care_collect(care, sim_rng_chance(&care->rng, 1, 2) ? 0 : DAY, &result);
    disarm(history, kit);
    care->kit = own;
    assert_true(outcome == 0 || history->crashes);
}

static void copy(struct history *history)
{
    struct care *care = &history->care;
    bool keyless = sim_rng_chance(&care->rng, 1, 2);
    struct vb_store *store = kit_store_handle(history->mirror);
    struct vdisk_error error = {0};
    struct vb_copy_options options = {.to = store};
    struct vb_copy_result result;
    int outcome;

    options.from = kit_repo_open(care->kit, keyless ? NULL : &kit_maintain_key);
    arm(history, history->mirror);
    outcome = vb_copy(&options, &result, &error);
    disarm(history, history->mirror);
    if (outcome && !history->crashes)
        print_message("copy: %s\n", error.text);
    assert_true(outcome == 0 || history->crashes);
    vb_repo_close(options.from);
    store->ops->close(store);
    for (unsigned i = 0; i < care->count && outcome == 0; i++)
        history->mirrored |= (uint32_t)!care->backup[i].is_pruned << i;
}

static void step(struct history *history)
{
    struct care *care = &history->care;

    history->crashes = sim_rng_chance(&care->rng, 1, 4);
    care->kit->now += (int64_t)sim_rng_below(&care->rng, 20 * CARE_HOUR);
    history->mirror->now += (int64_t)sim_rng_below(&care->rng, 20 * CARE_HOUR);
    switch (sim_rng_below(&care->rng, 10)) {
    case 0:
    case 1:
    case 2:
    case 3:
        back_up(history);
        break;
    case 4:
    case 5:
        prune(history);
        break;
    case 6:
        recall(history);
        break;
    case 7:
        copy(history);
        break;
    case 8:
        collect(history, care->kit);
        break;
    default:
        collect(history, history->mirror);
    }
}

static void run(uint64_t seed)
{
    struct history history = {.mirror = kit_store_new(seed)};
    struct vb_gc_result result;

    print_message("seed %llu\n", (unsigned long long)seed);
    care_begin(&history.care, seed, 2 * CARE_MIB + 512 * (seed % 3));
    for (unsigned i = 0; i < STEPS; i++) {
        step(&history);
        if (i % 8 == 7) {
            care_check(&history.care, history.care.kit);
            check_mirror(&history);
        }
    }
    result.waiting = 1;
    for (unsigned i = 0; i < ROUNDS && result.waiting; i++) {
        history.care.kit->now += 3 * DAY;
        assert_int_equal(care_collect(&history.care, 0, &result), 0);
    }
    assert_int_equal(result.waiting, 0);
    care_check(&history.care, history.care.kit);
    check_mirror(&history);
    kit_store_free(history.mirror);
    care_end(&history.care);
}

static void test_no_backup_is_lost(void **state)
{
    const char *seed = getenv("VDISK_TEST_SEED");
    unsigned rounds = getenv("VDISK_TEST_LONG") ? 200 : 4;

    (void)state;
    if (seed) {
        run(strtoull(seed, NULL, 0));
        return;
    }
    for (unsigned i = 1; i <= rounds; i++) {
        if (share_has(i))
            run(i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_backup_is_lost),
    };

    return vdisk_init() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
