/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file that data is copied into, with and without the page cache: the same bytes, whatever their
 * place and length; and what is long and lies right does not stay in memory.
 */
#include "sim_random.h"
#include "sink.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE  4096u
#define BYTES (4u << 20)

static int new_file(void)
{
    char path[] = "/var/tmp/vdisk-sink-XXXXXX"; /* a disk, where there is one */
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    unlink(path);
    assert_int_equal(ftruncate(fd, BYTES), 0);
    return fd;
}

static uint8_t *pages(size_t bytes)
{
    uint8_t *memory = aligned_alloc(PAGE, bytes);

    assert_non_null(memory);
    return memory;
}

static void expect_content(int fd, const uint8_t *wanted)
{
    uint8_t *found = malloc(BYTES);

    assert_non_null(found);
    assert_int_equal(pread(fd, found, BYTES, 0), BYTES);
    assert_memory_equal(found, wanted, BYTES);
    free(found);
}

static void test_same_bytes_whatever_their_place(void **state)
{
    uint8_t *source = pages(BYTES), *wanted = calloc(1, BYTES);
    struct sim_rng rng;
    struct sink sink;
    int fd = new_file();

    (void)state;
    assert_non_null(wanted);
    sim_rng_seed(&rng, 1);
    sink_file(&sink, "file", fd);
    sink_open_direct(&sink);
    for (unsigned round = 0; round < 300; round++) {
        uint64_t unit = sim_rng_below(&rng, 2) ? PAGE : 512, units = BYTES / unit;
        uint64_t at = sim_rng_below(&rng, units);
        uint64_t length = 1 + sim_rng_below(&rng, (units - at < 400 ? units - at : 400));
        uint64_t from = sim_rng_below(&rng, units - length + 1);

        /* A new file: what is written twice must not be zeros in between. */
        sim_rng_fill(&rng, source + from * unit, length * unit);
        memcpy(wanted + at * unit, source + from * unit, length * unit);
        assert_int_equal(sink.ops->data(&sink, at * unit, source + from * unit, length * unit), 0);
    }
    sink_close_direct(&sink);
    assert_int_equal(fsync(fd), 0);
    expect_content(fd, wanted);
    close(fd);
    free(source);
    free(wanted);
}

static unsigned pages_in_memory(int fd)
{
    unsigned char *present = malloc(BYTES / PAGE);
    void *map = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0);
    unsigned count = 0;

    assert_non_null(present);
    assert_true(map != MAP_FAILED);
    assert_int_equal(mincore(map, BYTES, present), 0);
    for (size_t i = 0; i < BYTES / PAGE; i++)
        count += present[i] & 1;
    munmap(map, BYTES);
    free(present);
    return count;
}

static bool takes_direct(int fd)
{
    uint8_t *page = pages(PAGE);
    char path[32];
    int direct;
    bool takes;

    memset(page, 1, PAGE);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    direct = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
    takes = direct >= 0 && pwrite(direct, page, PAGE, 0) == PAGE && pages_in_memory(fd) == 0;
    if (direct >= 0)
        close(direct);
    free(page);
    return takes;
}

static void test_long_runs_do_not_stay_in_memory(void **state)
{
    uint8_t *source = pages(BYTES);
    struct sink sink;
    int fd = new_file();

    (void)state;
    if (!takes_direct(fd)) {
        print_message("the file system of /var/tmp knows only the page cache\n");
        close(fd);
        free(source);
        skip();
    }
    memset(source, 'x', BYTES);
    sink_file(&sink, "file", fd);
    sink_open_direct(&sink);
    assert_int_equal(sink.ops->data(&sink, 0, source, BYTES), 0);
    assert_int_equal(pages_in_memory(fd), 0);
    sink_close_direct(&sink);
    expect_content(fd, source);
    close(fd);
    free(source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes_whatever_their_place),
        cmocka_unit_test(test_long_runs_do_not_stay_in_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
