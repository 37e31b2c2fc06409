/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's storage (ring_io.c), killed for good: writes that outlive the process, completed and
 * not flushed, are there when another process opens the image, by O_DIRECT or through the page
 * cache; and the second decoder reads the same.
 */
#include "reactor.h"
#include "ring_io.h"
#include "vdisk/vdisk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK   4096u
#define WRITES  400u
#define FLIGHTS 16u

static const struct vdisk_key key = {
    .kind = VDISK_KEY_FILE, .bytes = "the key file of the killed daemo", .length = 32};

static char directory[PATH_MAX], path[PATH_MAX + 32];

static int set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");
    struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                           .size = (uint64_t)WRITES * BLOCK};
    struct vdisk_image *image;

    (void)state;
    snprintf(directory, sizeof(directory), "%s/vdisk-kill-XXXXXX", tmp ? tmp : "/tmp");
    if (vdisk_init() || !mkdtemp(directory))
        return -1;
    snprintf(path, sizeof(path), "%s/a.vdk", directory);
    return vdisk_create(path, &options, &key, &image, NULL) || vdisk_close(image, NULL) ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(path) || rmdir(directory) ? -1 : 0;
}

/* ---- the process that is killed: its failures are the exit status ---- */

struct flight {
    struct vdisk_request request;
    uint8_t data[BLOCK];
};

static unsigned flying, failed;

static void done(struct vdisk_request *request)
{
    flying--;
    failed += request->result != 0;
}

static void nothing(struct reactor_hook *hook)
{
    (void)hook;
}

static void content(uint8_t data[static BLOCK], unsigned number)
{
    memset(data, (int)(number % 251), BLOCK);
    memcpy(data, &number, sizeof(number));
}

/* Writes block after block, `depth` at a time, until it ends. */
static _Noreturn void write_and_die(bool no_uring, unsigned depth)
{
    struct reactor_options options = {.no_uring = no_uring};
    struct reactor_hook ready = {.run = nothing};
    struct vdisk_open_options open = {.struct_bytes = sizeof(open)};
    struct flight *flights = calloc(FLIGHTS, sizeof(*flights));
    struct reactor *reactor;
    struct vdisk_image *image;

    if (!flights || reactor_new(&options, &reactor) ||
        ring_io_open(reactor, &ready, path, 0, &open.io, NULL) ||
        vdisk_open(NULL, &open, &key, &image, NULL))
        _exit(1);
    for (unsigned i = 0; i < WRITES; i++) {
        struct flight *flight = &flights[i % depth];

        if (i % depth == 0) {
            while (flying > 0)
                vdisk_poll(image, true);
        }
        content(flight->data, i + 1);
        flight->request = (struct vdisk_request){.op = VDISK_WRITE,
                                                 .outlives = true,
                                                 .offset = (uint64_t)i * BLOCK,
                                                 .length = BLOCK,
                                                 .data = flight->data,
                                                 .done = done};
        flying++;
        vdisk_submit(image, &flight->request);
    }
    while (flying > 0)
        vdisk_poll(image, true);
    if (failed)
        _exit(2);
    (void)raise(SIGKILL);
    _exit(3);
}

static void expect_all(void)
{
    static uint8_t data[WRITES * BLOCK], expected[BLOCK];
    struct vdisk_open_options options = {.struct_bytes = sizeof(options)};
    struct vdisk_image *image;

    for (unsigned direct = 0; direct < 2; direct++) {
        options.io = NULL;
        if (direct)
            assert_int_equal(vdisk_io_plain_open(path, VDISK_OPEN_READ_ONLY | VDISK_OPEN_DIRECT,
                                                 &options.io, NULL),
                             0);
        options.read_only = true;
        assert_int_equal(vdisk_open(direct ? NULL : path, &options, &key, &image, NULL), 0);
        assert_int_equal(vdisk_read(image, 0, data, sizeof(data)), 0);
        for (unsigned i = 0; i < WRITES; i++) {
            content(expected, i + 1);
            assert_memory_equal(data + (size_t)i * BLOCK, expected, BLOCK);
        }
        vdisk_abandon(image);
    }
}

static void write_key(const char *name)
{
    FILE *file = fopen(name, "w");

    assert_non_null(file);
    assert_int_equal(fwrite(key.bytes, 1, key.length, file), key.length);
    assert_int_equal(fclose(file), 0);
}

/* The second decoder, written from SPEC.md alone. */
static void expect_all_by_the_decoder(void)
{
    const char *source = getenv("VDISK_SRC");
    char command[3 * PATH_MAX], key_path[PATH_MAX + 32];
    uint8_t data[BLOCK], expected[BLOCK];

    snprintf(key_path, sizeof(key_path), "%s/key", directory);
    write_key(key_path);
    snprintf(command, sizeof(command),
             "python3 '%s/tests/vdisk_decoder.py' read --key-file '%s' '%s'", source ? source : ".",
             key_path, path);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    for (unsigned i = 0; i < WRITES; i++) {
        content(expected, i + 1);
        assert_int_equal(fread(data, 1, BLOCK, pipe), BLOCK);
        assert_memory_equal(data, expected, BLOCK);
    }
    assert_int_equal(pclose(pipe), 0);
    assert_int_equal(unlink(key_path), 0);
}

static void kill_at_depth(bool no_uring, unsigned depth)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0)
        write_and_die(no_uring, depth);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
    expect_all();
    expect_all_by_the_decoder();
}

static void test_one_at_a_time(void **state)
{
    (void)state;
    kill_at_depth(false, 1);
}

static void test_many_at_a_time(void **state)
{
    (void)state;
    kill_at_depth(false, FLIGHTS);
}

static void test_without_io_uring(void **state)
{
    (void)state;
    kill_at_depth(true, FLIGHTS);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_one_at_a_time),
        TEST(test_many_at_a_time),
        TEST(test_without_io_uring),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
