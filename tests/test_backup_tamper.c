/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A repository that somebody changed: bytes, objects swapped, deleted, put in the place of others.
 * A restore never gives out wrong bytes, verify finds each change, and what it says restores does.
 *
 * VDISK_TEST_LONG=1 changes each byte; else some of them.
 */
#include "backup_kit.h"
#include "share.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define MIB     (UINT64_C(1) << 20)
#define BACKUPS 3u

struct scene {
    struct kit_store *kit;
    struct kit_drive *state[BACKUPS];
    struct vb_id name[BACKUPS];
};

static struct scene scene;

static int set_up(void **state)
{
    struct vb_create_result result;
    struct vdisk_error error;
    struct kit_drive *drive;
    struct vb_repo *repo;
    struct sim_rng rng;
    uint8_t text[9000];

    (void)state;
    sim_rng_seed(&rng, 5);
    scene.kit = kit_repo_make(5);
    drive = kit_drive_new(3 * MIB, &rng);
    repo = kit_repo_open(scene.kit, &kit_put_key);
    for (unsigned i = 0; i < BACKUPS; i++) {
        memset(text, 'a' + (int)i, sizeof(text));
        sim_rng_fill(&rng, text, 100);
        kit_drive_write(drive, i * 5000, text, sizeof(text));
        kit_drive_write(drive, i * MIB + 77, text, 300);
        assert_int_equal(kit_backup(repo, drive, false, &result, &error), 0);
        scene.name[i] = result.name;
        scene.state[i] = kit_drive_copy(drive);
    }
    vb_repo_close(repo);
    kit_drive_free(drive);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (unsigned i = 0; i < BACKUPS; i++)
        kit_drive_free(scene.state[i]);
    kit_store_free(scene.kit);
    return 0;
}

/* `expected`: damage is to be found. */
static void check(struct kit_store *kit, bool expected)
{
    struct vdisk_error error = {0};
    struct kit_verdict verdict;
    unsigned restored = 0;
    struct vb_repo *repo;
    int result = vb_repo_open(kit_store_handle(kit), &kit_read_key, &repo, &error);

    if (result) { /* config, or keyslot */
        assert_true(expected && error.text[0]);
        return;
    }
    for (unsigned i = 0; i < BACKUPS; i++) {
        result = kit_restore(repo, &scene.name[i], scene.state[i], &error);
        restored += result == 0;
        if (result && result != VDISK_E_NOT_FOUND)
            assert_true(error.text[0]);
    }
    result = kit_verify(repo, true, &verdict);
    assert_int_equal(result, expected ? VDISK_E_DAMAGED : 0);
    if (verdict.good != restored)
        print_message("%s\n", verdict.first);
    assert_int_equal(verdict.good, restored);
    vb_repo_close(repo);
}

static void test_it_is_sound(void **state)
{
    (void)state;
    check(scene.kit, false);
}

static void test_each_byte(void **state)
{
    uint64_t step = getenv("VDISK_TEST_LONG") ? 1 : 409, number = 0;

    (void)state;
    for (size_t i = 0; i < scene.kit->count; i++) {
        struct kit_object *object = &scene.kit->object[i];

        if (object->is_gone)
            continue;
        for (size_t at = 0; at < object->length; at++) {
            /* The first bytes always, the others by chance. */
            if (++number % step && at > 0)
                continue;
            if (!share_has(number))
                continue;
            object->bytes[at] ^= (uint8_t)(1u << (number % 8));
            check(scene.kit, true);
            object->bytes[at] ^= (uint8_t)(1u << (number % 8));
        }
    }
    check(scene.kit, false);
}

static void test_each_object_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < scene.kit->count; i++) {
        struct kit_object *object = &scene.kit->object[i];

        if (object->is_gone)
            continue;
        object->length -= 16;
        check(scene.kit, true);
        object->length += 16;
    }
}

/* Keyslots, and the newest backup, may go without a trace in the repository: the first are found
 * missing by who has the key, the second by who has seen it (test_backup_pins). */
static bool leaves_no_trace(struct kit_store *kit, const struct kit_object *object)
{
    struct kit_verdict verdict;
    struct vb_repo *repo;
    bool is_newest;

    if (object->place == VB_KEYS)
        return true;
    if (object->place == VB_WRITERS) { /* of a key that has signed nothing */
        repo = kit_repo_open(kit, &kit_read_key);
        kit_verify(repo, false, &verdict);
        vb_repo_close(repo);
        return verdict.findings == 0;
    }
    is_newest = object->place == VB_BACKUPS && vb_id_equal(&object->name, &scene.name[BACKUPS - 1]);
    return is_newest;
}

static void test_each_object_deleted(void **state)
{
    (void)state;
    for (size_t i = 0; i < scene.kit->count; i++) {
        struct kit_object *object = &scene.kit->object[i];

        if (object->is_gone)
            continue;
        object->is_gone = true;
        if (object->place != VB_KEYS)
            check(scene.kit, !leaves_no_trace(scene.kit, object));
        object->is_gone = false;
    }
}

static void test_objects_swapped(void **state)
{
    (void)state;
    for (size_t i = 0; i < scene.kit->count; i++) {
        for (size_t k = i + 1; k < scene.kit->count; k++) {
            struct kit_object *a = &scene.kit->object[i], *b = &scene.kit->object[k];
            struct vb_id name = a->name;

            if (a->is_gone || b->is_gone || a->place != b->place || a->place == VB_CONFIG)
                continue;
            a->name = b->name;
            b->name = name;
            check(scene.kit, true);
            b->name = a->name;
            a->name = name;
        }
    }
}

/* Under its right name, an object of another repository. */
static void test_objects_of_another_repository(void **state)
{
    struct kit_store *other = kit_repo_make(6);
    struct vb_repo *repo = kit_repo_open(other, &kit_put_key);
    struct vb_create_result result;
    struct vdisk_error error;
    struct vb_store *store;

    (void)state;
    assert_int_equal(kit_backup(repo, scene.state[0], true, &result, &error), 0);
    vb_repo_close(repo);
    for (size_t i = 0; i < other->count; i++) {
        const struct kit_object *object = &other->object[i];
        struct kit_store *kit = kit_store_copy(scene.kit);

        if (!object->is_gone && object->place != VB_CONFIG && object->place != VB_PACKS) {
            store = kit_store_handle(kit);
            assert_int_equal(
                store->ops->put(store, object->place, &object->name, object->bytes, object->length),
                0);
            assert_int_equal(store->ops->sync(store), 0);
            store->ops->close(store);
            check(kit, true);
        }
        kit_store_free(kit);
    }
    kit_store_free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_is_sound),
        cmocka_unit_test(test_each_byte),
        cmocka_unit_test(test_each_object_cut),
        cmocka_unit_test(test_each_object_deleted),
        cmocka_unit_test(test_objects_swapped),
        cmocka_unit_test(test_objects_of_another_repository),
    };

    return vdisk_init() ? 1 : cmocka_run_group_tests(tests, set_up, tear_down);
}
