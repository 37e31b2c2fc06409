/* SPDX-License-Identifier: Apache-2.0 */
/* The PC's clock (vmm/rtc.c), with a time of the test's own. */
#include "rtc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define BASE    0x70u

#define SECONDS 0u
#define MINUTES 2u
#define HOURS   4u
#define WEEKDAY 6u
#define DAY     7u
#define MONTH   8u
#define YEAR    9u
#define A       10u
#define B       11u
#define C       12u
#define D       13u
#define CENTURY VM_RTC_CENTURY

#define UIP     0x80u
#define SET     0x80u
#define BINARY  0x04u
#define H24     0x02u
#define ALARM   0x20u
#define UPDATED 0x10u
#define IRQ     0x80u

/* Wednesday, 2024-02-28 23:59:58.25 */
#define WHEN    1709164798

static struct timespec host;
static struct vm_rtc *rtc;
static struct vm_bus ports;
static struct reactor *reactor;
static bool high;
static unsigned raised;

static void host_time(struct timespec *time)
{
    *time = host;
}

static void level(void *opaque, bool is_high)
{
    assert_ptr_equal(opaque, &ports);
    assert_int_not_equal(is_high, high);
    high = is_high;
    raised += high;
}

static const struct vm_rtc_options options = {.now = host_time, .irq = level, .opaque = &ports};

static int set_up(void **state)
{
    (void)state;
    high = false;
    raised = 0;
    host = (struct timespec){WHEN, 250000000};
    memset(&ports, 0, sizeof(ports));
    rtc = vm_rtc_new(&options);
    return rtc && vm_rtc_add(rtc, &ports, BASE) == 0 ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    vm_rtc_free(rtc);
    return 0;
}

static uint8_t in(unsigned index)
{
    uint8_t byte = (uint8_t)index;

    vm_bus_write(&ports, BASE, &byte, 1);
    vm_bus_read(&ports, BASE + 1, &byte, 1);
    return byte;
}

static void out(unsigned index, unsigned value)
{
    uint8_t byte = (uint8_t)index;

    vm_bus_write(&ports, BASE, &byte, 1);
    byte = (uint8_t)value;
    vm_bus_write(&ports, BASE + 1, &byte, 1);
}

static void assert_date(unsigned century, unsigned year, unsigned month, unsigned day)
{
    assert_int_equal(in(CENTURY), century);
    assert_int_equal(in(YEAR), year);
    assert_int_equal(in(MONTH), month);
    assert_int_equal(in(DAY), day);
}

static void assert_time(unsigned hours, unsigned minutes, unsigned seconds)
{
    assert_int_equal(in(HOURS), hours);
    assert_int_equal(in(MINUTES), minutes);
    assert_int_equal(in(SECONDS), seconds);
}

/* As Linux does (rtc-mc146818-lib.c), in BCD. */
static void set_as_linux(unsigned year, unsigned month, unsigned day, unsigned hours)
{
    unsigned control = in(B), select = in(A);

    out(B, control | SET);
    out(A, select | 0x70);
    out(YEAR, year & 0xff);
    out(MONTH, month);
    out(DAY, day);
    out(HOURS, hours);
    out(MINUTES, 0x30);
    out(SECONDS, 0x15);
    out(CENTURY, year >> 8);
    out(B, control);
    out(A, select);
}

/* ---- reading ---- */

static void test_it_shows_the_hosts_time(void **state)
{
    (void)state;
    assert_date(0x20, 0x24, 0x02, 0x28);
    assert_time(0x23, 0x59, 0x58);
    assert_int_equal(in(WEEKDAY), 4);
    host.tv_sec += 2;
    assert_date(0x20, 0x24, 0x02, 0x29);
    assert_time(0, 0, 0);
    assert_int_equal(in(WEEKDAY), 5);
    host.tv_sec += 86400;
    assert_date(0x20, 0x24, 0x03, 0x01);
}

static void test_register_b_says_how_it_is_written(void **state)
{
    (void)state;
    out(B, H24 | BINARY);
    assert_date(20, 24, 2, 28);
    assert_time(23, 59, 58);
    out(B, BINARY);
    assert_time(11 | 0x80, 59, 58);
    host.tv_sec += 2; /* midnight is 12 */
    assert_time(12, 0, 0);
    host.tv_sec += 12 * 3600;
    assert_time(12 | 0x80, 0, 0);
    host.tv_sec += 3600;
    out(B, 0);
    assert_time(0x01 | 0x80, 0, 0);
}

/* What the probe of Linux's rtc-cmos looks at. */
static void test_a_driver_finds_a_clock_that_works(void **state)
{
    (void)state;
    assert_int_equal(in(A), 0x26);
    assert_int_equal(in(B), H24);
    assert_int_equal(in(C), 0);
    assert_int_equal(in(D), 0x80);
    out(C, 0xff);
    out(D, 0xff);
    assert_int_equal(in(C), 0);
    assert_int_equal(in(D), 0x80);
    out(A, 0xff & ~0x50);
    assert_int_equal(in(A), 0x2f); /* UIP is not written */
    out(0x80 | 0x40, 0x77);        /* the bit for the NMI is none of the index */
    assert_int_equal(in(0x40), 0x77);
    assert_int_equal(in(0x41), 0);
    out(1, 0x12); /* the alarm's registers keep what they are given */
    assert_int_equal(in(1), 0x12);
}

static void test_an_update_is_announced(void **state)
{
    (void)state;
    assert_int_equal(in(A)&UIP, 0);
    host.tv_nsec = 999755999;
    assert_int_equal(in(A)&UIP, 0);
    host.tv_nsec = 999756000;
    assert_int_equal(in(A)&UIP, UIP);
    host.tv_nsec = 999999999;
    assert_int_equal(in(A)&UIP, UIP);
    assert_int_equal(in(SECONDS), 0x58);
    out(B, SET | H24); /* then there is none */
    assert_int_equal(in(A)&UIP, 0);
    out(B, H24);
    host = (struct timespec){WHEN + 1, 0};
    assert_int_equal(in(A)&UIP, 0);
    assert_int_equal(in(SECONDS), 0x59);
}

static void test_both_ports_at_once(void **state)
{
    uint8_t both[4] = {0x40, 0x99};

    (void)state;
    vm_bus_write(&ports, BASE, both, 2);
    vm_bus_read(&ports, BASE, both, 2);
    assert_int_equal(both[0], 0xff);
    assert_int_equal(both[1], 0x99);
}

/* ---- setting ---- */

static void test_what_linux_sets_is_shown_from_half_a_second_on(void **state)
{
    (void)state;
    set_as_linux(0x1999, 0x12, 0x31, 0x23);
    assert_date(0x19, 0x99, 0x12, 0x31);
    assert_time(0x23, 0x30, 0x15);
    assert_int_equal(in(WEEKDAY), 6);
    host.tv_nsec += 499999999;
    assert_int_equal(in(SECONDS), 0x15);
    host.tv_nsec++;
    assert_int_equal(in(SECONDS), 0x16);
    host.tv_sec += 1800;
    assert_date(0x20, 0x00, 0x01, 0x01);
    assert_int_equal(in(WEEKDAY), 7);
    host = (struct timespec){WHEN, 900000000}; /* the second's part is carried */
    set_as_linux(0x2031, 0x01, 0x01, 0x00);
    assert_time(0, 0x30, 0x15);
    host.tv_nsec = 399999999;
    host.tv_sec++;
    assert_int_equal(in(SECONDS), 0x15);
    host.tv_nsec++;
    assert_int_equal(in(SECONDS), 0x16);
}

static void test_it_stands_while_it_is_set(void **state)
{
    (void)state;
    out(B, SET | H24);
    host.tv_sec += 100;
    assert_time(0x23, 0x59, 0x58);
    out(MONTH, 0x77); /* kept as it was written */
    assert_int_equal(in(MONTH), 0x77);
    out(MONTH, 0x02);
    out(HOURS, 0x12);
    out(B, H24);
    assert_time(0x12, 0x59, 0x58);
    host.tv_nsec = 0; /* the part of the second went on */
    host.tv_sec++;
    assert_int_equal(in(SECONDS), 0x59);
}

static void test_it_stands_while_its_divider_is_reset(void **state)
{
    (void)state;
    out(A, 0x66);
    host.tv_sec += 100;
    assert_time(0x23, 0x59, 0x58);
    out(A, 0x26);
    assert_int_equal(in(SECONDS), 0x58);
    host.tv_nsec += 500000000;
    assert_int_equal(in(SECONDS), 0x59);
}

static void test_it_is_set_in_binary_and_twelve_hours(void **state)
{
    (void)state;
    out(B, BINARY);
    out(B, SET | BINARY); /* stopped, bytes are not converted from one kind to the other */
    out(HOURS, 12);
    out(MINUTES, 34);
    out(YEAR, 99);
    out(CENTURY, 21);
    out(B, BINARY);
    out(B, H24);
    assert_time(0x00, 0x34, 0x58);
    assert_date(0x21, 0x99, 0x02, 0x28);
    out(B, 0);
    out(B, SET);
    out(HOURS, 0x92);
    out(B, 0);
    assert_int_equal(in(HOURS), 0x92);
    out(B, H24);
    assert_int_equal(in(HOURS), 0x12);
}

static void test_a_register_written_while_it_runs_counts_at_once(void **state)
{
    (void)state;
    out(HOURS, 0x05);
    assert_time(0x05, 0x59, 0x58);
    host.tv_sec += 2;
    assert_time(0x06, 0x00, 0x00);
    assert_date(0x20, 0x24, 0x02, 0x28);
}

static void test_what_is_no_date_is_one_nevertheless(void **state)
{
    (void)state;
    out(B, SET | H24);
    out(MONTH, 0x04);
    out(DAY, 0x31);
    out(B, H24);
    assert_date(0x20, 0x24, 0x05, 0x01);
    out(B, SET | H24); /* before the year 0 */
    out(CENTURY, 0);
    out(YEAR, 0);
    out(MONTH, 0);
    out(DAY, 0);
    out(B, H24);
    assert_date(0x00, 0x99, 0x11, 0x30);
    for (unsigned value = 0; value < 256; value++) {
        for (unsigned index = 0; index < 128; index++)
            out(index, index == B ? value & SET : index == A ? value & 0x7f : value);
        out(A, 0x26);
        out(B, value & BINARY);
        for (unsigned index = 0; index < 128; index++)
            (void)in(index);
    }
}

/* ---- suspending ---- */

static void test_a_suspended_clock_is_right_afterwards(void **state)
{
    struct vdisk_error error;
    json_t *saved;

    (void)state;
    set_as_linux(0x1999, 0x12, 0x31, 0x23);
    out(0x50, 0x42);
    saved = vm_rtc_save(rtc);
    tear_down(NULL);
    set_up(NULL);
    host.tv_sec += 3600;
    assert_int_equal(vm_rtc_load(rtc, saved, &error), 0);
    json_decref(saved);
    assert_date(0x20, 0x00, 0x01, 0x01);
    assert_time(0x00, 0x30, 0x15);
    assert_int_equal(in(0x50), 0x42);
    host.tv_nsec += 500000000;
    assert_int_equal(in(SECONDS), 0x16);
}

static void test_a_state_that_is_none_is_refused(void **state)
{
    static const char *const bad[][2] = {
        {"index", "128"},
        {"index", "-1"},
        {"cmos", "\"AAAA\""},
        {"cmos", "1"},
        {"offset", "9223372036854775807"},
        {"offset", "-1000000000001"},
        {"offset_ns", "-1"},
        {"offset_ns", "1000000000"},
    };
    struct vdisk_error error;
    json_t *saved = vm_rtc_save(rtc);

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        json_t *broken = json_copy(saved);

        json_object_set_new(broken, bad[i][0], json_loads(bad[i][1], JSON_DECODE_ANY, NULL));
        assert_int_equal(vm_rtc_load(rtc, broken, &error), -EINVAL);
        json_object_del(broken, bad[i][0]);
        assert_int_equal(vm_rtc_load(rtc, broken, &error), -EINVAL);
        json_decref(broken);
    }
    assert_int_equal(vm_rtc_load(rtc, NULL, &error), -EINVAL);
    assert_time(0x23, 0x59, 0x58);
    json_decref(saved);
}

/* ---- threads ---- */

static void *use(void *arg)
{
    uint8_t both[2] = {*(uint8_t *)arg, 0x26}, value;

    for (unsigned i = 0; i < 2000; i++) {
        vm_bus_write(&ports, BASE, both, 2);
        vm_bus_read(&ports, BASE + 1, &value, 1);
        both[0] = (uint8_t)(both[0] + 3) % 128;
    }
    return NULL;
}

static void test_processors_use_it_at_the_same_time(void **state)
{
    pthread_t threads[2];
    uint8_t from[2] = {0, 1};

    (void)state;
    for (unsigned i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, use, &from[i]);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
}

static void test_it_runs_by_the_hosts_clock(void **state)
{
    const struct vm_rtc_options plain = {.now = NULL};
    struct vm_rtc *real = vm_rtc_new(&plain);
    time_t before, after;
    struct tm tm;
    uint8_t year;

    (void)state;
    memset(&ports, 0, sizeof(ports));
    assert_int_equal(vm_rtc_add(real, &ports, BASE), 0);
    out(B, H24 | BINARY);
    do {
        before = time(NULL);
        year = in(YEAR);
        after = time(NULL);
    } while (before != after);
    gmtime_r(&before, &tm);
    assert_int_equal(year, tm.tm_year % 100);
    vm_rtc_free(real);
}

/* ---- updates and alarms ---- */

static void at(int64_t seconds)
{
    host = (struct timespec){seconds, 0};
}

static void test_an_update_leaves_a_flag_until_it_is_read(void **state)
{
    (void)state;
    assert_int_equal(in(C), 0);
    out(HOURS + 1, 0x40); /* an alarm that never comes */
    at(WHEN + 1);
    assert_int_equal(in(C), UPDATED);
    assert_int_equal(in(C), 0);
    host.tv_nsec = 999999999;
    assert_int_equal(in(C), 0);
    at(WHEN + 5);
    assert_int_equal(in(C), UPDATED);
    at(WHEN - 100); /* the host's clock was set */
    assert_int_equal(in(C), UPDATED);
    assert_int_equal(in(C), 0);
    assert_int_equal(raised, 0);
}

static void test_an_update_interrupts_if_it_may(void **state)
{
    (void)state;
    out(HOURS + 1, 0x40);
    out(B, H24 | UPDATED);
    assert_int_equal(raised, 0);
    at(WHEN + 1);
    assert_int_equal(in(C), IRQ | UPDATED);
    assert_false(high);
    assert_int_equal(raised, 1);
    at(WHEN + 2);
    out(B, H24 | UPDATED); /* it has come before that */
    assert_true(high);
    out(B, H24);
    assert_false(high);
    out(B, H24 | UPDATED);
    assert_true(high);
    assert_int_equal(in(C), IRQ | UPDATED);
    assert_false(high);
}

static void test_while_it_is_set_there_are_no_updates(void **state)
{
    (void)state;
    out(B, H24 | SET | UPDATED | ALARM);
    assert_int_equal(in(B), H24 | SET | ALARM);
    at(WHEN + 3);
    assert_int_equal(in(C), 0);
    out(B, H24 | UPDATED);
    assert_int_equal(in(C), 0);
    at(WHEN + 4);
    assert_int_equal(in(C), IRQ | UPDATED);
}

/* It is Wednesday, 23:59:58. */
static void set_alarm(unsigned hour, unsigned minute, unsigned second)
{
    out(HOURS + 1, hour);
    out(MINUTES + 1, minute);
    out(SECONDS + 1, second);
    (void)in(C);
}

static void comes_after(unsigned seconds)
{
    const int64_t begin = host.tv_sec;

    at(begin + seconds - 1);
    assert_int_equal(in(C)&ALARM, 0);
    at(begin + seconds);
    assert_int_equal(in(C)&ALARM, ALARM);
    assert_int_equal(in(C), 0);
    at(begin);
    (void)in(C);
}

static void test_an_alarm_comes_at_its_time(void **state)
{
    (void)state;
    set_alarm(0x23, 0x59, 0x59);
    comes_after(1);
    set_alarm(0x00, 0x01, 0x30);
    comes_after(92);
    set_alarm(0x23, 0x59, 0x57);
    comes_after(86399);
    set_alarm(0xff, 0xff, 0x05); /* each minute */
    comes_after(7);
    set_alarm(0xc0, 0x10, 0x00);
    comes_after(602);
    out(B, BINARY); /* and 12 hours */
    set_alarm(12, 10, 0);
    comes_after(602);
    set_alarm(0x80 | 12, 10, 0);
    comes_after(12 * 3600 + 602);
}

static void test_an_alarm_interrupts_if_it_may(void **state)
{
    (void)state;
    set_alarm(0x00, 0x00, 0x00);
    out(B, H24 | ALARM);
    at(WHEN + 1);
    assert_int_equal(in(C), UPDATED);
    assert_int_equal(raised, 0);
    at(WHEN + 100);
    assert_int_equal(in(C), IRQ | ALARM | UPDATED);
    assert_int_equal(raised, 1);
    at(WHEN + 200);
    assert_int_equal(in(C), UPDATED);
    set_alarm(0x40, 0x00, 0x00); /* never */
    at(WHEN + INT64_C(1000000000));
    assert_int_equal(in(C), UPDATED);
}

static void test_a_reset_ends_interrupts(void **state)
{
    (void)state;
    out(B, H24 | UPDATED | ALARM);
    at(WHEN + 1);
    out(B, H24 | UPDATED | ALARM);
    assert_true(high);
    vm_rtc_reset(rtc);
    assert_false(high);
    assert_int_equal(in(B), H24);
    assert_int_equal(in(C), 0);
    vm_rtc_reset(rtc);
}

static void test_an_interrupt_outlives_being_suspended(void **state)
{
    json_t *saved;

    (void)state;
    out(B, H24 | UPDATED);
    at(WHEN + 1);
    out(B, H24 | UPDATED);
    assert_true(high);
    saved = vm_rtc_save(rtc);
    vm_rtc_free(rtc);
    high = false;
    rtc = vm_rtc_new(&options);
    memset(&ports, 0, sizeof(ports));
    assert_int_equal(vm_rtc_add(rtc, &ports, BASE), 0);
    assert_int_equal(vm_rtc_load(rtc, saved, NULL), 0);
    json_decref(saved);
    assert_true(high);
    assert_int_equal(in(C), IRQ | UPDATED);
}

/* A clock whose next second is near, and whose reactor is at work. */
static void begin_timed(void)
{
    const struct reactor_options plain = {.poll = 0};
    struct vm_rtc_options timed = options;

    vm_rtc_free(rtc);
    assert_int_equal(reactor_new(&plain, &reactor), 0);
    timed.reactor = reactor;
    host = (struct timespec){WHEN, 995000000};
    rtc = vm_rtc_new(&timed);
    memset(&ports, 0, sizeof(ports));
    assert_int_equal(vm_rtc_add(rtc, &ports, BASE), 0);
}

static void end_timed(void)
{
    vm_rtc_free(rtc);
    rtc = NULL;
    reactor_free(reactor);
}

static void test_interrupts_come_by_themselves(void **state)
{
    (void)state;
    begin_timed();
    out(HOURS + 1, 0x40);
    out(B, H24 | UPDATED);
    reactor_step(reactor, true); /* it goes to sleep */
    for (unsigned i = 1; i <= 3; i++) {
        host.tv_sec++;
        while (!high)
            reactor_step(reactor, true);
        assert_int_equal(raised, i);
        assert_int_equal(in(C), IRQ | UPDATED);
    }
    end_timed();
}

static void test_without_interrupts_there_is_no_timer(void **state)
{
    int64_t begin;

    (void)state;
    begin_timed();
    out(B, H24 | UPDATED);
    out(B, H24);
    reactor_step(reactor, true);
    reactor_step(reactor, false);
    begin = reactor_now();
    while (reactor_now() - begin < 30000000)
        reactor_step(reactor, false);
    host.tv_sec++;
    reactor_step(reactor, false);
    assert_int_equal(raised, 0);
    end_timed();
}

static void test_it_ends_with_its_timer_under_way(void **state)
{
    (void)state;
    begin_timed();
    out(B, H24 | UPDATED);
    end_timed();
    begin_timed();
    host.tv_nsec = 0;
    out(B, H24 | ALARM);
    reactor_step(reactor, true);
    end_timed();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_it_shows_the_hosts_time),
        TEST(test_register_b_says_how_it_is_written),
        TEST(test_a_driver_finds_a_clock_that_works),
        TEST(test_an_update_is_announced),
        TEST(test_both_ports_at_once),
        TEST(test_what_linux_sets_is_shown_from_half_a_second_on),
        TEST(test_it_stands_while_it_is_set),
        TEST(test_it_stands_while_its_divider_is_reset),
        TEST(test_it_is_set_in_binary_and_twelve_hours),
        TEST(test_a_register_written_while_it_runs_counts_at_once),
        TEST(test_what_is_no_date_is_one_nevertheless),
        TEST(test_a_suspended_clock_is_right_afterwards),
        TEST(test_a_state_that_is_none_is_refused),
        TEST(test_an_update_leaves_a_flag_until_it_is_read),
        TEST(test_an_update_interrupts_if_it_may),
        TEST(test_while_it_is_set_there_are_no_updates),
        TEST(test_an_alarm_comes_at_its_time),
        TEST(test_an_alarm_interrupts_if_it_may),
        TEST(test_a_reset_ends_interrupts),
        TEST(test_an_interrupt_outlives_being_suspended),
        TEST(test_interrupts_come_by_themselves),
        TEST(test_without_interrupts_there_is_no_timer),
        TEST(test_it_ends_with_its_timer_under_way),
        TEST(test_processors_use_it_at_the_same_time),
        TEST(test_it_runs_by_the_hosts_clock),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
