/* SPDX-License-Identifier: Apache-2.0 */
/* Who answers at an address. */
#include "bus.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

/* A device that remembers the last access, and reads as the number it has. */
struct device {
    uint8_t number;
    unsigned reads, writes, size;
    uint64_t offset;
    uint8_t data[8];
};

static void device_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    struct device *device = opaque;

    device->reads++;
    device->offset = offset;
    device->size = size;
    memset(data, device->number, size);
}

static void device_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct device *device = opaque;

    device->writes++;
    device->offset = offset;
    device->size = size;
    memcpy(device->data, data, size);
}

static const struct vm_bus_ops ops = {.read = device_read, .write = device_write};

static uint64_t read_at(const struct vm_bus *bus, uint64_t address, unsigned size)
{
    uint8_t data[8] = {0};
    uint64_t value;

    vm_bus_read(bus, address, data, size);
    memcpy(&value, data, sizeof(value));
    return value;
}

static void test_an_access_reaches_the_device_at_its_address(void **state)
{
    static const uint64_t order[] = {5, 1, 4, 0, 6, 2, 3};
    struct device device[7] = {{0}};
    struct vm_bus bus = {0};

    (void)state;
    for (unsigned i = 0; i < 7; i++) {
        uint64_t n = order[i];

        device[n].number = (uint8_t)(n + 1);
        assert_int_equal(vm_bus_add(&bus, n * 0x100, 0x80, &ops, &device[n]), 0);
    }
    for (uint64_t n = 0; n < 7; n++) {
        const uint8_t sent[8] = {1, 2, 3, 4, 5, 6, 7, (uint8_t)n};

        assert_int_equal(read_at(&bus, n * 0x100, 1), n + 1);
        assert_int_equal(read_at(&bus, n * 0x100 + 0x7c, 4), 0x01010101u * (n + 1));
        assert_int_equal(device[n].offset, 0x7c);
        assert_int_equal(device[n].size, 4);
        vm_bus_write(&bus, n * 0x100 + 0x78, sent, 8);
        assert_int_equal(device[n].offset, 0x78);
        assert_memory_equal(device[n].data, sent, 8);
        assert_int_equal(device[n].reads, 2);
        assert_int_equal(device[n].writes, 1);
    }
}

static void test_what_nobody_answers_reads_as_ones_and_is_not_written(void **state)
{
    static const uint64_t nobody[] = {0, 0xff, 0x110, 0x1000, UINT64_MAX};
    struct device device = {.number = 7};
    struct vm_bus bus = {0};

    (void)state;
    assert_int_equal(read_at(&bus, 0, 8), UINT64_MAX);
    assert_int_equal(vm_bus_add(&bus, 0x100, 0x10, &ops, &device), 0);
    for (unsigned i = 0; i < sizeof(nobody) / sizeof(nobody[0]); i++) {
        assert_int_equal(read_at(&bus, nobody[i], 1), 0xff);
        vm_bus_write(&bus, nobody[i], (const uint8_t[8]){0}, 1);
    }
    assert_int_equal(device.reads + device.writes, 0);
}

static void test_a_device_is_not_asked_for_what_is_partly_outside(void **state)
{
    struct device device[2] = {{.number = 1}, {.number = 2}};
    struct device byte = {.number = 3};
    struct vm_bus bus = {0};

    (void)state;
    assert_int_equal(vm_bus_add(&bus, 0x100, 0x10, &ops, &device[0]), 0);
    assert_int_equal(vm_bus_add(&bus, 0x110, 0x10, &ops, &device[1]), 0);
    assert_int_equal(vm_bus_add(&bus, 0x200, 1, &ops, &byte), 0);
    assert_int_equal(read_at(&bus, 0x10e, 4), 0xffffffff); /* over two devices */
    assert_int_equal(read_at(&bus, 0x11c, 8), UINT64_MAX); /* over an end */
    assert_int_equal(read_at(&bus, 0xff, 2), 0xffff);      /* over a beginning */
    assert_int_equal(read_at(&bus, 0x200, 2), 0xffff);     /* larger than the range */
    vm_bus_write(&bus, 0x10e, (const uint8_t[8]){0}, 4);
    vm_bus_write(&bus, 0x200, (const uint8_t[8]){0}, 8);
    assert_int_equal(device[0].reads + device[0].writes, 0);
    assert_int_equal(device[1].reads + device[1].writes, 0);
    assert_int_equal(byte.reads + byte.writes, 0);
    assert_int_equal(read_at(&bus, 0x200, 1), 3);
}

static void test_ranges_do_not_overlap(void **state)
{
    struct device device = {.number = 1};
    struct vm_bus bus = {0};

    (void)state;
    assert_int_equal(vm_bus_add(&bus, 0x100, 0x10, &ops, &device), 0);
    assert_int_equal(vm_bus_add(&bus, 0x100, 0x10, &ops, &device), -EEXIST);
    assert_int_equal(vm_bus_add(&bus, 0x10f, 1, &ops, &device), -EEXIST);
    assert_int_equal(vm_bus_add(&bus, 0xf0, 0x11, &ops, &device), -EEXIST);
    assert_int_equal(vm_bus_add(&bus, 0, 0x1000, &ops, &device), -EEXIST);
    assert_int_equal(vm_bus_add(&bus, 0xf0, 0x10, &ops, &device), 0);
    assert_int_equal(vm_bus_add(&bus, 0x110, 0x10, &ops, &device), 0);
    assert_int_equal(bus.count, 3);
}

static void test_a_range_is_not_empty_and_does_not_wrap(void **state)
{
    struct device device = {.number = 1};
    struct vm_bus bus = {0};

    (void)state;
    assert_int_equal(vm_bus_add(&bus, 0x100, 0, &ops, &device), -EINVAL);
    assert_int_equal(vm_bus_add(&bus, UINT64_MAX, 2, &ops, &device), -EINVAL);
    assert_int_equal(vm_bus_add(&bus, 2, UINT64_MAX, &ops, &device), -EINVAL);
    assert_int_equal(vm_bus_add(&bus, UINT64_MAX - 3, 4, &ops, &device), 0);
    assert_int_equal(read_at(&bus, UINT64_MAX - 3, 4), 0x01010101);
    assert_int_equal(read_at(&bus, UINT64_MAX - 2, 4), 0xffffffff);
    assert_int_equal(bus.count, 1);
}

static void test_a_full_bus_takes_no_more(void **state)
{
    struct device device = {.number = 1};
    struct vm_bus bus = {0};

    (void)state;
    for (uint64_t n = 0; n < VM_BUS_RANGES; n++)
        assert_int_equal(vm_bus_add(&bus, n * 8, 8, &ops, &device), 0);
    assert_int_equal(vm_bus_add(&bus, VM_BUS_RANGES * 8, 8, &ops, &device), -ENOSPC);
    assert_int_equal(read_at(&bus, (VM_BUS_RANGES - 1) * 8, 1), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_access_reaches_the_device_at_its_address),
        cmocka_unit_test(test_what_nobody_answers_reads_as_ones_and_is_not_written),
        cmocka_unit_test(test_a_device_is_not_asked_for_what_is_partly_outside),
        cmocka_unit_test(test_ranges_do_not_overlap),
        cmocka_unit_test(test_a_range_is_not_empty_and_does_not_wrap),
        cmocka_unit_test(test_a_full_bus_takes_no_more),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
