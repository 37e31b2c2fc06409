/* SPDX-License-Identifier: Apache-2.0 */
/* The map of memory that a guest is told (vmm/ram_map.c). */
#include "layout.h"
#include "ram_map.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define GIB   (UINT64_C(1) << 30)
#define SMALL VM_MEMORY_MIN
#define PAGE  UINT64_C(4096)

static enum vm_map_type type_at(const struct vm_map_entry *map, unsigned count, uint64_t address)
{
    for (unsigned i = 0; i < count; i++)
        if (address - map[i].address < map[i].length)
            return map[i].type;
    return 0;
}

static void check_map(uint64_t size, enum vm_map_for reader)
{
    struct vm_map_entry map[VM_MAP_MAX];
    struct vm_memory memory;

    assert_int_equal(vm_memory_new(&memory, size, NULL), 0);
    unsigned count = vm_map_build(&memory, reader, map);
    uint64_t low = memory.region[0].size;

    for (unsigned i = 0; i < count; i++) {
        assert_true(map[i].length > 0);
        if (i > 0)
            assert_true(map[i].address >= map[i - 1].address + map[i - 1].length);
        if (map[i].type == VM_MAP_RAM)
            assert_non_null(vm_memory_at(&memory, map[i].address, map[i].length));
    }
    assert_int_equal(type_at(map, count, 0), VM_MAP_RAM);
    assert_int_equal(type_at(map, count, VM_HIGH_RAM), VM_MAP_RAM);
    assert_int_equal(type_at(map, count, low - PAGE - 1), VM_MAP_RAM);
    assert_int_equal(type_at(map, count, low - PAGE), VM_MAP_RESERVED);
    assert_int_equal(type_at(map, count, low), 0);
    assert_int_equal(type_at(map, count, VM_VIRTIO_AT), 0);
    assert_int_equal(type_at(map, count, VM_TSS), VM_MAP_RESERVED);
    if (reader == VM_MAP_FOR_KERNEL) {
        assert_int_equal(type_at(map, count, VM_EBDA - 1), VM_MAP_RAM);
        assert_int_equal(type_at(map, count, VM_EBDA), VM_MAP_RESERVED);
        assert_int_equal(type_at(map, count, 0xa0000), 0);
        assert_int_equal(type_at(map, count, VM_ACPI_AT), VM_MAP_RESERVED);
        assert_int_equal(type_at(map, count, VM_HIGH_RAM - 1), VM_MAP_RESERVED);
    } else {
        assert_int_equal(type_at(map, count, VM_ACPI_AT), VM_MAP_RAM);
    }
    if (size > low)
        assert_int_equal(type_at(map, count, VM_GAP_END + size - low - 1), VM_MAP_RAM);
    assert_int_equal(type_at(map, count, VM_GAP_END + size - low), 0);
    vm_memory_free(&memory);
}

static void test_the_map_has_all_ram_but_what_is_kept(void **state)
{
    (void)state;
    for (unsigned reader = VM_MAP_FOR_KERNEL; reader <= VM_MAP_FOR_FIRMWARE; reader++) {
        check_map(SMALL, reader);
        check_map(VM_GAP_BEGIN, reader);
        check_map(VM_GAP_BEGIN + PAGE, reader);
        check_map(8 * GIB, reader);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_map_has_all_ram_but_what_is_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
