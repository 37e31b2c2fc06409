/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exports: images served by the lanes of a daemon, with io_uring and with the fall-back.
 */
#include "export.h"
#include "image.h"
#include "task.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define MIB UINT64_C(1048576)

static const uint8_t key_bytes[32] = "any 32 bytes are as good as this";
static const struct vdisk_key key = {
    .kind = VDISK_KEY_FILE, .bytes = key_bytes, .length = sizeof(key_bytes)};

static char directory[PATH_MAX], path[PATH_MAX + 32];
static struct exports *exports;
static struct vdisk_unlocked *unlocked;
static bool no_uring;
static uint64_t split_bytes;

static struct {
    unsigned count;
    int result;
    uint64_t offset;
} damage; /* by the lane's thread */

static void note_damage(void *opaque, const struct export_failure *failure)
{
    (void)opaque;
    damage.count++;
    damage.result = failure->result;
    damage.offset = failure->offset;
}

static int set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");
    struct exports_options options = {
        .reactors = 2, .workers = 1, .no_uring = no_uring, .integrity = note_damage};
    struct vdisk_create_options create = {
        .struct_bytes = sizeof(create), .size = 64 * MIB, .split_bytes = split_bytes};
    struct vdisk_image *image;

    (void)state;
    snprintf(directory, sizeof(directory), "%s/vdisk-exports-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof(path), "%s/a.vdk", directory);
    if (vdisk_create(path, &create, &key, &image, NULL) || vdisk_close(image, NULL))
        return -1;
    if (vdisk_unlock(path, &key, &unlocked, NULL))
        return -1;
    return exports_new(&options, &exports, NULL);
}

static int tear_down(void **state)
{
    char command[PATH_MAX + 16];

    (void)state;
    exports_free(exports);
    vdisk_unlocked_free(unlocked);
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}

/* ---- a task for the body of a test ---- */

static bool ended;

static void run_body(void *arg)
{
    (*(void (**)(void))arg)();
    ended = true;
}

static void in_a_task(void (*body)(void))
{
    ended = false;
    assert_int_equal(task_spawn(exports_main(exports), run_body, &body), 0);
    while (!ended)
        reactor_step(exports_main(exports), true);
}

static int add(const char *name, enum export_policy when_full, const struct limit_settings *limits)
{
    struct export_options options = {
        .name = name, .path = path, .when_full = when_full, .unlocked = unlocked};
    struct vdisk_error error = {0};

    if (limits)
        options.limits = *limits;
    return export_add(exports, &options, &error);
}

/* ---- requests ---- */

struct waiting {
    struct export_request request;
    struct task *place;
    bool done;
};

static void request_done(struct export_request *request)
{
    struct waiting *waiting = request->owner;

    waiting->done = true;
    task_wake(&waiting->place);
}

static void begin(struct export_session *session, struct waiting *waiting, enum vdisk_request_op op,
                  uint64_t offset, void *data, uint64_t length)
{
    *waiting = (struct waiting){
        .request = {.request = {.op = op, .offset = offset, .length = length, .data = data},
                    .done = request_done,
                    .owner = waiting}};
    export_submit(session, &waiting->request);
}

static int end(struct waiting *waiting)
{
    while (!waiting->done)
        task_park(&waiting->place);
    return waiting->request.request.result;
}

static int request(struct export_session *session, enum vdisk_request_op op, uint64_t offset,
                   void *data, uint64_t length)
{
    struct waiting waiting;

    begin(session, &waiting, op, offset, data, length);
    return end(&waiting);
}

/* ---- the tests ---- */

static uint8_t pattern[4 * MIB], back[4 * MIB];

static void fill(void)
{
    for (size_t i = 0; i < sizeof(pattern); i++)
        pattern[i] = (uint8_t)((i >> 9) * 31 + i);
}

static int take_snapshot(struct vdisk_image *image, void *name)
{
    return vdisk_snapshot_create(image, name);
}

static void serve_and_keep(void)
{
    struct export *export;
    struct export_session *session, *old;
    struct vdisk_error error;
    struct reactor *here = task_reactor(task_current());

    assert_int_equal(add("drive", EXPORT_REPORT, NULL), 0);
    assert_int_equal(add("drive", EXPORT_REPORT, NULL), VDISK_E_EXISTS);
    assert_int_equal(add("again", EXPORT_REPORT, NULL), VDISK_E_IN_USE);
    assert_null(export_get(exports, "again"));
    export = export_get(exports, "drive");
    assert_non_null(export);
    task_move(export_reactor(export));
    assert_int_equal(export_attach(export, NULL, NULL, NULL, &session, &error), 0);
    assert_int_equal(export_session_size(session), 64 * MIB);
    fill();
    assert_int_equal(request(session, VDISK_WRITE, 12345, pattern, sizeof(pattern)), 0);
    assert_int_equal(request(session, VDISK_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(export_call(export, take_snapshot, (void *)(uintptr_t) "one", &error), 0);
    assert_int_equal(request(session, VDISK_DISCARD, 0, NULL, 64 * MIB), 0);
    assert_int_equal(request(session, VDISK_READ, 12345, back, sizeof(back)), 0);
    assert_int_equal(back[77], 0);
    assert_int_equal(export_attach(export, "none", NULL, NULL, &old, &error), VDISK_E_NOT_FOUND);
    assert_int_equal(export_attach(export, "one", NULL, NULL, &old, &error), 0);
    assert_true(export_session_read_only(old));
    assert_int_equal(request(old, VDISK_READ, 12345, back, sizeof(back)), 0);
    assert_memory_equal(back, pattern, sizeof(pattern));
    assert_int_equal(request(old, VDISK_WRITE, 0, back, 512), -EROFS);
    assert_int_equal(request(session, VDISK_READ, 64 * MIB - 1, back, 2), -EINVAL);
    export_detach(old);
    export_detach(session);
    task_move(here);
    export_put(export);
    assert_int_equal(export_remove(exports, "drive", &error), 0);
    assert_int_equal(export_remove(exports, "drive", &error), VDISK_E_NOT_FOUND);
}

static void test_an_export_serves_and_keeps(void **state)
{
    struct vdisk_check_options options = {.struct_bytes = sizeof(options)};
    struct vdisk_check_result result;
    struct vdisk_image *image;
    struct vdisk_snapshot *snapshot;

    (void)state;
    in_a_task(serve_and_keep);
    assert_int_equal(vdisk_open(path, NULL, &key, &image, NULL), 0);
    assert_int_equal(vdisk_check(image, &options, &result), 0);
    assert_int_equal(vdisk_snapshot_open(image, "one", &snapshot), 0);
    assert_int_equal(vdisk_snapshot_read(snapshot, 12345, back, sizeof(back)), 0);
    assert_memory_equal(back, pattern, sizeof(pattern));
    vdisk_snapshot_close(snapshot);
    assert_int_equal(vdisk_close(image, NULL), 0);
}

static void many_at_once(void)
{
    enum {
        COUNT = 1024
    };
    struct waiting *waiting = calloc(COUNT, sizeof(*waiting));
    struct export *export;
    struct export_session *session;
    struct vdisk_error error;
    struct reactor *here = task_reactor(task_current());

    assert_int_equal(add("", EXPORT_REPORT, NULL), 0);
    export = export_get(exports, "");
    task_move(export_reactor(export));
    assert_int_equal(export_attach(export, NULL, NULL, NULL, &session, &error), 0);
    fill();
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < COUNT; i++)
            begin(session, &waiting[i], VDISK_WRITE, (uint64_t)(i * 389 % COUNT) * 4096,
                  pattern + (size_t)(i * 389 % COUNT) * 4096, 4096);
        for (unsigned i = 0; i < COUNT; i++)
            assert_int_equal(end(&waiting[i]), 0);
        memset(back, 0, sizeof(back));
        for (unsigned i = 0; i < COUNT; i++)
            begin(session, &waiting[i], VDISK_READ, (uint64_t)i * 4096, back + (size_t)i * 4096,
                  4096);
        for (unsigned i = 0; i < COUNT; i++)
            assert_int_equal(end(&waiting[i]), 0);
        assert_memory_equal(back, pattern, sizeof(pattern));
    }
    assert_int_equal(atomic_load(&export_stats(export)->op[STATS_WRITE].count), 3 * COUNT);
    assert_int_equal(atomic_load(&export_stats(export)->in_flight), 0);
    export_detach(session);
    task_move(here);
    export_put(export);
    assert_int_equal(export_remove(exports, "", &error), 0);
    free(waiting);
}

static void test_many_requests_at_once(void **state)
{
    (void)state;
    in_a_task(many_at_once);
}

static void be_slow(void)
{
    static const struct limit_settings limits = {
        .kind = {[LIMIT_WRITE_OPS] = {.rate = 100, .burst = 1}}};
    struct waiting waiting[11];
    struct export *export;
    struct export_session *session;
    struct vdisk_error error;
    struct reactor *here = task_reactor(task_current());
    int64_t began;

    assert_int_equal(add("slow", EXPORT_REPORT, &limits), 0);
    export = export_get(exports, "slow");
    task_move(export_reactor(export));
    assert_int_equal(export_attach(export, NULL, NULL, NULL, &session, &error), 0);
    began = reactor_now();
    for (unsigned i = 0; i < 11; i++)
        begin(session, &waiting[i], VDISK_WRITE, i * 4096, pattern, 4096);
    assert_int_equal(request(session, VDISK_FLUSH, 0, NULL, 0), 0);
    for (unsigned i = 0; i < 11; i++)
        assert_int_equal(end(&waiting[i]), 0);
    assert_true(reactor_now() - began >= INT64_C(85000000));
    assert_true(atomic_load(&export_stats(export)->throttled) >= 10);
    export_detach(session);
    task_move(here);
    export_put(export);
    assert_int_equal(export_remove(exports, "slow", &error), 0);
}

static void test_a_limit_slows_down(void **state)
{
    (void)state;
    in_a_task(be_slow);
}

/* ---- an image that is in use ---- */

static void let_go(void *arg)
{
    const int *fd = arg;

    task_sleep(INT64_C(500000000));
    close(*fd);
}

static int hold_the_image(void)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    return fd;
}

static void wait_at_the_start_only(void)
{
    struct vdisk_error error;
    int fd = hold_the_image();
    int64_t began = reactor_now();

    /* As by a daemon that was killed and is not all gone. */
    assert_int_equal(task_spawn(exports_main(exports), let_go, &fd), 0);
    assert_int_equal(add("drive", EXPORT_REPORT, NULL), 0);
    assert_true(reactor_now() - began >= INT64_C(400000000));
    assert_int_equal(export_remove(exports, "drive", &error), 0);
    fd = hold_the_image();
    assert_int_equal(add("drive", EXPORT_REPORT, NULL), VDISK_E_IN_USE);
    assert_true(reactor_now() - began >= INT64_C(2500000000));
    began = reactor_now();
    assert_int_equal(add("drive", EXPORT_REPORT, NULL), VDISK_E_IN_USE);
    assert_true(reactor_now() - began < INT64_C(500000000));
    close(fd);
    assert_int_equal(add("drive", EXPORT_REPORT, NULL), 0);
    assert_int_equal(export_remove(exports, "drive", &error), 0);
}

static void test_an_image_in_use_is_waited_for_at_the_start_only(void **state)
{
    (void)state;
    in_a_task(wait_at_the_start_only);
}

/* ---- damage ---- */

static int fail_by_itself(struct vdisk_image *image, void *arg)
{
    (void)arg;
    (void)vd_image_latch(image, VDISK_E_NOT_AUTHENTIC, "a checkpoint cannot be made");
    return 0;
}

static int meet_damage(struct vdisk_image *image, void *arg)
{
    (void)image;
    (void)arg;
    return VDISK_E_NOT_AUTHENTIC;
}

/* A command's, and what the image does by itself: its own checkpoint fails so. */
static void be_damaged(void)
{
    struct export *export;
    struct vdisk_error error;
    struct reactor *here = task_reactor(task_current());

    memset(&damage, 0, sizeof(damage));
    assert_int_equal(add("a", EXPORT_REPORT, NULL), 0);
    export = export_get(exports, "a");
    task_move(export_reactor(export));
    assert_int_equal(export_call(export, meet_damage, NULL, &error), VDISK_E_NOT_AUTHENTIC);
    assert_int_equal(damage.count, 1);
    assert_int_equal(damage.result, VDISK_E_NOT_AUTHENTIC);
    assert_true(damage.offset == EXPORT_NO_OFFSET);
    assert_int_equal(export_call(export, fail_by_itself, NULL, &error), 0);
    task_sleep(10000000);
    assert_int_equal(damage.count, 2);
    assert_int_equal(export_call(export, fail_by_itself, NULL, &error), 0); /* no news */
    task_sleep(10000000);
    assert_int_equal(damage.count, 2);
    assert_int_equal(atomic_load(&export_stats(export)->integrity_errors), 2);
    task_move(here);
    export_put(export);
    (void)export_remove(exports, "a", &error);
}

static void test_damage_that_no_client_has_met_is_told(void **state)
{
    (void)state;
    in_a_task(be_damaged);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_an_export_serves_and_keeps),
        TEST(test_many_requests_at_once),
        TEST(test_a_limit_slows_down),
        TEST(test_an_image_in_use_is_waited_for_at_the_start_only),
        TEST(test_damage_that_no_client_has_met_is_told),
    };
    int failed;

    if (vdisk_init())
        return 1;
    failed = cmocka_run_group_tests_name("io_uring", tests, NULL, NULL);
    split_bytes = 16 * MIB;
    failed += cmocka_run_group_tests_name("io_uring, in parts", tests, NULL, NULL);
    no_uring = true;
    return failed + cmocka_run_group_tests_name("threads, in parts", tests, NULL, NULL);
}
