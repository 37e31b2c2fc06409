/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections of a vsock device between a guest that sends any packets and programs that do what
 * they like, in any order. No packet for the guest exceeds its room or its credit, none goes to
 * another; after a reset nothing is left, and at the end nothing leaks.
 *
 * The input: steps of 8 bytes, `what` first.
 */
#include "require.h"

#include "vsock_conns.h"
#include "vsock_credit.h"

#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define STEPS_MAX 512u
#define PROGRAMS  8u
#define CID       7u
#define PORT      5000u /* where a program listens; at the next one nobody does */
#define ENDS      64u

/* What a step does. */
enum {
    PACKET,
    ODD_PACKET, /* with a CID, a type or a length that is not usual */
    NEXT,
    SERVE,
    DIAL,
    SAY, /* a line, or what looks like one */
    WRITE,
    READ,
    CLOSE,
    SHUTDOWN,
    ACCEPT,
    RESET,
    WHATS,
};

/* A connection as the guest may know it: credit that it has given. */
struct end {
    uint32_t guest_port, host_port, alloc, taken, sent;
};

static struct reactor *reactor;
static struct vsock_conns *conns;
static char folder[] = "/tmp/fuzz-vsock-XXXXXX";
static int listener;
static int program[PROGRAMS];
static struct end end[ENDS];
static unsigned ends;
static uint32_t last_port; /* of the host's side, of the last request to the guest */
static uint8_t data[VSOCK_BUFFER_BYTES + 1];
static unsigned inside; /* between enter() and leave() */

static void enter(void *opaque)
{
    (void)opaque;
    require(inside++ == 0);
}

static void leave(void *opaque)
{
    (void)opaque;
    require(--inside == 0);
}

static struct sockaddr_un address_of(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof(address.sun_path), "%.40s/%.20s", folder, name);
    return address;
}

static void remove_folder(void)
{
    struct sockaddr_un address = address_of("vsock_5000");

    (void)unlink(address.sun_path);
    (void)rmdir(folder);
}

static void set_up(void)
{
    struct sockaddr_un address;

    require(reactor_new(&(struct reactor_options){.no_uring = true}, &reactor) == 0);
    require(mkdtemp(folder));
    address = address_of("vsock_5000");
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    require(listener >= 0);
    require(bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0);
    require(listen(listener, 64) == 0);
    require(atexit(remove_folder) == 0);
}

/* ---- the guest ---- */

static struct end *end_of(uint32_t guest_port, uint32_t host_port)
{
    for (unsigned i = 0; i < ends; i++)
        if (end[i].guest_port == guest_port && end[i].host_port == host_port)
            return &end[i];
    if (ends == ENDS)
        return NULL;
    end[ends] = (struct end){.guest_port = guest_port, .host_port = host_port};
    return &end[ends++];
}

static void make_odd(struct vsock_header *header, const uint8_t bytes[8])
{
    switch (bytes[7] % 4) {
    case 0:
        header->src_cid = bytes[6];
        break;
    case 1:
        header->dst_cid = bytes[6];
        break;
    case 2:
        header->type = bytes[6];
        break;
    default:
        header->length = VSOCK_BUFFER_BYTES + bytes[6] / 255; /* just too much, with 255 */
        break;
    }
}

static void send_packet(const uint8_t bytes[8], bool is_odd)
{
    static const uint32_t ports[] = {PORT, PORT, PORT + 1};
    struct vsock_header header = {
        .src_cid = CID,
        .dst_cid = VSOCK_HOST_CID,
        .src_port = bytes[2] % 4,
        .dst_port = bytes[2] & 0x80 ? last_port : ports[bytes[2] / 4 % 3],
        .type = VIRTIO_VSOCK_TYPE_STREAM,
        .op = bytes[1] % 9,
        .length = bytes[1] % 9 == VIRTIO_VSOCK_OP_RW ? bytes[3] * 257u : 0,
        .flags = bytes[4],
        .buf_alloc = bytes[5] * 1000u,
    };
    struct end *known = end_of(header.src_port, header.dst_port);

    /* Mostly what came; now and then a lie. */
    header.fwd_cnt = known ? known->sent + (bytes[6] & 0x80 ? bytes[6] * 0x1010101u : 0) : 0;
    if (is_odd)
        make_odd(&header, bytes);
    if (!vsock_conns_can_take(conns))
        return;
    if (known && header.op == VIRTIO_VSOCK_OP_REQUEST)
        known->sent = header.fwd_cnt = 0;
    if (known && header.src_cid == CID && header.dst_cid == VSOCK_HOST_CID && header.type == 1) {
        known->alloc = header.buf_alloc;
        known->taken = header.fwd_cnt;
    }
    vsock_conns_take(conns, &header, data);
}

static void take_packet(uint32_t room)
{
    static uint8_t out[VSOCK_BUFFER_BYTES];
    struct vsock_header header;
    struct end *known;

    if (!vsock_conns_has_packet(conns))
        return;
    vsock_conns_next(conns, &header, out, room);
    require(header.dst_cid == CID && header.length <= room);
    require(header.length == 0 || header.op == VIRTIO_VSOCK_OP_RW);
    require(header.op >= VIRTIO_VSOCK_OP_REQUEST && header.op <= VIRTIO_VSOCK_OP_CREDIT_REQUEST);
    known = end_of(header.dst_port, header.src_port);
    if (!known)
        return;
    if (header.op == VIRTIO_VSOCK_OP_REQUEST) {
        last_port = header.src_port;
        *known = (struct end){.guest_port = header.dst_port, .host_port = header.src_port};
    } else if (header.op == VIRTIO_VSOCK_OP_RW) {
        uint32_t under_way = known->sent - known->taken;

        require(under_way < known->alloc && header.length <= known->alloc - under_way);
        require(header.length > 0);
        known->sent += header.length;
    }
}

/* ---- programs ---- */

static void dial(int *fd)
{
    struct sockaddr_un address = address_of(VSOCK_LISTENER);

    if (*fd >= 0)
        return;
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    require(*fd >= 0);
    (void)connect(*fd, (struct sockaddr *)&address, sizeof(address));
}

static void say(int fd, const uint8_t bytes[8])
{
    char line[40];
    int length = snprintf(line, sizeof(line), "CONNECT %u\nmore", bytes[2] % 4u);

    if (bytes[3] & 0x80)
        line[bytes[4] % length] = (char)bytes[5];
    (void)send(fd, line, (size_t)(bytes[3] % (length + 1)), MSG_NOSIGNAL);
}

static void serve(void)
{
    for (unsigned i = 0; i < 3; i++)
        reactor_step(reactor, false);
}

static void reset(void)
{
    vsock_conns_reset(conns);
    require(!vsock_conns_has_packet(conns) && vsock_conns_can_take(conns));
    ends = 0;
}

static void step(const uint8_t bytes[8])
{
    static uint8_t sink[VSOCK_BUFFER_BYTES];
    int *fd = &program[bytes[1] % PROGRAMS];

    switch (bytes[0] % WHATS) {
    case PACKET:
    case ODD_PACKET:
        send_packet(bytes, bytes[0] % WHATS == ODD_PACKET);
        break;
    case NEXT:
        take_packet(1u + bytes[2] * 257u);
        break;
    case SERVE:
        serve();
        break;
    case DIAL:
        dial(fd);
        break;
    case SAY:
        say(*fd, bytes);
        break;
    case WRITE:
        (void)send(*fd, data, bytes[2] * 100u, MSG_NOSIGNAL);
        break;
    case READ:
        (void)recv(*fd, sink, bytes[2] * 257u, MSG_DONTWAIT);
        break;
    case CLOSE:
        if (*fd >= 0)
            close(*fd);
        *fd = -1;
        break;
    case SHUTDOWN:
        (void)shutdown(*fd, bytes[2] % 3);
        break;
    case ACCEPT:
        if (*fd < 0)
            *fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        break;
    default:
        if (bytes[2] == 0)
            reset();
        break;
    }
}

/* ---- one input ---- */

static void hang_up(void)
{
    int fd;

    for (unsigned i = 0; i < PROGRAMS; i++)
        if (program[i] >= 0)
            close(program[i]);
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    struct vsock_conns_options options = {
        .folder = folder, .cid = CID, .enter = enter, .leave = leave};

    if (!reactor)
        set_up();
    options.reactor = reactor;
    require(vsock_conns_new(&options, &conns, NULL) == 0);
    vsock_conns_admit(conns, true);
    for (unsigned i = 0; i < PROGRAMS; i++)
        program[i] = -1;
    ends = 0;
    last_port = PORT;
    for (unsigned i = 0; i < STEPS_MAX && 8 * (i + 1) <= size; i++)
        step(input + 8 * (size_t)i);
    if (size % 2)
        hang_up();
    serve();
    vsock_conns_free(conns);
    if (size % 2 == 0)
        hang_up();
    return 0;
}
