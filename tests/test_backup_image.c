/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images and their backups: random histories of writes, snapshots, rollbacks and new sizes, with an
 * increment by the tree walk between; every backup restores byte for byte, also over the image as
 * it has become.
 *
 * VDISK_TEST_SEED=n runs this one seed; VDISK_TEST_LONG=1 runs 200.
 */
#include "backup_kit.h"
#include "in_place.h"
#include "share.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB         (UINT64_C(1) << 20)
#define SIZE_MAX_   (9 * MIB)
#define BACKUPS_MAX 5u

static char path[200];

struct history {
    struct sim_rng rng;
    struct kit_store *kit;
    uint8_t *model, *kept; /* now, and at the snapshot `mine` */
    uint64_t size, kept_size;
    bool has_snapshot;
    struct kit_drive *state[BACKUPS_MAX];
    struct vb_id name[BACKUPS_MAX];
    unsigned count;
};

static struct vdisk_image *open_image(void)
{
    struct vdisk_open_options options = {.struct_bytes = sizeof(options)};
    struct vdisk_image *image;

    assert_int_equal(vdisk_open(path, &options, &kit_put_key, &image, NULL), 0);
    return image;
}

static void begin(struct history *history, uint64_t seed)
{
    const char *tmp = getenv("TMPDIR");
    struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                           .size = 4 * MIB + 512,
                                           .cluster_bytes = 16384u << seed % 4,
                                           .compress = seed % 2};
    struct vdisk_image *image;

    print_message("seed %llu\n", (unsigned long long)seed);
    *history = (struct history){.kit = kit_repo_make(seed), .size = options.size};
    snprintf(path, sizeof(path), "%s/backup-%d.vdk", tmp ? tmp : "/tmp", (int)getpid());
    unlink(path);
    sim_rng_seed(&history->rng, seed);
    history->model = calloc(1, SIZE_MAX_);
    history->kept = calloc(1, SIZE_MAX_);
    assert_non_null(history->model);
    assert_non_null(history->kept);
    assert_int_equal(vdisk_create(path, &options, &kit_put_key, &image, NULL), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
}

static void end(struct history *history)
{
    for (unsigned i = 0; i < history->count; i++)
        kit_drive_free(history->state[i]);
    kit_store_free(history->kit);
    free(history->model);
    free(history->kept);
    unlink(path);
}

/* --- what a guest and a person do ---------------------------------------------------------------
 */

static void write_some(struct history *history, struct vdisk_image *image)
{
    uint64_t offset = sim_rng_below(&history->rng, history->size / 512) * 512;
    uint64_t length = (sim_rng_below(&history->rng, 4) ? 8 : 600) * (uint64_t)512;

    if (length > history->size - offset)
        length = history->size - offset;
    if (sim_rng_chance(&history->rng, 1, 2))
        sim_rng_fill(&history->rng, history->model + offset, length);
    else
        memset(history->model + offset, 'x', length);
    assert_int_equal(vdisk_write(image, offset, history->model + offset, length), 0);
}

static void clear_some(struct history *history, struct vdisk_image *image)
{
    uint64_t offset = sim_rng_below(&history->rng, history->size / 4096) * 4096;
    uint64_t length = (1 + sim_rng_below(&history->rng, 500)) * 4096;

    if (length > history->size - offset)
        length = history->size - offset;
    memset(history->model + offset, 0, length);
    if (sim_rng_chance(&history->rng, 1, 2))
        assert_int_equal(vdisk_discard(image, offset, length), 0);
    else
        assert_int_equal(vdisk_zero(image, offset, length), 0);
}

static void resize(struct history *history, struct vdisk_image *image)
{
    uint64_t size = (1 + sim_rng_below(&history->rng, SIZE_MAX_ / 512 - 1)) * 512;

    assert_int_equal(vdisk_resize(image, size, true), 0);
    if (size < history->size)
        memset(history->model + size, 0, history->size - size);
    history->size = size;
}

static void snapshot(struct history *history, struct vdisk_image *image)
{
    if (history->has_snapshot && sim_rng_chance(&history->rng, 2, 3)) {
        assert_int_equal(vdisk_snapshot_rollback(image, "mine"), 0);
        memcpy(history->model, history->kept, SIZE_MAX_);
        history->size = history->kept_size;
        return;
    }
    if (history->has_snapshot)
        assert_int_equal(vdisk_snapshot_delete(image, "mine"), 0);
    assert_int_equal(vdisk_snapshot_create(image, "mine"), 0);
    memcpy(history->kept, history->model, SIZE_MAX_);
    history->kept_size = history->size;
    history->has_snapshot = true;
}

static void live(struct history *history)
{
    struct vdisk_image *image = open_image();

    for (uint64_t i = sim_rng_below(&history->rng, 12); i > 0; i--) {
        switch (sim_rng_below(&history->rng, 12)) {
        case 0:
            snapshot(history, image);
            break;
        case 1:
            resize(history, image);
            break;
        case 2:
        case 3:
            clear_some(history, image);
            break;
        default:
            write_some(history, image);
        }
    }
    assert_int_equal(vdisk_close(image, NULL), 0);
}

/* --- backups ------------------------------------------------------------------------------ */

static struct kit_drive *picture(const struct history *history)
{
    struct kit_drive *drive = kit_drive_new(history->size, NULL);

    kit_drive_write(drive, 0, history->model, history->size);
    return drive;
}

/* fail_at: the operation of the store that fails, 0: none. Returns vb_create()'s result. */
static int back_up(struct history *history, const struct vdisk_key *key, uint64_t fail_at,
                   struct vb_create_result *result, bool *was_increment)
{
    struct vb_repo *repo = kit_repo_open(history->kit, key);
    struct vb_manifest manifest = {.consistency = VB_CONSISTENT_CRASH, .drive_name = "image"};
    struct vdisk_error error = {0};
    struct vb_backups backups;
    struct vb_image *image;
    int outcome;

    assert_int_equal(vb_backups_load(repo, &backups, &error), 0);
    const struct vb_image_options image_options = {
        .path = path, .key = &kit_put_key, .repo = repo, .backups = &backups};
    outcome = vb_image_open(&image_options, &manifest, &image, &error);
    if (outcome)
        print_message("%s\n", error.text);
    assert_int_equal(outcome, 0);
    const struct vb_create_options options = {
        .repo = repo, .drive = vb_image_drive(image), .threads = 2};
    *was_increment = options.drive->base;
    history->kit->fail_at = fail_at ? history->kit->operations + fail_at : 0;
    outcome = vb_create(&options, &manifest, result, &error);
    history->kit->fail_at = 0;
    if (outcome && !fail_at)
        print_message("%s\n", error.text);
    assert_int_equal(vb_image_close(image, outcome == 0, &error), 0);
    vb_backups_release(&backups);
    vb_repo_close(repo);
    if (outcome == 0) {
        history->name[history->count] = result->name;
        history->state[history->count++] = picture(history);
    }
    return outcome;
}

static void check_all(struct history *history)
{
    struct vb_repo *repo = kit_repo_open(history->kit, &kit_read_key);
    struct kit_verdict verdict;
    struct vdisk_error error;

    for (unsigned i = 0; i < history->count; i++) {
        int result = kit_restore(repo, &history->name[i], history->state[i], &error);

        if (result)
            print_message("backup %u: %s\n", i, error.text);
        assert_int_equal(result, 0);
    }
    assert_int_equal(kit_verify(repo, true, &verdict), 0);
    vb_repo_close(repo);
}

static bool count_snapshots(void *opaque, const struct vdisk_snapshot_info *info)
{
    unsigned *count = opaque;

    *count += strncmp(info->name, "backup-", 7) == 0;
    return true;
}

/* One is kept for the next increment, and no more. */
static void check_snapshots(unsigned expected)
{
    struct vdisk_image *image = open_image();
    unsigned count = 0;

    assert_int_equal(vdisk_snapshot_list(image, count_snapshots, &count), 0);
    assert_int_equal(count, expected);
    assert_int_equal(vdisk_close(image, NULL), 0);
}

/* --- in place ----------------------------------------------------------------------------- */

static int in_place(struct history *history, unsigned which, bool compare,
                    struct vb_in_place_result *result)
{
    struct vb_repo *repo = kit_repo_open(history->kit, &kit_read_key);
    struct vdisk_error error = {0};
    struct vb_backups backups;
    int outcome;

    assert_int_equal(vb_backups_load(repo, &backups, &error), 0);
    const struct vb_in_place_options options = {
        .repo = repo,
        .backups = &backups,
        .backup = vb_backups_find(&backups, &history->name[which]),
        .path = path,
        .key = &kit_put_key,
        .compare = compare,
        .threads = 2,
    };
    assert_non_null(options.backup);
    outcome = vb_restore_in_place(&options, result, &error);
    if (outcome)
        assert_true(error.code == outcome && error.text[0]);
    vb_backups_release(&backups);
    vb_repo_close(repo);
    return outcome;
}

static void take_state(struct history *history, const struct kit_drive *state)
{
    memset(history->model, 0, SIZE_MAX_);
    history->size = state->drive.size;
    for (size_t i = 0; i < state->chunks; i++) {
        uint64_t left = history->size - i * MIB;

        if (state->chunk[i])
            memcpy(history->model + i * MIB, state->chunk[i], left < MIB ? left : MIB);
    }
}

static void check_image(const struct history *history, struct vdisk_image *image)
{
    struct vdisk_check_options options = {.struct_bytes = sizeof(options)};
    struct vdisk_check_result result;
    uint8_t *bytes = malloc(history->size);

    assert_non_null(bytes);
    assert_int_equal(vdisk_size(image), history->size);
    assert_int_equal(vdisk_read(image, 0, bytes, history->size), 0);
    assert_memory_equal(bytes, history->model, history->size);
    assert_int_equal(vdisk_check(image, &options, &result), 0);
    free(bytes);
}

/* What was there before is in the snapshot. */
static void check_kept(struct vdisk_image *image, const char *name, const uint8_t *bytes,
                       uint64_t size)
{
    struct vdisk_snapshot_info info;
    struct vdisk_snapshot *snapshot;
    uint8_t *kept = malloc(size);

    assert_non_null(kept);
    assert_int_equal(vdisk_snapshot_open(image, name, &snapshot), 0);
    vdisk_snapshot_get_info(snapshot, &info);
    assert_int_equal(info.size, size);
    assert_int_equal(vdisk_snapshot_read(snapshot, 0, kept, size), 0);
    assert_memory_equal(kept, bytes, size);
    vdisk_snapshot_close(snapshot);
    assert_int_equal(vdisk_snapshot_delete(image, name), 0);
    free(kept);
}

static bool take_name(void *opaque, const struct vdisk_snapshot_info *info)
{
    if (strncmp(info->name, "backup-", 7) == 0)
        memcpy(opaque, info->name, sizeof(info->name));
    return true;
}

static void forget_backups(void)
{
    struct vdisk_image *image = open_image();
    char name[VDISK_NAME_MAX + 1] = "";

    assert_int_equal(vdisk_snapshot_list(image, take_name, name), 0);
    if (name[0])
        assert_int_equal(vdisk_snapshot_delete(image, name), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
}

/* Each of the backups over what the image has become, while there is a snapshot to go by, and
 * then without one. */
static void restore_in_place_some(struct history *history)
{
    uint8_t *before = malloc(SIZE_MAX_);

    assert_non_null(before);
    for (unsigned i = 0; i < 2 * BACKUPS_MAX; i++) {
        unsigned which = (unsigned)sim_rng_below(&history->rng, history->count);
        bool compare = sim_rng_chance(&history->rng, 1, 5);
        struct vb_in_place_result result;
        uint64_t before_size;
        struct vdisk_image *image;

        if (i == BACKUPS_MAX)
            forget_backups();
        if (i % 3)
            live(history);
        memcpy(before, history->model, SIZE_MAX_);
        before_size = history->size;
        assert_int_equal(in_place(history, which, compare, &result), 0);
        assert_int_equal(result.since != NULL, i < BACKUPS_MAX && !compare);
        take_state(history, history->state[which]);
        image = open_image();
        check_image(history, image);
        check_kept(image, result.snapshot, before, before_size);
        assert_int_equal(vdisk_close(image, NULL), 0);
    }
    free(before);
}

static void run(uint64_t seed)
{
    struct vb_create_result result;
    struct history history;
    bool was_increment;

    begin(&history, seed);
    while (history.count < BACKUPS_MAX) {
        live(&history);
        if (sim_rng_chance(&history.rng, 1, 5))
            back_up(&history, &kit_put_key, 1 + sim_rng_below(&history.rng, 8), &result,
                    &was_increment);
        else
            assert_int_equal(back_up(&history, &kit_put_key, 0, &result, &was_increment), 0);
    }
    check_snapshots(1);
    check_all(&history);
    restore_in_place_some(&history);
    end(&history);
}

static void test_every_backup_of_an_image_restores(void **state)
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

static void write_block(struct history *history, uint64_t offset)
{
    struct vdisk_image *image = open_image();

    sim_rng_fill(&history->rng, history->model + offset, 4096);
    assert_int_equal(vdisk_write(image, offset, history->model + offset, 4096), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
}

static void fill(struct history *history)
{
    struct vdisk_image *image = open_image();

    sim_rng_fill(&history->rng, history->model, 4 * MIB);
    assert_int_equal(vdisk_write(image, 0, history->model, 4 * MIB), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
}

static void clear_drive(struct history *history)
{
    struct vdisk_image *image = open_image();

    memset(history->model, 0, history->size);
    assert_int_equal(vdisk_discard(image, 0, history->size), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
}

static void test_increment_reads_what_changed(void **state)
{
    struct vb_create_result result;
    struct history history;
    bool was_increment;

    (void)state;
    begin(&history, 1);
    live(&history);
    live(&history);
    assert_int_equal(back_up(&history, &kit_put_key, 0, &result, &was_increment), 0);
    assert_false(was_increment);
    write_block(&history, 4096);
    assert_int_equal(back_up(&history, &kit_put_key, 0, &result, &was_increment), 0);
    assert_true(was_increment);
    assert_int_equal(result.bytes_read, 4096);
    /* Nothing has changed. */
    assert_int_equal(back_up(&history, &kit_put_key, 0, &result, &was_increment), 0);
    assert_int_equal(result.bytes_read, 0);
    assert_int_equal(result.bytes_stored, 0);
    /* One that fails leaves the base in place. */
    write_block(&history, 8192);
    assert_true(back_up(&history, &kit_put_key, 3, &result, &was_increment) != 0);
    check_snapshots(1);
    assert_int_equal(back_up(&history, &kit_put_key, 0, &result, &was_increment), 0);
    assert_true(was_increment);
    assert_true(result.bytes_read <= 2 * 4096);
    /* What another host has written is not built upon: it cannot be looked at. */
    assert_int_equal(back_up(&history, &kit_other_put_key, 0, &result, &was_increment), 0);
    assert_false(was_increment);
    check_all(&history);
    end(&history);
}

/* Without its snapshot, or with another one in its place, all of the drive is looked at. */
static void test_base_that_is_gone(void **state)
{
    char name[VDISK_NAME_MAX + 1] = "";
    struct vb_create_result result;
    struct vdisk_image *image;
    struct history history;
    bool was_increment;

    (void)state;
    begin(&history, 3);
    live(&history);
    live(&history);
    assert_int_equal(back_up(&history, &kit_put_key, 0, &result, &was_increment), 0);
    image = open_image();
    assert_int_equal(vdisk_snapshot_list(image, take_name, name), 0);
    assert_int_equal(vdisk_snapshot_delete(image, name), 0);
    write_some(&history, image);
    assert_int_equal(vdisk_snapshot_create(image, name), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
    write_block(&history, 0);
    assert_int_equal(back_up(&history, &kit_put_key, 0, &result, &was_increment), 0);
    assert_false(was_increment);
    check_snapshots(1);
    check_all(&history);
    end(&history);
}

/* A block has changed in the image, another one since the backup: no more is fetched than the two
 * chunks, and of what is the same nothing. */
static void test_in_place_fetches_what_differs(void **state)
{
    struct vb_in_place_result done;
    struct vb_create_result result;
    struct history history;
    bool was_increment;

    (void)state;
    begin(&history, 1);
    fill(&history);
    assert_int_equal(back_up(&history, &kit_put_key, 0, &result, &was_increment), 0);
    write_block(&history, 4096);
    assert_int_equal(back_up(&history, &kit_put_key, 0, &result, &was_increment), 0);
    write_block(&history, 2 * MIB);
    assert_int_equal(in_place(&history, 0, false, &done), 0);
    assert_int_equal(done.restored.bytes_compared, 2 * MIB);
    assert_int_equal(done.restored.chunks, 2);
    assert_int_equal(done.restored.bytes_written, 2 * 4096);
    /* By a snapshot as well as by hash: what has the right id is not fetched. */
    assert_int_equal(in_place(&history, 0, false, &done), 0);
    assert_int_equal(done.restored.chunks, 0);
    assert_int_equal(in_place(&history, 0, true, &done), 0);
    assert_int_equal(done.restored.bytes_compared, 4 * MIB);
    assert_int_equal(done.restored.chunks, 0);
    end(&history);
}

/* Whatever is wrong with the repository, the image has the backup or is as it was. */
static void test_in_place_that_fails_changes_nothing(void **state)
{
    struct vb_create_result result;
    struct vdisk_snapshot *none;
    struct vdisk_image *image;
    struct history history;
    bool was_increment;
    unsigned failed = 0;

    (void)state;
    begin(&history, 2);
    fill(&history);
    assert_int_equal(back_up(&history, &kit_put_key, 0, &result, &was_increment), 0);
    clear_drive(&history);
    for (size_t i = 0; i < history.kit->count; i++) {
        struct kit_object *object = &history.kit->object[i];
        struct vb_in_place_result done;

        if (object->place != VB_PACKS || object->is_gone)
            continue;
        object->bytes[object->length / 2] ^= 1;
        failed += in_place(&history, 0, i % 2, &done) != 0;
        object->bytes[object->length / 2] ^= 1;
        image = open_image();
        check_image(&history, image);
        assert_int_equal(vdisk_snapshot_open(image, done.snapshot, &none), VDISK_E_NOT_FOUND);
        assert_int_equal(vdisk_close(image, NULL), 0);
    }
    assert_true(failed > 0);
    end(&history);
}

/* What another host has signed says nothing of what the image had. */
static void test_in_place_by_whose_word(void **state)
{
    struct vb_in_place_result done;
    struct vb_create_result result;
    struct history history;
    bool was_increment;

    (void)state;
    begin(&history, 1);
    fill(&history);
    assert_int_equal(back_up(&history, &kit_put_key, 0, &result, &was_increment), 0);
    write_block(&history, 0);
    assert_int_equal(back_up(&history, &kit_other_put_key, 0, &result, &was_increment), 0);
    assert_int_equal(in_place(&history, 0, false, &done), 0);
    assert_null(done.since);
    assert_int_equal(in_place(&history, 1, false, &done), 0);
    assert_non_null(done.since);
    end(&history);
}

static void test_in_place_of_another_drive(void **state)
{
    struct vdisk_create_options options = {.struct_bytes = sizeof(options), .size = 4 * MIB};
    struct vb_in_place_result done;
    struct vb_create_result result;
    struct vdisk_image *image;
    struct vdisk_info info;
    struct history history;
    bool was_increment;

    (void)state;
    begin(&history, 1);
    fill(&history);
    assert_int_equal(back_up(&history, &kit_put_key, 0, &result, &was_increment), 0);
    unlink(path);
    assert_int_equal(vdisk_create(path, &options, &kit_put_key, &image, NULL), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
    assert_int_equal(in_place(&history, 0, false, &done), -EINVAL);
    image = open_image();
    vdisk_get_info(image, &info);
    assert_int_equal(info.snapshots, 0);
    assert_int_equal(info.size, 4 * MIB);
    assert_int_equal(vdisk_close(image, NULL), 0);
    end(&history);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_backup_of_an_image_restores),
        cmocka_unit_test(test_increment_reads_what_changed),
        cmocka_unit_test(test_base_that_is_gone),
        cmocka_unit_test(test_in_place_fetches_what_differs),
        cmocka_unit_test(test_in_place_that_fails_changes_nothing),
        cmocka_unit_test(test_in_place_by_whose_word),
        cmocka_unit_test(test_in_place_of_another_drive),
    };

    return vdisk_init() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
