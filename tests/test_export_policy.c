/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What clients of an export see when the host's disk is full or fails, by each policy. The disk is
 * one that fails when told to (ring_io_open() is wrapped), or a small tmpfs.
 */
#include "export_impl.h"
#include "ring_io.h"
#include "sim_random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define MIB   UINT64_C(1048576)
#define DRIVE (256 * MIB)
#define MS    INT64_C(1000000)

static const uint8_t key_bytes[32] = "any 32 bytes are as good as this";
static const struct vdisk_key key = {
    .kind = VDISK_KEY_FILE, .bytes = key_bytes, .length = sizeof(key_bytes)};

static char directory[PATH_MAX], path[PATH_MAX + 32];
static const char *why_no_tmpfs;
static bool no_uring;
static struct exports *exports;

/* ---- a disk that fails ---- */

static struct {
    unsigned ops;  /* a bit for each vdisk_io_op that fails */
    unsigned skip; /* so many of them work before */
    int code;
    bool once;
    bool is_gone; /* it cannot be opened either */
    unsigned failed, opened;
} fault;

struct faulty_io {
    struct vdisk_io io; /* first */
    struct vdisk_io *below;
    struct reactor *reactor;
    struct reactor_hook *ready;
    struct vdisk_io_request *ended, **ended_tail;
};

static void faulty_submit(struct vdisk_io *io, struct vdisk_io_request *request)
{
    struct faulty_io *faulty = (struct faulty_io *)io;

    if (!(fault.ops & 1u << request->op) || (fault.skip > 0 && fault.skip--)) {
        faulty->below->ops->submit(faulty->below, request);
        return;
    }
    if (fault.once)
        fault.ops = 0;
    fault.failed++;
    request->result = fault.code;
    request->next = NULL;
    *faulty->ended_tail = request;
    faulty->ended_tail = &request->next;
    reactor_kick(faulty->reactor, faulty->ready);
}

static int faulty_poll(struct vdisk_io *io, bool wait)
{
    struct faulty_io *faulty = (struct faulty_io *)io;
    struct vdisk_io_request *request = faulty->ended;
    int count = faulty->below->ops->poll(faulty->below, wait && !request);

    faulty->ended = NULL;
    faulty->ended_tail = &faulty->ended;
    while (request) {
        struct vdisk_io_request *next = request->next;

        request->done(request);
        request = next;
        count++;
    }
    return count;
}

static int faulty_size(struct vdisk_io *io, uint64_t *bytes)
{
    struct faulty_io *faulty = (struct faulty_io *)io;

    return faulty->below->ops->size(faulty->below, bytes);
}

static int64_t faulty_now(struct vdisk_io *io)
{
    struct faulty_io *faulty = (struct faulty_io *)io;

    return faulty->below->ops->now(faulty->below);
}

static void faulty_close(struct vdisk_io *io)
{
    struct faulty_io *faulty = (struct faulty_io *)io;

    faulty->below->ops->close(faulty->below);
    free(faulty);
}

static const struct vdisk_io_ops faulty_ops = {
    .submit = faulty_submit,
    .poll = faulty_poll,
    .size = faulty_size,
    .now = faulty_now,
    .close = faulty_close,
};

int __real_ring_io_open(struct reactor *reactor, struct reactor_hook *ready, const char *name,
                        int flags, struct vdisk_io **out, struct vdisk_error *error);
int __wrap_ring_io_open(struct reactor *reactor, struct reactor_hook *ready, const char *name,
                        int flags, struct vdisk_io **out, struct vdisk_error *error);

int __wrap_ring_io_open(struct reactor *reactor, struct reactor_hook *ready, const char *name,
                        int flags, struct vdisk_io **out, struct vdisk_error *error)
{
    struct faulty_io *faulty;
    int result;

    fault.opened++;
    if (fault.is_gone)
        return -EIO;
    faulty = calloc(1, sizeof(*faulty));
    assert_non_null(faulty);
    result = __real_ring_io_open(reactor, ready, name, flags, &faulty->below, error);
    if (result) {
        free(faulty);
        return result;
    }
    faulty->io.ops = &faulty_ops;
    faulty->reactor = reactor;
    faulty->ready = ready;
    faulty->ended_tail = &faulty->ended;
    *out = &faulty->io;
    return 0;
}

static void fail_ops(unsigned ops, int code)
{
    fault.ops = ops;
    fault.code = code;
    fault.skip = 0;
    fault.once = false;
    fault.failed = 0;
}

#define WRITES    (1u << VDISK_IO_WRITE)
#define SYNCS     (1u << VDISK_IO_SYNC)
#define READS     (1u << VDISK_IO_READ)
#define ALLOCATES (1u << VDISK_IO_ALLOCATE)

/* ---- an export of one image ---- */

static int set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");
    struct exports_options options = {.reactors = 1, .workers = 1, .no_uring = no_uring};
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = DRIVE};
    struct vdisk_image *image;

    (void)state;
    memset(&fault, 0, sizeof(fault));
    snprintf(directory, sizeof(directory), "%s/vdisk-policy-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof(path), "%s/a.vdk", directory);
    if (vdisk_create(path, &create, &key, &image, NULL) || vdisk_close(image, NULL))
        return -1;
    return exports_new(&options, &exports, NULL);
}

static int tear_down(void **state)
{
    char command[PATH_MAX + 16];

    (void)state;
    exports_free(exports);
    (void)umount2(directory, MNT_DETACH);
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}

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

static int add(enum export_policy when_full, enum export_policy when_failing)
{
    struct export_options options = {
        .name = "drive", .path = path, .when_full = when_full, .when_failing = when_failing};
    struct vdisk_unlocked *unlocked;
    struct vdisk_error error = {0};
    int result = vdisk_unlock(path, &key, &unlocked, &error);

    if (result)
        return result;
    options.unlocked = unlocked;
    result = export_add(exports, &options, &error);
    vdisk_unlocked_free(unlocked); /* the export has what it needs */
    return result;
}

static struct export *export;
static struct export_session *session;

static void serve(enum export_policy when_full, enum export_policy when_failing)
{
    struct vdisk_error error;

    assert_int_equal(add(when_full, when_failing), 0);
    export = export_get(exports, "drive");
    assert_int_equal(export_attach(export, NULL, NULL, NULL, &session, &error), 0);
}

static int serve_no_more(void)
{
    struct vdisk_error error = {0};

    export_detach(session);
    export_put(export);
    return export_remove(exports, "drive", &error);
}

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

static void begin_at(struct export_session *at, struct waiting *waiting, enum vdisk_request_op op,
                     uint64_t offset, void *data, uint64_t length)
{
    *waiting = (struct waiting){
        .request = {.request = {.op = op, .offset = offset, .length = length, .data = data},
                    .done = request_done,
                    .owner = waiting}};
    export_submit(at, &waiting->request);
}

static void begin(struct waiting *waiting, enum vdisk_request_op op, uint64_t offset, void *data,
                  uint64_t length)
{
    begin_at(session, waiting, op, offset, data, length);
}

static int end(struct waiting *waiting)
{
    while (!waiting->done)
        task_park(&waiting->place);
    return waiting->request.request.result;
}

static int request(enum vdisk_request_op op, uint64_t offset, void *data, uint64_t length)
{
    struct waiting waiting;

    begin(&waiting, op, offset, data, length);
    return end(&waiting);
}

static int flush(void)
{
    return request(VDISK_FLUSH, 0, NULL, 0);
}

static uint8_t pattern[4 * MIB], back[4 * MIB];

static int write_pattern(uint64_t offset, int seed)
{
    for (size_t i = 0; i < MIB; i++)
        pattern[i] = (uint8_t)((i >> 7) * 13 + i * (unsigned)seed + (unsigned)seed);
    return request(VDISK_WRITE, offset, pattern, MIB);
}

static void holds_pattern(uint64_t offset, int seed)
{
    assert_int_equal(request(VDISK_READ, offset, back, MIB), 0);
    for (size_t i = 0; i < MIB; i++)
        assert_int_equal(back[i], (uint8_t)((i >> 7) * 13 + i * (unsigned)seed + (unsigned)seed));
}

static void image_is_sound(void)
{
    struct vdisk_check_options options = {.struct_bytes = sizeof(options)};
    struct vdisk_check_result result;
    struct vdisk_image *image;

    assert_int_equal(vdisk_open(path, NULL, &key, &image, NULL), 0);
    assert_int_equal(vdisk_check(image, &options, &result), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
}

static uint64_t reopened(void)
{
    return atomic_load(&export_stats(export)->reopened);
}

/* ---- a failing disk ---- */

static int take_snapshot(struct vdisk_image *image, void *name)
{
    return vdisk_snapshot_create(image, name);
}

static int count_snapshots(struct vdisk_image *image, void *arg)
{
    struct vdisk_info info;

    vdisk_get_info(image, &info);
    *(uint64_t *)arg = info.snapshots;
    return 0;
}

struct counting {
    uint64_t snapshots;
    int result;
    bool ended;
    struct task *place;
};

static void count_in_a_task(void *arg)
{
    struct counting *counting = arg;
    struct vdisk_error error;

    counting->result = export_call(export, count_snapshots, &counting->snapshots, &error);
    counting->ended = true;
    task_wake(&counting->place);
}

static void live_through_a_failed_sync(void)
{
    struct waiting flushed, read, read_old;
    struct export_session *old;
    struct counting counting = {0};
    struct vdisk_error error;

    serve(EXPORT_REPORT, EXPORT_WAIT);
    assert_int_equal(write_pattern(0, 1), 0);
    assert_int_equal(export_call(export, take_snapshot, (void *)(uintptr_t) "one", &error), 0);
    assert_int_equal(export_attach(export, "one", NULL, NULL, &old, &error), 0);
    assert_int_equal(write_pattern(0, 2), 0);
    assert_int_equal(request(VDISK_ZERO, 4096, NULL, 4096), 0);
    assert_int_equal(write_pattern(8 * MIB, 3), 0);
    fail_ops(SYNCS, -EIO);
    fault.is_gone = true;
    begin(&flushed, VDISK_FLUSH, 0, NULL, 0);
    while (fault.opened < 3) /* at first, and two tries */
        task_sleep(10 * MS);
    assert_false(flushed.done);
    begin(&read, VDISK_READ, 8 * MIB, back, 4096);
    begin_at(old, &read_old, VDISK_READ, 0, back + 4096, 4096);
    assert_int_equal(task_spawn(exports_main(exports), count_in_a_task, &counting), 0);
    assert_int_equal(export_session_size(session), DRIVE);
    assert_int_equal(export_session_size(old), DRIVE);
    assert_true(export_session_read_only(old));
    task_sleep(100 * MS);
    assert_false(read.done || read_old.done || flushed.done || counting.ended);
    assert_int_equal(atomic_load(&export->stats.delayed), 3);
    assert_true(export->memory.waits);
    fail_ops(0, 0);
    fault.is_gone = false;
    assert_int_equal(end(&flushed), 0);
    assert_int_equal(end(&read), 0);
    assert_int_equal(end(&read_old), 0);
    while (!counting.ended)
        task_park(&counting.place);
    assert_int_equal(counting.result, 0);
    assert_int_equal(counting.snapshots, 1);
    assert_memory_equal(back, pattern, 4096);
    assert_int_equal(back[4096 + 5], 5 + 1);
    assert_int_equal(reopened(), 1);
    assert_int_equal(atomic_load(&export->stats.delayed), 0);
    assert_false(export->memory.waits);
    holds_pattern(8 * MIB, 3);
    assert_int_equal(request(VDISK_READ, 4096, back, 4096), 0);
    assert_int_equal(back[9], 0);
    assert_null(export->keeper.head);
    assert_int_equal(export->keeper.bytes, 0);
    export_detach(old);
    assert_int_equal(serve_no_more(), 0);
}

static void test_a_client_sees_a_failed_sync_as_a_wait(void **state)
{
    (void)state;
    in_a_task(live_through_a_failed_sync);
    image_is_sound();
}

static void report_a_failed_sync(void)
{
    serve(EXPORT_WAIT, EXPORT_REPORT);
    assert_int_equal(write_pattern(0, 1), 0);
    assert_int_equal(flush(), 0);
    assert_int_equal(write_pattern(MIB, 2), 0);
    fail_ops(SYNCS, -EIO);
    assert_int_equal(flush(), -EIO);
    fail_ops(0, 0);
    assert_int_equal(write_pattern(2 * MIB, 3), VDISK_E_FAILED);
    assert_int_equal(flush(), VDISK_E_FAILED);
    holds_pattern(MIB, 2);
    assert_int_equal(reopened(), 0);
    assert_int_equal(serve_no_more(), VDISK_E_FAILED);
    serve(EXPORT_REPORT, EXPORT_REPORT);
    holds_pattern(0, 1);
    assert_int_equal(write_pattern(MIB, 2), 0);
    assert_int_equal(flush(), 0);
    assert_int_equal(serve_no_more(), 0);
}

static void test_a_failed_sync_is_reported_until_the_export_is_added_again(void **state)
{
    (void)state;
    in_a_task(report_a_failed_sync);
    image_is_sound();
}

static int resize(struct vdisk_image *image, void *size)
{
    return vdisk_resize(image, *(uint64_t *)size, true);
}

/* What was kept is not written again behind an end that was there in between. */
static void shrink_and_grow(void)
{
    static uint8_t zeros[MIB];
    uint64_t small = DRIVE / 2 + 4096, large = DRIVE;
    struct vdisk_error error;

    serve(EXPORT_REPORT, EXPORT_WAIT);
    assert_int_equal(write_pattern(DRIVE - MIB, 1), 0);
    assert_int_equal(write_pattern(DRIVE / 2, 1), 0);
    assert_int_equal(export_call(export, resize, &small, &error), 0);
    assert_int_equal(export_call(export, resize, &large, &error), 0);
    assert_int_equal(write_pattern(0, 1), 0);
    fail_ops(SYNCS, -EIO);
    fault.once = true;
    assert_int_equal(flush(), 0);
    assert_int_equal(reopened(), 1);
    assert_int_equal(request(VDISK_READ, DRIVE - MIB, back, MIB), 0);
    assert_memory_equal(back, zeros, MIB);
    assert_int_equal(request(VDISK_READ, DRIVE / 2, back, MIB), 0);
    assert_memory_equal(back, pattern, 4096);
    assert_memory_equal(back + 4096, zeros, MIB - 4096);
    assert_int_equal(export->keeper.bytes, 0);
    assert_int_equal(serve_no_more(), 0);
}

static void test_what_was_cut_off_does_not_come_back(void **state)
{
    (void)state;
    in_a_task(shrink_and_grow);
    image_is_sound();
}

/* An image that failed for what no waiting cures. */
static void fail_for_good(void)
{
    serve(EXPORT_WAIT, EXPORT_WAIT);
    assert_int_equal(write_pattern(0, 1), 0);
    assert_int_equal(flush(), 0);
    assert_int_equal(write_pattern(0, 1), 0);
    fail_ops(SYNCS, VDISK_E_NOT_AUTHENTIC);
    assert_int_equal(flush(), VDISK_E_NOT_AUTHENTIC);
    fail_ops(0, 0);
    assert_int_equal(write_pattern(MIB, 3), VDISK_E_FAILED);
    assert_int_equal(flush(), VDISK_E_FAILED);
    assert_int_equal(reopened(), 0);
    assert_int_equal(serve_no_more(), VDISK_E_FAILED);
}

static void test_what_does_not_go_away_is_reported(void **state)
{
    (void)state;
    in_a_task(fail_for_good);
    image_is_sound();
}

static void retry_data(void)
{
    struct waiting waiting[4];

    serve(EXPORT_REPORT, EXPORT_WAIT);
    assert_int_equal(write_pattern(0, 1), 0);
    assert_int_equal(flush(), 0);
    fail_ops(WRITES, -EIO);
    for (unsigned i = 0; i < 4; i++)
        begin(&waiting[i], VDISK_WRITE, i * MIB, pattern, MIB);
    while (fault.failed < 4)
        task_sleep(10 * MS);
    fail_ops(0, 0);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(end(&waiting[i]), 0);
    for (unsigned i = 0; i < 4; i++)
        holds_pattern(i * MIB, 1);
    assert_int_equal(flush(), 0);
    assert_int_equal(reopened(), 0); /* it was not for the image to fail */
    assert_int_equal(serve_no_more(), 0);
}

static void test_writes_that_fail_are_tried_again(void **state)
{
    (void)state;
    in_a_task(retry_data);
    image_is_sound();
}

struct removing {
    struct vdisk_error error;
    int result;
    bool ended;
    struct task *place;
};

static void remove_in_a_task(void *arg)
{
    struct removing *removing = arg;

    removing->result = export_remove(exports, "drive", &removing->error);
    removing->ended = true;
    task_wake(&removing->place);
}

static void remove_while_waiting(void)
{
    struct waiting flushed, read;
    struct removing removing = {.result = 0};

    serve(EXPORT_REPORT, EXPORT_WAIT);
    assert_int_equal(write_pattern(0, 1), 0);
    assert_int_equal(flush(), 0);
    assert_int_equal(write_pattern(MIB, 2), 0);
    fail_ops(SYNCS, -EIO);
    fault.is_gone = true;
    begin(&flushed, VDISK_FLUSH, 0, NULL, 0);
    while (fault.opened < 2)
        task_sleep(10 * MS);
    begin(&read, VDISK_READ, 0, back, 4096);
    assert_int_equal(task_spawn(exports_main(exports), remove_in_a_task, &removing), 0);
    assert_int_equal(end(&flushed), -ESHUTDOWN);
    assert_int_equal(end(&read), -ESHUTDOWN);
    begin(&read, VDISK_READ, 0, back, 4096);
    assert_false(read.done);
    assert_int_equal(end(&read), -ESHUTDOWN);
    export_put(export);
    export_detach(session);
    while (!removing.ended)
        task_park(&removing.place);
    assert_int_equal(removing.result, VDISK_E_FAILED);
    assert_non_null(strstr(removing.error.text, "could not be opened"));
    fail_ops(0, 0);
    fault.is_gone = false;
    serve(EXPORT_REPORT, EXPORT_REPORT);
    holds_pattern(0, 1);
    assert_int_equal(serve_no_more(), 0);
}

static void test_removing_ends_the_wait(void **state)
{
    (void)state;
    in_a_task(remove_while_waiting);
    image_is_sound();
}

static void keep_a_bounded_amount(void)
{
    struct waiting waiting[32];
    static uint8_t big[4 * MIB];

    serve(EXPORT_REPORT, EXPORT_WAIT);
    for (unsigned round = 0; round < 3; round++) {
        memset(big, 'a' + (int)round, sizeof(big));
        for (unsigned i = 0; i < 32; i++)
            begin(&waiting[i], VDISK_WRITE, i * sizeof(big), big, sizeof(big));
        assert_true(export->keeper.bytes <= 64 * MIB);
        for (unsigned i = 0; i < 32; i++)
            assert_int_equal(end(&waiting[i]), 0);
        assert_true(export->keeper.bytes <= 64 * MIB && export->keeper.bytes > 0);
    }
    fail_ops(SYNCS, -EIO);
    fault.once = true;
    assert_int_equal(flush(), 0);
    assert_int_equal(reopened(), 1);
    assert_int_equal(export->keeper.bytes, 0);
    for (unsigned i = 0; i < 32; i++) {
        assert_int_equal(request(VDISK_READ, i * sizeof(big), back, sizeof(big)), 0);
        assert_memory_equal(back, big, sizeof(big));
    }
    /* A failure of the flush that the export makes for room. */
    fail_ops(SYNCS, -EIO);
    fault.once = true;
    for (unsigned i = 0; i < 32; i++)
        begin(&waiting[i], VDISK_WRITE, i * sizeof(big), big, sizeof(big));
    for (unsigned i = 0; i < 32; i++)
        assert_int_equal(end(&waiting[i]), 0);
    assert_int_equal(fault.failed, 1);
    assert_int_equal(reopened(), 2);
    assert_int_equal(serve_no_more(), 0);
}

static void test_what_is_kept_is_bounded(void **state)
{
    (void)state;
    in_a_task(keep_a_bounded_amount);
    image_is_sound();
}

static void keep_one_that_is_too_long(void)
{
    struct waiting waiting;
    static uint8_t big[4 * MIB];

    serve(EXPORT_REPORT, EXPORT_WAIT);
    export_keep_limit(export, MIB);
    for (unsigned i = 0; i < 3; i++) {
        begin(&waiting, VDISK_WRITE, i * sizeof(big), big, sizeof(big));
        assert_int_equal(end(&waiting), 0);
        for (unsigned tries = 0; tries < 500 && export->keeper.bytes > 0; tries++)
            task_sleep(10 * MS); /* nobody asks for a flush */
        assert_int_equal(export->keeper.bytes, 0);
    }
    /* A failure of that flush is the image's, and found by the next request. */
    fail_ops(SYNCS, -EIO);
    fault.once = true;
    begin(&waiting, VDISK_WRITE, 0, big, sizeof(big));
    assert_int_equal(end(&waiting), 0);
    assert_int_equal(flush(), 0);
    assert_int_equal(reopened(), 1);
    assert_int_equal(request(VDISK_READ, 0, back, sizeof(big)), 0);
    assert_memory_equal(back, big, sizeof(big));
    assert_int_equal(serve_no_more(), 0);
}

static void test_a_change_beyond_the_limit_is_kept_and_flushed_at_once(void **state)
{
    (void)state;
    in_a_task(keep_one_that_is_too_long);
    image_is_sound();
}

/* ---- by chance ---- */

#define AREA (4 * MIB)

static uint8_t model[AREA];

static void random_change(struct sim_rng *rng, struct waiting *waiting, uint8_t *data)
{
    uint64_t length = 512 + sim_rng_below(rng, 128 * 1024), offset = sim_rng_below(rng, AREA);
    unsigned kind = (unsigned)sim_rng_below(rng, 8);

    length = length < AREA - offset ? length : AREA - offset;
    if (kind < 6) {
        memset(data, (int)sim_rng_below(rng, 256), length);
        memcpy(model + offset, data, length);
    } else {
        memset(model + offset, 0, length);
    }
    begin(waiting,
          kind < 6    ? VDISK_WRITE
          : kind == 6 ? VDISK_DISCARD
                      : VDISK_ZERO,
          offset, data, length);
}

static void fail_by_chance(void)
{
    static uint8_t data[256 * 1024];
    static const unsigned ops[] = {SYNCS, WRITES, SYNCS | WRITES, ALLOCATES, READS};
    const char *seed = getenv("VDISK_TEST_SEED"), *is_long = getenv("VDISK_TEST_LONG");
    unsigned rounds = is_long && strcmp(is_long, "1") == 0 ? 5000 : 400;
    struct sim_rng rng;
    uint64_t reopens;

    sim_rng_seed(&rng, seed ? strtoull(seed, NULL, 0) : 1);
    print_message("VDISK_TEST_SEED=%s\n", seed ? seed : "1");
    memset(model, 0, sizeof(model));
    serve(EXPORT_WAIT, EXPORT_WAIT);
    for (unsigned round = 0; round < rounds; round++) {
        struct waiting waiting;

        if (sim_rng_chance(&rng, 1, 8)) {
            fail_ops(SYNCS |
                         (unsigned)(sim_rng_chance(&rng, 1, 8) ? ops[sim_rng_below(&rng, 5)] : 0),
                     sim_rng_chance(&rng, 1, 3) ? -ENOSPC : -EIO);
            fault.skip = (unsigned)sim_rng_below(&rng, 6);
            fault.once = true;
        }
        random_change(&rng, &waiting, data);
        if (sim_rng_chance(&rng, 1, 8))
            waiting.request.request.fua = true; /* nothing has run yet */
        assert_int_equal(end(&waiting), 0);
        if (sim_rng_chance(&rng, 1, 6))
            assert_int_equal(flush(), 0);
        if (sim_rng_chance(&rng, 1, 10)) {
            assert_int_equal(request(VDISK_READ, 0, back, AREA), 0);
            assert_memory_equal(back, model, AREA);
        }
    }
    fail_ops(0, 0);
    assert_int_equal(request(VDISK_READ, 0, back, AREA), 0);
    assert_memory_equal(back, model, AREA);
    reopens = reopened();
    assert_int_equal(serve_no_more(), 0);
    print_message("opened anew %llu times\n", (unsigned long long)reopens);
    assert_true(reopens > 5);
    serve(EXPORT_REPORT, EXPORT_REPORT);
    assert_int_equal(request(VDISK_READ, 0, back, AREA), 0);
    assert_memory_equal(back, model, AREA);
    assert_int_equal(serve_no_more(), 0);
}

static void test_clients_never_see_that_the_disk_fails_by_chance(void **state)
{
    (void)state;
    in_a_task(fail_by_chance);
    image_is_sound();
}

/* ---- a full disk ---- */

/* ENOSPC of a flush or its journal is one after which the image must be opened anew: that is
 * decided by when_full. */
static void be_full_in_the_journal(void)
{
    struct waiting flushed, written;

    serve(EXPORT_WAIT, EXPORT_REPORT);
    assert_int_equal(write_pattern(0, 1), 0);
    fail_ops(SYNCS, -ENOSPC);
    begin(&flushed, VDISK_FLUSH, 0, NULL, 0);
    while (fault.failed < 2) /* the flush, and a change by the new image */
        task_sleep(10 * MS);
    begin(&written, VDISK_WRITE, MIB, pattern, MIB);
    fail_ops(0, 0);
    assert_int_equal(end(&flushed), 0);
    assert_int_equal(end(&written), 0);
    assert_int_equal(reopened(), 1);
    holds_pattern(0, 1);
    holds_pattern(MIB, 1);
    assert_int_equal(serve_no_more(), 0);
    serve(EXPORT_REPORT, EXPORT_WAIT);
    assert_int_equal(write_pattern(0, 3), 0);
    fail_ops(WRITES, -ENOSPC);
    assert_int_equal(flush(), -ENOSPC);
    fail_ops(0, 0);
    assert_int_equal(flush(), VDISK_E_FAILED);
    assert_int_equal(reopened(), 0);
    assert_int_equal(serve_no_more(), VDISK_E_FAILED);
}

static void test_a_full_disk_in_a_flush_is_decided_by_when_full(void **state)
{
    (void)state;
    in_a_task(be_full_in_the_journal);
    image_is_sound();
}

static int checkpoint(struct vdisk_image *image, void *arg)
{
    (void)arg;
    return vdisk_checkpoint(image);
}

static void be_full_in_a_checkpoint(void)
{
    struct vdisk_error error;

    serve(EXPORT_WAIT, EXPORT_REPORT);
    assert_int_equal(write_pattern(0, 1), 0);
    fail_ops(WRITES, -ENOSPC);
    fault.once = true;
    assert_int_equal(export_call(export, checkpoint, NULL, &error), -ENOSPC);
    assert_int_equal(write_pattern(MIB, 2), 0);
    assert_int_equal(reopened(), 1);
    holds_pattern(0, 1);
    assert_int_equal(serve_no_more(), 0);
}

static void test_a_full_disk_in_a_checkpoint_is_waited_for(void **state)
{
    (void)state;
    in_a_task(be_full_in_a_checkpoint);
    image_is_sound();
}

static void remove_filler(void)
{
    char filler[PATH_MAX + 16];

    snprintf(filler, sizeof(filler), "%s/filler", directory);
    assert_int_equal(unlink(filler), 0);
}

static void fill_the_disk(void)
{
    char filler[PATH_MAX + 16];
    int fd;

    snprintf(filler, sizeof(filler), "%s/filler", directory);
    fd = open(filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    while (write(fd, pattern, 4096) > 0)
        ;
    assert_int_equal(errno, ENOSPC);
    close(fd);
}

static void wait_for_space(void)
{
    struct waiting waiting[16];
    unsigned done = 0;

    serve(EXPORT_WAIT, EXPORT_REPORT);
    assert_int_equal(write_pattern(0, 1), 0);
    assert_int_equal(flush(), 0);
    fill_the_disk();
    for (unsigned i = 0; i < 16; i++)
        begin(&waiting[i], VDISK_WRITE, (1 + i) * MIB, pattern, MIB);
    while (atomic_load(&export_stats(export)->waiting_for_space) < 8)
        task_sleep(10 * MS);
    assert_int_equal(flush(), 0); /* what was written can be flushed on a full disk */
    holds_pattern(0, 1);
    for (unsigned i = 0; i < 16; i++)
        done += waiting[i].done;
    assert_true(done < 16);
    remove_filler();
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(end(&waiting[i]), 0);
    for (unsigned i = 0; i < 16; i++)
        holds_pattern((1 + i) * MIB, 1);
    assert_int_equal(flush(), 0);
    assert_int_equal(serve_no_more(), 0);
}

static void report_a_full_disk(void)
{
    int result = 0;

    serve(EXPORT_REPORT, EXPORT_WAIT);
    assert_int_equal(write_pattern(0, 1), 0);
    fill_the_disk();
    for (unsigned i = 1; i < 200 && result == 0; i++)
        result = write_pattern(i * MIB, 2);
    assert_int_equal(result, -ENOSPC);
    assert_int_equal(flush(), 0);
    holds_pattern(0, 1);
    remove_filler();
    assert_int_equal(write_pattern(MIB, 5), 0);
    assert_int_equal(flush(), 0);
    assert_int_equal(reopened(), 0);
    assert_int_equal(serve_no_more(), 0);
}

static int set_up_tmpfs(void **state)
{
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = DRIVE};
    struct vdisk_image *image;
    int result = set_up(state);

    if (result || why_no_tmpfs)
        return result;
    if (mount("none", directory, "tmpfs", 0, "size=96m") < 0) {
        why_no_tmpfs = "a tmpfs cannot be mounted here";
        return 0;
    }
    return vdisk_create(path, &create, &key, &image, NULL) || vdisk_close(image, NULL) ? -1 : 0;
}

static void on_tmpfs(void (*body)(void))
{
    if (why_no_tmpfs) {
        print_message("skipped: %s\n", why_no_tmpfs);
        skip();
    }
    in_a_task(body);
    image_is_sound();
}

static void test_writes_wait_for_space_and_go_on(void **state)
{
    (void)state;
    on_tmpfs(wait_for_space);
}

static void test_a_full_disk_is_reported_and_does_no_harm(void **state)
{
    (void)state;
    on_tmpfs(report_a_full_disk);
}

/* A mount namespace of our own; before there is any thread. */
static void leave_the_others(void)
{
    char text[64];
    uid_t uid = getuid();
    FILE *map;

    if (uid == 0 ? unshare(CLONE_NEWNS) : unshare(CLONE_NEWUSER | CLONE_NEWNS)) {
        why_no_tmpfs = "there is no mount namespace for us";
        return;
    }
    snprintf(text, sizeof(text), "0 %u 1", (unsigned)uid);
    map = uid ? fopen("/proc/self/uid_map", "w") : NULL;
    if (map) {
        (void)fputs(text, map);
        fclose(map);
    }
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        why_no_tmpfs = "mounts cannot be made private";
}

#define TEST(name)          cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define TEST_ON_TMPFS(name) cmocka_unit_test_setup_teardown(name, set_up_tmpfs, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_client_sees_a_failed_sync_as_a_wait),
        TEST(test_a_failed_sync_is_reported_until_the_export_is_added_again),
        TEST(test_what_was_cut_off_does_not_come_back),
        TEST(test_what_does_not_go_away_is_reported),
        TEST(test_writes_that_fail_are_tried_again),
        TEST(test_removing_ends_the_wait),
        TEST(test_what_is_kept_is_bounded),
        TEST(test_a_change_beyond_the_limit_is_kept_and_flushed_at_once),
        TEST(test_clients_never_see_that_the_disk_fails_by_chance),
        TEST(test_a_full_disk_in_a_flush_is_decided_by_when_full),
        TEST(test_a_full_disk_in_a_checkpoint_is_waited_for),
        TEST_ON_TMPFS(test_writes_wait_for_space_and_go_on),
        TEST_ON_TMPFS(test_a_full_disk_is_reported_and_does_no_harm),
    };
    int failed;

    leave_the_others();
    if (vdisk_init())
        return 1;
    failed = cmocka_run_group_tests_name("io_uring", tests, NULL, NULL);
    no_uring = true;
    return failed + cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
