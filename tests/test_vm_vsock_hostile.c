/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that does what no driver does to its vsock device: it harms the connection, or the
 * device, and nobody else.
 */
#include "vm_vsock.h"

#include "vsock_conns.h"
#include "vsock_credit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PORT   5000u /* of the host */
#define GUEST  1234u /* a port of the guest */
#define BROKEN VIRTIO_CONFIG_S_NEEDS_RESET

static struct vm_vsock vsock;
static int listener;
static uint8_t data[VSOCK_BUFFER_BYTES + 1];

static int set_up(void **state)
{
    (void)state;
    vm_vsock_open(&vsock, false);
    listener = vm_vsock_listen(&vsock, PORT);
    vm_vsock_begin(&vsock);
    return 0;
}

static int tear_down(void **state)
{
    char path[128];

    (void)state;
    snprintf(path, sizeof(path), "%s/vsock_%u", vsock.folder, PORT);
    assert_int_equal(unlink(path), 0);
    close(listener);
    vm_vsock_close(&vsock);
    return 0;
}

static void expect_failed(void)
{
    vm_rig_settle(&vsock.rig);
    assert_int_equal(vm_driver_status(&vsock.driver), 0xf | BROKEN);
}

/* ---- packets of no connection ---- */

static void test_packets_for_what_is_not_there_are_refused_or_dropped(void **state)
{
    static const struct {
        const char *what;
        struct vsock_header header;
        bool is_answered;
    } cases[] = {
#define PACKET(source, destination, kind, operation)                                               \
    {.src_cid = (source), .dst_cid = (destination), .type = (kind), .op = (operation)}
        {"data", PACKET(7, 2, 1, VIRTIO_VSOCK_OP_RW), true},
        {"an answer", PACKET(7, 2, 1, VIRTIO_VSOCK_OP_RESPONSE), true},
        {"a shutdown", PACKET(7, 2, 1, VIRTIO_VSOCK_OP_SHUTDOWN), true},
        {"credit", PACKET(7, 2, 1, VIRTIO_VSOCK_OP_CREDIT_UPDATE), true},
        {"a question", PACKET(7, 2, 1, VIRTIO_VSOCK_OP_CREDIT_REQUEST), true},
        {"a reset", PACKET(7, 2, 1, VIRTIO_VSOCK_OP_RST), false},
        {"no operation", PACKET(7, 2, 1, VIRTIO_VSOCK_OP_INVALID), true},
        {"an unknown operation", PACKET(7, 2, 1, 8), true},
        {"a very unknown operation", PACKET(7, 2, 1, 0xffff), true},
        {"another's packet", PACKET(8, 2, 1, VIRTIO_VSOCK_OP_REQUEST), false},
        {"the host's packet", PACKET(2, 2, 1, VIRTIO_VSOCK_OP_REQUEST), false},
        {"a high CID", PACKET(UINT64_C(1) << 32 | 7, 2, 1, VIRTIO_VSOCK_OP_REQUEST), false},
        {"to another guest", PACKET(7, 8, 1, VIRTIO_VSOCK_OP_REQUEST), true},
        {"to itself", PACKET(7, 7, 1, VIRTIO_VSOCK_OP_REQUEST), true},
        {"to the hypervisor", PACKET(7, 0, 1, VIRTIO_VSOCK_OP_REQUEST), true},
        {"to a high CID", PACKET(7, UINT64_C(1) << 32 | 2, 1, VIRTIO_VSOCK_OP_REQUEST), true},
        {"a reset to another", PACKET(7, 8, 1, VIRTIO_VSOCK_OP_RST), false},
        {"no type", PACKET(7, 2, 0, VIRTIO_VSOCK_OP_REQUEST), true},
        {"records", PACKET(7, 2, 2, VIRTIO_VSOCK_OP_REQUEST), true},
        {"an unknown type", PACKET(7, 2, 0xffff, VIRTIO_VSOCK_OP_RW), true},
        {"a reset of that type", PACKET(7, 2, 0xffff, VIRTIO_VSOCK_OP_RST), false},
#undef PACKET
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vsock_header header = cases[i].header, answer;

        header.src_port = 100 + i;
        header.dst_port = PORT;
        print_message("%s\n", cases[i].what);
        vm_vsock_send(&vsock, &header, NULL);
        if (cases[i].is_answered) {
            answer = vm_vsock_receive(&vsock);
            assert_int_equal(answer.op, VIRTIO_VSOCK_OP_RST);
            assert_int_equal(answer.type, header.type);
            assert_true(answer.src_cid == header.dst_cid);
            assert_int_equal(answer.src_port, PORT);
            assert_int_equal(answer.dst_port, 100 + i);
            assert_int_equal(answer.length, 0);
        }
        vm_vsock_expect_quiet(&vsock);
    }
    assert_int_equal(accept(listener, NULL, NULL), -1); /* no program has heard of any of it */
    assert_int_equal(vm_driver_status(&vsock.driver), 0xf);
}

/* ---- packets of a connection ---- */

static void test_packets_that_make_no_sense_reset_their_connection_alone(void **state)
{
    static const struct {
        const char *what;
        uint32_t before; /* a shutdown */
        uint16_t op;
        uint32_t length;
    } cases[] = {
        {"a second request", 0, VIRTIO_VSOCK_OP_REQUEST, 0},
        {"an answer to nothing", 0, VIRTIO_VSOCK_OP_RESPONSE, 0},
        {"no operation", 0, VIRTIO_VSOCK_OP_INVALID, 0},
        {"an unknown operation", 0, 0x105, 0},
        {"data beyond all credit", 0, VIRTIO_VSOCK_OP_RW, VSOCK_BUFFER_BYTES + 1},
        {"data after its end", VIRTIO_VSOCK_SHUTDOWN_SEND, VIRTIO_VSOCK_OP_RW, 1},
    };
    struct vm_vsock_end other, end;
    int witness = vm_vsock_connect(&vsock, &other, listener, PORT, GUEST, 65536);

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int fd = vm_vsock_connect(&vsock, &end, listener, PORT, 1 + i, 65536);
        struct vsock_header header = vm_vsock_header(&end, cases[i].op);
        uint8_t byte;

        print_message("%s\n", cases[i].what);
        if (cases[i].before)
            vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN, cases[i].before);
        header.length = cases[i].length;
        vm_vsock_send(&vsock, &header, data);
        vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RST);
        assert_int_equal(vm_vsock_end_of(&vsock, fd), 0); /* not a byte of it */
        close(fd);
        vm_vsock_expect_quiet(&vsock);
        vm_vsock_write(&vsock, &other, "w", 1);
        vm_vsock_read(&vsock, witness, &byte, 1);
    }
    close(witness);
    assert_int_equal(vm_driver_status(&vsock.driver), 0xf);
}

static void test_data_before_the_answer_resets_the_connection(void **state)
{
    struct vm_vsock_end end = {.guest_port = 9, .alloc = 4096};
    int fd = vm_vsock_dial(&vsock);

    (void)state;
    vm_vsock_put(fd, "CONNECT 9\n", 10);
    end.host_port = vm_vsock_receive(&vsock).src_port;
    vm_vsock_write(&vsock, &end, "early", 5);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RST);
    assert_int_equal(vm_vsock_end_of(&vsock, fd), 0);
    close(fd);
}

static void test_data_before_our_answer_resets_the_connection(void **state)
{
    struct vm_vsock_end end = {.guest_port = GUEST, .host_port = PORT, .alloc = 4096};
    char byte;

    (void)state;
    vm_driver_begin(&vsock.driver, 0, VM_VSOCK_QUEUE); /* without buffers: it cannot have heard */
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_REQUEST, 0);
    vm_vsock_write(&vsock, &end, "early", 5);
    vm_vsock_give_rx(&vsock, VM_VSOCK_RX);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RST);
    int fd = accept(listener, NULL, NULL);

    assert_int_equal(recv(fd, &byte, 1, 0), 0);
    close(fd);
}

static void test_more_than_the_credit_resets_even_a_slow_connection(void **state)
{
    struct vm_vsock_end end;
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);
    struct vsock_header header;

    (void)state;
    /* In spite of the credit: what the socket does not take, the buffer does, until it is full. */
    do {
        vm_vsock_write(&vsock, &end, data, 65536);
        vm_rig_settle(&vsock.rig);
        if (!vm_vsock_has_packet(&vsock))
            continue;
        header = vm_vsock_receive(&vsock);
        assert_in_range(end.sent, 0, 4u << 20);
    } while (header.op != VIRTIO_VSOCK_OP_RST);
    close(fd);
}

static void test_lies_about_credit_harm_nobody(void **state)
{
    static const struct {
        uint32_t alloc, taken;
        bool has_credit;
    } lies[] = {
        {UINT32_MAX, 0, true}, {UINT32_MAX, 0x80000000u, true},
        {100, 1, false},       {100, UINT32_MAX, true},
        {0, 0, false},
    };
    struct vm_vsock_end end;
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 0);
    uint8_t byte;

    (void)state;
    for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        struct vsock_header header = vm_vsock_header(&end, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
        uint32_t sent = 0;

        header.buf_alloc = lies[i].alloc;
        header.fwd_cnt = end.taken + lies[i].taken;
        vm_vsock_send(&vsock, &header, NULL);
        vm_vsock_put(fd, "x", 1);
        vm_rig_settle(&vsock.rig);
        while (vm_vsock_has_packet(&vsock))
            sent += vm_vsock_receive(&vsock).length;
        end.taken += sent;
        assert_int_equal(sent > 0, lies[i].has_credit);
        /* The other direction does not depend on it. */
        vm_vsock_write(&vsock, &end, "y", 1);
        vm_vsock_read(&vsock, fd, &byte, 1);
    }
    close(fd);
}

static void test_flags_and_lengths_that_mean_nothing_are_of_no_effect(void **state)
{
    struct vm_vsock_end end;
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);
    struct vsock_header header = vm_vsock_header(&end, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    uint8_t byte = 0;

    (void)state;
    header.length = 1000; /* of an operation that has no data */
    vm_vsock_send(&vsock, &header, data);
    vm_vsock_write(&vsock, &end, data, 0);
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN, 0);
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN, ~(uint32_t)VSOCK_SHUTDOWN_ALL);
    vm_vsock_write(&vsock, &end, "y", 1);
    vm_vsock_read(&vsock, fd, &byte, 1);
    assert_int_equal(byte, 'y');
    vm_vsock_expect_quiet(&vsock);
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN, UINT32_MAX);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RST);
    close(fd);
}

/* ---- chains ---- */

static void test_chains_that_are_no_packet_fail_the_device_and_free_the_programs(void **state)
{
    static const struct {
        const char *what;
        unsigned queue;
        struct vm_buffer buffer;
        uint32_t length; /* that the header says */
        bool has_more;   /* a second part, to be written */
    } cases[] = {
        {"half a header", VM_VSOCK_QUEUE_TX, {0, 43, false}, 0, false},
        {"no header", VM_VSOCK_QUEUE_TX, {0, 44, true}, 0, false},
        {"a packet to be answered in place", VM_VSOCK_QUEUE_TX, {0, 44, false}, 0, true},
        {"a byte less than it says", VM_VSOCK_QUEUE_TX, {0, 44 + 99, false}, 100, false},
        {"4 GiB less than it says", VM_VSOCK_QUEUE_TX, {0, 44, false}, UINT32_MAX, false},
        {"data beyond memory", VM_VSOCK_QUEUE_TX, {VM_RIG_MEMORY - 44, 144, false}, 100, false},
        {"a packet elsewhere", VM_VSOCK_QUEUE_TX, {UINT64_C(1) << 40, 44, false}, 0, false},
        {"a packet at the end", VM_VSOCK_QUEUE_TX, {UINT64_MAX - 20, 44, false}, 0, false},
        {"a buffer to be read", VM_VSOCK_QUEUE_RX, {0, 4096, false}, 0, false},
        {"a buffer to be read first", VM_VSOCK_QUEUE_RX, {0, 10, false}, 0, true},
        {"a buffer for half a header", VM_VSOCK_QUEUE_RX, {0, 43, true}, 0, false},
        {"a buffer without room for data", VM_VSOCK_QUEUE_RX, {0, 44, true}, 0, false},
        {"a buffer elsewhere", VM_VSOCK_QUEUE_RX, {UINT64_C(1) << 40, 4096, true}, 0, false},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vm_buffer buffer = cases[i].buffer;
        struct vm_vsock_end end;

        print_message("%s\n", cases[i].what);
        vm_vsock_begin(&vsock);
        int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);
        struct vsock_header header = vm_vsock_header(&end, VIRTIO_VSOCK_OP_RW);

        header.length = cases[i].length;
        if (buffer.guest == 0)
            buffer.guest = vm_driver_alloc(&vsock.driver, 8192);
        if (vm_memory_at(&vsock.rig.memory, buffer.guest, VSOCK_HEADER_BYTES))
            vsock_header_encode(&header, vm_driver_at(&vsock.driver, buffer.guest, 44));
        const struct vm_buffer both[] = {buffer, {buffer.guest + 4096, 4096, true}};

        (void)vm_driver_add(&vsock.driver, cases[i].queue, both, cases[i].has_more ? 2 : 1);
        (void)vm_driver_kick(&vsock.driver, cases[i].queue);
        if (cases[i].queue == VM_VSOCK_QUEUE_RX) { /* its turn comes after the good ones */
            for (unsigned j = 0; j < VM_VSOCK_RX + 1; j++) {
                vm_vsock_put(fd, "x", 1);
                vm_rig_settle(&vsock.rig);
            }
        }
        expect_failed();
        int rc = vm_vsock_end_of(&vsock, fd);

        assert_true(rc == 0 || rc == -ECONNRESET);
        close(fd);
        fd = vm_vsock_dial(&vsock);
        assert_int_equal(vm_vsock_end_of(&vsock, fd), 0);
        close(fd);
        vsock.driver.next = UINT64_C(0x200000);
        vsock.tx_at = vm_driver_alloc(&vsock.driver, 1u << 17);
    }
}

static void test_buffers_for_events_that_are_none_fail_the_device(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        struct vm_buffer buffer = {vm_driver_alloc(&vsock.driver, 4096), 4, i != 0};

        if (i == 1)
            buffer.length = 3;
        else if (i == 2)
            buffer.guest = UINT64_C(1) << 40;
        vm_vsock_begin(&vsock);
        virtio_pause(vsock.device);
        json_t *saved = virtio_save(vsock.device, NULL);

        vm_vsock_replace(&vsock);
        assert_int_equal(virtio_load(vsock.device, saved, NULL), 0);
        json_decref(saved);
        virtio_resume(vsock.device);
        (void)vm_driver_add(&vsock.driver, VM_VSOCK_QUEUE_EVENT, &buffer, 1);
        (void)vm_driver_kick(&vsock.driver, VM_VSOCK_QUEUE_EVENT);
        expect_failed();
    }
}

static void test_a_packet_in_many_pieces_is_one(void **state)
{
    struct vm_vsock_end end;
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);
    struct vsock_header header = vm_vsock_header(&end, VIRTIO_VSOCK_OP_RW);
    uint8_t bytes[VSOCK_HEADER_BYTES + 16], got[16];
    struct vm_buffer piece[20];
    uint16_t head, used;

    (void)state;
    header.length = 16;
    vsock_header_encode(&header, bytes);
    memcpy(bytes + VSOCK_HEADER_BYTES, "sixteen of these", 16);
    memcpy(vm_driver_at(&vsock.driver, vsock.tx_at, sizeof(bytes)), bytes, sizeof(bytes));
    for (unsigned i = 0; i < 20; i++)
        piece[i] = (struct vm_buffer){vsock.tx_at + 3ull * i, 3, false};
    head = vm_driver_add_indirect(&vsock.driver, VM_VSOCK_QUEUE_TX, piece, 20);
    (void)vm_driver_kick(&vsock.driver, VM_VSOCK_QUEUE_TX);
    (void)vm_driver_wait(&vsock.driver, VM_VSOCK_QUEUE_TX, &used);
    assert_int_equal(used, head);
    vm_vsock_read(&vsock, fd, got, 16);
    assert_memory_equal(got, "sixteen of these", 16);
    close(fd);
}

/* ---- floods ---- */

static void test_answers_wait_in_bounds_and_none_is_lost(void **state)
{
    const unsigned count = 200;
    unsigned taken = 0, answered = 0;
    uint32_t length;
    uint16_t head;

    (void)state;
    /* A driver that gives no buffers for answers, and kicks once. */
    vm_driver_begin(&vsock.driver, 0, 256);
    for (unsigned i = 0; i < count; i++) {
        const struct vm_buffer buffer = {vsock.tx_at + i * 64ull, VSOCK_HEADER_BYTES, false};
        const struct vm_vsock_end end = {.guest_port = 10000 + i, .host_port = PORT};
        struct vsock_header header = vm_vsock_header(&end, VIRTIO_VSOCK_OP_RW);

        vsock_header_encode(&header, vm_driver_at(&vsock.driver, buffer.guest, 44));
        (void)vm_driver_add(&vsock.driver, VM_VSOCK_QUEUE_TX, &buffer, 1);
    }
    (void)vm_driver_kick(&vsock.driver, VM_VSOCK_QUEUE_TX);
    while (answered < count) {
        vm_rig_settle(&vsock.rig);
        while (vm_driver_take(&vsock.driver, VM_VSOCK_QUEUE_TX, &head, &length))
            taken++;
        assert_in_range(taken, answered + 1, answered + 64); /* that many may wait */
        vm_vsock_give_rx(&vsock, 1);
        vm_rig_settle(&vsock.rig);
        assert_true(vm_driver_take(&vsock.driver, VM_VSOCK_QUEUE_RX, &head, &length));
        assert_int_equal(length, VSOCK_HEADER_BYTES);
        answered++;
    }
    assert_int_equal(taken, count);
    assert_int_equal(vm_driver_status(&vsock.driver), 0xf);
}

static void test_answers_to_what_was_before_a_reset_are_dropped(void **state)
{
    struct vm_vsock_end end = {.guest_port = GUEST, .host_port = PORT};

    (void)state;
    vm_driver_begin(&vsock.driver, 0, VM_VSOCK_QUEUE);
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0);
    vm_vsock_begin(&vsock);
    vm_vsock_expect_quiet(&vsock);
}

static void test_random_packets_break_nothing_but_themselves(void **state)
{
    struct vm_vsock_end other;
    uint32_t random = 1;
    int witness = vm_vsock_connect(&vsock, &other, listener, PORT, GUEST, 65536);
    uint8_t byte;
    uint32_t length;
    uint16_t head;

    (void)state;
    for (unsigned i = 0; i < 3000; i++) {
        random = random * 1664525 + 1013904223;
        uint32_t bits = random >> 4;
        struct vsock_header header = {
            .src_cid = VM_VSOCK_CID,
            .dst_cid = VSOCK_HOST_CID,
            .src_port = 1 + bits % 4,
            .dst_port = PORT,
            .type = VIRTIO_VSOCK_TYPE_STREAM,
            .op = (uint16_t)(bits / 4 % 9),
            .length = bits / 36 % 3 ? bits / 108 % 3000 : 0,
            .flags = bits / 7 % 4,
            .buf_alloc = random,
            .fwd_cnt = random * 3,
        };

        vm_vsock_send(&vsock, &header, data);
        while (vm_driver_take(&vsock.driver, VM_VSOCK_QUEUE_RX, &head, &length))
            continue;
        if (vsock.driver.queue[VM_VSOCK_QUEUE_RX].free_count > 40) {
            vsock.driver.next = UINT64_C(0x400000);
            vm_vsock_give_rx(&vsock, 32);
        }
        int fd = accept(listener, NULL, NULL);

        if (fd >= 0) { /* a program that answers and goes */
            (void)send(fd, data, bits % 5000, MSG_NOSIGNAL | MSG_DONTWAIT);
            close(fd);
        }
    }
    vm_rig_settle(&vsock.rig);
    assert_int_equal(vm_driver_status(&vsock.driver), 0xf);
    vm_vsock_write(&vsock, &other, "w", 1);
    vm_vsock_read(&vsock, witness, &byte, 1);
    close(witness);
}

static void test_a_state_that_makes_no_sense_is_refused(void **state)
{
    static const char *const own[] = {
        "{}",
        "{\"queues\": 1}",
        "{\"queues\": []}",
        "{\"queues\": [0, 0]}",
        "{\"queues\": [0, 0, 65536]}",
        "{\"queues\": [0, 0, -1]}",
    };

    (void)state;
    virtio_pause(vsock.device);
    json_t *saved = virtio_save(vsock.device, NULL);

    assert_non_null(saved);
    for (unsigned i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
        struct vdisk_error error = {.code = 0};

        assert_int_equal(json_object_set_new(saved, "own", json_loads(own[i], 0, NULL)), 0);
        vm_vsock_replace(&vsock);
        assert_int_equal(virtio_load(vsock.device, saved, &error), -EINVAL);
        assert_true(error.text[0]);
    }
    json_decref(saved);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_packets_for_what_is_not_there_are_refused_or_dropped),
        TEST(test_packets_that_make_no_sense_reset_their_connection_alone),
        TEST(test_data_before_the_answer_resets_the_connection),
        TEST(test_data_before_our_answer_resets_the_connection),
        TEST(test_more_than_the_credit_resets_even_a_slow_connection),
        TEST(test_lies_about_credit_harm_nobody),
        TEST(test_flags_and_lengths_that_mean_nothing_are_of_no_effect),
        TEST(test_chains_that_are_no_packet_fail_the_device_and_free_the_programs),
        TEST(test_buffers_for_events_that_are_none_fail_the_device),
        TEST(test_a_packet_in_many_pieces_is_one),
        TEST(test_answers_wait_in_bounds_and_none_is_lost),
        TEST(test_answers_to_what_was_before_a_reset_are_dropped),
        TEST(test_random_packets_break_nothing_but_themselves),
        TEST(test_a_state_that_makes_no_sense_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
