/* SPDX-License-Identifier: Apache-2.0 */
/* A guest's RAM: where it is, who can see it, and that nobody can cut it short. */
#include "layout.h"
#include "memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB       (UINT64_C(1) << 20)
#define GIB       (UINT64_C(1) << 30)
#define LARGE     (5 * GIB) /* nothing of it is touched but a few pages */
#define LARGE_TOP (VM_GAP_END + LARGE - VM_GAP_BEGIN)

static void test_memory_goes_on_above_the_gap(void **state)
{
    struct vm_memory memory;

    (void)state;
    assert_int_equal(vm_memory_new(&memory, 16 * MIB, NULL), 0);
    assert_int_equal(memory.count, 1);
    assert_int_equal(memory.region[0].size, 16 * MIB);
    vm_memory_free(&memory);

    assert_int_equal(vm_memory_new(&memory, VM_GAP_BEGIN, NULL), 0);
    assert_int_equal(memory.count, 1);
    vm_memory_free(&memory);

    assert_int_equal(vm_memory_new(&memory, LARGE, NULL), 0);
    assert_int_equal(memory.count, 2);
    assert_int_equal(memory.region[0].guest, 0);
    assert_int_equal(memory.region[0].size, VM_GAP_BEGIN);
    assert_int_equal(memory.region[1].guest, VM_GAP_END);
    assert_int_equal(memory.region[1].offset, VM_GAP_BEGIN);
    assert_int_equal(memory.region[0].size + memory.region[1].size, LARGE);
    vm_memory_free(&memory);
    assert_int_equal(memory.count, 0);
}

static void test_an_address_is_ram_only_with_all_of_its_bytes(void **state)
{
    struct vm_memory memory;

    (void)state;
    assert_int_equal(vm_memory_new(&memory, LARGE, NULL), 0);
    assert_ptr_equal(vm_memory_at(&memory, 0, 1), memory.region[0].host);
    assert_ptr_equal(vm_memory_at(&memory, 0x1000, 8), memory.region[0].host + 0x1000);
    assert_ptr_equal(vm_memory_at(&memory, 0, VM_GAP_BEGIN), memory.region[0].host);
    assert_ptr_equal(vm_memory_at(&memory, VM_GAP_END, 4), memory.region[1].host);
    assert_non_null(vm_memory_at(&memory, LARGE_TOP - 1, 1));
    assert_non_null(vm_memory_at(&memory, VM_GAP_BEGIN - 1, 1));

    assert_null(vm_memory_at(&memory, VM_GAP_BEGIN - 1, 2));
    assert_null(vm_memory_at(&memory, VM_GAP_BEGIN, 1));
    assert_null(vm_memory_at(&memory, VM_GAP_END - 1, 2));
    assert_null(vm_memory_at(&memory, LARGE_TOP - 1, 2));
    assert_null(vm_memory_at(&memory, LARGE_TOP, 0));
    assert_null(vm_memory_at(&memory, 0x1000, UINT64_MAX));
    assert_null(vm_memory_at(&memory, UINT64_MAX, 1));
    assert_null(vm_memory_at(&memory, UINT64_MAX, UINT64_MAX));
    vm_memory_free(&memory);
}

static void test_the_file_has_the_memory_of_both_regions(void **state)
{
    struct vm_memory memory;
    uint8_t *low, *high, got[4];

    (void)state;
    assert_int_equal(vm_memory_new(&memory, LARGE, NULL), 0);
    low = vm_memory_at(&memory, 0x2000, 4);
    high = vm_memory_at(&memory, VM_GAP_END + 0x3000, 4);
    memcpy(low, "low", 4);
    memcpy(high, "top", 4);
    assert_int_equal(pread(memory.fd, got, 4, 0x2000), 4);
    assert_string_equal((char *)got, "low");
    assert_int_equal(pread(memory.fd, got, 4, (off_t)(VM_GAP_BEGIN + 0x3000)), 4);
    assert_string_equal((char *)got, "top");
    vm_memory_free(&memory);
}

static void test_its_size_can_not_be_changed(void **state)
{
    struct vm_memory memory;
    struct stat status;

    (void)state;
    assert_int_equal(vm_memory_new(&memory, 16 * MIB, NULL), 0);
    assert_int_equal(ftruncate(memory.fd, 4096), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(ftruncate(memory.fd, 32 * MIB), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(fstat(memory.fd, &status), 0);
    assert_int_equal(status.st_size, 16 * MIB);
    assert_int_equal(fcntl(memory.fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(fcntl(memory.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    vm_memory_free(&memory);
}

/* The flags (proc_pid_smaps(5)) of the mapping at an address. */
static void mapping_flags(const void *address, char *flags, size_t size)
{
    FILE *maps = fopen("/proc/self/smaps", "re");
    char line[512];
    bool here = false;

    flags[0] = '\0';
    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps)) {
        char *dash;
        uintptr_t begin = strtoull(line, &dash, 16);

        if (*dash == '-')
            here = (uintptr_t)address - begin < strtoull(dash + 1, NULL, 16) - begin;
        if (here && strncmp(line, "VmFlags:", 8) == 0)
            snprintf(flags, size, "%s", line + 8);
    }
    (void)fclose(maps);
}

static void test_no_core_file_has_it_and_no_page_is_merged(void **state)
{
    struct vm_memory memory;
    char flags[512];

    (void)state;
    assert_int_equal(vm_memory_new(&memory, LARGE, NULL), 0);
    for (unsigned i = 0; i < memory.count; i++) {
        mapping_flags(memory.region[i].host, flags, sizeof(flags));
        assert_non_null(strstr(flags, " dd"));
        assert_null(strstr(flags, " mg"));
    }
    vm_memory_free(&memory);
}

static void test_a_size_that_is_none_is_refused_in_words(void **state)
{
    static const uint64_t sizes[] = {
        0, 4096, 16 * MIB - 4096, 16 * MIB + 1, VM_MEMORY_MAX + 4096, UINT64_MAX,
    };
    struct vdisk_error error;
    struct vm_memory memory;

    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        assert_int_equal(vm_memory_new(&memory, sizes[i], &error), -EINVAL);
        assert_non_null(strstr(error.text, "16 MiB"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_goes_on_above_the_gap),
        cmocka_unit_test(test_an_address_is_ram_only_with_all_of_its_bytes),
        cmocka_unit_test(test_the_file_has_the_memory_of_both_regions),
        cmocka_unit_test(test_its_size_can_not_be_changed),
        cmocka_unit_test(test_no_core_file_has_it_and_no_page_is_merged),
        cmocka_unit_test(test_a_size_that_is_none_is_refused_in_words),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
