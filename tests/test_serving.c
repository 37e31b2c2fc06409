/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a server needs of the library: long work beside requests, the slow part of opening apart,
 * and files opened by a backend of its own.
 */
#include "vdisk/vdisk.h"
#include "workers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static const uint8_t key_bytes[32] = "any 32 bytes are as good as this";
static const struct vdisk_key key = {
    .kind = VDISK_KEY_FILE, .bytes = key_bytes, .length = sizeof(key_bytes)};
/* Costs some tens of milliseconds. */
static const struct vdisk_key slow_key = {.kind = VDISK_KEY_PASSPHRASE,
                                          .bytes = "long enough",
                                          .length = 11,
                                          .kdf_passes = 1,
                                          .kdf_kib = 64 * 1024};

static char directory[PATH_MAX], path[PATH_MAX + 32], overlay_path[PATH_MAX + 32];
static struct vdisk_error error;
static struct vdisk_image *image;
static struct vdisk_workers *workers;

static int set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");
    struct vdisk_create_options options = {.struct_bytes = sizeof(options), .size = 64 * MIB};

    (void)state;
    snprintf(directory, sizeof(directory), "%s/vdisk-serving-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof(path), "%s/a.vdk", directory);
    snprintf(overlay_path, sizeof(overlay_path), "%s/b.vdk", directory);
    if (vd_workers_open(1, &workers))
        return -1;
    options.workers = workers;
    return vdisk_create(path, &options, &key, &image, &error);
}

static int tear_down(void **state)
{
    char command[PATH_MAX + 16];

    (void)state;
    if (vdisk_close(image, NULL))
        return -1;
    workers->ops->close(workers);
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}

/* ---- beside requests ---- */

struct long_work {
    int (*work)(void);
    int result;
    bool ended;
};

static void run_long_work(void *opaque)
{
    struct long_work *long_work = opaque;

    long_work->result = long_work->work();
    long_work->ended = true;
}

static void count_done(struct vdisk_request *request)
{
    assert_int_equal(request->result, 0);
    ++*(unsigned *)request->owner;
}

/* Writes one block after another while the work goes on; returns how many. */
static unsigned writes_beside(int (*work)(void))
{
    static uint8_t block[4096];
    struct long_work long_work = {.work = work};
    struct vdisk_request request;
    unsigned submitted = 0, done = 0;

    assert_int_equal(vdisk_spawn(image, run_long_work, &long_work), 0);
    while (!long_work.ended || done < submitted) {
        if (done == submitted && !long_work.ended) {
            request = (struct vdisk_request){
                .op = VDISK_WRITE,
                .offset = 32 * MIB + submitted % 1024 * sizeof(block),
                .length = sizeof(block),
                .data = block,
                .done = count_done,
                .owner = &done,
            };
            vdisk_submit(image, &request);
            submitted++;
        }
        vdisk_poll(image, false);
    }
    assert_int_equal(long_work.result, 0);
    return done;
}

static int add_a_key(void)
{
    return vdisk_key_add(image, &slow_key, NULL);
}

static void test_requests_go_on_while_a_key_is_derived(void **state)
{
    struct vdisk_keyslot_info slots[VDISK_KEYSLOTS];

    (void)state;
    assert_true(writes_beside(add_a_key) > 10);
    assert_int_equal(vdisk_key_list(image, slots), 2);
}

static int snapshot_and_delete(void)
{
    int result = vdisk_snapshot_create(image, "one");

    if (result == 0)
        result = vdisk_snapshot_create(image, "two");
    if (result == 0)
        result = vdisk_snapshot_delete(image, "one");
    return result ? result : vdisk_compact(image, NULL, NULL, NULL);
}

static void test_requests_go_on_beside_snapshots(void **state)
{
    struct vdisk_check_options options = {.struct_bytes = sizeof(options)};
    struct vdisk_check_result result;
    static uint8_t bytes[MIB];

    (void)state;
    memset(bytes, 7, sizeof(bytes));
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(vdisk_write(image, i * MIB, bytes, MIB), 0);
    assert_true(writes_beside(snapshot_and_delete) > 0);
    assert_int_equal(vdisk_check(image, &options, &result), 0);
}

static int resize_twice(void)
{
    int result = vdisk_resize(image, 128 * MIB, false);

    return result ? result : vdisk_resize(image, 96 * MIB, true);
}

static void test_requests_go_on_beside_a_resize(void **state)
{
    (void)state;
    (void)writes_beside(resize_twice);
    assert_int_equal(vdisk_size(image), 96 * MIB);
}

/* ---- opening in two steps ---- */

struct unlocking {
    const struct vdisk_key *key;
    struct vdisk_unlocked *unlocked;
    int result;
};

static void *unlock(void *opaque)
{
    struct unlocking *unlocking = opaque;

    unlocking->result = vdisk_unlock(path, unlocking->key, &unlocking->unlocked, NULL);
    return NULL;
}

static struct unlocking unlock_elsewhere(const struct vdisk_key *with)
{
    struct unlocking unlocking = {.key = with};
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, unlock, &unlocking), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    return unlocking;
}

static void test_a_key_may_be_tried_on_another_thread(void **state)
{
    struct vdisk_open_options options = {.struct_bytes = sizeof(options)};
    unsigned slot;

    (void)state;
    assert_int_equal(vdisk_key_add(image, &slow_key, &slot), 0);
    /* Also while the image is in use. */
    struct unlocking unlocking = unlock_elsewhere(&slow_key);
    assert_int_equal(unlocking.result, 0);
    assert_int_equal(vdisk_write(image, 5, "hello", 5), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
    options.unlocked = unlocking.unlocked;
    assert_int_equal(vdisk_open(path, &options, NULL, &image, &error), 0);
    vdisk_unlocked_free(unlocking.unlocked);
    assert_int_equal(vdisk_key_slot_used(image), slot);
    char back[5];
    assert_int_equal(vdisk_read(image, 5, back, sizeof(back)), 0);
    assert_memory_equal(back, "hello", sizeof(back));
}

static void test_a_wrong_key_opens_nothing(void **state)
{
    struct vdisk_key wrong = key;

    (void)state;
    wrong.length--;
    struct unlocking unlocking = unlock_elsewhere(&wrong);
    assert_int_equal(unlocking.result, VDISK_E_WRONG_KEY);
    assert_null(unlocking.unlocked);
    assert_int_equal(vdisk_unlock("/", &key, &unlocking.unlocked, &error), -EISDIR);
    assert_null(unlocking.unlocked);
}

static void test_what_was_unlocked_opens_no_other_image(void **state)
{
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = MIB};
    struct vdisk_open_options options = {.struct_bytes = sizeof(options)};
    struct unlocking unlocking = unlock_elsewhere(&key);
    struct vdisk_image *other = NULL;

    (void)state;
    assert_int_equal(vdisk_create(overlay_path, &create, &key, &other, &error), 0);
    assert_int_equal(vdisk_close(other, NULL), 0);
    other = NULL;
    options.unlocked = unlocking.unlocked;
    assert_int_equal(vdisk_open(overlay_path, &options, NULL, &other, &error), VDISK_E_WRONG_KEY);
    assert_null(other);
    vdisk_unlocked_free(unlocking.unlocked);
}

/* ---- a backend of one's own ---- */

struct opener {
    struct vdisk_opener opener;
    char opened[4][PATH_MAX];
    int flags[4];
    unsigned count;
};

static int note_and_open(const struct vdisk_opener *opener, const char *name, int flags,
                         struct vdisk_io **io, struct vdisk_error *why)
{
    struct opener *notes = (struct opener *)(uintptr_t)opener;

    notes->flags[notes->count] = flags;
    snprintf(notes->opened[notes->count++], PATH_MAX, "%s", name);
    return vdisk_io_plain_open(name, flags, io, why);
}

static void test_bases_are_opened_like_the_image(void **state)
{
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .base_path = path};
    struct opener opener = {.opener = {note_and_open}};
    struct vdisk_open_options options = {.struct_bytes = sizeof(options), .opener = &opener.opener};
    struct vdisk_image *overlay;

    (void)state;
    assert_int_equal(vdisk_write(image, 0, "base", 4), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
    create.base_key = &key;
    assert_int_equal(vdisk_create(overlay_path, &create, &key, &overlay, &error), 0);
    assert_int_equal(vdisk_close(overlay, NULL), 0);
    assert_int_equal(vdisk_open(overlay_path, &options, &key, &overlay, &error), 0);
    assert_int_equal(opener.count, 2);
    assert_string_equal(opener.opened[0], overlay_path);
    assert_string_equal(opener.opened[1], path);
    assert_int_equal(opener.flags[0], 0);
    assert_int_equal(opener.flags[1], VDISK_OPEN_READ_ONLY);
    char back[4];
    assert_int_equal(vdisk_read(overlay, 0, back, sizeof(back)), 0);
    assert_memory_equal(back, "base", sizeof(back));
    assert_int_equal(vdisk_close(overlay, NULL), 0);
    assert_int_equal(vdisk_open(path, NULL, &key, &image, &error), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_requests_go_on_while_a_key_is_derived),
        TEST(test_requests_go_on_beside_snapshots),
        TEST(test_requests_go_on_beside_a_resize),
        TEST(test_a_key_may_be_tried_on_another_thread),
        TEST(test_a_wrong_key_opens_nothing),
        TEST(test_what_was_unlocked_opens_no_other_image),
        TEST(test_bases_are_opened_like_the_image),
    };

    if (vdisk_init())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
