/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each allocation of the library fails once, the first, the second, and so on, in the life of an
 * image (fault_scenario.h): an error and no more. The linker puts the functions below before those
 * of the C library and of the libraries underneath (test_faults_memory.ldflags); they count only
 * while the library runs, and not while it calls the simulated disk.
 *
 * VDISK_TEST_FAULT=n makes only number n fail. VDISK_TEST_LONG=1 tries each; otherwise some.
 */
#include "fault_scenario.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/modes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

static bool armed;
static uint64_t left; /* allocations until the one that fails; 0: none will */
static bool fired;

static bool fails(void)
{
    if (!armed || left == 0 || --left)
        return false;
    fired = true;
    return true;
}

/* ---- in the place of the real ones ---- */

#define WRAP(type, name, parameters, arguments)                                                    \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        if (fails()) {                                                                             \
            errno = ENOMEM;                                                                        \
            return NULL;                                                                           \
        }                                                                                          \
        return __real_##name arguments;                                                            \
    }

WRAP(void *, malloc, (size_t size), (size))
WRAP(void *, calloc, (size_t count, size_t size), (count, size))
WRAP(void *, realloc, (void *old, size_t size), (old, size))
WRAP(char *, strdup, (const char *text), (text))
WRAP(char *, strndup, (const char *text, size_t length), (text, length))
WRAP(char *, realpath, (const char *path, char *resolved), (path, resolved))
WRAP(void *, sodium_malloc, (size_t size), (size))
WRAP(EVP_CIPHER_CTX *, EVP_CIPHER_CTX_new, (void), ())
WRAP(GCM128_CONTEXT *, CRYPTO_gcm128_new, (void *key, block128_f block), (key, block))
WRAP(ZSTD_CCtx *, ZSTD_createCCtx, (void), ())
WRAP(ZSTD_DCtx *, ZSTD_createDCtx, (void), ())

int __real_posix_memalign(void **out, size_t alignment, size_t size);
int __wrap_posix_memalign(void **out, size_t alignment, size_t size);
int __wrap_posix_memalign(void **out, size_t alignment, size_t size)
{
    return fails() ? ENOMEM : __real_posix_memalign(out, alignment, size);
}

/* ---- a disk whose own allocations do not count ---- */

struct quiet {
    struct vdisk_io io;
    struct vdisk_io *inner;
};

static void quiet_submit(struct vdisk_io *io, struct vdisk_io_request *request)
{
    struct vdisk_io *inner = ((struct quiet *)io)->inner;
    bool was = armed;
    armed = false;
    inner->ops->submit(inner, request);
    armed = was;
}

/* Completions of the library allocate nothing. */
static int quiet_poll(struct vdisk_io *io, bool wait)
{
    struct vdisk_io *inner = ((struct quiet *)io)->inner;
    bool was = armed;
    armed = false;
    int n = inner->ops->poll(inner, wait);
    armed = was;
    return n;
}

static int quiet_size(struct vdisk_io *io, uint64_t *bytes)
{
    struct vdisk_io *inner = ((struct quiet *)io)->inner;
    return inner->ops->size(inner, bytes);
}

static int64_t quiet_now(struct vdisk_io *io)
{
    struct vdisk_io *inner = ((struct quiet *)io)->inner;
    return inner->ops->now(inner);
}

static void quiet_close(struct vdisk_io *io)
{
    struct vdisk_io *inner = ((struct quiet *)io)->inner;
    inner->ops->close(inner);
    free(io);
}

static const struct vdisk_io_ops quiet_ops = {
    .submit = quiet_submit,
    .poll = quiet_poll,
    .size = quiet_size,
    .now = quiet_now,
    .close = quiet_close,
};

static struct vdisk_io *io_of_sim(void *arg)
{
    struct quiet *quiet = malloc(sizeof(*quiet));
    assert_non_null(quiet);
    *quiet = (struct quiet){{&quiet_ops}, sim_io(arg)};
    return &quiet->io;
}

static void arm_allocator(void *arg, bool on)
{
    (void)arg;
    armed = on;
}

/* ---- the runs ---- */

static void run_on_sim(uint64_t nth)
{
    struct fault_scenario *s = malloc(sizeof(*s));
    struct sim *sim = sim_new(nth);
    struct fault_place place = {.io = io_of_sim, .arm = arm_allocator, .arg = sim};
    assert_non_null(s);
    left = nth;
    fired = false;
    fault_live(s, &place, 0);
    left = 0;
    if (s->created) {
        struct sim *disk = sim_crash_image(sim, nth, SIM_KEEP_NONE);
        place = (struct fault_place){.io = io_of_sim, .arg = disk};
        fault_forget(s);
        fault_verify(s, &place);
        sim_free(disk);
    }
    sim_free(sim);
    free(s);
}

static char path[256];

static void run_on_file(uint64_t nth)
{
    struct fault_scenario *s = malloc(sizeof(*s));
    struct fault_place place = {.path = path, .arm = arm_allocator};
    assert_non_null(s);
    left = nth;
    fired = false;
    fault_live(s, &place, 0);
    left = 0;
    if (s->created) {
        fault_verify(s, &place);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(access(path, F_OK), -1); /* a create that failed leaves nothing */
    free(s);
}

static void run_all(void (*run)(uint64_t nth), unsigned stride)
{
    const char *one = getenv("VDISK_TEST_FAULT");
    uint64_t nth = one ? strtoull(one, NULL, 0) : 1;
    do {
        print_message("allocation %llu\r", (unsigned long long)nth);
        alarm(120);
        run(nth);
        alarm(0);
        /* The first ones are those of create. */
        nth += getenv("VDISK_TEST_LONG") || nth < 100 ? 1 : stride;
    } while (fired && !one);
    print_message("\n");
}

static void test_each_allocation_fails_once(void **state)
{
    (void)state;
    run_all(run_on_sim, 17);
}

static void test_each_allocation_fails_once_on_a_file(void **state)
{
    (void)state;
    run_all(run_on_file, 101);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_allocation_fails_once),
        cmocka_unit_test(test_each_allocation_fails_once_on_a_file),
    };
    const char *tmp = getenv("TMPDIR");
    snprintf(path, sizeof(path), "%s/vdisk-memory-%d", tmp ? tmp : "/tmp", (int)getpid());
    if (vdisk_init())
        return 1;
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
