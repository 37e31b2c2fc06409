/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ACPI tables (vmm/acpi*.c, vmm/aml.c), read as a guest reads them. With a folder as argument
 * the program writes the tables of a large and of a small machine there instead, for iasl
 * (scenario_vm_acpi.sh).
 */
#include "acpi.h"
#include "aml.h"
#include "generation.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GENERATION UINT64_C(0xcffff000)

static const struct vm_acpi_config large = {
    .cpus = VM_CPUS_MAX,
    .virtio_slots = 0xffff,
    .serial = true,
    .rtc = true,
    .keyboard = true,
    .generation = GENERATION,
};
static const struct vm_acpi_config small = {.cpus = 1};

/* Where the tables are, and where they were put. */
struct tables {
    uint64_t at;
    uint8_t bytes[VM_ACPI_MAX];
};

struct span {
    const uint8_t *bytes;
    size_t size;
};

static uint64_t number(const uint8_t *bytes, unsigned count)
{
    uint64_t value = 0;

    memcpy(&value, bytes, count);
    return value;
}

static uint8_t sum_of(const uint8_t *bytes, size_t size)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + bytes[i]);
    return sum;
}

static void make(struct tables *tables, const struct vm_acpi_config *config)
{
    memset(tables->bytes, 0xee, sizeof(tables->bytes));
    tables->at = VM_ACPI_AT;
    assert_int_equal(vm_acpi_build(config, tables->bytes), 0);
}

/* The table at a guest address, which is right. */
static struct span table_at(const struct tables *tables, uint64_t address, const char *signature)
{
    uint64_t offset = address - tables->at;

    assert_true(offset < VM_ACPI_MAX - 36);
    struct span table = {tables->bytes + offset, number(tables->bytes + offset + 4, 4)};

    assert_true(table.size >= 36 && table.size <= VM_ACPI_MAX - offset);
    assert_memory_equal(table.bytes, signature, 4);
    if (strcmp(signature, "FACS") != 0)
        assert_int_equal(sum_of(table.bytes, table.size), 0);
    return table;
}

static struct span xsdt_of(const struct tables *tables)
{
    return table_at(tables, number(tables->bytes + 24, 8), "XSDT");
}

static struct span fadt_of(const struct tables *tables)
{
    return table_at(tables, number(xsdt_of(tables).bytes + 36, 8), "FACP");
}

static struct span madt_of(const struct tables *tables)
{
    return table_at(tables, number(xsdt_of(tables).bytes + 44, 8), "APIC");
}

static struct span dsdt_of(const struct tables *tables)
{
    return table_at(tables, number(fadt_of(tables).bytes + 40, 4), "DSDT");
}

/* ---- reading AML, as far as it is here ---- */

/* A length with its own bytes (20.2.4); *at goes behind it, and what it counts ends at the end. */
static size_t end_of_package(const uint8_t *code, size_t *at, size_t limit)
{
    size_t begin = *at, length = code[begin] & 0x3f;
    unsigned more = code[begin] >> 6;

    if (more) {
        length = code[begin] & 0xf;
        for (unsigned i = 0; i < more; i++)
            length |= (size_t)code[begin + 1 + i] << (4 + 8 * i);
    }
    *at = begin + 1 + more;
    assert_true(length >= 1 + more && begin + length <= limit);
    return begin + length;
}

static size_t after_path(const uint8_t *code, size_t at)
{
    if (code[at] == '\\')
        at++;
    return at + (code[at] == 0x2e ? 9 : 4);
}

static size_t after_object(const uint8_t *code, size_t at, size_t limit)
{
    switch (code[at++]) {
    case 0x00:
    case 0x01:
        return at;
    case 0x0a:
        return at + 1;
    case 0x0b:
        return at + 2;
    case 0x0c:
        return at + 4;
    case 0x0e:
        return at + 8;
    case 0x0d:
        return at + strlen((const char *)code + at) + 1;
    case 0x11:
    case 0x12:
        return end_of_package(code, &at, limit);
    default:
        fail_msg("byte %02x at %zu", code[at - 1], at - 1);
        return limit;
    }
}

/* What a name is (the bytes of its object), or a device has in it; NULL: there is none. Names are
 * looked for in scopes too. All of the code is walked through. */
static struct span find(struct span code, const char *name)
{
    struct span found = {NULL, 0};
    size_t at = 0;

    while (at < code.size) {
        bool device = code.bytes[at] == 0x5b, scope = code.bytes[at] == 0x10;
        bool is_name = code.bytes[at] == 0x08;
        size_t end = 0, path;

        assert_true(device || scope || is_name || code.bytes[at] == 0x14);
        at += device ? 2 : 1;
        if (!is_name)
            end = end_of_package(code.bytes, &at, code.size);
        path = at;
        at = after_path(code.bytes, path);
        if (is_name)
            end = after_object(code.bytes, at, code.size);
        assert_true(at <= end && end <= code.size);
        struct span inner = {code.bytes + at, end - at};

        if (memcmp(code.bytes + at - 4, name, 4) == 0)
            found = inner;
        else if (scope && !found.bytes)
            found = find(inner, name);
        at = end;
    }
    assert_int_equal(at, code.size);
    return found;
}

static struct span code_of(const struct tables *tables)
{
    struct span dsdt = dsdt_of(tables);

    return (struct span){dsdt.bytes + 36, dsdt.size - 36};
}

/* The resources of a device, without the buffer around them. */
static struct span resources_of(struct span device)
{
    struct span crs = find(device, "_CRS");
    size_t at = 1, end;

    assert_non_null(crs.bytes);
    assert_int_equal(crs.bytes[0], 0x11);
    end = end_of_package(crs.bytes, &at, crs.size);
    assert_int_equal(crs.bytes[at], 0x0a);
    assert_int_equal(crs.bytes[at + 1], end - at - 2);
    assert_int_equal(number(crs.bytes + end - 2, 2), 0x79); /* the end tag */
    return (struct span){crs.bytes + at + 2, end - at - 4};
}

static void assert_bytes(struct span have, const void *want, size_t size)
{
    assert_int_equal(have.size, size);
    assert_memory_equal(have.bytes, want, size);
}

/* ---- tests ---- */

static void test_all_tables_are_found_from_the_rsdp(void **state)
{
    static struct tables tables;
    struct span fadt;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        make(&tables, i ? &large : &small);
        assert_memory_equal(tables.bytes, "RSD PTR ", 8);
        assert_int_equal(sum_of(tables.bytes, 20), 0);
        assert_int_equal(tables.bytes[15], 2);
        assert_int_equal(number(tables.bytes + 20, 4), 36);
        assert_int_equal(sum_of(tables.bytes, 36), 0);
        assert_int_equal(xsdt_of(&tables).size, 36 + 2 * 8);
        (void)madt_of(&tables);
        (void)dsdt_of(&tables);
        fadt = fadt_of(&tables);
        assert_int_equal(number(fadt.bytes + 140, 8), number(fadt.bytes + 40, 4));
        uint64_t facs = number(fadt.bytes + 36, 4);

        assert_int_equal(facs % 64, 0);
        assert_int_equal(table_at(&tables, facs, "FACS").size, 64);
        assert_int_equal(number(fadt.bytes + 132, 8), 0); /* one of its two addresses only */
    }
}

static void test_the_fadt_names_the_ports_of_the_layout(void **state)
{
    static struct tables tables;
    struct span fadt;

    (void)state;
    make(&tables, &small);
    fadt = fadt_of(&tables);
    assert_int_equal(fadt.size, 276);
    assert_int_equal(fadt.bytes[8], 6);
    assert_int_equal(number(fadt.bytes + 46, 2), VM_IRQ_SCI);
    assert_int_equal(number(fadt.bytes + 48, 4), 0); /* no SMI: ACPI is always on */
    assert_int_equal(number(fadt.bytes + 56, 4), VM_PORT_PM1_EVENT);
    assert_int_equal(number(fadt.bytes + 152, 8), VM_PORT_PM1_EVENT);
    assert_int_equal(number(fadt.bytes + 64, 4), VM_PORT_PM1_CTRL);
    assert_int_equal(number(fadt.bytes + 176, 8), VM_PORT_PM1_CTRL);
    assert_int_equal(number(fadt.bytes + 76, 4), VM_PORT_PM_TIMER);
    assert_int_equal(number(fadt.bytes + 212, 8), VM_PORT_PM_TIMER);
    assert_int_equal(number(fadt.bytes + 120, 8), VM_PORT_RESET);
    assert_int_equal(fadt.bytes[116], 1); /* in I/O space */
    assert_int_equal(fadt.bytes[128], VM_RESET_VALUE);
    /* Bit by bit: no power or sleep button but the fixed one, a timer of 24 bits, a reset
     * register, and hardware that is not reduced. */
    assert_int_equal(number(fadt.bytes + 112, 4), 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10);
}

static unsigned boot_arch(struct vm_acpi_config config)
{
    static struct tables tables;

    make(&tables, &config);
    return (unsigned)number(fadt_of(&tables).bytes + 109, 2);
}

static void test_the_fadt_says_which_old_devices_there_are(void **state)
{
    static struct tables tables;

    (void)state;
    assert_int_equal(boot_arch((struct vm_acpi_config){.cpus = 1}), 1 << 2 | 1 << 5);
    assert_int_equal(boot_arch((struct vm_acpi_config){.cpus = 1, .rtc = true}), 1 << 2);
    assert_int_equal(boot_arch((struct vm_acpi_config){.cpus = 1, .keyboard = true}),
                     1 << 1 | 1 << 2 | 1 << 5);
    assert_int_equal(boot_arch((struct vm_acpi_config){.cpus = 1, .serial = true}),
                     1 << 0 | 1 << 2 | 1 << 5);
    make(&tables, &small);
    assert_int_equal(fadt_of(&tables).bytes[108], 0); /* the century */
    make(&tables, &large);
    assert_int_equal(fadt_of(&tables).bytes[108], 0x32);
}

static void test_the_madt_has_each_processor_and_its_interrupts(void **state)
{
    static const unsigned counts[] = {1, 2, VM_CPUS_MAX};
    static struct tables tables;

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        make(&tables, &(struct vm_acpi_config){.cpus = counts[i]});
        struct span madt = madt_of(&tables);
        unsigned cpus = 0, seen[5] = {0};

        assert_int_equal(number(madt.bytes + 36, 4), VM_LAPIC);
        assert_int_equal(number(madt.bytes + 40, 4), 1);
        for (size_t at = 44; at < madt.size; at += madt.bytes[at + 1]) {
            const uint8_t *entry = madt.bytes + at;

            assert_true(entry[0] < 5 && entry[1] >= 6 && at + entry[1] <= madt.size);
            seen[entry[0]]++;
            if (entry[0] == 0) {
                assert_int_equal(entry[2], cpus);
                assert_int_equal(entry[3], cpus++);
                assert_int_equal(number(entry + 4, 4), 1);
            } else if (entry[0] == 1) {
                assert_int_equal(number(entry + 4, 4), VM_IOAPIC);
                assert_int_equal(number(entry + 8, 4), 0);
            } else if (entry[0] == 2) {
                assert_int_equal(entry[3], VM_IRQ_SCI);
                assert_int_equal(number(entry + 4, 4), VM_IRQ_SCI);
                assert_int_equal(number(entry + 8, 2), 0x0d);
            } else {
                assert_int_equal(entry[2], 0xff);
                assert_int_equal(entry[5], 1);
            }
        }
        const unsigned want[5] = {counts[i], 1, 1, 0, 1};

        assert_memory_equal(seen, want, sizeof(want));
    }
}

static void test_each_processor_is_a_device_of_the_same_number(void **state)
{
    static struct tables tables;
    char name[16];

    (void)state;
    make(&tables, &large);
    for (unsigned i = 0; i < VM_CPUS_MAX; i++) {
        snprintf(name, sizeof(name), "C%03X", i);
        struct span device = find(code_of(&tables), name);

        assert_non_null(device.bytes);
        assert_bytes(find(device, "_HID"),
                     "\x0d"
                     "ACPI0007",
                     10);
        struct span uid = find(device, "_UID");

        assert_int_equal(i < 2 ? uid.bytes[0] : uid.bytes[1], i);
    }
    assert_null(find(code_of(&tables), "C040").bytes);
}

static void test_a_virtio_device_is_where_its_slot_is(void **state)
{
    static struct tables tables;
    char name[16];

    (void)state;
    for (uint32_t slots = 1; slots < 0x20000; slots *= 2) {
        make(&tables, &(struct vm_acpi_config){.cpus = 1, .virtio_slots = slots - 1});
        for (unsigned slot = 0; slot < VM_VIRTIO_MAX; slot++) {
            snprintf(name, sizeof(name), "V%03X", slot);
            struct span device = find(code_of(&tables), name);

            assert_int_equal(device.bytes != NULL, (slots - 1) >> slot & 1);
            if (!device.bytes)
                continue;
            assert_bytes(find(device, "_HID"),
                         "\x0d"
                         "LNRO0005",
                         10);
            struct span resources = resources_of(device);

            assert_int_equal(resources.size, 12 + 9);
            assert_memory_equal(resources.bytes, "\x86\x09\x00\x01", 4);
            assert_int_equal(number(resources.bytes + 4, 4), vm_virtio_address(slot));
            assert_int_equal(number(resources.bytes + 8, 4), VM_VIRTIO_BYTES);
            /* A consumer's, one edge, active high, not shared. */
            assert_memory_equal(resources.bytes + 12, "\x89\x06\x00\x03\x01", 5);
            assert_int_equal(number(resources.bytes + 17, 4), vm_virtio_irq(slot));
        }
    }
}

static void test_the_serial_port_and_the_clock_are_described_if_there(void **state)
{
    static const uint8_t serial[] = {0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x22, 0x10, 0};
    static const uint8_t rtc[] = {0x47, 1, 0x70, 0, 0x70, 0, 1, 2, 0x22, 0, 1};
    static struct tables tables;

    (void)state;
    make(&tables, &large);
    struct span device = find(code_of(&tables), "COM1");

    assert_bytes(find(device, "_HID"), "\x0c\x41\xd0\x05\x01", 5); /* PNP0501 */
    assert_bytes(resources_of(device), serial, sizeof(serial));
    device = find(code_of(&tables), "RTC_");
    assert_bytes(find(device, "_HID"), "\x0c\x41\xd0\x0b\x00", 5); /* PNP0B00 */
    assert_bytes(resources_of(device), rtc, sizeof(rtc));
    make(&tables, &small);
    assert_null(find(code_of(&tables), "COM1").bytes);
    assert_null(find(code_of(&tables), "RTC_").bytes);
}

static void test_the_machine_can_be_switched_off(void **state)
{
    static const uint8_t s5[] = {0x12, 6, 2, 0x0a, VM_SLEEP_OFF, 0x0a, VM_SLEEP_OFF};
    static struct tables tables;

    (void)state;
    make(&tables, &small);
    assert_bytes(find(code_of(&tables), "_S5_"), s5, sizeof(s5));
}

static void test_the_generation_is_where_it_is_said_to_be(void **state)
{
    static const uint8_t event[] = {1 | 8, 0x86, '\\', 0x2e, '_', 'S',  'B',
                                    '_',   'V',  'G',  'E',  'N', 0x0a, 0x80};
    static struct tables tables;
    struct vm_acpi_config config = small;

    (void)state;
    config.generation = UINT64_C(0x1234567890);
    make(&tables, &config);
    struct span device = find(code_of(&tables), "VGEN");

    assert_non_null(device.bytes);
    assert_bytes(find(device, "_CID"),
                 "\x0d"
                 "VM_Gen_Counter",
                 16);
    assert_bytes(find(device, "ADDR"), "\x12\x09\x02\x0c\x90\x78\x56\x34\x0a\x12", 10);
    device = find(code_of(&tables), "GED_");
    assert_bytes(find(device, "_HID"),
                 "\x0d"
                 "ACPI0013",
                 10);
    assert_bytes(resources_of(device), "\x89\x06\x00\x03\x01\x03\x00\x00\x00", 9);
    assert_bytes(find(device, "_EVT"), event, sizeof(event));
    make(&tables, &small);
    assert_null(find(code_of(&tables), "VGEN").bytes);
    assert_null(find(code_of(&tables), "GED_").bytes);
}

static void test_no_two_devices_share_an_interrupt(void **state)
{
    unsigned used[24] = {0};

    (void)state;
    for (unsigned slot = 0; slot < VM_VIRTIO_MAX; slot++)
        used[vm_virtio_irq(slot)]++;
    used[VM_IRQ_SERIAL]++;
    used[VM_IRQ_RTC]++;
    used[VM_IRQ_SCI]++;
    used[VM_IRQ_GENERATION]++;
    used[0]++; /* the timer, the controllers' cascade, the keyboard */
    used[1]++;
    used[2]++;
    for (unsigned i = 0; i < 24; i++)
        assert_true(used[i] <= 1);
}

static void test_a_machine_that_there_cannot_be_is_refused(void **state)
{
    static uint8_t to[VM_ACPI_MAX];

    (void)state;
    assert_int_equal(vm_acpi_build(&(struct vm_acpi_config){.cpus = 0}, to), -EINVAL);
    assert_int_equal(vm_acpi_build(&(struct vm_acpi_config){.cpus = VM_CPUS_MAX + 1}, to), -EINVAL);
    assert_int_equal(
        vm_acpi_build(&(struct vm_acpi_config){.cpus = 1, .virtio_slots = 0x10000}, to), -EINVAL);
}

/* Elsewhere, too, each table is found and right, and nothing else has changed. */
static void test_tables_can_be_placed_anywhere(void **state)
{
    static struct tables here, there;
    static struct vm_acpi acpi;
    size_t differ = 0;

    (void)state;
    assert_int_equal(vm_acpi_make(&large, &acpi), 0);
    make(&here, &large);
    there.at = 0x7ffe0000;
    vm_acpi_place(&acpi, there.at, there.bytes);
    (void)fadt_of(&there);
    (void)madt_of(&there);
    (void)dsdt_of(&there);
    (void)table_at(&there, number(fadt_of(&there).bytes + 36, 4), "FACS");
    assert_int_equal(sum_of(there.bytes, 20), 0);
    assert_int_equal(sum_of(there.bytes, 36), 0);
    for (size_t i = 0; i < VM_ACPI_MAX; i++)
        differ += here.bytes[i] != there.bytes[i];
    assert_true(differ <= 4 * acpi.pointers + acpi.sums);
    /* The rest of the memory is given, too. */
    assert_int_equal(here.bytes[VM_ACPI_TABLES_ALIGN + acpi.size], 0);
    assert_int_equal(here.bytes[VM_ACPI_MAX - 1], 0);
    assert_true(acpi.size <= VM_ACPI_TABLES_MAX * 3 / 4);
}

static void test_lengths_have_as_many_bytes_as_they_need(void **state)
{
    static uint8_t bytes[8192], fill[8192];

    (void)state;
    for (size_t size = 0; size < 5000; size += size < 70 || (size > 4000 && size < 4200) ? 1 : 61) {
        struct vm_aml aml = {.bytes = bytes, .room = sizeof(bytes)};
        size_t mark = vm_aml_begin_package(&aml, 0), at = 1;

        vm_aml_bytes(&aml, fill, size);
        vm_aml_end(&aml, mark);
        assert_false(aml.full);
        assert_int_equal(end_of_package(bytes, &at, sizeof(bytes)), aml.used);
        assert_int_equal(aml.used - at, size + 1);
        assert_int_equal(at - 1, size + 2 < 0x40 ? 1 : size + 3 < 0x1000 ? 2 : 3);
    }
}

static void test_what_does_not_fit_is_not_written(void **state)
{
    uint8_t bytes[64];

    (void)state;
    for (size_t room = 0; room < 40; room++) {
        struct vm_aml aml = {.bytes = bytes, .room = room};

        memset(bytes, 0xee, sizeof(bytes));
        size_t device = vm_aml_begin_device(&aml, "DEV"), crs;

        vm_aml_name_integer(&aml, "_UID", UINT64_MAX);
        crs = vm_aml_begin_resources(&aml);
        vm_aml_irq(&aml, 5);
        vm_aml_end_resources(&aml, crs);
        vm_aml_end(&aml, device);
        assert_true(aml.used <= room);
        assert_int_equal(aml.full, room < 35);
        for (size_t i = room; i < sizeof(bytes); i++)
            assert_int_equal(bytes[i], 0xee);
    }
}

static void test_a_generation_is_never_the_one_before(void **state)
{
    static const uint8_t none[VM_GENERATION_BYTES];
    uint8_t before[VM_GENERATION_BYTES];
    struct vm_memory memory;
    const uint8_t *now;

    (void)state;
    assert_int_equal(vm_memory_new(&memory, VM_MEMORY_MIN, NULL), 0);
    now = vm_memory_at(&memory, vm_generation_at(&memory), VM_GENERATION_BYTES);
    assert_non_null(now);
    assert_int_equal(vm_generation_at(&memory) % 8, 0);
    memcpy(before, none, sizeof(before));
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(vm_generation_set(&memory), 0);
        assert_memory_not_equal(now, before, sizeof(before));
        memcpy(before, now, sizeof(before));
    }
    vm_memory_free(&memory);
}

/* ---- for iasl ---- */

static void dump(const char *folder, const char *machine, const char *name, struct span table)
{
    char path[4096];

    snprintf(path, sizeof(path), "%s/%s_%s.dat", folder, machine, name);
    FILE *file = fopen(path, "wb");

    if (!file || fwrite(table.bytes, 1, table.size, file) != table.size || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

static int dump_all(const char *folder)
{
    static struct tables tables;

    for (unsigned i = 0; i < 2; i++) {
        const char *machine = i ? "large" : "small";

        make(&tables, i ? &large : &small);
        dump(folder, machine, "xsdt", xsdt_of(&tables));
        dump(folder, machine, "facp", fadt_of(&tables));
        dump(folder, machine, "apic", madt_of(&tables));
        dump(folder, machine, "dsdt", dsdt_of(&tables));
        dump(folder, machine, "facs",
             table_at(&tables, number(fadt_of(&tables).bytes + 36, 4), "FACS"));
    }
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_tables_are_found_from_the_rsdp),
        cmocka_unit_test(test_the_fadt_names_the_ports_of_the_layout),
        cmocka_unit_test(test_the_fadt_says_which_old_devices_there_are),
        cmocka_unit_test(test_the_madt_has_each_processor_and_its_interrupts),
        cmocka_unit_test(test_each_processor_is_a_device_of_the_same_number),
        cmocka_unit_test(test_a_virtio_device_is_where_its_slot_is),
        cmocka_unit_test(test_the_serial_port_and_the_clock_are_described_if_there),
        cmocka_unit_test(test_the_machine_can_be_switched_off),
        cmocka_unit_test(test_the_generation_is_where_it_is_said_to_be),
        cmocka_unit_test(test_no_two_devices_share_an_interrupt),
        cmocka_unit_test(test_a_machine_that_there_cannot_be_is_refused),
        cmocka_unit_test(test_tables_can_be_placed_anywhere),
        cmocka_unit_test(test_lengths_have_as_many_bytes_as_they_need),
        cmocka_unit_test(test_what_does_not_fit_is_not_written),
        cmocka_unit_test(test_a_generation_is_never_the_one_before),
    };

    if (argc > 1)
        return dump_all(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
