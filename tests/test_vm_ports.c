/* SPDX-License-Identifier: Apache-2.0 */
/* The small ports of a PC (vmm/ports.c). */
#include "ports.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

static struct vm_bus bus;
static struct vm_ports *ports;
static atomic_uint resets;
static const char *last; /* how it was asked for */

static void note_reset(void *opaque, const char *how)
{
    last = how;
    assert_ptr_equal(opaque, &bus);
    atomic_fetch_add(&resets, 1);
}

static int set_up(void **state)
{
    (void)state;
    memset(&bus, 0, sizeof(bus));
    atomic_store(&resets, 0);
    ports = vm_ports_new(note_reset, &bus);
    return ports ? vm_ports_add(ports, &bus) : -1;
}

static int tear_down(void **state)
{
    (void)state;
    vm_ports_free(ports);
    return 0;
}

static uint8_t in(unsigned port)
{
    uint8_t value;

    vm_bus_read(&bus, port, &value, 1);
    return value;
}

static void out(unsigned port, unsigned value)
{
    uint8_t byte = (uint8_t)value;

    vm_bus_write(&bus, port, &byte, 1);
}

static void test_the_keyboards_controller_has_nothing_to_say(void **state)
{
    (void)state;
    assert_int_equal(in(0x64), 0); /* ready for a command, no byte to read */
    assert_int_equal(in(0x60), 0);
    for (unsigned command = 0; command < 0xf0; command++)
        out(0x64, command);
    for (unsigned value = 0; value < 256; value++)
        out(0x60, value);
    assert_int_equal(in(0x64), 0);
    assert_int_equal(resets, 0);
}

static void test_its_command_to_reset_resets(void **state)
{
    (void)state;
    out(0x64, 0xfe);
    assert_int_equal(resets, 1);
    assert_string_equal(last, "the keyboard's controller");
    out(0x64, 0xf0); /* with other lines as well */
    assert_int_equal(resets, 2);
    out(0x64, 0xff); /* pulses none */
    out(0x64, 0xfd);
    assert_int_equal(resets, 2);
}

static void test_a20_is_on_and_the_fast_reset_resets(void **state)
{
    (void)state;
    assert_int_equal(in(0x92), 2);
    out(0x92, 2);
    out(0x92, 0);
    assert_int_equal(resets, 0);
    assert_int_equal(in(0x92), 2);
    out(0x92, 3);
    assert_int_equal(resets, 1);
    assert_string_equal(last, "the system control port");
}

/* Linux measures its clock with loops that wait for either of these bits. */
static void test_nobody_waits_for_the_timer_or_the_refresh(void **state)
{
    uint8_t first;

    (void)state;
    out(0x61, 0xff);
    assert_int_equal(in(0x61) & ~0x10, 0x23);
    out(0x61, 0);
    assert_int_equal(in(0x61) & ~0x10, 0x20);
    first = in(0x61);
    assert_int_equal(in(0x61) ^ first, 0x10);
    assert_int_equal(in(0x61), first);
}

static void test_delays_are_none(void **state)
{
    (void)state;
    out(0x80, 0x55);
    assert_int_equal(in(0x80), 0xff);
    assert_int_equal(resets, 0);
}

static void *use(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 2000; i++) {
        out(0x61, i);
        (void)in(0x61);
        out(0x64, 0xfe);
        (void)in(0x64);
    }
    return NULL;
}

static void test_processors_use_them_at_the_same_time(void **state)
{
    pthread_t threads[2];

    (void)state;
    for (unsigned i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, use, NULL);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(resets, 4000);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_keyboards_controller_has_nothing_to_say),
        TEST(test_its_command_to_reset_resets),
        TEST(test_a20_is_on_and_the_fast_reset_resets),
        TEST(test_nobody_waits_for_the_timer_or_the_refresh),
        TEST(test_delays_are_none),
        TEST(test_processors_use_them_at_the_same_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
