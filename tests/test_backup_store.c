/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A repository's directory: an object appears whole and only by a sync; what a killed process left
 * does not count. And what a host remembers of repositories.
 */
#include "backup_kit.h"
#include "pins.h"
#include "prune.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[200], repository[300];

static int set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");

    (void)state;
    snprintf(directory, sizeof(directory), "%s/vdisk-store-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(directory))
        return -1;
    snprintf(repository, sizeof(repository), "%s/repository", directory);
    return 0;
}

static int tear_down(void **state)
{
    char command[300];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}

static bool count_one(void *opaque, const struct vb_id *name, uint64_t bytes)
{
    (void)name, (void)bytes;
    ++*(unsigned *)opaque;
    return true;
}

static unsigned count(struct vb_store *store, enum vb_place place, bool trash)
{
    unsigned found = 0;

    assert_int_equal(store->ops->list(store, place, trash, count_one, &found), 0);
    return found;
}

static struct vb_store *open_store(bool make)
{
    struct vdisk_error error = {0};
    struct vb_store *store;

    assert_int_equal(vb_store_dir_open(repository, make, &store, &error), 0);
    return store;
}

static void put(struct vb_store *store, enum vb_place place, const char *text, struct vb_id *name)
{
    vb_object_name(text, strlen(text), name);
    assert_int_equal(store->ops->put(store, place, name, text, strlen(text)), 0);
}

static void test_objects_come_with_a_sync(void **state)
{
    struct vb_store *store = open_store(true);
    struct vb_id pack, key, config, other;
    char back[8] = "";
    uint64_t bytes;
    int64_t when;

    (void)state;
    put(store, VB_PACKS, "a pack", &pack);
    put(store, VB_KEYS, "a key", &key);
    put(store, VB_CONFIG, "config", &config);
    assert_int_equal(count(store, VB_PACKS, false), 0);
    assert_int_equal(store->ops->length(store, VB_PACKS, &pack, &bytes), -ENOENT);
    assert_int_equal(store->ops->sync(store), 0);
    assert_int_equal(count(store, VB_PACKS, false), 1);
    assert_int_equal(count(store, VB_KEYS, false), 1);
    assert_int_equal(store->ops->length(store, VB_PACKS, &pack, &bytes), 0);
    assert_int_equal(bytes, 6);
    assert_int_equal(store->ops->get(store, VB_PACKS, &pack, 2, back, 4), 0);
    assert_string_equal(back, "pack");
    assert_int_equal(store->ops->get(store, VB_PACKS, &pack, 3, back, 4), -ENODATA);
    assert_int_equal(store->ops->when(store, VB_PACKS, &pack, false, &when), 0);
    assert_true(when > 1600000000);
    /* Again: it stays as it is. */
    put(store, VB_PACKS, "a pack", &other);
    assert_int_equal(store->ops->sync(store), 0);
    assert_int_equal(count(store, VB_PACKS, false), 1);
    /* To the trash, back, and away. */
    assert_int_equal(store->ops->trash(store, VB_PACKS, &pack), 0);
    assert_int_equal(count(store, VB_PACKS, false), 0);
    assert_int_equal(count(store, VB_PACKS, true), 1);
    assert_int_equal(count(store, VB_KEYS, true), 0);
    assert_int_equal(store->ops->untrash(store, VB_PACKS, &pack), 0);
    assert_int_equal(store->ops->untrash(store, VB_PACKS, &pack), -ENOENT);
    assert_int_equal(count(store, VB_PACKS, false), 1);
    assert_int_equal(store->ops->remove(store, VB_PACKS, &pack, false), 0);
    assert_int_equal(store->ops->remove(store, VB_PACKS, &pack, false), -ENOENT);
    store->ops->close(store);
}

/* Large ones go to the disk beside the page cache, but for their end. */
static void test_large_objects_are_whole(void **state)
{
    static const size_t length[] = {1 << 20, (1 << 20) - 1, (1 << 20) + 1, (3 << 20) + 4095};
    struct vb_store *store = open_store(true);
    uint8_t *data = aligned_alloc(4096, 4 << 20), *back = malloc(4 << 20);

    (void)state;
    assert_non_null(data);
    assert_non_null(back);
    for (size_t i = 0; i < 4 << 20; i++)
        data[i] = (uint8_t)(i / 4096 * 31 + i);
    for (unsigned i = 0; i < 8; i++) {
        const uint8_t *from = data + (i % 2 ? 5 : 0);
        size_t bytes = length[i / 2];
        struct vb_id name;
        uint64_t found;

        vb_object_name(from, bytes, &name);
        assert_int_equal(store->ops->put(store, VB_PACKS, &name, from, bytes), 0);
        assert_int_equal(store->ops->sync(store), 0);
        assert_int_equal(store->ops->length(store, VB_PACKS, &name, &found), 0);
        assert_int_equal(found, bytes);
        assert_int_equal(store->ops->get(store, VB_PACKS, &name, 0, back, bytes), 0);
        assert_memory_equal(back, from, bytes);
    }
    store->ops->close(store);
    free(data);
    free(back);
}

static void test_what_was_not_synced_leaves_nothing(void **state)
{
    struct vb_store *store = open_store(true);
    struct vb_id name;
    char command[800];

    (void)state;
    put(store, VB_CONFIG, "config", &name);
    assert_int_equal(store->ops->sync(store), 0);
    put(store, VB_BACKUPS, "a manifest", &name);
    store->ops->close(store);
    snprintf(command, sizeof(command), "test -z \"$(ls '%s/tmp')\"", repository);
    assert_int_equal(system(command), 0);
    /* And what a killed process left, or somebody put there, does not count. */
    snprintf(command, sizeof(command),
             "cd '%s' && echo x >tmp/%064d && echo x >backups/note.txt && mkdir backups/%064d && "
             "ln -s /etc/passwd backups/%064d",
             repository, 1, 2, 3);
    assert_int_equal(system(command), 0);
    store = open_store(false);
    assert_int_equal(count(store, VB_BACKUPS, false), 0);
    store->ops->close(store);
}

static void test_many_objects_at_once(void **state)
{
    struct vb_store *store = open_store(true);
    struct vb_id name;
    char text[32];

    (void)state;
    put(store, VB_CONFIG, "config", &name);
    for (unsigned i = 0; i < 200; i++) {
        snprintf(text, sizeof(text), "pack %u", i);
        put(store, VB_PACKS, text, &name);
    }
    assert_int_equal(store->ops->sync(store), 0);
    assert_int_equal(count(store, VB_PACKS, false), 200);
    store->ops->close(store);
}

static void test_where_one_can_be_made(void **state)
{
    struct vdisk_error error = {0};
    struct vb_store *store;
    struct vb_id name;

    (void)state;
    assert_int_equal(vb_store_dir_open(repository, false, &store, &error), -ENOENT);
    store = open_store(true);
    store->ops->close(store);
    /* Without a config it is none. */
    assert_int_equal(vb_store_dir_open(repository, false, &store, &error), -ENOENT);
    assert_int_equal(vb_store_dir_open(repository, true, &store, &error), VDISK_E_EXISTS);
    vb_store_dir_discard(repository);
    store = open_store(true);
    put(store, VB_CONFIG, "config", &name);
    assert_int_equal(store->ops->sync(store), 0);
    store->ops->close(store);
    store = open_store(false);
    store->ops->close(store);
}

/* --- pins --------------------------------------------------------------------------------- */

static int look(struct kit_store *kit, bool accept)
{
    struct vb_repo *repo = kit_repo_open(kit, &kit_read_key);
    struct vdisk_error error = {0};
    struct vb_backups backups;
    struct vb_pins pins;
    int result;

    assert_int_equal(vb_backups_load(repo, &backups, &error), 0);
    assert_int_equal(vb_pins_load(directory, "/a/repository", &pins, &error), 0);
    result = vb_pins_check_repo(&pins, repo, &error);
    if (result == 0 && !accept)
        result = vb_pins_check_backups(&pins, &backups, &error);
    if (result == 0)
        assert_int_equal(vb_pins_save(&pins, repo, &backups, &error), 0);
    vb_pins_release(&pins);
    vb_backups_release(&backups);
    vb_repo_close(repo);
    return result;
}

static void test_older_state_is_noticed(void **state)
{
    struct kit_store *kit = kit_repo_make(1), *older, *other = kit_repo_make(2);
    struct vb_repo *repo = kit_repo_open(kit, &kit_put_key);
    struct vb_create_result result;
    struct vdisk_error error;
    struct kit_drive *drive;
    struct sim_rng rng;

    (void)state;
    sim_rng_seed(&rng, 1);
    drive = kit_drive_new(1 << 20, &rng);
    kit_drive_scribble(drive, &rng, 2);
    assert_int_equal(kit_backup(repo, drive, false, &result, &error), 0);
    assert_int_equal(look(kit, false), 0);
    older = kit_store_copy(kit);
    kit_drive_scribble(drive, &rng, 2);
    assert_int_equal(kit_backup(repo, drive, false, &result, &error), 0);
    assert_int_equal(look(kit, false), 0);
    assert_int_equal(look(older, false), VDISK_E_NOT_AUTHENTIC);
    assert_int_equal(look(kit, false), 0);
    assert_int_equal(look(other, false), VDISK_E_NOT_AUTHENTIC);
    assert_int_equal(look(other, true), VDISK_E_NOT_AUTHENTIC);
    assert_int_equal(look(older, true), 0);
    assert_int_equal(look(older, false), 0);
    vb_repo_close(repo);
    kit_drive_free(drive);
    kit_store_free(kit);
    kit_store_free(older);
    kit_store_free(other);
}

static void expect_same(const struct vb_backups *a, const struct vb_backups *b)
{
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        assert_memory_equal(&a->backup[i].name, &b->backup[i].name, sizeof(a->backup[i].name));
        assert_int_equal(a->backup[i].manifest.sequence, b->backup[i].manifest.sequence);
    }
    assert_int_equal(a->pruned_count, b->pruned_count);
    for (size_t i = 0; i < a->pruned_count; i++)
        assert_memory_equal(&a->pruned[i].name, &b->pruned[i].name, sizeof(a->pruned[i].name));
    assert_int_equal(a->bad_count, b->bad_count);
}

/* Of what it has it reads nothing again; what came, went, was pruned or is damaged is seen. */
static void test_a_list_is_brought_up_to_date(void **state)
{
    struct kit_store *kit = kit_repo_make(1);
    struct vb_repo *repo = kit_repo_open(kit, &kit_put_key);
    struct vb_repo *keeper = kit_repo_open(kit, &kit_maintain_key);
    struct vb_backups list = {0}, anew;
    struct vdisk_error error;
    struct kit_drive *drive;
    struct sim_rng rng;

    (void)state;
    sim_rng_seed(&rng, 1);
    drive = kit_drive_new(1 << 20, &rng);
    assert_int_equal(vb_backups_refresh(keeper, &list, &error), 0);
    assert_int_equal(list.count, 0);
    for (unsigned round = 0; round < 12; round++) {
        struct vb_create_result result;
        uint64_t gets;

        kit_drive_scribble(drive, &rng, 2);
        assert_int_equal(kit_backup(repo, drive, false, &result, &error), 0);
        if (round == 5) {
            const char *reason = "a test";
            const struct vb_backup *backup = &list.backup[1];

            assert_int_equal(vb_prune(keeper, &backup, &reason, 1, 2, &error), 0);
        }
        if (round == 8)
            kit_store_find(kit, VB_BACKUPS, 0)->bytes[200] ^= 1;
        gets = kit->gets;
        assert_int_equal(vb_backups_refresh(keeper, &list, &error), 0);
        if (round < 5)
            assert_int_equal(kit->gets - gets, 1);
        assert_int_equal(vb_backups_load(keeper, &anew, &error), 0);
        /* One that was damaged since it was read is still in the list. */
        if (round < 8)
            expect_same(&list, &anew);
        else
            assert_int_equal(list.count + list.pruned_count, round + 1);
        vb_backups_release(&anew);
    }
    assert_int_equal(list.pruned_count, 1);
    kit_store_find(kit, VB_BACKUPS, 2)->is_gone = true;
    assert_int_equal(vb_backups_refresh(keeper, &list, &error), 0);
    assert_int_equal(list.count + list.pruned_count + list.bad_count, 11);
    vb_backups_release(&list);
    kit_drive_free(drive);
    vb_repo_close(repo);
    vb_repo_close(keeper);
    kit_store_free(kit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_objects_come_with_a_sync, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_large_objects_are_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_was_not_synced_leaves_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many_objects_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_where_one_can_be_made, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_older_state_is_noticed, set_up, tear_down),
        cmocka_unit_test(test_a_list_is_brought_up_to_date),
    };

    return vdisk_init() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
