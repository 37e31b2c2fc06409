/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A repository that somebody changed: bytes, objects swapped, deleted, put in the place of others,
 * in part or as a whole an older state. A restore never gives out wrong bytes, verify finds each
 * change and names the object, and what it says restores does, and nothing else.
 *
 * VDISK_TEST_LONG=1 changes each byte; else some of them.
 */
#include "backup_kit.h"
#include "share.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB     (UINT64_C(1) << 20)
#define BACKUPS 3u

struct scene {
    struct kit_store *kit;
    struct kit_store *older[BACKUPS]; /* as it was after each backup */
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
        scene.older[i] = kit_store_copy(scene.kit);
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
    for (unsigned i = 0; i < BACKUPS; i++)
        kit_store_free(scene.older[i]);
    kit_store_free(scene.kit);
    return 0;
}

static bool is_said_to_restore(const struct kit_verdict *verdict, const struct vb_id *name)
{
    for (unsigned i = 0; i < verdict->good; i++) {
        if (vb_id_equal(&verdict->good_name[i], name))
            return true;
    }
    return false;
}

/* `expected`: damage is to be found. */
static void check_verdict(struct kit_store *kit, bool expected, struct kit_verdict *verdict)
{
    struct vdisk_error error = {0};
    bool restored[BACKUPS];
    struct vb_repo *repo;
    int result = vb_repo_open(kit_store_handle(kit), &kit_read_key, &repo, &error);

    if (result) { /* config, or keyslot */
        assert_true(expected && error.text[0]);
        snprintf(verdict->all, sizeof(verdict->all), "config keys/");
        return;
    }
    for (unsigned i = 0; i < BACKUPS; i++) {
        result = kit_restore(repo, &scene.name[i], scene.state[i], &error);
        restored[i] = result == 0;
        if (result && result != VDISK_E_NOT_FOUND)
            assert_true(error.text[0]);
    }
    result = kit_verify(repo, true, verdict);
    assert_int_equal(result, expected ? VDISK_E_DAMAGED : 0);
    for (unsigned i = 0; i < BACKUPS; i++) {
        if (is_said_to_restore(verdict, &scene.name[i]) != restored[i])
            print_message("backup %u: %s\n", i, verdict->first);
        assert_int_equal(is_said_to_restore(verdict, &scene.name[i]), restored[i]);
    }
    vb_repo_close(repo);
}

static void check(struct kit_store *kit, bool expected)
{
    struct kit_verdict verdict;

    check_verdict(kit, expected, &verdict);
}

/* Of keyslots and writers the place alone is named: theirs are not known by those that are gone. */
static void check_damaged(struct kit_store *kit, const struct kit_object *object)
{
    char name[VB_NAME_TEXT_BYTES];
    struct kit_verdict verdict;
    bool by_place =
        object->place == VB_CONFIG || object->place == VB_KEYS || object->place == VB_WRITERS;
    const char *wanted = by_place ? vb_place_name(object->place) : vb_id_text(name, &object->name);

    check_verdict(kit, true, &verdict);
    if (!strstr(verdict.all, wanted))
        print_message("%s/%s is not named in: %s\n", vb_place_name(object->place), wanted,
                      verdict.all);
    assert_non_null(strstr(verdict.all, wanted));
}

static void test_it_is_sound(void **state)
{
    (void)state;
    check(scene.kit, false);
}

static void test_each_byte(void **state)
{
    uint64_t step = getenv("VDISK_TEST_LONG") ? 1 : 409, number = 0, changed = 0;

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
            check_damaged(scene.kit, object);
            object->bytes[at] ^= (uint8_t)(1u << (number % 8));
            changed++;
        }
    }
    print_message("%llu of %llu bytes\n", (unsigned long long)changed, (unsigned long long)number);
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
        check_damaged(scene.kit, object);
        object->length += 16;
    }
}

/* Keyslots, and the newest backup, may go without a trace in the repository: the first are found
 * missing by who has the key, the second by who has seen it (test_backup_store). */
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

static bool has(struct kit_store *kit, const struct kit_object *object)
{
    for (size_t i = 0; i < kit->count; i++) {
        if (kit->object[i].place == object->place &&
            vb_id_equal(&kit->object[i].name, &object->name) && !kit->object[i].is_gone)
            return true;
    }
    return false;
}

/* A place, or all of them, as it was after an older backup. Who gives an older state of all gives
 * one that is sound, and older: only who has seen the newer one notices (test_backup_store). */
static void test_rolled_back(void **state)
{
    (void)state;
    for (unsigned i = 0; i + 1 < BACKUPS; i++) {
        check(scene.older[i], false);
        for (enum vb_place place = VB_PACKS; place <= VB_INDEX_TREE; place++) {
            struct kit_store *kit = kit_store_copy(scene.kit);
            unsigned gone = 0;

            for (size_t k = 0; k < kit->count; k++) {
                struct kit_object *object = &kit->object[k];

                if (object->place != place || object->is_gone || has(scene.older[i], object))
                    continue;
                object->is_gone = true;
                gone++;
            }
            assert_true(gone > 0);
            check(kit, true);
            kit_store_free(kit);
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
        cmocka_unit_test(test_rolled_back),
        cmocka_unit_test(test_objects_of_another_repository),
    };

    return vdisk_init() ? 1 : cmocka_run_group_tests(tests, set_up, tear_down);
}
