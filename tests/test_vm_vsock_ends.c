/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How connections of a vsock device end, by either side and in halves, and with the device: reset,
 * pause, save and load. On both backends of the reactor.
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
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS    INT64_C(1000000)
#define MIB   (1u << 20)
#define PORT  5000u /* of the host */
#define GUEST 1234u /* a port of the guest */

static struct vm_vsock vsock;
static bool with_threads;
static int listener;

static int set_up(void **state)
{
    (void)state;
    vm_vsock_open(&vsock, with_threads);
    listener = vm_vsock_listen(&vsock, PORT);
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

/* ---- ends ---- */

static void test_each_side_may_end_its_half_and_go_on_hearing(void **state)
{
    struct vm_vsock_end end;
    char byte;

    (void)state;
    vm_vsock_begin(&vsock);
    for (unsigned i = 0; i < 2; i++) {
        bool is_program_first = i;
        int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST + i, 65536);

        if (is_program_first) {
            vm_vsock_put(fd, "last", 4);
            assert_int_equal(shutdown(fd, SHUT_WR), 0);
            assert_int_equal(vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RW).length, 4);
            assert_int_equal(vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN).flags,
                             VIRTIO_VSOCK_SHUTDOWN_SEND);
            vm_vsock_write(&vsock, &end, "x", 1);
            vm_vsock_read(&vsock, fd, &byte, 1);
        }
        vm_vsock_write(&vsock, &end, "y", 1);
        vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_SEND);
        vm_vsock_read(&vsock, fd, &byte, 1);
        assert_int_equal(vm_vsock_end_of(&vsock, fd), 0);
        if (!is_program_first) {
            vm_vsock_put(fd, "z", 1);
            vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RW);
            assert_int_equal(shutdown(fd, SHUT_WR), 0);
        }
        /* Both have said all: the guest is told, and has the last word. */
        struct vsock_header header = vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN);

        assert_int_equal(header.flags, VSOCK_SHUTDOWN_ALL);
        vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_RST, 0);
        vm_vsock_expect_quiet(&vsock);
        close(fd);
    }
}

static void test_a_program_that_closes_is_read_to_its_last_byte(void **state)
{
    struct vm_vsock_end end;
    uint32_t have = 0;

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 1000);

    vm_vsock_put(fd, vm_vsock_pattern, 9999); /* the last packet is not full */
    close(fd);
    for (;;) {
        struct vsock_header header = vm_vsock_next(&vsock, &end);

        if (header.op == VIRTIO_VSOCK_OP_SHUTDOWN && header.flags == VSOCK_SHUTDOWN_ALL)
            break;
        if (header.op == VIRTIO_VSOCK_OP_RW) {
            assert_memory_equal(vsock.data, vm_vsock_pattern + have, header.length);
            have += header.length;
            vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0);
        }
    }
    assert_int_equal(have, 9999);
    vm_vsock_write(&vsock, &end, "too late", 8); /* was under way, and is nobody's */
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_RST, 0);
    vm_vsock_expect_quiet(&vsock);
}

static void test_a_program_that_goes_gives_back_all_credit(void **state)
{
    struct vm_vsock_end end;

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);

    vm_vsock_fill(&vsock, &end);
    close(fd);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN);
    assert_int_equal(vm_vsock_credit(&end), VSOCK_BUFFER_BYTES);
}

static void test_a_guest_without_room_hears_that_the_program_has_gone(void **state)
{
    struct vm_vsock_end end;

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 10);

    vm_vsock_put(fd, vm_vsock_pattern, 20);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RW);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
    close(fd);
    assert_int_equal(vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN).flags,
                     VIRTIO_VSOCK_SHUTDOWN_RCV);
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0);
    assert_int_equal(vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RW).length, 10);
}

static void test_what_came_before_a_goodbye_is_delivered_whatever_follows(void **state)
{
    static uint8_t got[MIB];
    struct vm_vsock_end end;

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);

    vm_vsock_fill(&vsock, &end);
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_SEND);
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_RST, 0); /* it did not want to wait */
    vm_vsock_read(&vsock, fd, got, end.sent);
    assert_memory_equal(got, vm_vsock_pattern, end.sent);
    assert_int_equal(vm_vsock_end_of(&vsock, fd), 0);
    close(fd);
    vm_vsock_expect_quiet(&vsock);
}

static void test_a_guest_that_closes_is_answered_and_heard_to_its_last_byte(void **state)
{
    static uint8_t got[MIB];
    struct vm_vsock_end end, next;

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);

    vm_vsock_fill(&vsock, &end); /* more than the program has taken */
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_ALL);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RST);
    /* The guest may use its ports again at once. */
    int second = vm_vsock_connect(&vsock, &next, listener, PORT, GUEST, 65536);

    vm_vsock_expect_alive(&vsock, &next, second);
    vm_vsock_read(&vsock, fd, got, end.sent);
    assert_memory_equal(got, vm_vsock_pattern, end.sent);
    assert_int_equal(vm_vsock_end_of(&vsock, fd), 0);
    assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
    vm_vsock_expect_alive(&vsock, &next, second);
    close(fd);
    close(second);
}

static void test_a_reset_by_the_guest_ends_the_programs_socket(void **state)
{
    struct vm_vsock_end end;

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);

    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_RST, 0);
    assert_int_equal(vm_vsock_end_of(&vsock, fd), 0);
    close(fd);
    vm_vsock_expect_quiet(&vsock); /* it is not answered */
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RST); /* and forgotten */
}

static void test_a_program_that_takes_no_more_is_told_of(void **state)
{
    struct vm_vsock_end end;

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);

    assert_int_equal(shutdown(fd, SHUT_RD), 0);
    vm_vsock_write(&vsock, &end, vm_vsock_pattern, 4096);
    assert_int_equal(vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN).flags,
                     VIRTIO_VSOCK_SHUTDOWN_RCV);
    vm_vsock_write(&vsock, &end, vm_vsock_pattern,
                   20000); /* has not heard yet: it keeps its credit */
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    assert_int_equal(vm_vsock_credit(&end), VSOCK_BUFFER_BYTES);
    vm_vsock_put(fd, "still here", 10);
    assert_int_equal(vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RW).length, 10);
    close(fd);
    assert_int_equal(vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN).flags,
                     VSOCK_SHUTDOWN_ALL);
}

static void test_a_guest_that_takes_no_more_is_told_of(void **state)
{
    struct vm_vsock_end end;
    char byte;

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);

    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_RCV);
    vm_rig_settle(&vsock.rig);
    assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
    assert_int_equal(errno, EPIPE);
    vm_vsock_write(&vsock, &end, "y", 1);
    vm_vsock_read(&vsock, fd, &byte, 1);
    close(fd);
    assert_int_equal(vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN).flags,
                     VSOCK_SHUTDOWN_ALL);
}

static void test_a_guest_that_does_not_confirm_the_end_is_not_waited_for(void **state)
{
    struct vm_vsock_end end;

    (void)state;
    vsock.options.answer_timeout = 20 * MS;
    vm_vsock_replace(&vsock);
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);

    close(fd);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RST);
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RST);
}

/* ---- the life of the device ---- */

static void test_a_reset_of_the_device_ends_all_sockets(void **state)
{
    struct vm_vsock_end end[3];
    int fd[4];

    (void)state;
    vm_vsock_begin(&vsock);
    fd[0] = vm_vsock_connect(&vsock, &end[0], listener, PORT, GUEST, 65536);
    fd[1] = vm_vsock_accept(&vsock, &end[1], GUEST, 65536);
    fd[2] = vm_vsock_dial(&vsock); /* asked, not answered */
    vm_vsock_put(fd[2], "CONNECT 9\n", 10);
    (void)vm_vsock_receive(&vsock);
    fd[3] = vm_vsock_dial(&vsock); /* amid its handshake */
    vm_vsock_put(fd[3], "CONN", 4);
    vm_rig_settle(&vsock.rig);
    vm_vsock_fill(&vsock, &end[0]);
    vm_driver_reset(&vsock.driver);
    static uint8_t got[MIB];
    ssize_t part;

    while ((part = recv(fd[0], got, sizeof(got), MSG_DONTWAIT)) > 0) /* what it had been sent */
        continue;
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(vm_vsock_end_of(&vsock, fd[i]), 0);
        close(fd[i]);
    }
    /* A new life knows nothing of the old one, with the same ports. */
    vm_vsock_begin(&vsock);
    vm_vsock_expect_quiet(&vsock);
    fd[0] = vm_vsock_connect(&vsock, &end[0], listener, PORT, GUEST, 65536);
    vm_vsock_expect_alive(&vsock, &end[0], fd[0]);
    close(fd[0]);
}

static void test_a_paused_device_is_still_and_goes_on(void **state)
{
    struct vm_vsock_end end;
    uint16_t used = 0;

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);

    virtio_pause(vsock.device);
    (void)vm_driver_is_raised(&vsock.driver);
    used = vsock.driver.queue[VM_VSOCK_QUEUE_RX].used[1];
    vm_vsock_put(fd, "while paused", 12);
    int second = vm_vsock_dial(&vsock);

    vm_vsock_put(second, "CONNECT 52\n", 11);
    vm_rig_settle(&vsock.rig);
    assert_int_equal(vsock.driver.queue[VM_VSOCK_QUEUE_RX].used[1], used);
    assert_false(vm_driver_is_raised(&vsock.driver));
    virtio_resume(vsock.device);
    assert_int_equal(vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RW).length, 12);
    assert_int_equal(vm_vsock_receive(&vsock).op, VIRTIO_VSOCK_OP_REQUEST);
    vm_vsock_expect_alive(&vsock, &end, fd);
    close(fd);
    close(second);
}

static void test_a_restored_guest_hears_first_that_its_connections_are_gone(void **state)
{
    struct vm_vsock_end end;
    uint64_t event_at;
    uint32_t length;
    uint16_t head, used;

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);

    virtio_pause(vsock.device);
    json_t *saved = virtio_save(vsock.device, NULL);

    assert_non_null(saved);
    vm_vsock_replace(&vsock);
    assert_int_equal(vm_vsock_end_of(&vsock, fd), 0);
    close(fd);
    assert_int_equal(virtio_load(vsock.device, saved, NULL), 0);
    json_decref(saved);
    virtio_resume(vsock.device);
    /* A program is quick, and the guest has no buffer for the event yet. */
    fd = vm_vsock_dial(&vsock);
    vm_vsock_put(fd, "CONNECT 52\n", 11);
    vm_vsock_expect_quiet(&vsock);
    head = vm_vsock_give_event(&vsock, &event_at);
    length = vm_driver_wait(&vsock.driver, VM_VSOCK_QUEUE_EVENT, &used);
    assert_int_equal(used, head);
    assert_int_equal(length, 4);
    assert_int_equal(*(uint32_t *)vm_driver_at(&vsock.driver, event_at, 4),
                     VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
    assert_int_equal(vm_vsock_receive(&vsock).op, VIRTIO_VSOCK_OP_REQUEST);
    close(fd);
    /* What it had is unknown, and a new connection works. */
    vm_vsock_expect(&vsock, &(struct vm_vsock_end){.guest_port = 52, .host_port = 1u << 30},
                    VIRTIO_VSOCK_OP_RST);
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RST);
    fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);
    vm_vsock_expect_alive(&vsock, &end, fd);
    (void)vm_vsock_give_event(&vsock, &event_at);
    vm_rig_settle(&vsock.rig);
    assert_false(vm_driver_take(&vsock.driver, VM_VSOCK_QUEUE_EVENT, &used, &length)); /* once */
    close(fd);
}

static void test_a_guest_restored_before_its_driver_was_ready_hears_of_nothing(void **state)
{
    uint64_t event_at;
    uint32_t length;
    uint16_t used;

    (void)state;
    assert_true(vm_driver_negotiate(&vsock.driver, 0));
    vm_driver_set_queue(&vsock.driver, VM_VSOCK_QUEUE_EVENT, VM_VSOCK_QUEUE);
    virtio_pause(vsock.device);
    json_t *saved = virtio_save(vsock.device, NULL);

    vm_vsock_replace(&vsock);
    assert_int_equal(virtio_load(vsock.device, saved, NULL), 0);
    json_decref(saved);
    virtio_resume(vsock.device);
    vm_driver_go(&vsock.driver);
    (void)vm_vsock_give_event(&vsock, &event_at);
    vm_rig_settle(&vsock.rig);
    assert_false(vm_driver_take(&vsock.driver, VM_VSOCK_QUEUE_EVENT, &used, &length));
}

static void test_a_device_is_freed_with_everything_under_way(void **state)
{
    struct vm_vsock_end end[2];
    unsigned before = vm_vsock_descriptors();
    int fd[4];

    (void)state;
    vm_vsock_begin(&vsock);
    fd[0] = vm_vsock_connect(&vsock, &end[0], listener, PORT, GUEST, 65536);
    vm_vsock_fill(&vsock, &end[0]);
    fd[1] = vm_vsock_accept(&vsock, &end[1], GUEST, 0);
    vm_vsock_put(fd[1], "x", 1);
    fd[2] = vm_vsock_dial(&vsock);
    vm_rig_settle(&vsock.rig);
    fd[3] = vm_vsock_dial(&vsock); /* not even accepted */
    vm_vsock_replace(&vsock);
    for (unsigned i = 0; i < 4; i++)
        close(fd[i]);
    assert_int_equal(vm_vsock_descriptors(), before);
}

/* ---- two threads ---- */

static void test_a_vcpu_resets_while_programs_talk(void **state)
{
    struct vm_vsock_end end = {.guest_port = GUEST, .host_port = PORT, .alloc = MIB};

    (void)state;
    vm_rig_run(&vsock.rig);
    for (unsigned i = 0; i < 20; i++) {
        uint8_t data[4096];
        int fd[8];

        vm_vsock_begin(&vsock);
        vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_REQUEST, 0);
        /* Requests of programs that had been waiting come in between. */
        while (vm_vsock_receive(&vsock).op != VIRTIO_VSOCK_OP_RESPONSE)
            continue;
        int talking = vm_vsock_program(listener);

        for (unsigned j = 0; j < 8; j++) {
            fd[j] = vm_vsock_dial(&vsock);
            vm_vsock_put(fd[j], "CONNECT 52\n", 11);
            (void)send(talking, vm_vsock_pattern, 40000, MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        vm_vsock_write(&vsock, &end, vm_vsock_pattern, 1000);
        if (i % 2)
            (void)vm_vsock_receive(&vsock);
        vm_driver_reset(&vsock.driver);
        vsock.driver.next = UINT64_C(0x200000); /* its memory is used again */
        vsock.tx_at = vm_driver_alloc(&vsock.driver, 1u << 17);
        vm_vsock_await(&vsock, talking, POLLHUP);
        while (recv(talking, data, sizeof(data), MSG_DONTWAIT) > 0)
            continue;
        close(talking);
        for (unsigned j = 0; j < 8; j++)
            close(fd[j]);
    }
}

#define TESTS                                                                                      \
    TEST(test_each_side_may_end_its_half_and_go_on_hearing),                                       \
        TEST(test_a_program_that_closes_is_read_to_its_last_byte),                                 \
        TEST(test_a_program_that_goes_gives_back_all_credit),                                      \
        TEST(test_a_guest_without_room_hears_that_the_program_has_gone),                           \
        TEST(test_what_came_before_a_goodbye_is_delivered_whatever_follows),                       \
        TEST(test_a_guest_that_closes_is_answered_and_heard_to_its_last_byte),                     \
        TEST(test_a_reset_by_the_guest_ends_the_programs_socket),                                  \
        TEST(test_a_program_that_takes_no_more_is_told_of),                                        \
        TEST(test_a_guest_that_takes_no_more_is_told_of),                                          \
        TEST(test_a_guest_that_does_not_confirm_the_end_is_not_waited_for),                        \
        TEST(test_a_reset_of_the_device_ends_all_sockets),                                         \
        TEST(test_a_paused_device_is_still_and_goes_on),                                           \
        TEST(test_a_restored_guest_hears_first_that_its_connections_are_gone),                     \
        TEST(test_a_guest_restored_before_its_driver_was_ready_hears_of_nothing),                  \
        TEST(test_a_device_is_freed_with_everything_under_way),                                    \
        TEST(test_a_vcpu_resets_while_programs_talk)

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {TESTS};
#undef TEST
#define TEST(name)                                                                                 \
    {                                                                                              \
#name "_threads", name, set_up, tear_down, NULL                                            \
    }
    const struct CMUnitTest again[] = {TESTS};
#undef TEST
    int failed = cmocka_run_group_tests_name("io_uring", tests, NULL, NULL);

    with_threads = true;
    return failed + cmocka_run_group_tests_name("threads", again, NULL, NULL);
}
