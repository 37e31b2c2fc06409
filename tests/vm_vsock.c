/* SPDX-License-Identifier: Apache-2.0 */
/* See vm_vsock.h. */
#include "vm_vsock.h"

#include "vsock_credit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FEATURES                                                                                   \
    (UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX | UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC)
#define TX_BYTES (1u << 17)
#define HOUR     (INT64_C(3600) * 1000000000)
#define PATIENCE (INT64_C(20) * 1000000000)

uint8_t vm_vsock_pattern[VM_VSOCK_PATTERN];

/* ---- the device ---- */

static void make_device(struct vm_vsock *vsock)
{
    struct vdisk_error error = {.code = 0};
    int rc = virtio_vsock_new(&vsock->options, &vsock->rig.memory, vsock->rig.reactor,
                              &vsock->device, &error);

    if (rc)
        print_error("%s\n", error.text);
    assert_int_equal(rc, 0);
}

void vm_vsock_open(struct vm_vsock *vsock, bool no_uring)
{
    const struct reactor_options reactor = {.no_uring = no_uring};
    const char *parent = getenv("TMPDIR");

    for (size_t i = 0; i < sizeof(vm_vsock_pattern); i++)
        vm_vsock_pattern[i] = (uint8_t)(i * 13 + i / 257);
    *vsock = (struct vm_vsock){.options.cid = VM_VSOCK_CID, .options.name = "vsock"};
    /* Nothing is to happen only since time has passed, but where a test wants that. */
    vsock->options.handshake_timeout = vsock->options.answer_timeout = HOUR;
    vm_rig_open(&vsock->rig, VM_RIG_MEMORY);
    reactor_free(vsock->rig.reactor);
    assert_int_equal(reactor_new(&reactor, &vsock->rig.reactor), 0);
    snprintf(vsock->folder, sizeof(vsock->folder), "%.70s/vsock-XXXXXX", parent ? parent : "/tmp");
    assert_non_null(mkdtemp(vsock->folder));
    vsock->options.folder = vsock->folder;
    make_device(vsock);
    vm_driver_open(&vsock->driver, &vsock->rig, vsock->device);
    vsock->tx_at = vm_driver_alloc(&vsock->driver, TX_BYTES);
}

void vm_vsock_close(struct vm_vsock *vsock)
{
    vm_driver_close(&vsock->driver);
    vm_rig_close(&vsock->rig);
    assert_int_equal(rmdir(vsock->folder), 0); /* nothing is left there */
}

void vm_vsock_replace(struct vm_vsock *vsock)
{
    virtio_free(vsock->device);
    make_device(vsock);
    vsock->driver.device = vsock->rig.bus.range[0].device = vsock->device;
}

static void give_one(struct vm_vsock *vsock, uint64_t guest)
{
    const struct vm_buffer buffer = {guest, VSOCK_HEADER_BYTES + VM_VSOCK_DATA, true};
    uint16_t head = vm_driver_add(&vsock->driver, VM_VSOCK_QUEUE_RX, &buffer, 1);

    vsock->rx_at[head] = guest;
}

void vm_vsock_give_rx(struct vm_vsock *vsock, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        give_one(vsock, vm_driver_alloc(&vsock->driver, VSOCK_HEADER_BYTES + VM_VSOCK_DATA));
    (void)vm_driver_kick(&vsock->driver, VM_VSOCK_QUEUE_RX);
}

uint16_t vm_vsock_give_event(struct vm_vsock *vsock, uint64_t *guest)
{
    struct vm_buffer buffer = {vm_driver_alloc(&vsock->driver, 4), 4, true};
    uint16_t head = vm_driver_add(&vsock->driver, VM_VSOCK_QUEUE_EVENT, &buffer, 1);

    memset(vm_driver_at(&vsock->driver, buffer.guest, 4), 0xff, 4);
    *guest = buffer.guest;
    (void)vm_driver_kick(&vsock->driver, VM_VSOCK_QUEUE_EVENT);
    return head;
}

void vm_vsock_begin(struct vm_vsock *vsock)
{
    vm_driver_begin(&vsock->driver, FEATURES, VM_VSOCK_QUEUE);
    vm_vsock_give_rx(vsock, VM_VSOCK_RX);
}

/* ---- packets ---- */

struct vsock_header vm_vsock_header(const struct vm_vsock_end *end, uint16_t op)
{
    return (struct vsock_header){
        .src_cid = VM_VSOCK_CID,
        .dst_cid = VSOCK_HOST_CID,
        .src_port = end->guest_port,
        .dst_port = end->host_port,
        .type = VIRTIO_VSOCK_TYPE_STREAM,
        .op = op,
        .buf_alloc = end->alloc,
        .fwd_cnt = end->taken,
    };
}

void vm_vsock_send_bytes(struct vm_vsock *vsock, const void *bytes, uint32_t length)
{
    const struct vm_buffer buffer = {vsock->tx_at, length, false};

    assert_in_range(length, 1, TX_BYTES);
    memcpy(vm_driver_at(&vsock->driver, vsock->tx_at, length), bytes, length);
    assert_int_equal(vm_driver_do(&vsock->driver, VM_VSOCK_QUEUE_TX, &buffer, 1), 0);
}

void vm_vsock_send(struct vm_vsock *vsock, const struct vsock_header *header, const void *data)
{
    const struct vm_buffer buffers[] = {
        {vsock->tx_at, VSOCK_HEADER_BYTES, false},
        {vsock->tx_at + 4096, header->length, false},
    };

    assert_in_range(header->length, 0, TX_BYTES - 4096);
    vsock_header_encode(header, vm_driver_at(&vsock->driver, vsock->tx_at, VSOCK_HEADER_BYTES));
    if (header->length > 0)
        memcpy(vm_driver_at(&vsock->driver, vsock->tx_at + 4096, header->length), data,
               header->length);
    assert_int_equal(
        vm_driver_do(&vsock->driver, VM_VSOCK_QUEUE_TX, buffers, header->length > 0 ? 2 : 1), 0);
}

static void note_said(struct vm_vsock_end *end)
{
    end->said_alloc = end->alloc;
    end->said_taken = end->taken;
}

void vm_vsock_say(struct vm_vsock *vsock, struct vm_vsock_end *end, uint16_t op, uint32_t flags)
{
    struct vsock_header header = vm_vsock_header(end, op);

    header.flags = flags;
    note_said(end);
    vm_vsock_send(vsock, &header, NULL);
}

void vm_vsock_write(struct vm_vsock *vsock, struct vm_vsock_end *end, const void *data,
                    uint32_t length)
{
    struct vsock_header header = vm_vsock_header(end, VIRTIO_VSOCK_OP_RW);

    header.length = length;
    note_said(end);
    end->sent += length;
    vm_vsock_send(vsock, &header, data);
}

uint32_t vm_vsock_credit(const struct vm_vsock_end *end)
{
    uint32_t under_way = end->sent - end->host_taken;

    assert_in_range(under_way, 0, end->host_alloc);
    return end->host_alloc - under_way;
}

bool vm_vsock_has_packet(const struct vm_vsock *vsock)
{
    const struct vm_driver_queue *queue = &vsock->driver.queue[VM_VSOCK_QUEUE_RX];

    return queue->seen != __atomic_load_n(&queue->used[1], __ATOMIC_ACQUIRE);
}

static struct vsock_header look_at(struct vm_vsock *vsock, uint16_t head, uint32_t length)
{
    uint64_t at = vsock->rx_at[head];
    struct vsock_header header;

    assert_in_range(length, VSOCK_HEADER_BYTES, VSOCK_HEADER_BYTES + VM_VSOCK_DATA);
    vsock_header_decode(&header, vm_driver_at(&vsock->driver, at, VSOCK_HEADER_BYTES));
    assert_int_equal(header.length, length - VSOCK_HEADER_BYTES);
    memcpy(vsock->data, (uint8_t *)vm_driver_at(&vsock->driver, at, length) + VSOCK_HEADER_BYTES,
           header.length);
    assert_int_equal(header.dst_cid, VM_VSOCK_CID);
    give_one(vsock, at);
    (void)vm_driver_kick(&vsock->driver, VM_VSOCK_QUEUE_RX);
    return header;
}

struct vsock_header vm_vsock_receive(struct vm_vsock *vsock)
{
    uint16_t head;
    uint32_t length = vm_driver_wait(&vsock->driver, VM_VSOCK_QUEUE_RX, &head);

    return look_at(vsock, head, length);
}

struct vsock_header vm_vsock_next(struct vm_vsock *vsock, struct vm_vsock_end *end)
{
    struct vsock_header header = vm_vsock_receive(vsock);

    assert_int_equal(header.src_cid, VSOCK_HOST_CID);
    assert_int_equal(header.type, VIRTIO_VSOCK_TYPE_STREAM);
    assert_int_equal(header.src_port, end->host_port);
    assert_int_equal(header.dst_port, end->guest_port);
    if (header.op != VIRTIO_VSOCK_OP_RST) {
        /* What it has taken is not more than was sent, and only grows. */
        assert_in_range((uint32_t)(end->sent - header.fwd_cnt), 0, end->sent - end->host_taken);
        end->host_alloc = header.buf_alloc;
        end->host_taken = header.fwd_cnt;
    }
    if (header.op == VIRTIO_VSOCK_OP_RW) {
        end->taken += header.length;
        assert_in_range((uint32_t)(end->taken - end->said_taken), 1, end->said_alloc);
    } else {
        assert_int_equal(header.length, 0);
    }
    return header;
}

struct vsock_header vm_vsock_expect(struct vm_vsock *vsock, struct vm_vsock_end *end, uint16_t op)
{
    struct vsock_header header = vm_vsock_next(vsock, end);

    assert_int_equal(header.op, op);
    return header;
}

void vm_vsock_expect_quiet(struct vm_vsock *vsock)
{
    uint16_t head;
    uint32_t length;

    vm_rig_settle(&vsock->rig);
    assert_false(vm_driver_take(&vsock->driver, VM_VSOCK_QUEUE_RX, &head, &length));
}

/* ---- connections ---- */

int vm_vsock_connect(struct vm_vsock *vsock, struct vm_vsock_end *end, int listener, uint32_t port,
                     uint32_t guest_port, uint32_t alloc)
{
    *end = (struct vm_vsock_end){.guest_port = guest_port, .host_port = port, .alloc = alloc};
    vm_vsock_say(vsock, end, VIRTIO_VSOCK_OP_REQUEST, 0);
    vm_vsock_expect(vsock, end, VIRTIO_VSOCK_OP_RESPONSE);

    return vm_vsock_program(listener);
}

int vm_vsock_accept(struct vm_vsock *vsock, struct vm_vsock_end *end, uint32_t guest_port,
                    uint32_t alloc)
{
    char line[40], answer[40];
    int fd = vm_vsock_dial(vsock);

    snprintf(line, sizeof(line), "CONNECT %u\n", guest_port);
    vm_vsock_put(fd, line, strlen(line));

    struct vsock_header header = vm_vsock_receive(vsock);

    assert_int_equal(header.op, VIRTIO_VSOCK_OP_REQUEST);
    assert_int_equal(header.dst_port, guest_port);
    assert_int_equal(header.src_cid, VSOCK_HOST_CID);
    assert_int_equal(header.type, VIRTIO_VSOCK_TYPE_STREAM);
    *end = (struct vm_vsock_end){.guest_port = guest_port,
                                 .host_port = header.src_port,
                                 .alloc = alloc,
                                 .host_alloc = header.buf_alloc};
    /* The program is not told before the guest has answered. */
    assert_int_equal(recv(fd, answer, 1, MSG_DONTWAIT), -1);
    vm_vsock_say(vsock, end, VIRTIO_VSOCK_OP_RESPONSE, 0);
    snprintf(line, sizeof(line), "OK %u\n", end->host_port);
    vm_vsock_read(vsock, fd, answer, strlen(line));
    assert_memory_equal(answer, line, strlen(line));
    return fd;
}

/* ---- programs of the host ---- */

static struct sockaddr_un address_of(const struct vm_vsock *vsock, const char *suffix)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof(address.sun_path), "%s/vsock%s", vsock->folder, suffix);
    return address;
}

int vm_vsock_listen(const struct vm_vsock *vsock, uint32_t port)
{
    char suffix[16];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    snprintf(suffix, sizeof(suffix), "_%u", port);
    struct sockaddr_un address = address_of(vsock, suffix);

    assert_true(fd >= 0);
    (void)unlink(address.sun_path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 512), 0);
    return fd;
}

int vm_vsock_program(int listener)
{
    // cppcheck-suppress nullPointer ; nobody asks for the address
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

int vm_vsock_dial(const struct vm_vsock *vsock)
{
    struct sockaddr_un address = address_of(vsock, "");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void note_done(struct reactor_op *op)
{
    *(bool *)op->owner = true;
}

void vm_vsock_await(struct vm_vsock *vsock, int fd, short events)
{
    struct reactor *reactor = vsock->rig.reactor;
    struct pollfd ready = {.fd = fd, .events = events};
    struct reactor_op wait = {.kind = REACTOR_POLL, .fd = fd, .events = (unsigned)events};
    struct reactor_op sleep = {.kind = REACTOR_SLEEP, .deadline = reactor_now() + PATIENCE};
    bool has_waited = false, has_slept = false;

    if (vsock->rig.has_thread) {
        assert_int_equal(poll(&ready, 1, (int)(PATIENCE / 1000000)), 1);
        return;
    }
    wait.done = sleep.done = note_done;
    wait.owner = &has_waited;
    sleep.owner = &has_slept;
    reactor_submit(reactor, &wait);
    reactor_submit(reactor, &sleep);
    while (!has_waited && !has_slept)
        reactor_step(reactor, true);
    assert_true(has_waited);
    reactor_cancel(reactor, &sleep);
    while (!has_slept)
        reactor_step(reactor, true);
}

void vm_vsock_read(struct vm_vsock *vsock, int fd, void *data, size_t length)
{
    for (size_t have = 0; have < length;) {
        ssize_t got = recv(fd, (uint8_t *)data + have, length - have, MSG_DONTWAIT);

        if (got < 0 && errno == EAGAIN)
            vm_vsock_await(vsock, fd, POLLIN);
        else
            assert_true(got > 0);
        have += got > 0 ? (size_t)got : 0;
    }
}

void vm_vsock_put(int fd, const void *data, size_t length)
{
    assert_int_equal(send(fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT), length);
}

int vm_vsock_end_of(struct vm_vsock *vsock, int fd)
{
    char byte;
    ssize_t got;

    while ((got = recv(fd, &byte, 1, MSG_DONTWAIT)) < 0 && errno == EAGAIN)
        vm_vsock_await(vsock, fd, POLLIN);
    assert_true(got <= 0);
    return got < 0 ? -errno : 0;
}

/* ---- what tests have in common ---- */

unsigned vm_vsock_descriptors(void)
{
    DIR *all = opendir("/proc/self/fd");
    unsigned count = 0;

    assert_non_null(all);
    while (readdir(all))
        count++;
    closedir(all);
    return count;
}

void vm_vsock_expect_alive(struct vm_vsock *vsock, struct vm_vsock_end *end, int fd)
{
    uint8_t data[100];

    vm_vsock_write(vsock, end, vm_vsock_pattern + 7, sizeof(data));
    vm_vsock_read(vsock, fd, data, sizeof(data));
    assert_memory_equal(data, vm_vsock_pattern + 7, sizeof(data));
    vm_vsock_put(fd, vm_vsock_pattern, sizeof(data));
    for (uint32_t have = 0; have < sizeof(data);) {
        struct vsock_header header = vm_vsock_next(vsock, end);

        if (header.op != VIRTIO_VSOCK_OP_RW)
            continue;
        assert_memory_equal(vsock->data, vm_vsock_pattern + have, header.length);
        have += header.length;
    }
}

void vm_vsock_fill(struct vm_vsock *vsock, struct vm_vsock_end *end)
{
    uint16_t head;
    uint32_t length;

    for (;;) {
        uint32_t credit = vm_vsock_credit(end);

        if (credit > 0)
            vm_vsock_write(vsock, end, vm_vsock_pattern + end->sent, credit < 8192 ? credit : 8192);
        vm_rig_settle(&vsock->rig);
        if (vm_vsock_has_packet(vsock))
            vm_vsock_expect(vsock, end, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
        else if (credit == 0)
            break;
    }
    assert_false(vm_driver_take(&vsock->driver, VM_VSOCK_QUEUE_RX, &head, &length));
    assert_in_range(end->sent, VSOCK_BUFFER_BYTES + 1, VM_VSOCK_PATTERN);
}
