/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI's fixed hardware (vmm/power.c), with a time of the test's own. */
#include "layout.h"
#include "power.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define STATUS  VM_PORT_PM1_EVENT
#define ENABLE  (VM_PORT_PM1_EVENT + 2)
#define CONTROL VM_PORT_PM1_CTRL
#define TIMER   VM_PORT_PM_TIMER

#define BUTTON  0x100u
#define SCI_EN  1u
#define SLP_EN  0x2000u
#define S5      (VM_SLEEP_OFF << 10)

#define SECOND  UINT64_C(1000000000)

static struct {
    struct vm_power *power;
    struct vm_bus ports;
    bool high;
    unsigned edges, offs, resets;
    uint64_t now;
} kit;

static void note_sci(void *opaque, bool high)
{
    assert_ptr_equal(opaque, &kit);
    assert_true(high != kit.high);
    kit.high = high;
    kit.edges += high;
}

static void note_off(void *opaque)
{
    assert_ptr_equal(opaque, &kit);
    kit.offs++;
}

static void note_reset(void *opaque, const char *how)
{
    assert_ptr_equal(opaque, &kit);
    assert_string_equal(how, "the reset register");
    kit.resets++;
}

static uint64_t now(void)
{
    return kit.now;
}

static int make(void)
{
    static const struct vm_power_events events = {note_sci, note_off, note_reset, &kit};

    memset(&kit.ports, 0, sizeof(kit.ports));
    kit.high = false;
    kit.power = vm_power_new(&events, now);
    return kit.power ? vm_power_add(kit.power, &kit.ports) : -1;
}

static int set_up(void **state)
{
    (void)state;
    memset(&kit, 0, sizeof(kit));
    kit.now = 7 * SECOND;
    return make();
}

static int tear_down(void **state)
{
    (void)state;
    vm_power_free(kit.power);
    return 0;
}

static uint32_t in(unsigned port, unsigned size)
{
    uint8_t bytes[4] = {0};

    vm_bus_read(&kit.ports, port, bytes, size);
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static void out(unsigned port, uint32_t value, unsigned size)
{
    const uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
                              (uint8_t)(value >> 24)};

    vm_bus_write(&kit.ports, port, bytes, size);
}

/* ---- events ---- */

static void test_the_button_interrupts_until_it_is_acknowledged(void **state)
{
    (void)state;
    out(ENABLE, BUTTON, 2);
    vm_power_button(kit.power);
    assert_true(kit.high);
    vm_power_button(kit.power);
    assert_int_equal(kit.edges, 1);
    assert_int_equal(in(STATUS, 2), BUTTON);
    out(STATUS, 0, 2); /* ones clear, zeros do not */
    assert_true(kit.high);
    out(STATUS, BUTTON, 2);
    assert_false(kit.high);
    assert_int_equal(in(STATUS, 2), 0);
    vm_power_button(kit.power);
    assert_int_equal(kit.edges, 2);
}

static void test_what_is_not_enabled_waits(void **state)
{
    (void)state;
    vm_power_button(kit.power);
    assert_false(kit.high);
    assert_int_equal(in(STATUS, 4), BUTTON);
    out(ENABLE, BUTTON, 2);
    assert_true(kit.high);
    out(ENABLE, 0, 2);
    assert_false(kit.high);
    assert_int_equal(in(STATUS, 2), BUTTON);
}

/* ACPICA does not believe in an event whose enabling it cannot read back. */
static void test_enables_are_kept_and_nothing_else(void **state)
{
    (void)state;
    out(ENABLE, 0xffff, 2);
    assert_int_equal(in(ENABLE, 2), 0x0721);
    assert_int_equal(in(STATUS, 2), 0);
    assert_false(kit.high);
}

static void test_registers_can_be_used_by_bytes_and_as_one(void **state)
{
    (void)state;
    out(STATUS, BUTTON << 16, 4);
    assert_int_equal(in(ENABLE, 2), BUTTON);
    vm_power_button(kit.power);
    assert_int_equal(in(STATUS + 1, 1), 1);
    assert_int_equal(in(STATUS, 4), BUTTON << 16 | BUTTON);
    out(ENABLE, 0x20, 1); /* the other byte stays */
    assert_int_equal(in(ENABLE, 2), BUTTON | 0x20);
    out(STATUS + 1, 1, 1);
    assert_false(kit.high);
    assert_int_equal(in(ENABLE, 2), BUTTON | 0x20);
}

/* ---- off and reset ---- */

static void test_s5_is_off_and_others_are_not(void **state)
{
    (void)state;
    assert_int_equal(in(CONTROL, 2), SCI_EN);
    for (unsigned type = 0; type < 8; type++) {
        out(CONTROL, type << 10, 2);
        assert_int_equal(in(CONTROL, 2), type << 10 | SCI_EN);
        if (type != VM_SLEEP_OFF)
            out(CONTROL, type << 10 | SLP_EN, 2);
    }
    assert_int_equal(kit.offs, 0);
    out(CONTROL, S5 | SLP_EN, 2);
    assert_int_equal(kit.offs, 1);
    assert_int_equal(in(CONTROL, 2), S5 | SCI_EN); /* SLP_EN reads as 0 */
    out(CONTROL, 0, 2);
    out(CONTROL + 1, (S5 | SLP_EN) >> 8, 1);
    assert_int_equal(kit.offs, 2);
    out(CONTROL, 0xff, 1); /* not of this byte */
    assert_int_equal(kit.offs, 2);
    assert_int_equal(in(CONTROL, 2), S5 | 2 | SCI_EN);
}

static void test_the_reset_register_resets(void **state)
{
    (void)state;
    out(VM_PORT_RESET, 0x02, 1); /* as Linux does: which kind, then now */
    assert_int_equal(kit.resets, 0);
    assert_int_equal(in(VM_PORT_RESET, 1), 0x02);
    out(VM_PORT_RESET, VM_RESET_VALUE, 1);
    assert_int_equal(kit.resets, 1);
    assert_int_equal(in(VM_PORT_RESET, 1), 0x02);
}

static void test_a_machine_that_was_reset_begins_anew(void **state)
{
    uint32_t before;

    (void)state;
    out(ENABLE, BUTTON, 2);
    out(CONTROL, S5, 2);
    out(VM_PORT_RESET, 2, 1);
    vm_power_button(kit.power);
    kit.now += SECOND;
    before = in(TIMER, 4);
    vm_power_reset(kit.power);
    assert_false(kit.high);
    assert_int_equal(in(STATUS, 4), 0);
    assert_int_equal(in(CONTROL, 2), SCI_EN);
    assert_int_equal(in(VM_PORT_RESET, 1), 0);
    assert_int_equal(in(TIMER, 4), before);
}

/* ---- the timer ---- */

static void test_the_timer_counts_24_bits(void **state)
{
    (void)state;
    assert_int_equal(in(TIMER, 4), 0);
    kit.now += SECOND;
    assert_int_equal(in(TIMER, 4), 3579545);
    kit.now += SECOND / 2;
    assert_int_equal(in(TIMER, 4), 3579545 + 1789772);
    kit.now += 1000 * SECOND;
    assert_int_equal(in(TIMER, 4), (UINT64_C(3579545) * 2003 / 2) & 0xffffff);
    out(TIMER, 0, 4);
    assert_int_equal(in(TIMER, 4), (UINT64_C(3579545) * 2003 / 2) & 0xffffff);
    kit.now += SECOND * 3600 * 24 * 365 * 100; /* no sum is too large */
    assert_int_equal(in(TIMER, 4),
                     (UINT64_C(3579545) * 2003 / 2 + UINT64_C(3579545) * 3600 * 24 * 365 * 100) &
                         0xffffff);
    assert_int_equal(in(TIMER + 1, 2), in(TIMER, 4) >> 8);
}

static void test_the_timer_runs_by_the_hosts_clock(void **state)
{
    static const struct vm_power_events events = {note_sci, note_off, note_reset, &kit};
    struct vm_power *real = vm_power_new(&events, NULL);
    uint32_t first;

    (void)state;
    memset(&kit.ports, 0, sizeof(kit.ports));
    assert_int_equal(vm_power_add(real, &kit.ports), 0);
    first = in(TIMER, 4);
    assert_true(first < 3579545);
    while (in(TIMER, 4) == first)
        ;
    vm_power_free(real);
}

/* ---- suspending ---- */

static void test_a_suspended_machine_goes_on(void **state)
{
    struct vdisk_error error;
    json_t *saved;

    (void)state;
    kit.now += 3 * SECOND;
    out(ENABLE, BUTTON | 0x20, 2);
    out(CONTROL, S5, 2);
    vm_power_button(kit.power);
    saved = vm_power_save(kit.power);
    vm_power_free(kit.power);
    kit.now = 1; /* another host */
    assert_int_equal(make(), 0);
    kit.now = 5 * SECOND;
    assert_int_equal(vm_power_load(kit.power, saved, &error), 0);
    json_decref(saved);
    assert_true(kit.high);
    assert_int_equal(in(STATUS, 4), (BUTTON | 0x20) << 16 | BUTTON);
    assert_int_equal(in(CONTROL, 2), S5 | SCI_EN);
    assert_int_equal(in(TIMER, 4), 3 * 3579545);
    kit.now += SECOND;
    assert_int_equal(in(TIMER, 4), 4 * 3579545);
}

static void test_a_state_that_is_none_is_refused(void **state)
{
    static const char *const bad[][2] = {
        {"status", "1"},  {"status", "-1"},      {"enable", "2"},
        {"control", "1"}, {"control", "8192"},   {"reset", "4"},
        {"timer", "-1"},  {"timer", "16777216"}, {"timer", "true"},
    };
    struct vdisk_error error;
    json_t *saved = vm_power_save(kit.power);

    (void)state;
    out(ENABLE, 0x20, 2);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        json_t *broken = json_copy(saved);

        json_object_set_new(broken, bad[i][0], json_loads(bad[i][1], JSON_DECODE_ANY, NULL));
        assert_int_equal(vm_power_load(kit.power, broken, &error), -EINVAL);
        json_object_del(broken, bad[i][0]);
        assert_int_equal(vm_power_load(kit.power, broken, &error), -EINVAL);
        json_decref(broken);
    }
    assert_int_equal(vm_power_load(kit.power, NULL, &error), -EINVAL);
    assert_int_equal(in(ENABLE, 2), 0x20);
    json_decref(saved);
}

/* ---- threads ---- */

static void *press(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 5000; i++)
        vm_power_button(kit.power);
    return NULL;
}

static void *acknowledge(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 5000; i++) {
        out(ENABLE, BUTTON, 2);
        out(STATUS, BUTTON, 2);
        (void)in(TIMER, 4);
    }
    return NULL;
}

static void test_the_button_is_pressed_by_any_thread(void **state)
{
    pthread_t threads[2];

    (void)state;
    pthread_create(&threads[0], NULL, press, NULL);
    pthread_create(&threads[1], NULL, acknowledge, NULL);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    assert_int_equal(kit.high, in(STATUS, 2) == BUTTON);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_button_interrupts_until_it_is_acknowledged),
        TEST(test_what_is_not_enabled_waits),
        TEST(test_enables_are_kept_and_nothing_else),
        TEST(test_registers_can_be_used_by_bytes_and_as_one),
        TEST(test_s5_is_off_and_others_are_not),
        TEST(test_the_reset_register_resets),
        TEST(test_a_machine_that_was_reset_begins_anew),
        TEST(test_the_timer_counts_24_bits),
        TEST(test_the_timer_runs_by_the_hosts_clock),
        TEST(test_a_suspended_machine_goes_on),
        TEST(test_a_state_that_is_none_is_refused),
        TEST(test_the_button_is_pressed_by_any_thread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
