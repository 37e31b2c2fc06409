/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random histories of a drive, and of its backups by several hosts, in a repository in memory:
 * every backup restores byte for byte, and an increment costs what has changed.
 *
 * VDISK_TEST_SEED=n runs this one seed; VDISK_TEST_LONG=1 runs 200.
 */
#include "backup_kit.h"
#include "share.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define BACKUPS_MAX 6u
#define MIB         (UINT64_C(1) << 20)

struct history {
    struct sim_rng rng;
    struct kit_store *kit;
    struct kit_drive *drive;
    struct kit_drive *state[BACKUPS_MAX];
    struct vb_id name[BACKUPS_MAX];
    unsigned count;
};

static void check_all(struct history *history)
{
    struct vb_repo *repo = kit_repo_open(history->kit, &kit_read_key);
    struct vdisk_error error;
    struct kit_verdict verdict;

    for (unsigned i = 0; i < history->count; i++) {
        int result = kit_restore(repo, &history->name[i], history->state[i], &error);

        if (result)
            print_message("backup %u: %s\n", i, error.text);
        assert_int_equal(result, 0);
    }
    assert_int_equal(kit_verify(repo, true, &verdict), 0);
    assert_int_equal(verdict.findings, 0);
    assert_int_equal(verdict.good, history->count);
    vb_repo_close(repo);
}

static void back_up(struct history *history)
{
    static const struct vdisk_key *const keys[] = {&kit_put_key, &kit_put_key, &kit_other_put_key,
                                                   &kit_read_key};
    struct vb_repo *repo = kit_repo_open(history->kit, keys[sim_rng_below(&history->rng, 4)]);
    struct vb_create_result result;
    struct vdisk_error error;
    int outcome =
        kit_backup(repo, history->drive, sim_rng_chance(&history->rng, 1, 5), &result, &error);

    if (outcome)
        print_message("%s\n", error.text);
    assert_int_equal(outcome, 0);
    history->name[history->count] = result.name;
    history->state[history->count++] = kit_drive_copy(history->drive);
    vb_repo_close(repo);
}

static void run(uint64_t seed)
{
    static const uint64_t sizes[] = {4096 + 512, 3 * MIB,   9 * MIB + 512,
                                     128 * MIB,  129 * MIB, 300 * MIB + 5000};
    struct history history = {.kit = kit_repo_make(seed)};

    print_message("seed %llu\n", (unsigned long long)seed);
    sim_rng_seed(&history.rng, seed);
    history.drive = kit_drive_new(sizes[sim_rng_below(&history.rng, 6)], &history.rng);
    while (history.count < BACKUPS_MAX) {
        kit_drive_scribble(history.drive, &history.rng, (unsigned)sim_rng_below(&history.rng, 12));
        if (sim_rng_chance(&history.rng, 1, 6))
            kit_drive_resize(history.drive,
                             history.drive->drive.size + sim_rng_below(&history.rng, 200 * MIB));
        back_up(&history);
    }
    check_all(&history);
    for (unsigned i = 0; i < history.count; i++)
        kit_drive_free(history.state[i]);
    kit_drive_free(history.drive);
    kit_store_free(history.kit);
}

static void test_every_backup_restores(void **state)
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

static void noise(struct kit_drive *drive, struct sim_rng *rng, uint64_t offset, size_t length)
{
    uint8_t *data = malloc(length);

    assert_non_null(data);
    sim_rng_fill(rng, data, length);
    kit_drive_write(drive, offset, data, length);
    free(data);
}

static void test_increment_costs_what_changed(void **state)
{
    struct kit_store *kit = kit_repo_make(1);
    struct vb_repo *repo = kit_repo_open(kit, &kit_put_key);
    struct vb_create_result result;
    struct vdisk_error error;
    struct kit_drive *drive;
    struct sim_rng rng;
    uint64_t before;

    (void)state;
    sim_rng_seed(&rng, 1);
    drive = kit_drive_new(1000 * MIB, &rng);
    for (unsigned i = 0; i < 24; i++)
        noise(drive, &rng, (uint64_t)i * 40 * MIB, MIB);
    assert_int_equal(kit_backup(repo, drive, false, &result, &error), 0);
    assert_int_equal(result.chunks_stored, 24);
    for (unsigned i = 0; i < 20; i++)
        noise(drive, &rng, (uint64_t)i * 40 * MIB + (uint64_t)i * 4096, 4096);
    before = kit->get_bytes;
    assert_int_equal(kit_backup(repo, drive, false, &result, &error), 0);
    /* Read: the blocks. Stored: the blocks, and the leaves that they are in. */
    assert_int_equal(drive->read_bytes, 20 * 4096);
    assert_int_equal(result.bytes_read, 20 * 4096);
    assert_int_equal(result.patches, 20);
    assert_true(result.bytes_stored < 20 * 4096 + 40000);
    assert_true(kit->get_bytes - before < 40000);
    /* Nothing has changed: nothing is read, and no pack comes. */
    assert_int_equal(kit_backup(repo, drive, false, &result, &error), 0);
    assert_int_equal(result.bytes_read, 0);
    assert_int_equal(result.bytes_stored, 0);
    /* The same blocks again, and others: the patch is made anew and holds all of them. */
    noise(drive, &rng, 0, 4096);
    noise(drive, &rng, 8192, 4096);
    assert_int_equal(kit_backup(repo, drive, false, &result, &error), 0);
    assert_int_equal(result.bytes_read, 2 * 4096);
    assert_int_equal(kit_restore(repo, &result.name, drive, &error), VDISK_E_WRONG_KEY);
    vb_repo_close(repo);
    repo = kit_repo_open(kit, &kit_read_key);
    assert_int_equal(kit_restore(repo, &result.name, drive, &error), 0);
    vb_repo_close(repo);
    kit_drive_free(drive);
    kit_store_free(kit);
}

static void test_same_content_is_stored_once(void **state)
{
    struct kit_store *kit = kit_repo_make(1);
    struct vb_repo *repo = kit_repo_open(kit, &kit_put_key);
    struct vb_create_result result;
    struct vdisk_error error;
    struct kit_drive *drive;
    struct sim_rng rng;
    uint8_t *data = malloc(MIB);

    (void)state;
    assert_non_null(data);
    sim_rng_seed(&rng, 2);
    sim_rng_fill(&rng, data, MIB);
    drive = kit_drive_new(40 * MIB, &rng);
    for (unsigned i = 0; i < 10; i++)
        kit_drive_write(drive, i * 3 * MIB, data, MIB);
    assert_int_equal(kit_backup(repo, drive, false, &result, &error), 0);
    assert_int_equal(result.chunks_stored, 1);
    assert_int_equal(result.chunks_known, 9);
    assert_true(result.bytes_stored < 3 * MIB / 2);
    /* A whole look at the drive stores nothing again. */
    assert_int_equal(kit_backup(repo, drive, true, &result, &error), 0);
    assert_int_equal(result.bytes_stored, 0);
    vb_repo_close(repo);
    free(data);
    kit_drive_free(drive);
    kit_store_free(kit);
}

/* Only the blocks are read, hashed and stored, also in a drive that is looked at as a whole. */
static void test_some_blocks_where_all_was_zeros(void **state)
{
    struct kit_store *kit = kit_repo_make(1);
    struct vb_repo *repo = kit_repo_open(kit, &kit_read_key);
    struct vb_create_result result;
    static const uint8_t zeros[4096];
    struct kit_verdict verdict;
    struct vdisk_error error;
    struct kit_drive *drive;
    struct sim_rng rng;

    (void)state;
    sim_rng_seed(&rng, 4);
    drive = kit_drive_new(40 * MIB, &rng);
    noise(drive, &rng, 0, MIB);
    assert_int_equal(kit_backup(repo, drive, false, &result, &error), 0);
    for (unsigned i = 1; i <= 4; i++)
        noise(drive, &rng, 5 * i * MIB + (uint64_t)i * 4096, 4096);
    kit_drive_write(drive, 5 * MIB + 65536, zeros, sizeof(zeros));
    noise(drive, &rng, 5 * MIB + 131072, 4096);
    kit_drive_write(drive, 30 * MIB, NULL, 8192);
    drive->blind = true;
    assert_int_equal(kit_backup(repo, drive, false, &result, &error), 0);
    drive->blind = false;
    assert_int_equal(result.chunks_stored, 0);
    assert_int_equal(result.patches, 4);
    assert_true(result.bytes_stored < 5 * 4096 + 3000);
    assert_int_equal(kit_restore(repo, &result.name, drive, &error), 0);
    assert_int_equal(kit_verify(repo, true, &verdict), 0);
    /* Again, and all of it: nothing is stored twice, neither the patches nor their base. */
    assert_int_equal(kit_backup(repo, drive, true, &result, &error), 0);
    assert_int_equal(result.bytes_stored, 0);
    /* They go on as any patch: more blocks, until a whole chunk is better; fewer. */
    for (unsigned block = 0; block < 70; block += 10) {
        noise(drive, &rng, 5 * MIB + (uint64_t)block * 4096, 10 * (size_t)4096);
        assert_int_equal(kit_backup(repo, drive, false, &result, &error), 0);
        assert_int_equal(result.patches, block < 60);
        assert_int_equal(result.chunks_stored, block >= 60);
        assert_int_equal(kit_restore(repo, &result.name, drive, &error), 0);
    }
    kit_drive_write(drive, 10 * MIB, NULL, MIB);
    assert_int_equal(kit_backup(repo, drive, false, &result, &error), 0);
    assert_int_equal(kit_restore(repo, &result.name, drive, &error), 0);
    vb_repo_close(repo);
    kit_drive_free(drive);
    kit_store_free(kit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_backup_restores),
        cmocka_unit_test(test_increment_costs_what_changed),
        cmocka_unit_test(test_same_content_is_stored_once),
        cmocka_unit_test(test_some_blocks_where_all_was_zeros),
    };

    return vdisk_init() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
