/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every request to the disk fails once, the first, the second, and so on, in the life of an image
 * (fault_scenario.h); and from each one on. What was durable stays, and the image can be used.
 *
 * VDISK_TEST_FAULT=n makes only number n fail. VDISK_TEST_LONG=1 tries each; otherwise some.
 */
#include "fault_scenario.h"
#include "io_plain.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static struct vdisk_io *io_of_sim(void *arg)
{
    return sim_io(arg);
}

/* The image after a power cut, and, when the machine goes on, as it is. */
static void verify_disks(const struct fault_scenario *s, struct sim *sim, uint64_t seed)
{
    for (unsigned mode = 0; mode < 3; mode++) {
        static const enum sim_crash_mode modes[] = {SIM_KEEP_NONE, SIM_KEEP_SUBSET, SIM_KEEP_ALL};
        struct sim *disk = sim_crash_image(sim, seed + mode, modes[mode]);
        struct fault_scenario copy = *s;
        struct fault_place place = {.io = io_of_sim, .arg = disk};
        fault_verify(&copy, &place);
        sim_free(disk);
    }
}

/* Returns whether a fault fired. */
static bool run_once(const struct sim_fault *fault, uint64_t nth)
{
    struct fault_scenario *s = malloc(sizeof(*s));
    struct sim *sim = sim_new(nth);
    struct sim_fault now = *fault;
    struct fault_place place = {.io = io_of_sim, .arg = sim};
    assert_non_null(s);
    alarm(120);
    now.nth = nth;
    sim_add_fault(sim, &now);
    fault_live(s, &place,
               fault->sticky ? FAULT_MAY_BE_SHUT
               : fault->drop ? FAULT_STOP_WHEN_FAILED
                             : 0);
    bool fired = sim_faults_fired(sim) != 0;
    sim_clear_faults(sim);
    if (s->created) {
        fault_forget(s);
        verify_disks(s, sim, nth);
    }
    sim_free(sim);
    free(s);
    alarm(0);
    return fired;
}

static void run_all(const struct sim_fault *fault, unsigned stride)
{
    const char *one = getenv("VDISK_TEST_FAULT");
    uint64_t nth = one ? strtoull(one, NULL, 0) : 1;
    stride = getenv("VDISK_TEST_LONG") ? 1 : stride;
    for (bool fired = true; fired; nth += stride) {
        print_message("fault at %llu\r", (unsigned long long)nth);
        fired = run_once(fault, nth);
        if (one)
            return;
    }
    print_message("\n");
    assert_true(nth > 3);
}

static void test_each_request_fails_once(void **state)
{
    (void)state;
    run_all(&(struct sim_fault){.op = SIM_ANY_OP, .error = -EIO}, 5);
}

static void test_from_each_request_on_all_fail(void **state)
{
    (void)state;
    run_all(&(struct sim_fault){.op = SIM_ANY_OP, .error = -EIO, .sticky = true}, 7);
}

static void test_each_write_finds_no_space_once(void **state)
{
    (void)state;
    run_all(&(struct sim_fault){.op = VDISK_IO_WRITE, .error = -ENOSPC}, 5);
}

static void test_each_allocation_finds_no_space_once(void **state)
{
    (void)state;
    run_all(&(struct sim_fault){.op = VDISK_IO_ALLOCATE, .error = -ENOSPC}, 1);
}

static void test_from_each_allocation_on_there_is_no_space(void **state)
{
    (void)state;
    run_all(&(struct sim_fault){.op = VDISK_IO_ALLOCATE, .error = -ENOSPC, .sticky = true}, 1);
}

static void test_each_sync_fails_once(void **state)
{
    (void)state;
    run_all(&(struct sim_fault){.op = VDISK_IO_SYNC, .error = -EIO}, 2);
}

/* The kernel forgets what it could not write, and says so once. */
static void test_each_sync_fails_once_and_loses_data(void **state)
{
    (void)state;
    run_all(&(struct sim_fault){.op = VDISK_IO_SYNC, .error = -EIO, .drop = true}, 2);
}

static void test_each_read_fails_once(void **state)
{
    (void)state;
    run_all(&(struct sim_fault){.op = VDISK_IO_READ, .error = -EIO}, 3);
}

static void test_each_punch_fails_once(void **state)
{
    (void)state;
    run_all(&(struct sim_fault){.op = VDISK_IO_PUNCH, .error = -EIO}, 3);
}

static void test_hosts_that_cannot_allocate(void **state)
{
    (void)state;
    assert_true(run_once(
        &(struct sim_fault){.op = VDISK_IO_ALLOCATE, .error = -EOPNOTSUPP, .sticky = true}, 1));
}

/* ---- the plain backend, and a kernel that does things by halves ---- */

enum half {
    HALF_SHORT,
    HALF_INTERRUPTED,
    HALF_ERROR
};

static struct {
    char path[200];
    enum half half;
    uint64_t left; /* calls until the one that is done by halves */
} kernel;

static bool its_turn(void)
{
    return kernel.left && --kernel.left == 0;
}

static int refuse(void)
{
    errno = kernel.half == HALF_INTERRUPTED ? EINTR : EIO;
    return -1;
}

static ssize_t half_pread(int fd, void *data, size_t length, off_t offset)
{
    if (!its_turn())
        return pread(fd, data, length, offset);
    return kernel.half == HALF_SHORT ? pread(fd, data, length / 3 + 1, offset) : refuse();
}

static ssize_t half_pwritev(int fd, const struct iovec *vectors, int count, off_t offset)
{
    if (!its_turn())
        return pwritev(fd, vectors, count, offset);
    return kernel.half == HALF_SHORT
               ? pwrite(fd, vectors[0].iov_base, vectors[0].iov_len / 3 + 1, offset)
               : refuse();
}

/* Nobody pulls the plug here: no need to wait for the disk. */
static int half_fdatasync(int fd)
{
    (void)fd;
    return kernel.half != HALF_SHORT && its_turn() ? refuse() : 0;
}

static int no_fsync(int fd)
{
    (void)fd;
    return 0;
}

static int half_fallocate(int fd, int mode, off_t offset, off_t length)
{
    return kernel.half != HALF_SHORT && its_turn() ? refuse() : fallocate(fd, mode, offset, length);
}

static int plain_openat(int folder, const char *name, int flags, mode_t mode)
{
    return openat(folder, name, flags, mode);
}

static const struct vd_file_calls half_calls = {
    .pread = half_pread,
    .pwritev = half_pwritev,
    .fdatasync = half_fdatasync,
    .fsync = no_fsync,
    .fallocate = half_fallocate,
    .ftruncate = ftruncate,
    .openat = plain_openat,
    .unlinkat = unlinkat,
};

static struct vdisk_io *io_of_file(void *arg)
{
    struct vdisk_io *io = NULL;
    int flags = access(kernel.path, F_OK) == 0 ? 0 : VDISK_OPEN_CREATE;
    (void)arg;
    assert_int_equal(vdisk_io_plain_open(kernel.path, flags, &io, NULL), 0);
    vd_files_set_calls(vd_io_plain_files(io), &half_calls);
    return io;
}

static void each_call_by_halves(enum half half, unsigned stride)
{
    const struct fault_place place = {.io = io_of_file};
    struct fault_scenario *s = malloc(sizeof(*s));
    const char *tmp = getenv("TMPDIR");
    uint64_t left = 0;
    assert_non_null(s);
    snprintf(kernel.path, sizeof(kernel.path), "%s/vdisk-faults-%d", tmp ? tmp : "/tmp",
             (int)getpid());
    stride = getenv("VDISK_TEST_LONG") ? 1 : stride;
    for (uint64_t nth = 1; left == 0; nth += stride) {
        alarm(120);
        kernel.half = half;
        kernel.left = nth;
        fault_live(s, &place, 0);
        left = kernel.left;
        kernel.left = 0;
        assert_true(half == HALF_ERROR || s->failures == 0);
        if (s->created) {
            fault_forget(s);
            fault_verify(s, &place);
        }
        assert_int_equal(unlink(kernel.path), 0);
        alarm(0);
    }
    free(s);
}

static void test_each_short_transfer_goes_unnoticed(void **state)
{
    (void)state;
    each_call_by_halves(HALF_SHORT, 13);
}

static void test_each_interrupted_call_goes_unnoticed(void **state)
{
    (void)state;
    each_call_by_halves(HALF_INTERRUPTED, 17);
}

static void test_each_system_call_fails_once(void **state)
{
    (void)state;
    each_call_by_halves(HALF_ERROR, 11);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_request_fails_once),
        cmocka_unit_test(test_from_each_request_on_all_fail),
        cmocka_unit_test(test_each_write_finds_no_space_once),
        cmocka_unit_test(test_each_allocation_finds_no_space_once),
        cmocka_unit_test(test_from_each_allocation_on_there_is_no_space),
        cmocka_unit_test(test_each_sync_fails_once),
        cmocka_unit_test(test_each_sync_fails_once_and_loses_data),
        cmocka_unit_test(test_each_read_fails_once),
        cmocka_unit_test(test_each_punch_fails_once),
        cmocka_unit_test(test_hosts_that_cannot_allocate),
        cmocka_unit_test(test_each_short_transfer_goes_unnoticed),
        cmocka_unit_test(test_each_interrupted_call_goes_unnoticed),
        cmocka_unit_test(test_each_system_call_fails_once),
    };
    if (vdisk_init())
        return 1;
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
