/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vsock device (vmm/virtio_vsock.c, vmm/vsock_*.c) with a guest and programs that behave: both
 * ways of connecting, data both ways, many at once. On both backends of the reactor.
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
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

/* For the rest of the test; 0: as it is. */
static void with_timeouts(int64_t handshake, int64_t answer)
{
    if (handshake)
        vsock.options.handshake_timeout = handshake;
    if (answer)
        vsock.options.answer_timeout = answer;
    vm_vsock_replace(&vsock);
}

/* ---- connecting ---- */

static void test_the_guest_reads_its_cid(void **state)
{
    (void)state;
    assert_int_equal(vm_driver_config(&vsock.driver, 0, 4), VM_VSOCK_CID);
    assert_int_equal(vm_driver_config(&vsock.driver, 4, 4), 0);
    assert_int_equal(vm_driver_config(&vsock.driver, 0, 1), VM_VSOCK_CID);
    assert_int_equal(vsock.device->id, 19);
}

static void test_the_socket_is_its_owners_alone_and_goes_with_the_device(void **state)
{
    char path[128];
    struct stat stat;

    (void)state;
    snprintf(path, sizeof(path), "%s/vsock", vsock.folder);
    assert_int_equal(lstat(path, &stat), 0);
    assert_int_equal(stat.st_mode, S_IFSOCK | 0600);

    struct virtio_device *second = NULL;
    struct vdisk_error error = {.code = 0};

    assert_int_equal(
        virtio_vsock_new(&vsock.options, &vsock.rig.memory, vsock.rig.reactor, &second, &error),
        -EADDRINUSE);
    assert_non_null(strstr(error.text, path));
    assert_null(second);
    virtio_free(vsock.device);
    assert_int_equal(lstat(path, &stat), -1);
    assert_int_equal(virtio_vsock_new(&vsock.options, &vsock.rig.memory, vsock.rig.reactor,
                                      &vsock.device, &error),
                     0);
    vsock.driver.device = vsock.rig.bus.range[0].device = vsock.device;
}

static void test_settings_that_cannot_work_are_refused(void **state)
{
    static char long_name[120];
    const struct {
        const char *folder;
        uint64_t cid;
        int rc;
    } cases[] = {
        {vsock.folder, 2, -EINVAL},
        {vsock.folder, 0, -EINVAL},
        {vsock.folder, UINT32_MAX, -EINVAL},
        {vsock.folder, UINT64_C(1) << 32 | 3, -EINVAL},
        {"", 3, -EINVAL},
        {long_name, 3, -ENAMETOOLONG},
        {"/nonexistent", 3, -ENOENT},
    };
    unsigned before = vm_vsock_descriptors();

    (void)state;
    memset(long_name, 'x', sizeof(long_name) - 1);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct virtio_vsock_options options = vsock.options;
        struct virtio_device *device = NULL;
        struct vdisk_error error = {.code = 0};

        options.folder = cases[i].folder;
        options.cid = cases[i].cid;
        assert_int_equal(
            virtio_vsock_new(&options, &vsock.rig.memory, vsock.rig.reactor, &device, &error),
            cases[i].rc);
        assert_int_equal(error.code, cases[i].rc);
        assert_true(error.text[0]);
        assert_null(device);
    }
    assert_int_equal(vm_vsock_descriptors(), before);
}

static void test_a_guest_connects_to_a_program(void **state)
{
    struct vm_vsock_end end;

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);

    assert_int_equal(end.host_alloc, VSOCK_BUFFER_BYTES);
    vm_vsock_expect_alive(&vsock, &end, fd);
    close(fd);
}

static void test_a_program_connects_to_a_guest(void **state)
{
    struct vm_vsock_end end, other;

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_accept(&vsock, &end, GUEST, 65536);
    int second = vm_vsock_accept(&vsock, &other, GUEST, 65536);

    assert_int_not_equal(end.host_port, other.host_port);
    vm_vsock_expect_alive(&vsock, &end, fd);
    vm_vsock_expect_alive(&vsock, &other, second);
    close(fd);
    close(second);
}

static void test_what_follows_the_line_is_for_the_guest(void **state)
{
    static const char words[] = "CONNECT 52\nhello";
    char answer[16];

    (void)state;
    vm_vsock_begin(&vsock);
    for (unsigned piece = 1; piece <= strlen(words); piece += 3) {
        struct vm_vsock_end end = {.guest_port = 52, .alloc = 4096};
        int fd = vm_vsock_dial(&vsock);

        for (size_t i = 0; i < strlen(words); i += piece) {
            vm_vsock_put(fd, words + i, i + piece < strlen(words) ? piece : strlen(words) - i);
            vm_rig_settle(&vsock.rig);
        }
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        end.host_port = vm_vsock_receive(&vsock).src_port;
        vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_RESPONSE, 0);
        assert_int_equal(vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RW).length, 5);
        assert_memory_equal(vsock.data, "hello", 5);
        assert_int_equal(vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN).flags,
                         VIRTIO_VSOCK_SHUTDOWN_SEND);
        vm_vsock_write(&vsock, &end, "and back", 8);
        vm_vsock_read(&vsock, fd, answer,
                      (size_t)snprintf(answer, sizeof(answer), "OK %u\n", end.host_port));
        vm_vsock_read(&vsock, fd, answer, 8);
        assert_memory_equal(answer, "and back", 8);
        close(fd);
        vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_SHUTDOWN);
    }
}

static void test_a_program_gets_a_port_that_the_guest_does_not_know_yet(void **state)
{
    const uint32_t first = 1u << 30;
    int special = vm_vsock_listen(&vsock, first);
    struct vm_vsock_end end, other;
    char path[128];

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, special, first, GUEST, 4096);
    int second = vm_vsock_accept(&vsock, &other, GUEST, 4096);

    assert_int_not_equal(other.host_port, first);
    vm_vsock_expect_alive(&vsock, &end, fd);
    vm_vsock_expect_alive(&vsock, &other, second);
    close(fd);
    close(second);
    close(special);
    snprintf(path, sizeof(path), "%s/vsock_%u", vsock.folder, first);
    assert_int_equal(unlink(path), 0);
}

static void test_where_nobody_listens_the_other_side_is_refused(void **state)
{
    struct vm_vsock_end end = {.guest_port = GUEST, .host_port = PORT + 1, .alloc = 65536};

    (void)state;
    vm_vsock_begin(&vsock);
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_REQUEST, 0);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RST);

    int fd = vm_vsock_dial(&vsock);

    vm_vsock_put(fd, "CONNECT 9\n", 10);
    end = (struct vm_vsock_end){.guest_port = 9, .host_port = vm_vsock_receive(&vsock).src_port};
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_RST, 0);
    assert_int_equal(vm_vsock_end_of(&vsock, fd), 0);
    close(fd);
    vm_vsock_expect_quiet(&vsock);
}

static void test_nobody_is_let_in_before_the_guest_has_a_driver(void **state)
{
    (void)state;
    int fd = vm_vsock_dial(&vsock);

    assert_int_equal(vm_vsock_end_of(&vsock, fd), 0);
    close(fd);
}

/* ---- handshakes that are none ---- */

static void test_garbage_in_place_of_the_line_ends_the_connection(void **state)
{
    static const char *const lines[] = {
        "\n",
        "GET / HTTP/1.1\r\n",
        "CONNECT\n",
        "CONNECT x\n",
        "CONNECT 4294967296\n",
        "CONNECT 00000000000000000000000001\n",
        "CONNECT 1                                      ", /* without end */
        "\xff\xfe\x80",
    };

    (void)state;
    vm_vsock_begin(&vsock);
    for (unsigned i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        int fd = vm_vsock_dial(&vsock);

        vm_vsock_put(fd, lines[i], strlen(lines[i]));
        if (!strchr(lines[i], '\n') && strlen(lines[i]) < 20)
            assert_int_equal(shutdown(fd, SHUT_WR), 0);
        int rc = vm_vsock_end_of(&vsock, fd);

        assert_true(rc == 0 || rc == -ECONNRESET); /* what it wrote may be unread */
        close(fd);
    }
    vm_vsock_expect_quiet(&vsock);
}

static void test_a_program_that_does_not_say_what_it_wants_is_sent_away(void **state)
{
    (void)state;
    with_timeouts(20 * MS, 0);
    vm_vsock_begin(&vsock);
    int64_t begin = reactor_now();
    int patient = vm_vsock_dial(&vsock); /* has time enough, and comes first */

    vm_vsock_put(patient, "CONNECT 1\n", 10);
    assert_int_equal(vm_vsock_receive(&vsock).op, VIRTIO_VSOCK_OP_REQUEST);
    int silent = vm_vsock_dial(&vsock), slow = vm_vsock_dial(&vsock);

    vm_vsock_put(slow, "CONNECT 1", 9);
    assert_int_equal(vm_vsock_end_of(&vsock, silent), 0);
    assert_int_equal(vm_vsock_end_of(&vsock, slow), 0);
    assert_true(reactor_now() - begin >= 20 * MS);
    close(silent);
    close(slow);
    vm_vsock_expect_quiet(&vsock);
    close(patient);
}

static void test_a_guest_that_does_not_answer_is_not_waited_for(void **state)
{
    struct vm_vsock_end end;

    (void)state;
    with_timeouts(0, 20 * MS);
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_dial(&vsock);

    vm_vsock_put(fd, "CONNECT 9\n", 10);
    end = (struct vm_vsock_end){.guest_port = 9, .host_port = vm_vsock_receive(&vsock).src_port};
    assert_int_equal(vm_vsock_end_of(&vsock, fd), 0);
    close(fd);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RST);
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_RESPONSE, 0); /* too late */
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RST);
}

static void test_a_program_that_goes_before_the_answer_is_taken_back(void **state)
{
    struct vm_vsock_end end;

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_dial(&vsock);

    vm_vsock_put(fd, "CONNECT 9\n", 10);
    end = (struct vm_vsock_end){.guest_port = 9, .host_port = vm_vsock_receive(&vsock).src_port};
    close(fd);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RST);
    vm_vsock_expect_quiet(&vsock);
}

/* ---- data ---- */

static void test_a_mebibyte_comes_whole_through_a_small_buffer_of_the_guest(void **state)
{
    struct vm_vsock_end end;
    size_t sent = 0;
    unsigned asked = 0;

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 3000);

    while (end.taken < MIB) {
        ssize_t done = send(fd, vm_vsock_pattern + sent, MIB - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        uint32_t before = end.taken;
        struct vsock_header header;

        sent += done > 0 ? (size_t)done : 0;
        header = vm_vsock_next(&vsock, &end); /* watches the credit */
        if (header.op == VIRTIO_VSOCK_OP_RW)
            assert_memory_equal(vsock.data, vm_vsock_pattern + before, header.length);
        asked += header.op == VIRTIO_VSOCK_OP_CREDIT_REQUEST;
        if (end.taken - end.said_taken == end.alloc) { /* only when it is full */
            vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0);
        }
    }
    assert_int_equal(sent, MIB);
    assert_in_range(asked, MIB / 6000,
                    MIB / 3000 + 1); /* once for each time that there was none left */
    close(fd);
}

static void test_a_mebibyte_goes_whole_to_a_program_that_reads_now_and_then(void **state)
{
    static uint8_t got[MIB];
    struct vm_vsock_end end;
    uint32_t have = 0;

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);

    while (have < MIB) {
        uint32_t left = MIB - end.sent, credit = vm_vsock_credit(&end);
        uint32_t piece = credit < 3777 ? credit : 3777;

        piece = piece < left ? piece : left;
        if (piece > 0) {
            vm_vsock_write(&vsock, &end, vm_vsock_pattern + end.sent, piece);
            continue;
        }
        ssize_t part = recv(fd, got + have, MIB - have, MSG_DONTWAIT);

        if (part < 0) {
            assert_int_equal(errno, EAGAIN);
            vm_vsock_await(&vsock, fd, POLLIN);
        }
        have += part > 0 ? (uint32_t)part : 0;
        while (left > 0 && vm_vsock_credit(&end) == 0)
            (void)vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    }
    assert_memory_equal(got, vm_vsock_pattern, MIB);
    close(fd);
}

static void test_a_guest_that_asks_hears_of_its_credit(void **state)
{
    struct vm_vsock_end end;
    uint8_t data[10];

    (void)state;
    vm_vsock_begin(&vsock);
    int fd = vm_vsock_connect(&vsock, &end, listener, PORT, GUEST, 65536);

    vm_vsock_write(&vsock, &end, vm_vsock_pattern, sizeof(data));
    vm_vsock_read(&vsock, fd, data, sizeof(data));
    vm_vsock_expect_quiet(&vsock);
    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 0);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    assert_int_equal(end.host_taken, sizeof(data));
    close(fd);
}

static void test_a_program_that_does_not_read_holds_nobody_else(void **state)
{
    static uint8_t got[MIB];
    struct vm_vsock_end slow, quick;

    (void)state;
    vm_vsock_begin(&vsock);
    int slow_fd = vm_vsock_connect(&vsock, &slow, listener, PORT, GUEST, 65536);
    int quick_fd = vm_vsock_connect(&vsock, &quick, listener, PORT, GUEST + 1, 65536);

    vm_vsock_fill(&vsock, &slow);
    vm_vsock_expect_alive(&vsock, &quick, quick_fd);
    /* Nor is its own other direction held. */
    vm_vsock_put(slow_fd, "x", 1);
    vm_vsock_expect(&vsock, &slow, VIRTIO_VSOCK_OP_RW);
    vm_vsock_read(&vsock, slow_fd, got, slow.sent);
    assert_memory_equal(got, vm_vsock_pattern, slow.sent);
    while (vm_vsock_credit(&slow) == 0)
        vm_vsock_expect(&vsock, &slow, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    close(slow_fd);
    close(quick_fd);
}

static void test_a_guest_that_does_not_read_holds_no_other_connection(void **state)
{
    struct vm_vsock_end slow, quick;

    (void)state;
    vm_vsock_begin(&vsock);
    int slow_fd = vm_vsock_connect(&vsock, &slow, listener, PORT, GUEST, 10);
    int quick_fd = vm_vsock_connect(&vsock, &quick, listener, PORT, GUEST + 1, 65536);

    vm_vsock_put(slow_fd, vm_vsock_pattern, 5000);
    assert_int_equal(vm_vsock_expect(&vsock, &slow, VIRTIO_VSOCK_OP_RW).length, 10);
    vm_vsock_expect(&vsock, &slow, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
    vm_vsock_expect_quiet(&vsock); /* it asks once */
    vm_vsock_expect_alive(&vsock, &quick, quick_fd);
    slow.alloc = 20;
    vm_vsock_say(&vsock, &slow, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0);
    assert_int_equal(vm_vsock_expect(&vsock, &slow, VIRTIO_VSOCK_OP_RW).length, 20);
    assert_memory_equal(vsock.data, vm_vsock_pattern + 10, 20);
    close(slow_fd);
    close(quick_fd);
}

static void test_programs_that_send_all_the_time_take_turns(void **state)
{
    static uint8_t flood[65536];
    struct vm_vsock_end end[4];
    unsigned packets[4] = {0};
    int fd[4];

    (void)state;
    vm_vsock_begin(&vsock);
    for (unsigned i = 0; i < 4; i++)
        fd[i] = vm_vsock_connect(&vsock, &end[i], listener, PORT, GUEST + i, MIB);
    virtio_pause(vsock.device); /* so that it sees all of them before it begins */
    for (unsigned i = 0; i < 4; i++)
        vm_vsock_put(fd[i], flood, sizeof(flood));
    vm_rig_settle(&vsock.rig);
    virtio_resume(vsock.device);
    for (unsigned i = 0; i < 40; i++) {
        struct vsock_header header = vm_vsock_receive(&vsock);

        packets[header.dst_port - GUEST]++;
    }
    for (unsigned i = 0; i < 4; i++) {
        assert_in_range(packets[i], 9, 11);
        close(fd[i]);
    }
}

static void test_more_than_a_round_needs_no_second_kick(void **state)
{
    const struct vm_vsock_end end = {.guest_port = GUEST, .host_port = PORT, .alloc = 65536};
    struct vsock_header header = vm_vsock_header(&end, VIRTIO_VSOCK_OP_RW);
    uint8_t got[200];
    uint32_t length;
    uint16_t head;

    (void)state;
    vm_driver_begin(&vsock.driver, 0, 256);
    for (unsigned i = 0; i < 250; i++) { /* small ones */
        const struct vm_buffer buffer = {vm_driver_alloc(&vsock.driver, 144), 144, true};

        (void)vm_driver_add(&vsock.driver, VM_VSOCK_QUEUE_RX, &buffer, 1);
    }
    (void)vm_driver_kick(&vsock.driver, VM_VSOCK_QUEUE_RX);
    vm_vsock_say(&vsock, &(struct vm_vsock_end){GUEST, PORT, .alloc = 65536},
                 VIRTIO_VSOCK_OP_REQUEST, 0);
    int fd = vm_vsock_program(listener);

    vm_vsock_put(fd, vm_vsock_pattern, 20000);
    vm_rig_settle(&vsock.rig);
    for (unsigned i = 0; i < 201; i++) /* the answer, and 100 bytes in each */
        assert_true(vm_driver_take(&vsock.driver, VM_VSOCK_QUEUE_RX, &head, &length));
    header.length = 1;
    vsock_header_encode(&header, vm_driver_at(&vsock.driver, vsock.tx_at, VSOCK_HEADER_BYTES));
    for (unsigned i = 0; i < sizeof(got); i++) {
        const struct vm_buffer buffer = {vsock.tx_at, VSOCK_HEADER_BYTES + 1, false};

        (void)vm_driver_add(&vsock.driver, VM_VSOCK_QUEUE_TX, &buffer, 1);
    }
    (void)vm_driver_kick(&vsock.driver, VM_VSOCK_QUEUE_TX);
    vm_vsock_read(&vsock, fd, got, sizeof(got));
    close(fd);
}

static void test_many_connections_at_once_are_kept_apart(void **state)
{
    static struct vm_vsock_end end[VSOCK_CONNS_MAX + 1];
    static int fd[VSOCK_CONNS_MAX + 1];
    unsigned before = vm_vsock_descriptors();
    struct rlimit limit = {2048, 2048};

    (void)state;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    vm_vsock_begin(&vsock);
    for (uint32_t i = 0; i < VSOCK_CONNS_MAX; i++)
        fd[i] = i % 2 ? vm_vsock_accept(&vsock, &end[i], 7, 4096)
                      : vm_vsock_connect(&vsock, &end[i], listener, PORT, 10000 + i, 4096);
    /* One more of either kind is refused. */
    end[VSOCK_CONNS_MAX] = (struct vm_vsock_end){.guest_port = 9, .host_port = PORT};
    vm_vsock_say(&vsock, &end[VSOCK_CONNS_MAX], VIRTIO_VSOCK_OP_REQUEST, 0);
    vm_vsock_expect(&vsock, &end[VSOCK_CONNS_MAX], VIRTIO_VSOCK_OP_RST);
    fd[VSOCK_CONNS_MAX] = vm_vsock_dial(&vsock);
    assert_int_equal(vm_vsock_end_of(&vsock, fd[VSOCK_CONNS_MAX]), 0);
    close(fd[VSOCK_CONNS_MAX]);
    for (uint32_t i = 0; i < VSOCK_CONNS_MAX; i++) {
        uint32_t word = 0;

        vm_vsock_write(&vsock, &end[i], &i, sizeof(i));
        vm_vsock_read(&vsock, fd[i], &word, sizeof(word));
        assert_int_equal(word, i);
        word = ~i;
        vm_vsock_put(fd[i], &word, sizeof(word));
    }
    for (uint32_t i = 0; i < VSOCK_CONNS_MAX; i++) {
        struct vsock_header header = vm_vsock_receive(&vsock);
        uint32_t word, from = 0;

        while (end[from].host_port != header.src_port || end[from].guest_port != header.dst_port)
            from++;
        memcpy(&word, vsock.data, sizeof(word));
        assert_int_equal(word, ~from);
    }
    /* A place that has become free is used again. */
    vm_vsock_say(&vsock, &end[0], VIRTIO_VSOCK_OP_RST, 0);
    assert_int_equal(vm_vsock_end_of(&vsock, fd[0]), 0);
    close(fd[0]);
    fd[0] = vm_vsock_connect(&vsock, &end[0], listener, PORT, 10000, 4096);
    vm_driver_reset(&vsock.driver);
    for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
        (void)vm_vsock_end_of(&vsock, fd[i]);
        close(fd[i]);
    }
    for (unsigned i = 0; i < 100 && vm_vsock_descriptors() != before; i++)
        vm_rig_settle(&vsock.rig);
    assert_int_equal(vm_vsock_descriptors(), before);
}

static void test_without_descriptors_programs_wait_until_there_are_some(void **state)
{
    struct rlimit before, none;

    (void)state;
    vm_vsock_begin(&vsock);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    int fd = vm_vsock_dial(&vsock), highest = dup(fd);

    none = (struct rlimit){(rlim_t)highest, before.rlim_max};
    close(highest);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    vm_rig_settle(&vsock.rig);

    struct vm_vsock_end end = {.guest_port = GUEST, .host_port = PORT};

    vm_vsock_say(&vsock, &end, VIRTIO_VSOCK_OP_REQUEST, 0);
    vm_vsock_expect(&vsock, &end, VIRTIO_VSOCK_OP_RST);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    vm_vsock_put(fd, "CONNECT 52\n", 11);
    assert_int_equal(vm_vsock_receive(&vsock).op, VIRTIO_VSOCK_OP_REQUEST);
    close(fd);
}

#define TESTS                                                                                      \
    TEST(test_the_guest_reads_its_cid),                                                            \
        TEST(test_the_socket_is_its_owners_alone_and_goes_with_the_device),                        \
        TEST(test_settings_that_cannot_work_are_refused),                                          \
        TEST(test_a_guest_connects_to_a_program), TEST(test_a_program_connects_to_a_guest),        \
        TEST(test_what_follows_the_line_is_for_the_guest),                                         \
        TEST(test_a_program_gets_a_port_that_the_guest_does_not_know_yet),                         \
        TEST(test_where_nobody_listens_the_other_side_is_refused),                                 \
        TEST(test_nobody_is_let_in_before_the_guest_has_a_driver),                                 \
        TEST(test_garbage_in_place_of_the_line_ends_the_connection),                               \
        TEST(test_a_program_that_does_not_say_what_it_wants_is_sent_away),                         \
        TEST(test_a_guest_that_does_not_answer_is_not_waited_for),                                 \
        TEST(test_a_program_that_goes_before_the_answer_is_taken_back),                            \
        TEST(test_a_mebibyte_comes_whole_through_a_small_buffer_of_the_guest),                     \
        TEST(test_a_mebibyte_goes_whole_to_a_program_that_reads_now_and_then),                     \
        TEST(test_a_guest_that_asks_hears_of_its_credit),                                          \
        TEST(test_a_program_that_does_not_read_holds_nobody_else),                                 \
        TEST(test_a_guest_that_does_not_read_holds_no_other_connection),                           \
        TEST(test_programs_that_send_all_the_time_take_turns),                                     \
        TEST(test_more_than_a_round_needs_no_second_kick),                                         \
        TEST(test_many_connections_at_once_are_kept_apart),                                        \
        TEST(test_without_descriptors_programs_wait_until_there_are_some)

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
