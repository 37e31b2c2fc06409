/* SPDX-License-Identifier: Apache-2.0 */
/* Repositories in order; see backup_care_kit.h. */
#include "backup_care_kit.h"

#include "prune.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

void care_begin(struct care *care, uint64_t seed, uint64_t drive_bytes)
{
    *care = (struct care){.kit = kit_repo_make(seed)};
    sim_rng_seed(&care->rng, seed);
    for (unsigned i = 0; i < CARE_DRIVES; i++)
        care->drive[i] = kit_drive_new(drive_bytes, &care->rng);
}

void care_end(struct care *care)
{
    for (unsigned i = 0; i < CARE_DRIVES; i++)
        kit_drive_free(care->drive[i]);
    for (unsigned i = 0; i < care->count; i++)
        kit_drive_free(care->backup[i].state);
    kit_store_free(care->kit);
}

int care_back_up(struct care *care, unsigned drive, const struct vdisk_key *key, bool whole)
{
    struct vb_repo *repo = kit_repo_open(care->kit, key);
    struct vb_create_result result;
    struct vdisk_error error;
    int outcome = kit_backup(repo, care->drive[drive], whole, &result, &error);

    vb_repo_close(repo);
    if (outcome)
        return outcome;
    assert_true(care->count < CARE_BACKUPS);
    care->backup[care->count++] =
        (struct care_backup){.name = result.name, .state = kit_drive_copy(care->drive[drive])};
    return 0;
}

int care_prune(struct care *care, unsigned which)
{
    struct vb_repo *repo = kit_repo_open(care->kit, &kit_maintain_key);
    const char *reason = "a test";
    const struct vb_backup *backup;
    struct vb_backups backups;
    struct vdisk_error error = {0};
    int result;

    assert_int_equal(vb_backups_load(repo, &backups, &error), 0);
    backup = vb_backups_find(&backups, &care->backup[which].name);
    assert_non_null(backup);
    result = vb_prune(repo, &backup, &reason, 1, 2, &error);
    care->backup[which].is_pruned = result == 0;
    vb_backups_release(&backups);
    vb_repo_close(repo);
    return result;
}

int care_collect(struct care *care, uint64_t grace, struct vb_gc_result *result)
{
    struct vb_repo *repo = kit_repo_open(care->kit, &kit_maintain_key);
    const struct vb_gc_options options = {.repo = repo, .grace = grace};
    struct vdisk_error error = {0};
    int outcome = vb_gc(&options, result, &error);

    if (outcome && !care->kit->fail_at)
        print_message("gc: %s\n", error.text);
    vb_repo_close(repo);
    return outcome;
}

void care_check(struct care *care, struct kit_store *kit)
{
    struct vb_repo *repo = kit_repo_open(kit, &kit_read_key);
    struct vdisk_error error;
    struct kit_verdict verdict;

    for (unsigned i = 0; i < care->count; i++) {
        struct care_backup *backup = &care->backup[i];
        int result = kit_restore(repo, &backup->name, backup->state, &error);

        if (backup->is_pruned)
            continue;
        if (result)
            print_message("backup %u: %s\n", i, error.text);
        assert_int_equal(result, 0);
    }
    if (kit_verify(repo, true, &verdict))
        print_message("verify: %s\n", verdict.first);
    assert_int_equal(verdict.bad, 0);
    assert_int_equal(verdict.findings, 0);
    vb_repo_close(repo);
}

void care_sort(struct care *care, unsigned may_be_pruned)
{
    struct vb_repo *repo = kit_repo_open(care->kit, &kit_read_key);
    struct vb_backups backups;
    struct vdisk_error error = {0};

    assert_int_equal(vb_backups_load(repo, &backups, &error), 0);
    for (unsigned i = 0; i < care->count; i++) {
        struct care_backup *backup = &care->backup[i];

        backup->is_pruned = !vb_backups_find(&backups, &backup->name);
        if (backup->is_pruned)
            assert_true((may_be_pruned >> i & 1) && vb_backups_is_pruned(&backups, &backup->name));
    }
    vb_backups_release(&backups);
    vb_repo_close(repo);
}
