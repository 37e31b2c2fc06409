/* SPDX-License-Identifier: Apache-2.0 */
/* See vm_net_guest.h. */
#include "vm_net_guest.h"

#include "unix_listen.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define IN       0u
#define OUT      1u
#define PATIENCE (INT64_C(20) * 1000000000)

void vm_net_frame(uint8_t *frame, size_t length, unsigned number)
{
    static const uint8_t head[14] = {
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, VM_NET_TYPE >> 8, VM_NET_TYPE & 0xff};
    uint32_t state = number * 2654435761u + 1;

    memcpy(frame, head, sizeof(head));
    for (size_t i = sizeof(head); i < length; i++) {
        state = state * 1103515245u + 12345u;
        frame[i] = (uint8_t)(state >> 16);
    }
}

/* ---- begin and end ---- */

void vm_net_guest_open(struct vm_net_guest *guest, struct vm_rig *rig,
                       const struct virtio_net_options *options)
{
    struct virtio_device *device;
    struct vdisk_error error = {.text = ""};

    *guest = (struct vm_net_guest){.rig = rig};
    if (virtio_net_new(options, &rig->memory, rig->reactor, &device, &error))
        fail_msg("%s", error.text);
    vm_driver_open(&guest->driver, rig, device);
    guest->out_at = vm_driver_alloc(&guest->driver, VM_NET_SIZE * VM_NET_SLOT);
}

void vm_net_guest_close(struct vm_net_guest *guest)
{
    vm_driver_close(&guest->driver);
}

void vm_net_guest_begin(struct vm_net_guest *guest, uint64_t features, uint32_t buffer_bytes)
{
    vm_driver_begin(&guest->driver, features, VM_NET_SIZE);
    guest->buffer_bytes = buffer_bytes;
    guest->sent = guest->reaped = 0;
}

void vm_net_guest_post(struct vm_net_guest *guest, unsigned count)
{
    uint64_t at = vm_driver_alloc(&guest->driver, (uint64_t)count * guest->buffer_bytes);

    for (unsigned i = 0; i < count; i++) {
        struct vm_buffer buffer = {at + i * guest->buffer_bytes, guest->buffer_bytes, true};

        guest->in_at[vm_driver_add(&guest->driver, IN, &buffer, 1)] = buffer.guest;
    }
    (void)vm_driver_kick(&guest->driver, IN);
}

/* ---- frames ---- */

void vm_net_guest_send(struct vm_net_guest *guest, const struct virtio_net_hdr_v1 *header,
                       const uint8_t *frame, size_t length)
{
    static const struct virtio_net_hdr_v1 none;
    uint16_t slot = guest->driver.queue[OUT].free;
    uint32_t bytes = VM_NET_HEADER + (uint32_t)length;
    struct vm_buffer buffer = {guest->out_at + slot * VM_NET_SLOT, bytes, false};
    uint8_t *at;

    if (bytes > VM_NET_SLOT)
        buffer.guest = vm_driver_alloc(&guest->driver, bytes);
    at = vm_driver_at(&guest->driver, buffer.guest, bytes);
    memcpy(at, header ? header : &none, VM_NET_HEADER);
    memcpy(at + VM_NET_HEADER, frame, length);
    (void)vm_driver_add(&guest->driver, OUT, &buffer, 1);
    (void)vm_driver_kick(&guest->driver, OUT);
    guest->sent++;
}

unsigned vm_net_guest_reap(struct vm_net_guest *guest)
{
    unsigned count = 0;
    uint32_t length;
    uint16_t head;

    for (; vm_driver_take(&guest->driver, OUT, &head, &length); count++)
        assert_int_equal(length, 0);
    guest->reaped += count;
    return count;
}

/* What the device wrote into the next buffer, which is given to it again. */
static size_t take_buffer(struct vm_net_guest *guest, uint8_t *to)
{
    struct vm_buffer buffer = {.length = guest->buffer_bytes, .writable = true};
    uint32_t length;
    uint16_t head;

    if (!vm_driver_take(&guest->driver, IN, &head, &length))
        return 0;
    assert_in_range(length, 1, guest->buffer_bytes);
    buffer.guest = guest->in_at[head];
    memcpy(to, vm_driver_at(&guest->driver, buffer.guest, length), length);
    guest->in_at[vm_driver_add(&guest->driver, IN, &buffer, 1)] = buffer.guest;
    (void)vm_driver_kick(&guest->driver, IN);
    return length;
}

size_t vm_net_guest_take(struct vm_net_guest *guest, struct virtio_net_hdr_v1 *header,
                         uint8_t *frame)
{
    static uint8_t bytes[VM_NET_HEADER + VM_NET_FRAME_MAX + 65536];
    size_t have = take_buffer(guest, bytes);
    unsigned count;

    if (have == 0)
        return 0;
    assert_in_range(have, VM_NET_HEADER, sizeof(bytes));
    memcpy(header, bytes, VM_NET_HEADER);
    count = le16toh(header->num_buffers);
    assert_in_range(count, 1, VM_NET_SIZE);
    for (unsigned i = 1; i < count; i++) {
        size_t more = take_buffer(guest, bytes + have);

        assert_in_range(more, 1, guest->buffer_bytes); /* all of them were used at once */
        have += more;
    }
    assert_in_range(have, VM_NET_HEADER + 14, VM_NET_HEADER + VM_NET_FRAME_MAX);
    memcpy(frame, bytes + VM_NET_HEADER, have - VM_NET_HEADER);
    return have - VM_NET_HEADER;
}

size_t vm_net_guest_receive(struct vm_net_guest *guest, struct virtio_net_hdr_v1 *header,
                            uint8_t *frame)
{
    size_t length;

    while ((length = vm_net_guest_take(guest, header, frame)) == 0)
        (void)vm_driver_interrupt(&guest->driver);
    return length;
}

void vm_net_guest_expect(struct vm_net_guest *guest, size_t length, unsigned number)
{
    static uint8_t got[VM_NET_FRAME_MAX], wanted[VM_NET_FRAME_MAX];
    struct virtio_net_hdr_v1 header;

    vm_net_frame(wanted, length, number);
    assert_int_equal(vm_net_guest_receive(guest, &header, got), length);
    assert_memory_equal(got, wanted, length);
    assert_int_equal(header.flags, 0);
    assert_int_equal(header.gso_type, VIRTIO_NET_HDR_GSO_NONE);
}

void vm_net_guest_await_link(struct vm_net_guest *guest, bool up)
{
    uint32_t wanted = up ? VIRTIO_NET_S_LINK_UP : 0;

    while (vm_driver_config(&guest->driver, offsetof(struct virtio_net_config, status), 2) !=
           wanted)
        while (!(vm_driver_interrupt(&guest->driver) & VIRTIO_MMIO_INT_CONFIG))
            ;
}

struct virtio_net_counts vm_net_guest_counts(struct vm_net_guest *guest)
{
    struct virtio_net_counts counts;

    virtio_net_counts(guest->driver.device, &counts);
    return counts;
}

/* ---- the other end of a socket ---- */

/* Lets the device run until the descriptor has one of the events. */
static void await(struct vm_rig *rig, int fd, short events)
{
    struct pollfd ready = {.fd = fd, .events = events};
    int64_t end = reactor_now() + PATIENCE;

    while (poll(&ready, 1, rig->has_thread ? 100 : 1) == 0) {
        assert_true(reactor_now() < end);
        if (!rig->has_thread)
            vm_rig_settle(rig);
    }
}

void vm_net_peer_listen(struct vm_net_peer *peer, struct vm_rig *rig, const char *path)
{
    *peer = (struct vm_net_peer){.rig = rig, .listening = unix_listen(path), .fd = -1};
    assert_true(peer->listening >= 0);
}

void vm_net_peer_accept(struct vm_net_peer *peer)
{
    await(peer->rig, peer->listening, POLLIN);
    // cppcheck-suppress nullPointer ; nobody asks for the address
    peer->fd = accept4(peer->listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    assert_true(peer->fd >= 0);
}

void vm_net_peer_hang_up(struct vm_net_peer *peer)
{
    if (peer->fd >= 0)
        close(peer->fd);
    peer->fd = -1;
}

void vm_net_peer_close(struct vm_net_peer *peer)
{
    vm_net_peer_hang_up(peer);
    if (peer->listening >= 0)
        close(peer->listening);
    peer->listening = -1;
}

/* All of it, once some of it went. */
static bool put(struct vm_net_peer *peer, const uint8_t *bytes, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t sent = send(peer->fd, bytes + done, length - done, MSG_NOSIGNAL);

        if (sent < 0 && errno == EAGAIN && done == 0)
            return false;
        if (sent < 0 && errno == EAGAIN)
            await(peer->rig, peer->fd, POLLOUT);
        else
            assert_true(sent > 0);
        done += sent > 0 ? (size_t)sent : 0;
    }
    return true;
}

bool vm_net_peer_try_send(struct vm_net_peer *peer, const uint8_t *frame, size_t length)
{
    static uint8_t bytes[4 + VM_NET_FRAME_MAX];
    const uint32_t prefix = htobe32((uint32_t)length);

    memcpy(bytes, &prefix, 4);
    memcpy(bytes + 4, frame, length);
    return put(peer, bytes, 4 + length);
}

void vm_net_peer_send(struct vm_net_peer *peer, size_t length, unsigned number)
{
    static uint8_t frame[VM_NET_FRAME_MAX];

    vm_net_frame(frame, length, number);
    while (!vm_net_peer_try_send(peer, frame, length))
        await(peer->rig, peer->fd, POLLOUT);
}

/* All of it, once some of it is there. */
static bool get(struct vm_net_peer *peer, void *to, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t got = recv(peer->fd, (uint8_t *)to + done, length - done, 0);

        if (got < 0 && errno == EAGAIN && done == 0)
            return false;
        if (got < 0 && errno == EAGAIN)
            await(peer->rig, peer->fd, POLLIN);
        else
            assert_true(got > 0);
        done += got > 0 ? (size_t)got : 0;
    }
    return true;
}

size_t vm_net_peer_take(struct vm_net_peer *peer, uint8_t *frame)
{
    uint32_t prefix;

    if (!get(peer, &prefix, sizeof(prefix)))
        return 0;
    assert_in_range(be32toh(prefix), 14, VM_NET_FRAME_MAX);
    while (!get(peer, frame, be32toh(prefix)))
        await(peer->rig, peer->fd, POLLIN);
    return be32toh(prefix);
}

void vm_net_peer_expect(struct vm_net_peer *peer, size_t length, unsigned number)
{
    static uint8_t got[VM_NET_FRAME_MAX], wanted[VM_NET_FRAME_MAX];
    size_t have;

    while ((have = vm_net_peer_take(peer, got)) == 0)
        await(peer->rig, peer->fd, POLLIN);
    vm_net_frame(wanted, length, number);
    assert_int_equal(have, length);
    assert_memory_equal(got, wanted, length);
}
