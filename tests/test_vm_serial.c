/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The serial port (vmm/serial.c), by its registers, as drivers use them. Worth running under
 * ThreadSanitizer.
 */
#include "serial.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define BASE      0x3f8u

#define DATA      0u
#define IER       1u
#define IIR       2u
#define FCR       2u
#define LCR       3u
#define MCR       4u
#define LSR       5u
#define MSR       6u
#define SCRATCH   7u

#define OUT2      0x08u
#define LOOP      0x10u
#define DLAB      0x80u
#define DATA_HERE 0x01u
#define OVERRUN   0x02u
#define EMPTY     0x60u
#define NO_REASON 0x01u
#define SENT      0x02u
#define RECEIVED  0x04u
#define LINE      0x06u
#define TIMEOUT   0x0cu

#define OUTPUT    65536u

static struct {
    struct vm_serial *serial;
    struct vm_bus ports;
    bool high, full;
    unsigned edges, rooms;
    uint8_t output[OUTPUT];
    size_t sent;
} kit;

static void note_irq(void *opaque, bool high)
{
    assert_ptr_equal(opaque, &kit);
    assert_true(high != kit.high);
    kit.high = high;
    kit.edges += high;
}

static bool take_output(void *opaque, const uint8_t *bytes, size_t count)
{
    assert_ptr_equal(opaque, &kit);
    assert_true(kit.sent + count <= OUTPUT);
    memcpy(kit.output + kit.sent, bytes, count);
    kit.sent += count;
    return !kit.full;
}

static void note_room(void *opaque)
{
    assert_ptr_equal(opaque, &kit);
    kit.rooms++;
}

static const struct vm_serial_peer peer = {
    .output = take_output, .room = note_room, .opaque = &kit};

static int set_up(void **state)
{
    (void)state;
    memset(&kit, 0, sizeof(kit));
    kit.serial = vm_serial_new(note_irq, &kit);
    if (!kit.serial || vm_serial_add(kit.serial, &kit.ports, BASE))
        return -1;
    vm_serial_connect(kit.serial, &peer);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    vm_serial_free(kit.serial);
    return 0;
}

static uint8_t in(unsigned offset)
{
    uint8_t value;

    vm_bus_read(&kit.ports, BASE + offset, &value, 1);
    return value;
}

static void out(unsigned offset, unsigned value)
{
    uint8_t byte = (uint8_t)value;

    vm_bus_write(&kit.ports, BASE + offset, &byte, 1);
}

static size_t input(const char *text)
{
    return vm_serial_input(kit.serial, (const uint8_t *)text, strlen(text));
}

/* With FIFOs that tell at `level`, and the interrupts of `ier`. */
static void begin(unsigned level, unsigned ier)
{
    out(FCR, level | 1);
    out(MCR, OUT2 | 3);
    out(IER, ier);
}

/* ---- what drivers look for ---- */

/* The steps of Linux (8250_port.c) that tell the kinds apart. */
static void test_a_driver_finds_a_16550a(void **state)
{
    uint8_t first, second;

    (void)state;
    out(IER, 0);
    assert_int_equal(in(IER), 0);
    out(IER, 0x0f);
    assert_int_equal(in(IER), 0x0f);
    out(IER, 0xff); /* nothing above: it is no XScale */
    assert_int_equal(in(IER), 0x0f);
    out(IER, 0);
    out(MCR, LOOP | 0x0a);
    assert_int_equal(in(MSR)&0xf0, 0x90);
    out(MCR, 0);
    out(FCR, 1);
    assert_int_equal(in(IIR) >> 6, 3);
    out(LCR, 0xbf); /* no extended register at 2, here or behind the divisor */
    assert_int_not_equal(in(IIR), 0);
    out(LCR, DLAB);
    assert_int_not_equal(in(IIR), 0);
    out(LCR, 0xe0); /* nor National's second bank */
    second = in(IIR);
    out(LCR, 0);
    out(MCR, LOOP);
    out(LCR, 0xe0);
    assert_int_equal(in(IIR), second);
    out(LCR, 0);
    out(MCR, 0);
    out(FCR, 0x21); /* nor FIFOs of 64 bytes */
    first = in(IIR) >> 5;
    out(FCR, 1);
    out(LCR, DLAB);
    out(FCR, 0x21);
    assert_int_equal(in(IIR) >> 5, first);
    assert_int_equal(first, 6);
    out(LCR, 0);
    out(SCRATCH, 0x5a);
    assert_int_equal(in(SCRATCH), 0x5a);
    out(FCR, 0);
    assert_int_equal(in(IIR) >> 6, 0);
}

static void test_divisor_is_behind_dlab(void **state)
{
    (void)state;
    out(LCR, DLAB | 3);
    out(DATA, 0x34);
    out(IER, 0x12);
    assert_int_equal(in(DATA), 0x34);
    assert_int_equal(in(IER), 0x12);
    assert_int_equal(kit.sent, 0);
    out(LCR, 3);
    assert_int_equal(in(IER), 0);
    assert_int_equal(in(DATA), 0);
    assert_int_equal(in(LCR), 3);
}

static void test_loopback_gives_back_what_is_sent(void **state)
{
    (void)state;
    begin(0, 0);
    in(MSR);
    out(MCR, LOOP | 0x0f);
    assert_int_equal(in(MSR), 0xf0);
    out(MCR, LOOP);
    assert_int_equal(in(MSR), 0x0f); /* all went, the ring too */
    assert_int_equal(in(MSR), 0);
    out(MCR, LOOP | 4);
    assert_int_equal(in(MSR), 0x40); /* a ring's beginning is not told */
    input("xy");
    for (unsigned i = 0; i < 16; i++)
        out(DATA, 'a' + i);
    assert_int_equal(in(LSR), EMPTY | DATA_HERE);
    out(DATA, '!');
    assert_int_equal(in(LSR), EMPTY | DATA_HERE | OVERRUN);
    assert_int_equal(in(LSR), EMPTY | DATA_HERE);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(in(DATA), 'a' + i);
    assert_int_equal(in(LSR), EMPTY);
    out(FCR, 0); /* a single register has the last */
    out(DATA, '1');
    out(DATA, '2');
    assert_int_equal(in(LSR), EMPTY | DATA_HERE | OVERRUN);
    assert_int_equal(in(DATA), '2');
    assert_int_equal(kit.sent, 0);
    out(MCR, 0); /* the line is there again, with what came meanwhile */
    assert_int_equal(in(DATA), 'x');
    assert_int_equal(in(DATA), 'y');
}

static void test_modem_lines_of_a_peer_that_is_there(void **state)
{
    (void)state;
    assert_int_equal(in(MSR), 0xb0);
    begin(0, 8);
    assert_false(kit.high);
    out(MCR, LOOP | OUT2);
    assert_int_equal(in(IIR), 0xc0); /* CTS and DSR are not */
    out(MCR, OUT2);
    assert_true(kit.high);
    assert_int_equal(in(MSR), 0xb3);
    assert_false(kit.high);
    assert_int_equal(in(IIR), 0xc0 | NO_REASON);
}

/* ---- sending ---- */

static void test_what_is_sent_arrives_in_order(void **state)
{
    const uint8_t four[4] = {'4', 0, 0xc1, 3}; /* data, IER, FCR, LCR */

    (void)state;
    for (unsigned i = 0; i < 1000; i++)
        out(DATA, i & 0xff);
    assert_int_equal(kit.sent, 1000);
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(kit.output[i], i & 0xff);
    vm_bus_write(&kit.ports, BASE, four, 4);
    assert_int_equal(kit.output[1000], '4');
    assert_int_equal(in(LCR), 3);
    assert_int_equal(in(IIR), 0xc1);
    vm_serial_connect(kit.serial, NULL);
    out(DATA, 'x');
    assert_int_equal(in(LSR), EMPTY);
    assert_int_equal(kit.sent, 1001);
}

/* Linux asks for this twice: else it polls by a timer (UART_BUG_THRE, UART_BUG_TXEN). */
static void test_enabling_tells_of_an_empty_transmitter_each_time(void **state)
{
    (void)state;
    begin(0, 0);
    for (unsigned i = 0; i < 3; i++) {
        out(IER, 2);
        assert_true(kit.high);
        assert_int_equal(in(LSR), EMPTY);
        assert_int_equal(in(IIR), 0xc0 | SENT);
        assert_false(kit.high); /* told once */
        assert_int_equal(in(IIR), 0xc0 | NO_REASON);
        out(IER, 2); /* no change */
        assert_int_equal(in(IIR), 0xc0 | NO_REASON);
        out(IER, 0);
    }
    out(IER, 2);
    out(IER, 0);
    assert_false(kit.high);
    assert_int_equal(in(IIR), 0xc0 | NO_REASON);
    assert_int_equal(kit.edges, 4);
}

static void test_each_byte_sent_is_an_edge(void **state)
{
    (void)state;
    begin(0, 2);
    assert_int_equal(kit.edges, 1);
    for (unsigned i = 0; i < 16; i++) {
        out(DATA, 'a');
        assert_true(kit.high);
        assert_int_equal(kit.edges, i + 2);
    }
    assert_int_equal(in(IIR), 0xc0 | SENT);
    assert_false(kit.high);
}

static void test_a_peer_that_is_full_holds_the_transmitter(void **state)
{
    (void)state;
    begin(0, 2);
    in(IIR);
    kit.full = true;
    out(DATA, 'a');
    assert_int_equal(in(LSR), 0);
    assert_false(kit.high);
    out(IER, 0);
    out(IER, 2); /* not empty: nothing to tell */
    assert_false(kit.high);
    out(DATA, 'b'); /* it did not wait; nothing is lost for that */
    assert_int_equal(in(LSR), 0);
    kit.full = false;
    vm_serial_ready(kit.serial);
    assert_true(kit.high);
    assert_int_equal(in(LSR), EMPTY);
    assert_int_equal(in(IIR), 0xc0 | SENT);
    vm_serial_ready(kit.serial); /* was not full */
    assert_false(kit.high);
    assert_int_equal(kit.sent, 2);
    kit.full = true;
    out(DATA, 'c');
    vm_serial_connect(kit.serial, NULL); /* a peer that goes holds nobody */
    assert_int_equal(in(LSR), EMPTY);
    assert_int_equal(in(IIR), 0xc0 | SENT);
}

/* ---- receiving ---- */

static void test_input_is_told_by_the_trigger_level(void **state)
{
    static const unsigned levels[] = {1, 4, 8, 14};

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        out(FCR, 0);
        begin(i << 6, 1);
        assert_false(kit.high);
        for (unsigned count = 1; count <= 16; count++) {
            input("x");
            assert_true(kit.high);
            assert_int_equal(in(IIR), 0xc0 | (count >= levels[i] ? RECEIVED : TIMEOUT));
        }
        for (unsigned count = 16; count > 0; count--) {
            assert_true(kit.high);
            assert_int_equal(in(LSR), EMPTY | DATA_HERE);
            assert_int_equal(in(DATA), 'x');
        }
        assert_false(kit.high);
        assert_int_equal(in(LSR), EMPTY);
        assert_int_equal(kit.edges, i + 1);
    }
}

static void test_without_fifos_bytes_come_one_by_one(void **state)
{
    (void)state;
    out(MCR, OUT2);
    out(IER, 1);
    input("abc");
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(in(IIR), RECEIVED);
        assert_int_equal(in(DATA), 'a' + i);
    }
    assert_int_equal(in(IIR), NO_REASON);
    assert_false(kit.high);
    assert_int_equal(in(DATA), 0);
}

static void test_clearing_the_fifo_loses_what_it_has_and_no_more(void **state)
{
    (void)state;
    begin(0, 1);
    input("0123456789abcdefXY");
    out(FCR, 3);
    assert_int_equal(in(DATA), 'X');
    out(FCR, 0); /* another mode clears it too */
    assert_int_equal(in(LSR), EMPTY);
    assert_false(kit.high);
    input("z");
    out(FCR, 2); /* without the enabling bit the others mean nothing */
    assert_int_equal(in(DATA), 'z');
}

static void test_no_input_is_lost_when_the_guest_is_slow(void **state)
{
    uint8_t bytes[3 * VM_SERIAL_QUEUE];
    size_t given = 0, got = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i % 251);
    begin(0xc0, 1);
    assert_int_equal(vm_serial_room(kit.serial), VM_SERIAL_QUEUE);
    given = vm_serial_input(kit.serial, bytes, sizeof(bytes));
    assert_int_equal(given, VM_SERIAL_QUEUE);
    assert_int_equal(vm_serial_room(kit.serial), 16);
    given += vm_serial_input(kit.serial, bytes + given, 16);
    assert_int_equal(vm_serial_room(kit.serial), 0);
    while (got < sizeof(bytes)) {
        unsigned rooms = kit.rooms;

        assert_int_equal(in(LSR), EMPTY | DATA_HERE);
        assert_int_equal(in(DATA), bytes[got++]);
        if (kit.rooms > rooms) { /* once for each time it was full */
            size_t room = vm_serial_room(kit.serial);

            assert_int_equal(room, VM_SERIAL_QUEUE / 2);
            given += vm_serial_input(kit.serial, bytes + given,
                                     room < sizeof(bytes) - given ? room : sizeof(bytes) - given);
            if (given < sizeof(bytes))
                assert_int_equal(vm_serial_room(kit.serial), 0);
        }
    }
    assert_int_equal(given, sizeof(bytes));
    assert_int_equal(in(LSR), EMPTY);
    assert_int_equal(kit.rooms, 4);
}

static void test_who_was_refused_is_told_of_room(void **state)
{
    static const uint8_t bytes[VM_SERIAL_QUEUE + 1];

    (void)state;
    assert_int_equal(vm_serial_input(kit.serial, bytes, sizeof(bytes)), VM_SERIAL_QUEUE);
    for (unsigned i = 0; i < VM_SERIAL_QUEUE; i++) {
        assert_int_equal(kit.rooms, i >= VM_SERIAL_QUEUE / 2 - 1); /* one is in the chip */
        in(DATA);
    }
    assert_int_equal(vm_serial_input(kit.serial, bytes, VM_SERIAL_QUEUE), VM_SERIAL_QUEUE);
    for (unsigned i = 0; i < VM_SERIAL_QUEUE; i++)
        in(DATA);
    assert_int_equal(kit.rooms, 1); /* all was taken: nobody waits */
}

/* ---- the interrupt ---- */

static void test_reasons_come_by_their_priority(void **state)
{
    (void)state;
    out(FCR, 0);
    out(MCR, LOOP);
    in(MSR);
    out(MCR, LOOP | OUT2);
    out(DATA, 'a');
    out(DATA, 'b');
    out(IER, 0x0f);
    assert_false(kit.high); /* in loopback mode the pin is off */
    assert_int_equal(in(IIR), LINE);
    in(LSR);
    assert_int_equal(in(IIR), RECEIVED);
    in(DATA);
    assert_int_equal(in(IIR), SENT); /* was not taken for told while others came first */
    assert_int_equal(in(IIR), 0);
    in(MSR);
    assert_int_equal(in(IIR), NO_REASON);
}

static void test_out2_is_the_switch_of_the_interrupt(void **state)
{
    (void)state;
    out(IER, 1);
    input("a");
    assert_int_equal(in(IIR), RECEIVED);
    assert_false(kit.high);
    out(MCR, OUT2);
    assert_true(kit.high);
    out(MCR, 0);
    assert_false(kit.high);
    out(MCR, OUT2);
    vm_serial_reset(kit.serial);
    assert_false(kit.high);
    assert_int_equal(in(MCR), 0);
    assert_int_equal(in(IER), 0);
}

/* ---- suspending ---- */

static struct vm_serial *load_into_another(json_t *saved)
{
    struct vm_serial *another = vm_serial_new(note_irq, &kit);
    struct vdisk_error error;

    assert_non_null(another);
    kit.high = false;
    memset(&kit.ports, 0, sizeof(kit.ports));
    assert_int_equal(vm_serial_add(another, &kit.ports, BASE), 0);
    vm_serial_connect(another, &peer);
    assert_int_equal(vm_serial_load(another, saved, &error), 0);
    json_decref(saved);
    return another;
}

static void test_a_suspended_port_goes_on(void **state)
{
    const char *text = "0123456789abcdef and more";
    struct vm_serial *another;

    (void)state;
    begin(0x80, 3);
    out(SCRATCH, 7);
    out(LCR, DLAB);
    out(DATA, 1);
    out(LCR, 3);
    input(text);
    kit.full = true;
    out(DATA, 'a');
    kit.full = false;
    another = load_into_another(vm_serial_save(kit.serial));
    assert_true(kit.high);
    for (const char *at = text; *at; at++)
        assert_int_equal(in(DATA), *at);
    assert_int_equal(in(IIR), 0xc0 | SENT); /* what was full is empty */
    assert_int_equal(in(LSR), EMPTY);
    assert_int_equal(in(SCRATCH), 7);
    out(LCR, DLAB);
    assert_int_equal(in(DATA), 1);
    vm_serial_free(another);
}

static void test_a_state_that_is_none_is_refused(void **state)
{
    static const char *const bad[][2] = {
        {"ier", "16"},    {"ier", "-1"},        {"mcr", "32"},     {"fcr", "8"},
        {"fcr", "49"},    {"dll", "256"},       {"lcr", "\"3\""},  {"overrun", "1"},
        {"sent", "null"}, {"fifo", "\"YWI=\""}, {"fifo", "\"?\""}, {"fifo", "3"},
        {"queue", "[]"},  {"queue", "\"YQ\""},
    };
    struct vdisk_error error;
    json_t *saved;

    (void)state;
    out(SCRATCH, 9);
    saved = vm_serial_save(kit.serial);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        json_t *broken = json_copy(saved);

        json_object_set_new(broken, bad[i][0], json_loads(bad[i][1], JSON_DECODE_ANY, NULL));
        assert_int_equal(vm_serial_load(kit.serial, broken, &error), -EINVAL);
        assert_int_equal(error.code, -EINVAL);
        json_object_del(broken, bad[i][0]);
        assert_int_equal(vm_serial_load(kit.serial, broken, &error), -EINVAL);
        json_decref(broken);
    }
    assert_int_equal(vm_serial_load(kit.serial, NULL, &error), -EINVAL);
    assert_int_equal(in(SCRATCH), 9);
    assert_int_equal(vm_serial_load(kit.serial, saved, &error), 0);
    json_decref(saved);
}

/* ---- threads ---- */

#define BYTES 20000u

static atomic_uint got;

static void *send_bytes(void *arg)
{
    for (unsigned i = 0; i < BYTES; i++)
        out(DATA, *(const char *)arg);
    return NULL;
}

static void *receive_bytes(void *arg)
{
    (void)arg;
    while (atomic_load(&got) < BYTES) {
        if (in(LSR)&DATA_HERE) {
            assert_int_equal(in(DATA), atomic_load(&got) % 256);
            atomic_fetch_add(&got, 1);
        }
    }
    return NULL;
}

static void test_processors_use_it_at_the_same_time(void **state)
{
    pthread_t threads[3];
    unsigned given = 0, count[2] = {0};

    (void)state;
    begin(0, 3);
    pthread_create(&threads[0], NULL, send_bytes, "a");
    pthread_create(&threads[1], NULL, send_bytes, "b");
    pthread_create(&threads[2], NULL, receive_bytes, NULL);
    while (given < BYTES) {
        uint8_t byte = (uint8_t)given;

        given += (unsigned)vm_serial_input(kit.serial, &byte, 1);
    }
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(kit.sent, 2 * BYTES);
    for (size_t i = 0; i < kit.sent; i++)
        count[kit.output[i] - 'a']++;
    assert_int_equal(count[0], BYTES);
    assert_int_equal(count[1], BYTES);
    assert_int_equal(in(IIR), 0xc0 | SENT);
    assert_false(kit.high);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_driver_finds_a_16550a),
        TEST(test_divisor_is_behind_dlab),
        TEST(test_loopback_gives_back_what_is_sent),
        TEST(test_modem_lines_of_a_peer_that_is_there),
        TEST(test_what_is_sent_arrives_in_order),
        TEST(test_enabling_tells_of_an_empty_transmitter_each_time),
        TEST(test_each_byte_sent_is_an_edge),
        TEST(test_a_peer_that_is_full_holds_the_transmitter),
        TEST(test_input_is_told_by_the_trigger_level),
        TEST(test_without_fifos_bytes_come_one_by_one),
        TEST(test_clearing_the_fifo_loses_what_it_has_and_no_more),
        TEST(test_no_input_is_lost_when_the_guest_is_slow),
        TEST(test_who_was_refused_is_told_of_room),
        TEST(test_reasons_come_by_their_priority),
        TEST(test_out2_is_the_switch_of_the_interrupt),
        TEST(test_a_suspended_port_goes_on),
        TEST(test_a_state_that_is_none_is_refused),
        TEST(test_processors_use_it_at_the_same_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
