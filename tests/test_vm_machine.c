/* SPDX-License-Identifier: Apache-2.0 */
/* A machine on the real KVM, with bare guests: what they access, and when they run. */
#include "kvm.h"
#include "layout.h"
#include "line.h"
#include "vm_machine_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define REG (VM_KIT_MEMORY + 0x10)

static bool usable;
static struct vm_kit *kit;

static int tear_down(void **state)
{
    (void)state;
    vm_kit_free(kit);
    kit = NULL;
    return 0;
}

static void new_kit(unsigned cpus)
{
    if (!usable) {
        (void)vm_kit_usable();
        skip();
    }
    kit = vm_kit_new(cpus);
}

/* Each test: a machine of so many processors, freed at the end. */
#define WITH(n)                                                                                    \
    (void)state;                                                                                   \
    new_kit(n)

static void expect_report(unsigned n, uint64_t offset, unsigned size, uint64_t value)
{
    struct vm_kit_report report;

    assert_true(n < vm_kit_count(kit));
    report = kit->report[n];
    if (report.offset != offset || report.size != size || report.value != value)
        fail_msg("report %u is %u bytes 0x%llx at 0x%llx", n, report.size,
                 (unsigned long long)report.value, (unsigned long long)report.offset);
}

/* ---- access ---- */

static void test_ports_are_read_and_written_in_all_sizes(void **state)
{
    unsigned n = 0;

    WITH(1);
    vm_kit_run(kit, &vm_guest_ports);
    vm_kit_wait(kit, 164);
    expect_report(n++, 1, 1, 0x11);
    expect_report(n++, 0, 2, 0x2222);
    expect_report(n++, 0, 4, 0x33333333);
    expect_report(n++, 0, 4, 0x01);
    expect_report(n++, 0, 4, 0x0302);
    expect_report(n++, 0, 4, 0x07060504);
    for (unsigned i = 1; i <= 5; i++)
        expect_report(n++, 0, 1, i);
    expect_report(n++, 0, 4, 0x44444444);
    expect_report(n++, 0, 4, 0x55555555);
    /* 300 words were read, in order, and come back */
    for (unsigned i = 0; i < 150; i++) {
        uint32_t first = 8 + 4 * i;

        expect_report(n++, 0, 4,
                      (first & 0xff) | ((first + 1) & 0xff) << 8 | ((first + 2) & 0xff) << 16 |
                          ((first + 3) & 0xff) << 24);
    }
    expect_report(n++, 0, 1, 0xfe);
    assert_int_equal(vm_kit_count(kit), n);
}

static void test_memory_is_read_and_written_in_all_sizes(void **state)
{
    unsigned n = 0;

    WITH(1);
    vm_kit_run(kit, &vm_guest_memory);
    vm_kit_wait(kit, 13);
    expect_report(n++, REG, 1, 0x11);
    expect_report(n++, REG + 4, 2, 0x2211);
    expect_report(n++, REG + 8, 4, 0x44332211);
    expect_report(n++, REG + 16, 8, 0x8877665544332211);
    expect_report(n++, REG, 8, 0x01);
    expect_report(n++, REG, 8, 0x0302);
    expect_report(n++, REG, 8, 0x07060504);
    expect_report(n++, REG, 8, 0x0f0e0d0c0b0a0908);
    for (unsigned i = 0; i < 3; i++)
        expect_report(n++, VM_KIT_MEMORY + 0xffd + i, 1, i + 1);
    expect_report(n++, REG, 8, 0xff121110);
    expect_report(n++, REG, 1, 0xfe);
}

static void test_what_nobody_answers_reads_as_ones(void **state)
{
    static const uint64_t ones[] = {0xff, 0xffff, 0xffffffff, 0xff, 0xffff, 0xffffffff, UINT64_MAX};

    WITH(1);
    vm_kit_run(kit, &vm_guest_nobody);
    vm_kit_wait(kit, 7);
    for (unsigned i = 0; i < 7; i++)
        expect_report(i, REG, 8, ones[i]);
}

static bool is_readable(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

    return poll(&poll_fd, 1, 0) == 1;
}

static void test_a_kick_goes_to_its_eventfd_and_not_to_the_bus(void **state)
{
    struct vm_line kick;

    WITH(1);
    assert_int_equal(vm_line_new(&kick), 0);
    assert_int_equal(vm_machine_ioeventfd(kit->machine, VM_KIT_MMIO + 0x50, 3, kick.fd, true), 0);
    vm_kit_run(kit, &vm_guest_kicks);
    vm_kit_wait(kit, 2);
    expect_report(0, VM_KIT_MEMORY + 0x50, 4, 4); /* another value */
    expect_report(1, 0, 4, 1);
    assert_true(is_readable(kick.fd));

    vm_machine_stop(kit->machine);
    vm_kit_forget(kit);
    assert_int_equal(vm_machine_ioeventfd(kit->machine, VM_KIT_MMIO + 0x50, 3, kick.fd, false), 0);
    vm_kit_run(kit, &vm_guest_kicks);
    vm_kit_wait(kit, 3);
    expect_report(0, VM_KIT_MEMORY + 0x50, 4, 3);
    vm_line_free(&kick);
}

/* The top 64 KiB below 4 GiB. At the reset vector it jumps to its beginning, writes there, and
 * reports what it reads. */
static void make_rom(uint8_t *rom)
{
    static const uint8_t begin[] = {
        0x2e, 0xc6, 0x06, 0x00, 0x80, 0x55, /* movb $0x55, %cs:0x8000 */
        0x2e, 0xa0, 0x00, 0x80,             /* mov %cs:0x8000, %al */
        0xba, 0x00, 0x05,                   /* mov $0x500, %dx */
        0xee,                               /* out %al, %dx */
        0xf4,                               /* hlt */
    };
    static const uint8_t vector[] = {0xe9, 0x0d, 0x00}; /* jmp to 0 */

    memcpy(rom, begin, sizeof(begin));
    memcpy(rom + 0xfff0, vector, sizeof(vector));
    rom[0x8000] = 0xaa;
}

static void test_a_processor_begins_in_rom_which_is_not_written(void **state)
{
    const struct vm_entry entry = {.kind = VM_ENTRY_RESET};
    uint8_t *rom;

    WITH(1);
    rom = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(rom, MAP_FAILED);
    make_rom(rom);
    assert_int_equal(vm_machine_add_rom(kit->machine, 0xffff0000, rom, 0x10000), 0);
    assert_int_equal(vm_machine_prepare(kit->machine, &entry, NULL), 0);
    assert_int_equal(vm_machine_start(kit->machine), 0);
    vm_kit_wait(kit, 1);
    expect_report(0, 0, 1, 0xaa);
    assert_int_equal(rom[0x8000], 0xaa);
    vm_kit_free(kit);
    kit = NULL;
    munmap(rom, 0x10000);
}

static void test_rom_that_lies_over_ram_is_refused(void **state)
{
    static _Alignas(4096) uint8_t page[4096];

    WITH(1);
    assert_true(vm_machine_add_rom(kit->machine, 0xff000, page, sizeof(page)) < 0);
    assert_true(vm_machine_add_rom(kit->machine, 0xfffff000, page + 1, sizeof(page)) < 0);
    assert_true(vm_machine_add_rom(kit->machine, 0xfffff000, page, 0) < 0);
    assert_int_equal(vm_machine_add_rom(kit->machine, 0xfffff000, page, sizeof(page)), 0);
}

/* ---- beginnings ---- */

static void test_long_mode_begins_as_the_boot_protocol_has_it(void **state)
{
    static const uint64_t begin[] = {VM_KIT_ARGUMENT, 0x10, 0x18, 0x80050033, 0x20, 0x500};

    WITH(1);
    vm_kit_run(kit, &vm_guest_long_entry);
    vm_kit_wait(kit, 7);
    for (unsigned i = 0; i < 6; i++)
        expect_report(i, REG, 8, begin[i]);
    expect_report(6, REG, 4, 0xfe);
}

static void test_pvh_begins_as_the_boot_protocol_has_it(void **state)
{
    static const uint32_t begin[] = {VM_KIT_ARGUMENT, 0x10, 0x18, 0x11, 0, 0x2};

    WITH(1);
    vm_kit_run(kit, &vm_guest_pvh_entry);
    vm_kit_wait(kit, 7);
    for (unsigned i = 0; i < 6; i++)
        expect_report(i, REG, 4, begin[i]);
    expect_report(6, REG, 4, 0xfe);
}

/* Whether the others were started, once each. */
static void expect_ids(unsigned others)
{
    uint64_t seen = 0;

    vm_kit_wait(kit, others);
    for (unsigned i = 0; i < others; i++)
        seen |= UINT64_C(1) << vm_kit_value(kit, i);
    assert_int_equal(seen, (UINT64_C(1) << (others + 1)) - 2);
    assert_int_equal(vm_kit_count(kit), others);
}

static void test_processors_start_others_by_init_and_sipi(void **state)
{
    WITH(3);
    vm_kit_run(kit, &vm_guest_starts_others);
    expect_ids(2);
}

/* ---- interrupts ---- */

static void test_a_line_wakes_a_halted_guest_through_the_pic(void **state)
{
    struct vm_line line[2];

    WITH(1);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(vm_line_new(&line[i]), 0);
        assert_int_equal(vm_machine_irqfd(kit->machine, 5 * (i + 1), line[i].fd), 0);
    }
    vm_kit_run(kit, &vm_guest_pic);
    vm_kit_wait(kit, 1);
    vm_line_pulse(&line[0]);
    vm_kit_wait(kit, 2);
    assert_int_equal(vm_kit_value(kit, 1), 0x25);
    vm_line_pulse(&line[1]);
    vm_kit_wait(kit, 3);
    assert_int_equal(vm_kit_value(kit, 2), 0x2a);
    vm_line_pulse(&line[0]);
    vm_kit_wait(kit, 4);
    assert_int_equal(vm_kit_value(kit, 3), 0x25);
    for (unsigned i = 0; i < 2; i++)
        vm_line_free(&line[i]);
}

static void test_a_line_wakes_a_halted_guest_through_the_io_apic(void **state)
{
    struct vm_line line;

    WITH(1);
    assert_int_equal(vm_line_new(&line), 0);
    assert_int_equal(vm_machine_irqfd(kit->machine, 20, line.fd), 0);
    vm_kit_run(kit, &vm_guest_ioapic);
    vm_kit_wait(kit, 1);
    for (unsigned i = 2; i < 5; i++) {
        vm_line_pulse(&line);
        vm_kit_wait(kit, i);
        assert_int_equal(vm_kit_value(kit, i - 1), 0x54);
    }
    assert_int_equal(vm_kit_count(kit), 4);
    vm_line_free(&line);
}

static void test_a_level_interrupts_until_it_is_low(void **state)
{
    unsigned before, seen;

    WITH(1);
    vm_kit_run(kit, &vm_guest_ioapic);
    vm_kit_wait(kit, 1);
    vm_machine_set_irq(kit->machine, 9, true);
    vm_kit_wait(kit, 4);
    for (unsigned i = 1; i < 4; i++)
        assert_int_equal(vm_kit_value(kit, i), 0x49);
    vm_machine_set_irq(kit->machine, 9, false);
    /* What was raised before has its turn; then the other pin is all that there is. */
    vm_machine_stop(kit->machine);
    before = seen = vm_kit_count(kit);
    assert_int_equal(vm_machine_start(kit->machine), 0);
    vm_machine_set_irq(kit->machine, 20, true);
    do {
        vm_kit_wait(kit, seen + 1);
    } while (vm_kit_value(kit, seen++) == 0x49);
    assert_true(seen <= before + 3);
    assert_int_equal(vm_kit_value(kit, seen - 1), 0x54);
}

/* ---- life ---- */

static void test_stopped_is_stopped_and_goes_on_without_a_gap(void **state)
{
    unsigned count;

    WITH(1);
    vm_kit_run(kit, &vm_guest_counts);
    for (unsigned round = 1; round <= 20; round++) {
        vm_kit_wait(kit, 20 * round);
        vm_machine_stop(kit->machine);
        count = vm_kit_count(kit);
        for (unsigned i = 0; i < count; i++)
            assert_int_equal(vm_kit_value(kit, i), i + 1);
        assert_int_equal(vm_kit_count(kit), count);
        vm_machine_stop(kit->machine); /* is nothing */
        assert_int_equal(vm_machine_start(kit->machine), 0);
        assert_true(vm_machine_start(kit->machine) < 0); /* it is */
    }
}

static void test_a_processor_that_does_no_access_is_stopped(void **state)
{
    static const struct vm_guest *const guests[] = {&vm_guest_spins, &vm_guest_halts,
                                                    &vm_guest_halts_deaf};

    WITH(1);
    for (unsigned i = 0; i < 3; i++) {
        vm_kit_forget(kit);
        vm_kit_run(kit, guests[i]);
        vm_kit_wait(kit, 1);
        for (unsigned round = 0; round < 50; round++) {
            vm_machine_stop(kit->machine);
            assert_int_equal(vm_machine_start(kit->machine), 0);
        }
        vm_machine_stop(kit->machine);
        assert_int_equal(vm_kit_count(kit), 1);
    }
}

static void test_processors_that_wait_to_be_started_are_stopped(void **state)
{
    WITH(4);
    vm_kit_run(kit, &vm_guest_halts);
    vm_kit_wait(kit, 1);
    for (unsigned round = 0; round < 50; round++) {
        vm_machine_stop(kit->machine);
        assert_int_equal(vm_machine_start(kit->machine), 0);
    }
}

static void test_a_stop_is_not_lost_whenever_it_comes(void **state)
{
    WITH(2);
    vm_kit_load(kit, &vm_guest_spins);
    for (unsigned round = 0; round < 300; round++) {
        assert_int_equal(vm_machine_start(kit->machine), 0);
        for (volatile unsigned wait = 0; wait < round * 100; wait++)
            ;
        vm_machine_stop(kit->machine);
    }
}

static void test_a_reset_machine_is_as_new(void **state)
{
    WITH(3);
    for (unsigned round = 0; round < 3; round++) {
        /* From real mode to long mode and back, with the others waiting again each time. */
        vm_kit_run(kit, &vm_guest_starts_others);
        expect_ids(2);
        vm_machine_stop(kit->machine);
        vm_kit_forget(kit);
        vm_kit_run(kit, &vm_guest_counts);
        vm_kit_wait(kit, 10);
        vm_machine_stop(kit->machine);
        assert_int_equal(vm_kit_value(kit, 9), 10);
        vm_kit_forget(kit);
        vm_kit_run(kit, &vm_guest_long_entry);
        vm_kit_wait(kit, 7);
        vm_machine_stop(kit->machine);
        expect_report(3, REG, 8, 0x80050033);
        vm_kit_forget(kit);
    }
}

static void test_a_reset_reaches_the_interrupt_controllers(void **state)
{
    WITH(1);
    for (unsigned round = 0; round < 2; round++) {
        vm_kit_run(kit, &vm_guest_chips);
        vm_kit_wait(kit, 3);
        vm_machine_stop(kit->machine);
        assert_int_equal(vm_kit_value(kit, 0), 0);
        assert_int_equal(vm_kit_value(kit, 1), 0x10000); /* masked */
        assert_int_equal(vm_kit_value(kit, 2), 0x5a);
        vm_kit_forget(kit);
    }
}

static void test_a_reset_ends_timers_and_forgets_interrupts(void **state)
{
    struct vm_line line;

    WITH(1);
    assert_int_equal(vm_line_new(&line), 0);
    assert_int_equal(vm_machine_irqfd(kit->machine, 5, line.fd), 0);
    vm_kit_run(kit, &vm_guest_timers);
    vm_kit_wait(kit, 1);
    vm_machine_stop(kit->machine);
    vm_machine_set_irq(kit->machine, 10, true);
    vm_machine_set_irq(kit->machine, 10, false);
    vm_kit_forget(kit);
    vm_kit_run(kit, &vm_guest_pic);
    vm_kit_wait(kit, 1);
    vm_line_pulse(&line);
    vm_kit_wait(kit, 2);
    assert_int_equal(vm_kit_value(kit, 1), 0x25); /* and not the PIT's or the old one */
    vm_line_free(&line);
}

static void test_a_triple_fault_asks_for_a_reset_once(void **state)
{
    WITH(2);
    for (unsigned round = 0; round < 3; round++) {
        vm_kit_forget(kit);
        vm_kit_run(kit, &vm_guest_triple_fault);
        vm_kit_wait_event(kit);
        if (kit->event != VM_EVENT_RESET)
            fail_msg("%s", kit->why);
        vm_machine_stop(kit->machine);
        assert_int_equal(kit->events, 1);
    }
    vm_kit_forget(kit);
    vm_kit_run(kit, &vm_guest_halts);
    vm_kit_wait(kit, 1);
}

static void test_of_processors_that_end_together_one_is_told(void **state)
{
    WITH(4);
    for (unsigned round = 0; round < 20; round++) {
        vm_kit_forget(kit);
        vm_kit_run(kit, &vm_guest_all_fault);
        vm_kit_wait_event(kit);
        vm_kit_wait_reports(kit, 3); /* the others go on */
        vm_machine_stop(kit->machine);
        assert_int_equal(kit->events, 1);
        if (kit->event != VM_EVENT_RESET)
            fail_msg("%s", kit->why);
    }
}

static void test_what_kvm_cannot_do_is_told_with_its_reason(void **state)
{
    WITH(1);
    vm_kit_run(kit, &vm_guest_leaves_memory);
    vm_kit_wait_event(kit);
    assert_int_equal(kit->event, VM_EVENT_FAILED);
    assert_non_null(strstr(kit->why, "KVM"));
    assert_non_null(strstr(kit->why, "0xd8000000"));
    vm_machine_stop(kit->machine);
    assert_int_equal(kit->events, 1);
}

static void test_a_processor_has_had_time(void **state)
{
    uint64_t first, second = 0;

    WITH(2);
    assert_int_equal(vm_machine_cpu_time(kit->machine, 0), 0);
    vm_kit_run(kit, &vm_guest_spins);
    vm_kit_wait(kit, 1);
    first = vm_machine_cpu_time(kit->machine, 0);
    /* One that waits falls behind. */
    while (second <= first + 1000 || second <= vm_machine_cpu_time(kit->machine, 1))
        second = vm_machine_cpu_time(kit->machine, 0);
    assert_int_equal(vm_machine_cpu_time(kit->machine, 2), 0);
}

/* ---- what is refused ---- */

static void test_a_kvm_that_is_none_is_refused_in_words(void **state)
{
    struct vdisk_error error = {0};
    struct vm_kvm kvm;

    (void)state;
    assert_true(vm_kvm_open(&kvm, "/dev/no-such-device", &error) < 0);
    assert_non_null(strstr(error.text, "/dev/no-such-device is not there"));
    assert_true(vm_kvm_open(&kvm, "/dev/null", &error) < 0);
    assert_string_equal(error.text, "/dev/null is not KVM");
    assert_int_equal(kvm.fd, -1);
}

static void test_a_number_of_processors_that_is_none_is_refused(void **state)
{
    const struct vm_machine_options none = {.cpus = 0}, many = {.cpus = VM_CPUS_MAX + 1};
    struct vm_machine *machine;
    struct vdisk_error error;

    (void)state;
    assert_true(vm_machine_new(&none, &machine, &error) < 0);
    assert_true(vm_machine_new(&many, &machine, &error) < 0);
    assert_non_null(strstr(error.text, "1 to 64"));
}

#define TEST(name) cmocka_unit_test_teardown(name, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_ports_are_read_and_written_in_all_sizes),
        TEST(test_memory_is_read_and_written_in_all_sizes),
        TEST(test_what_nobody_answers_reads_as_ones),
        TEST(test_a_kick_goes_to_its_eventfd_and_not_to_the_bus),
        TEST(test_a_processor_begins_in_rom_which_is_not_written),
        TEST(test_rom_that_lies_over_ram_is_refused),
        TEST(test_long_mode_begins_as_the_boot_protocol_has_it),
        TEST(test_pvh_begins_as_the_boot_protocol_has_it),
        TEST(test_processors_start_others_by_init_and_sipi),
        TEST(test_a_line_wakes_a_halted_guest_through_the_pic),
        TEST(test_a_line_wakes_a_halted_guest_through_the_io_apic),
        TEST(test_a_level_interrupts_until_it_is_low),
        TEST(test_stopped_is_stopped_and_goes_on_without_a_gap),
        TEST(test_a_processor_that_does_no_access_is_stopped),
        TEST(test_processors_that_wait_to_be_started_are_stopped),
        TEST(test_a_stop_is_not_lost_whenever_it_comes),
        TEST(test_a_reset_machine_is_as_new),
        TEST(test_a_reset_reaches_the_interrupt_controllers),
        TEST(test_a_reset_ends_timers_and_forgets_interrupts),
        TEST(test_a_triple_fault_asks_for_a_reset_once),
        TEST(test_of_processors_that_end_together_one_is_told),
        TEST(test_what_kvm_cannot_do_is_told_with_its_reason),
        TEST(test_a_processor_has_had_time),
        TEST(test_a_kvm_that_is_none_is_refused_in_words),
        TEST(test_a_number_of_processors_that_is_none_is_refused),
    };

    usable = vm_kit_usable();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
