/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A backup that dies at each of its steps, or whose store has no more room: no backup that was
 * complete is lost, none that is not is listed, and the next one succeeds.
 */
#include "backup_kit.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>

#define MIB (UINT64_C(1) << 20)

struct scene {
    struct kit_store *kit; /* with a backup of `before` */
    struct kit_drive *drive, *before;
    struct vb_id first;
};

static void begin(struct scene *scene)
{
    struct vb_create_result result;
    struct vdisk_error error;
    struct vb_repo *repo;
    struct sim_rng rng;

    sim_rng_seed(&rng, 7);
    scene->kit = kit_repo_make(7);
    scene->drive = kit_drive_new(4 * MIB, &rng);
    kit_drive_scribble(scene->drive, &rng, 10);
    repo = kit_repo_open(scene->kit, &kit_put_key);
    assert_int_equal(kit_backup(repo, scene->drive, false, &result, &error), 0);
    scene->first = result.name;
    vb_repo_close(repo);
    scene->before = kit_drive_copy(scene->drive);
    kit_drive_scribble(scene->drive, &rng, 3);
}

static void end(struct scene *scene)
{
    kit_drive_free(scene->drive);
    kit_drive_free(scene->before);
    kit_store_free(scene->kit);
}

/* Each backup that is listed restores: the first to what was then, the others to what is now. */
static void check(struct kit_store *kit, const struct scene *scene, size_t at_least)
{
    struct vb_repo *repo = kit_repo_open(kit, &kit_read_key);
    struct kit_verdict verdict;
    struct vdisk_error error = {0};
    struct vb_backups backups;
    bool has_first = false;

    assert_int_equal(vb_backups_load(repo, &backups, &error), 0);
    assert_true(backups.count >= at_least);
    assert_int_equal(backups.bad_count, 0);
    for (size_t i = 0; i < backups.count; i++) {
        const struct vb_id *name = &backups.backup[i].name;
        bool is_first = vb_id_equal(name, &scene->first);

        has_first |= is_first;
        assert_int_equal(kit_restore(repo, name, is_first ? scene->before : scene->drive, &error),
                         0);
    }
    assert_true(has_first);
    vb_backups_release(&backups);
    assert_int_equal(kit_verify(repo, true, &verdict), 0);
    vb_repo_close(repo);
}

/* False when the backup needed fewer steps than that. */
static bool die_at(const struct scene *scene, uint64_t step, bool once, int with, bool whole)
{
    struct kit_store *kit = kit_store_copy(scene->kit);
    struct kit_drive *drive = kit_drive_copy(scene->drive);
    struct vb_repo *repo = kit_repo_open(kit, &kit_put_key);
    struct vb_create_result result;
    struct vdisk_error error;
    bool died;

    drive->base = scene->drive->base;
    for (size_t i = 0; i < drive->chunks * VB_CHUNK_BLOCKS; i++)
        drive->dirty[i] = scene->drive->dirty[i];
    sim_rng_seed(&kit->rng, step);
    kit->fail_at = kit->operations + step;
    kit->fail_once = once;
    kit->fail_with = with;
    died = kit_backup(repo, drive, whole, &result, &error) != 0;
    if (died)
        assert_true(error.code != 0 && error.text[0]);
    vb_repo_close(repo);
    died = died || kit->operations >= kit->fail_at;
    kit_store_crash(kit);
    check(kit, scene, 1);
    repo = kit_repo_open(kit, &kit_put_key);
    assert_int_equal(kit_backup(repo, drive, whole, &result, &error), 0);
    vb_repo_close(repo);
    check(kit, scene, 2);
    kit_drive_free(drive);
    kit_store_free(kit);
    return died;
}

static void each_step(bool once, int with, bool whole)
{
    struct scene scene;
    uint64_t step = 1;

    begin(&scene);
    while (die_at(&scene, step, once, with, whole))
        step++;
    assert_true(step > 6); /* it was more than one */
    end(&scene);
}

static void test_dies_at_each_step_of_an_increment(void **state)
{
    (void)state;
    each_step(false, -EIO, false);
}

static void test_dies_at_each_step_of_a_whole_backup(void **state)
{
    (void)state;
    each_step(false, -EIO, true);
}

static void test_no_room_at_each_step(void **state)
{
    (void)state;
    each_step(true, -ENOSPC, false);
}

static void test_drive_that_cannot_be_read(void **state)
{
    struct vb_create_result result;
    struct vdisk_error error;
    struct scene scene;
    struct vb_repo *repo;

    (void)state;
    begin(&scene);
    repo = kit_repo_open(scene.kit, &kit_put_key);
    scene.drive->fails = true;
    assert_int_equal(kit_backup(repo, scene.drive, true, &result, &error), -EIO);
    assert_true(error.text[0]);
    vb_repo_close(repo);
    check(scene.kit, &scene, 1);
    assert_int_equal(kit_store_count(scene.kit, VB_LEASES), 0);
    end(&scene);
}

/* What was stored until then is not stored again. */
static void test_interrupted_backup_resumes(void **state)
{
    struct vb_create_result result;
    struct vdisk_error error;
    struct kit_store *kit = kit_repo_make(1);
    struct vb_repo *repo = kit_repo_open(kit, &kit_put_key);
    struct kit_drive *drive;
    struct sim_rng rng;
    uint8_t *data = malloc(MIB);

    (void)state;
    assert_non_null(data);
    sim_rng_seed(&rng, 3);
    drive = kit_drive_new(8 * MIB, &rng);
    for (unsigned i = 0; i < 8; i++) {
        sim_rng_fill(&rng, data, MIB);
        kit_drive_write(drive, i * MIB, data, MIB);
    }
    /* Packs and index are there, and the manifest is not: lease, two packs, two index objects,
     * sync. */
    kit->fail_at = kit->operations + 7;
    assert_int_equal(kit_backup(repo, drive, true, &result, &error), -EIO);
    kit_store_crash(kit);
    assert_int_equal(kit_backup(repo, drive, true, &result, &error), 0);
    assert_int_equal(result.chunks_stored, 0);
    assert_int_equal(result.chunks_known, 8);
    vb_repo_close(repo);
    free(data);
    kit_drive_free(drive);
    kit_store_free(kit);
}

/* A pack that was thrown away while a backup took records from it is brought back. */
static void test_pack_from_the_trash(void **state)
{
    struct vb_create_result result;
    struct vdisk_error error;
    struct scene scene;
    struct vb_repo *repo;

    (void)state;
    begin(&scene);
    repo = kit_repo_open(scene.kit, &kit_put_key);
    /* As a collection would that does not know of the second backup: its base was pruned. */
    for (size_t i = 0; i < scene.kit->count; i++) {
        struct kit_object *object = &scene.kit->object[i];

        if (object->place == VB_BACKUPS)
            object->is_gone = true;
    }
    kit_store_find(scene.kit, VB_PACKS, 0)->in_trash = true;
    assert_int_equal(kit_backup(repo, scene.drive, false, &result, &error), 0);
    assert_int_equal(kit_store_count(scene.kit, VB_PACKS), 4);
    vb_repo_close(repo);
    repo = kit_repo_open(scene.kit, &kit_read_key);
    assert_int_equal(kit_restore(repo, &result.name, scene.drive, &error), 0);
    vb_repo_close(repo);
    end(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dies_at_each_step_of_an_increment),
        cmocka_unit_test(test_dies_at_each_step_of_a_whole_backup),
        cmocka_unit_test(test_no_room_at_each_step),
        cmocka_unit_test(test_drive_that_cannot_be_read),
        cmocka_unit_test(test_interrupted_backup_resumes),
        cmocka_unit_test(test_pack_from_the_trash),
    };

    return vdisk_init() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
