/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a key may and may not: a host that makes backups reads none, and cannot spoil those of
 * others; a revoked one is out; the emergency key lets one in.
 */
#include "backup_kit.h"

#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)

struct scene {
    struct kit_store *kit;
    struct kit_drive *drive;
    struct sim_rng rng;
};

static void begin(struct scene *scene)
{
    sim_rng_seed(&scene->rng, 11);
    scene->kit = kit_repo_make(11);
    scene->drive = kit_drive_new(3 * MIB, &scene->rng);
    kit_drive_scribble(scene->drive, &scene->rng, 6);
}

static void end(struct scene *scene)
{
    kit_drive_free(scene->drive);
    kit_store_free(scene->kit);
}

static bool has_secret(const void *where, size_t length, const uint8_t secret[32])
{
    return memmem(where, length, secret, 32) != NULL;
}

static void test_put_key_has_no_secret_to_read_with(void **state)
{
    struct scene scene;
    struct vb_repo *reader, *writer;
    struct vb_segment_keys keys;
    struct vb_create_result result;
    struct vdisk_error error;

    (void)state;
    begin(&scene);
    reader = kit_repo_open(scene.kit, &kit_read_key);
    writer = kit_repo_open(scene.kit, &kit_put_key);
    assert_false(has_secret(writer->keys, sizeof(*writer->keys), reader->keys->master));
    assert_false(has_secret(writer->keys, sizeof(*writer->keys), reader->keys->data_secret));
    assert_false(has_secret(writer->keys, sizeof(*writer->keys), reader->keys->root_seed));
    vb_repo_segment_keys(writer, &keys);
    assert_null(keys.data_secret);
    /* It is not needed to make backups, and they restore by who has it. */
    assert_int_equal(kit_backup(writer, scene.drive, false, &result, &error), 0);
    assert_int_equal(kit_restore(writer, &result.name, scene.drive, &error), VDISK_E_WRONG_KEY);
    assert_int_equal(kit_restore(reader, &result.name, scene.drive, &error), 0);
    vb_repo_close(writer);
    vb_repo_close(reader);
    end(&scene);
}

/* Also below the role: the records do not open. */
static void test_put_key_opens_no_record(void **state)
{
    struct scene scene;
    struct vb_create_result result;
    struct vdisk_error error;
    struct vb_index *index;
    struct vb_reader *reader;
    struct vb_repo *repo;
    const uint8_t *data;
    size_t length;

    (void)state;
    begin(&scene);
    repo = kit_repo_open(scene.kit, &kit_put_key);
    assert_int_equal(kit_backup(repo, scene.drive, false, &result, &error), 0);
    assert_int_equal(vb_index_load(repo, VB_INDEX_DATA, NULL, NULL, &index), 0);
    assert_int_equal(vb_reader_new(repo, &reader), 0);
    assert_true(vb_index_entries(index) > 0);
    for (size_t i = 0; i < vb_index_entries(index); i++) {
        struct vb_found found;

        vb_index_entry(index, i, &found);
        assert_int_equal(vb_record_read_at(reader, &found, NULL, &data, &length),
                         VDISK_E_WRONG_KEY);
    }
    vb_reader_free(reader);
    vb_index_free(index);
    vb_repo_close(repo);
    end(&scene);
}

static void test_maintain_key_sees_trees_only(void **state)
{
    struct scene scene;
    struct vb_create_result result;
    struct kit_verdict verdict;
    struct vdisk_error error;
    struct vb_repo *repo;

    (void)state;
    begin(&scene);
    repo = kit_repo_open(scene.kit, &kit_put_key);
    assert_int_equal(kit_backup(repo, scene.drive, false, &result, &error), 0);
    vb_repo_close(repo);
    repo = kit_repo_open(scene.kit, &kit_maintain_key);
    assert_true(sodium_is_zero(repo->keys->chunk_key, 32));
    assert_true(sodium_is_zero(repo->keys->data_secret, 32));
    assert_int_equal(kit_verify(repo, true, &verdict), 0);
    assert_int_equal(verdict.good, 1);
    assert_int_equal(kit_restore(repo, &result.name, scene.drive, &error), VDISK_E_WRONG_KEY);
    assert_int_equal(kit_backup(repo, scene.drive, true, &result, &error), VDISK_E_WRONG_KEY);
    vb_repo_close(repo);
    end(&scene);
}

static int name_pack(void *opaque, struct vb_pack *pack)
{
    int result = vb_index_put(opaque, VB_INDEX_DATA, pack, 1);

    vb_pack_release(pack);
    return result;
}

/* Another host stores noise under the id of a content that it guesses. */
static void test_poisoned_record_is_not_taken(void **state)
{
    struct scene scene;
    struct vb_create_result result;
    struct vdisk_error error;
    struct vb_packer *packer;
    struct vb_sealer *sealer;
    struct vb_repo *bad;
    struct vb_repo *good;
    uint8_t *content = calloc(1, VB_CHUNK_BYTES);
    struct vb_id id;

    (void)state;
    assert_non_null(content);
    begin(&scene);
    memset(content, 'x', VB_CHUNK_BYTES);
    kit_drive_write(scene.drive, 0, content, VB_CHUNK_BYTES);
    bad = kit_repo_open(scene.kit, &kit_other_put_key);
    vb_id_of(bad->keys->chunk_key, content, VB_CHUNK_BYTES, &id);
    content[5] = 'y';
    assert_int_equal(vb_packer_open(bad, false, name_pack, bad, &packer), 0);
    assert_int_equal(vb_sealer_new(bad->config.repo_id, &sealer), 0);
    assert_int_equal(vb_packer_add(packer, sealer, VB_RECORD_BASE, &id, content, VB_CHUNK_BYTES),
                     0);
    assert_int_equal(vb_packer_flush(packer), 0);
    assert_int_equal(bad->store->ops->sync(bad->store), 0);
    vb_packer_close(packer);
    vb_sealer_free(sealer);
    vb_repo_close(bad);
    good = kit_repo_open(scene.kit, &kit_put_key);
    assert_int_equal(kit_backup(good, scene.drive, true, &result, &error), 0);
    assert_int_equal(result.chunks_known, 0);
    vb_repo_close(good);
    good = kit_repo_open(scene.kit, &kit_read_key);
    assert_int_equal(kit_restore(good, &result.name, scene.drive, &error), 0);
    vb_repo_close(good);
    free(content);
    end(&scene);
}

static void remove_slot_of(struct kit_store *kit, const struct vb_id *signer)
{
    struct vb_repo *repo = kit_repo_open(kit, &kit_read_key);
    struct vdisk_error error = {0};
    struct vb_slot *slots;
    struct vb_id *names;
    size_t count;

    assert_int_equal(vb_repo_slots(repo, &slots, &names, &count), 0);
    for (size_t i = 0; i < count; i++) {
        if (vb_id_equal(&slots[i].sign_public, signer))
            assert_int_equal(vb_repo_key_remove(repo, &names[i], &error), 0);
    }
    free(slots);
    free(names);
    vb_repo_close(repo);
}

static void test_revoked_key_is_out(void **state)
{
    struct scene scene;
    struct vb_create_result before, after;
    struct vdisk_error error = {0};
    struct kit_drive *then;
    struct kit_verdict verdict;
    struct vb_backups backups;
    struct vb_repo *host, *repo;

    (void)state;
    begin(&scene);
    host = kit_repo_open(scene.kit, &kit_put_key);
    assert_int_equal(kit_backup(host, scene.drive, false, &before, &error), 0);
    then = kit_drive_copy(scene.drive);
    remove_slot_of(scene.kit, &host->keys->sign_public);
    /* It has its keys still, and goes on. */
    kit_drive_scribble(scene.drive, &scene.rng, 3);
    assert_int_equal(kit_backup(host, scene.drive, true, &after, &error), 0);
    vb_repo_close(host);
    assert_int_equal(vb_repo_open(kit_store_handle(scene.kit), &kit_put_key, &repo, &error),
                     VDISK_E_WRONG_KEY);
    repo = kit_repo_open(scene.kit, &kit_read_key);
    assert_int_equal(vb_backups_load(repo, &backups, &error), 0);
    assert_int_equal(backups.count, 1);
    assert_int_equal(backups.bad_count, 1);
    assert_true(vb_id_equal(&backups.bad[0].name, &after.name));
    vb_backups_release(&backups);
    assert_int_equal(kit_restore(repo, &before.name, then, &error), 0);
    assert_int_equal(kit_verify(repo, false, &verdict), VDISK_E_DAMAGED);
    vb_repo_close(repo);
    kit_drive_free(then);
    end(&scene);
}

static void test_last_reader_stays(void **state)
{
    struct scene scene;
    struct vdisk_error error = {0};
    struct vb_slot *slots;
    struct vb_id *names, slot;
    struct vb_repo *repo;
    size_t count;

    (void)state;
    begin(&scene);
    repo = kit_repo_open(scene.kit, &kit_read_key);
    assert_int_equal(vb_repo_slots(repo, &slots, &names, &count), 0);
    assert_int_equal(count, 4);
    for (size_t i = 0; i < count; i++) {
        if (slots[i].role == VB_ROLE_READ)
            assert_int_equal(vb_repo_key_remove(repo, &names[i], &error), VDISK_E_LIMIT);
    }
    vb_repo_close(repo);
    /* Nobody else makes keys. */
    repo = kit_repo_open(scene.kit, &kit_put_key);
    assert_true(
        vb_repo_key_add(repo, VB_ROLE_READ, &kit_other_put_key, false, NULL, &slot, &error) != 0);
    assert_true(vb_repo_key_remove(repo, &names[0], &error) != 0);
    vb_repo_close(repo);
    free(slots);
    free(names);
    end(&scene);
}

static void test_emergency_key_reads(void **state)
{
    uint8_t bytes[VB_EMERGENCY_BYTES];
    struct vdisk_key key = {.kind = VDISK_KEY_FILE, .bytes = bytes, .length = sizeof(bytes)};
    char text[VB_EMERGENCY_TEXT_BYTES];
    struct vdisk_error error = {0};
    struct vb_create_result result;
    struct scene scene;
    struct vb_repo *repo;
    struct vb_id slot;

    (void)state;
    begin(&scene);
    sim_rng_fill(&scene.rng, bytes, sizeof(bytes));
    vb_emergency_text(bytes, text);
    repo = kit_repo_open(scene.kit, &kit_read_key);
    assert_int_equal(kit_backup(repo, scene.drive, false, &result, &error), 0);
    assert_int_equal(vb_repo_key_add(repo, VB_ROLE_READ, &key, true, "emergency", &slot, &error),
                     0);
    vb_repo_close(repo);
    key = (struct vdisk_key){.kind = VDISK_KEY_PASSPHRASE, .bytes = text, .length = strlen(text)};
    repo = kit_repo_open(scene.kit, &key);
    assert_int_equal(repo->keys->role, VB_ROLE_READ);
    assert_int_equal(kit_restore(repo, &result.name, scene.drive, &error), 0);
    vb_repo_close(repo);
    end(&scene);
}

/* A prune record by who may, and by who may not. */
static void test_who_may_prune(void **state)
{
    struct scene scene;
    struct vb_create_result first, second;
    struct vdisk_error error = {0};
    struct vb_pruned removed = {.sequence = 1, .reason = "test"};
    const struct vb_prune prune = {.when = 1, .count = 1, .removed = &removed};
    struct kit_verdict verdict;
    struct vb_repo *repo;
    struct vb_id name;

    (void)state;
    begin(&scene);
    repo = kit_repo_open(scene.kit, &kit_put_key);
    assert_int_equal(kit_backup(repo, scene.drive, false, &first, &error), 0);
    assert_int_equal(kit_backup(repo, scene.drive, false, &second, &error), 0);
    removed.name = first.name;
    assert_int_equal(vb_prune_put(repo, &prune, &name), 0);
    assert_int_equal(repo->store->ops->sync(repo->store), 0);
    assert_int_equal(repo->store->ops->remove(repo->store, VB_BACKUPS, &first.name, false), 0);
    assert_int_equal(kit_verify(repo, false, &verdict), VDISK_E_DAMAGED);
    assert_int_equal(repo->store->ops->remove(repo->store, VB_BACKUPS, &name, false), 0);
    vb_repo_close(repo);
    repo = kit_repo_open(scene.kit, &kit_maintain_key);
    assert_int_equal(kit_verify(repo, false, &verdict), VDISK_E_DAMAGED);
    assert_int_equal(vb_prune_put(repo, &prune, &name), 0);
    assert_int_equal(repo->store->ops->sync(repo->store), 0);
    assert_int_equal(kit_verify(repo, false, &verdict), 0);
    vb_repo_close(repo);
    end(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_key_has_no_secret_to_read_with),
        cmocka_unit_test(test_put_key_opens_no_record),
        cmocka_unit_test(test_maintain_key_sees_trees_only),
        cmocka_unit_test(test_poisoned_record_is_not_taken),
        cmocka_unit_test(test_revoked_key_is_out),
        cmocka_unit_test(test_last_reader_stays),
        cmocka_unit_test(test_emergency_key_reads),
        cmocka_unit_test(test_who_may_prune),
    };

    return vdisk_init() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
