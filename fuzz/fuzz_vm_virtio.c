/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio devices behind their registers, with any guest: accesses of all sizes, memory that it
 * writes, kicks, and the host's own doings between them. A device stays within the guest's memory,
 * answers what it has to, and can always be reset and used again.
 *
 * The input: a byte that chooses the device (`kinds`), then steps of 8 bytes:
 *   what, size or queue, place (2), value (4)
 * Memory has a ring layout to begin with (`lay_out`), so that a few steps reach a request.
 */
#include "require.h"

#include "layout.h"
#include "queue.h"
#include "unix_listen.h"
#include "virtio_balloon.h"
#include "virtio_mmio.h"
#include "virtio_net.h"
#include "virtio_rng.h"
#include "virtio_vsock.h"

#include <errno.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define STEPS_MAX  256u
#define RING       16u
#define QUEUE_AT   UINT64_C(0x10000) /* of queue 0; others follow */
#define QUEUE_GAP  UINT64_C(0x4000)
#define DATA_AT    UINT64_C(0x80000)
#define DATA_BYTES 0x18000u
#define RUNNING    0xfu

/* What a step does. */
enum {
    READ,
    WRITE,
    KICK,
    KICK_REGISTER,
    MEMORY,   /* of a queue: 4 bytes */
    DATA,     /* 4 bytes of what descriptors point to */
    OFFER,    /* heads, in a queue */
    DESCRIBE, /* a descriptor that points to data */
    SERVE,
    HOST, /* what the VMM asks of the device */
    PAUSE,
    BEGIN, /* all the steps of a driver */
    WHATS,
};

struct kind {
    int (*make)(const struct vm_memory *memory, struct reactor *reactor,
                struct virtio_device **out);
    void (*host)(struct virtio_device *device, uint32_t value); /* NULL: nothing */
};

static struct vm_memory memory;
static struct reactor *reactor;

static void serve(void)
{
    for (unsigned i = 0; i < 4; i++)
        reactor_step(reactor, false);
}

/* ---- kinds ---- */

static void host_balloon(struct virtio_device *device, uint32_t value)
{
    uint64_t stats[VIRTIO_BALLOON_S_NR];

    if (value & 1)
        virtio_balloon_ask(device);
    else if (value & 2)
        (void)virtio_balloon_set(device, (uint64_t)(value >> 2) * 4096);
    require(virtio_balloon_actual(device) <= memory.size);
    virtio_balloon_stats(device, stats);
}

/* The other end of a network: the connection that was made last. */
static struct {
    char path[64];
    int listening, fd;
} peer = {.listening = -1, .fd = -1};

static void forget_peer(void)
{
    (void)unlink(peer.path);
}

static int make_net(const struct vm_memory *ram, struct reactor *loop, struct virtio_device **out)
{
    const struct virtio_net_options options = {.name = "net", .socket = peer.path};

    if (peer.listening < 0) {
        (void)snprintf(peer.path, sizeof(peer.path), "/tmp/vdisk-fuzz-net-%d", (int)getpid());
        peer.listening = unix_listen(peer.path);
        require(peer.listening >= 0 && atexit(forget_peer) == 0);
    }
    require(virtio_net_new(&options, ram, loop, out, NULL) == 0);
    if (peer.fd >= 0)
        close(peer.fd);
    // cppcheck-suppress nullPointer ; nobody asks for the address
    peer.fd = accept4(peer.listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    require(peer.fd >= 0);
    return 0;
}

/* Whole frames only, in their stream. */
static void take_frames(void)
{
    static uint8_t bytes[4 + 65553];
    uint32_t prefix;

    while (recv(peer.fd, &prefix, 4, MSG_PEEK) == 4) {
        const ssize_t length = 4 + (ssize_t)__builtin_bswap32(prefix);

        require(length >= 4 + 14 && length <= (ssize_t)sizeof(bytes));
        if (recv(peer.fd, bytes, (size_t)length, MSG_PEEK) < length)
            return;
        require(recv(peer.fd, bytes, (size_t)length, 0) == length);
    }
}

static void host_net(struct virtio_device *device, uint32_t value)
{
    static uint8_t bytes[4 + 65553];
    const uint32_t length = (value >> 2) % 65554, prefix = __builtin_bswap32(length);
    const struct limit_setting limit = {value >> 2, value >> 20};
    struct virtio_net_counts counts;

    take_frames();
    memcpy(bytes, &prefix, 4);
    if ((value & 3) == 3)
        virtio_net_limits(device, &limit, &limit);
    else /* what does not fit is lost, with the frame's end perhaps */
        (void)send(peer.fd, bytes, 4 + length, MSG_NOSIGNAL);
    virtio_net_counts(device, &counts);
    require(counts.in.bytes >= counts.in.frames * 14 && counts.out.bytes >= counts.out.frames * 14);
}

/* Folders of sockets: a device that is saved and the one that goes on are there at a time. */
static char folder[2][32];

static void remove_folders(void)
{
    (void)rmdir(folder[0]);
    (void)rmdir(folder[1]);
}

static int make_vsock(const struct vm_memory *ram, struct reactor *loop, struct virtio_device **out)
{
    struct virtio_vsock_options options = {.folder = folder[0], .cid = 7, .name = "vsock"};
    int rc;

    if (!folder[0][0]) {
        for (unsigned i = 0; i < 2; i++) {
            strcpy(folder[i], "/tmp/fuzz-virtio-XXXXXX");
            require(mkdtemp(folder[i]));
        }
        require(atexit(remove_folders) == 0);
    }
    rc = virtio_vsock_new(&options, ram, loop, out, NULL);
    options.folder = folder[1];
    return rc == -EADDRINUSE ? virtio_vsock_new(&options, ram, loop, out, NULL) : rc;
}

/* A program that asks for a port of the guest, says some more, and goes. */
static void host_vsock(struct virtio_device *device, uint32_t value)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char line[64];
    int length = snprintf(line, sizeof(line), "CONNECT %u\nsome more of it", value & 0xff);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    (void)device;
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/vsock", folder[value >> 8 & 1]);
    require(fd >= 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        (void)send(fd, line, (size_t)length, MSG_NOSIGNAL);
    serve();
    close(fd);
}

static const struct kind kinds[] = {
    {virtio_rng_new, NULL},
    {virtio_balloon_new, host_balloon},
    {make_net, host_net},
    {make_vsock, host_vsock},
};

/* ---- one device ---- */

struct machine {
    const struct kind *kind;
    struct virtio_device *device;
    struct vm_bus bus;
};

static void put_device(struct machine *machine)
{
    machine->bus.count = 0;
    require(virtio_mmio_add(&machine->bus, VM_VIRTIO_AT, machine->device) == 0);
}

static uint32_t get(const struct machine *machine, uint32_t at)
{
    uint32_t value;

    vm_bus_read(&machine->bus, VM_VIRTIO_AT + at, (uint8_t *)&value, 4);
    return value;
}

static void set(const struct machine *machine, uint32_t at, uint32_t value)
{
    vm_bus_write(&machine->bus, VM_VIRTIO_AT + at, (const uint8_t *)&value, 4);
}

static void access_any(const struct machine *machine, bool is_write, unsigned size, unsigned place,
                       uint32_t value)
{
    uint64_t data = value * UINT64_C(0x100000001);

    size = 1u << (size & 3);
    place %= VM_VIRTIO_BYTES + 8;
    if (is_write)
        vm_bus_write(&machine->bus, VM_VIRTIO_AT + place, (const uint8_t *)&data, size);
    else
        vm_bus_read(&machine->bus, VM_VIRTIO_AT + place, (uint8_t *)&data, size);
}

/* As a driver does it, with all features that `refused` has not. */
static void begin(const struct machine *machine, uint32_t refused)
{
    set(machine, VIRTIO_MMIO_STATUS, 0);
    set(machine, VIRTIO_MMIO_STATUS, 3);
    for (unsigned i = 0; i < 2; i++) {
        set(machine, VIRTIO_MMIO_DEVICE_FEATURES_SEL, i);
        set(machine, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
        set(machine, VIRTIO_MMIO_DRIVER_FEATURES,
            get(machine, VIRTIO_MMIO_DEVICE_FEATURES) & (i ? UINT32_MAX : ~refused));
    }
    set(machine, VIRTIO_MMIO_STATUS, 11);
    require(get(machine, VIRTIO_MMIO_STATUS) == 11);
    for (unsigned i = 0; i < machine->device->queues; i++) {
        uint32_t at = (uint32_t)(QUEUE_AT + i * QUEUE_GAP);

        set(machine, VIRTIO_MMIO_QUEUE_SEL, i);
        set(machine, VIRTIO_MMIO_QUEUE_NUM, RING);
        set(machine, VIRTIO_MMIO_QUEUE_DESC_LOW, at);
        set(machine, VIRTIO_MMIO_QUEUE_AVAIL_LOW, at + 0x1000);
        set(machine, VIRTIO_MMIO_QUEUE_USED_LOW, at + 0x2000);
        set(machine, VIRTIO_MMIO_QUEUE_READY, 1);
        require(get(machine, VIRTIO_MMIO_QUEUE_READY) == 1);
        memset(vm_memory_at(&memory, at + 0x1000, 0x2000), 0, 0x2000);
    }
    set(machine, VIRTIO_MMIO_STATUS, RUNNING);
    require(get(machine, VIRTIO_MMIO_STATUS) == RUNNING);
}

/* Through JSON into another one, or only still for a while. */
static void pause_device(struct machine *machine, bool anew)
{
    struct virtio_device *other = NULL;
    json_t *saved;

    virtio_pause(machine->device);
    serve();
    if (anew) {
        saved = virtio_save(machine->device, NULL);
        require(saved != NULL);
        require(machine->kind->make(&memory, reactor, &other) == 0);
        require(virtio_load(other, saved, NULL) == 0);
        json_decref(saved);
        virtio_free(machine->device);
        machine->device = other;
        put_device(machine);
    }
    virtio_resume(machine->device);
}

static void describe(uint64_t queue_at, unsigned place, uint32_t value)
{
    struct vring_desc desc = {
        .addr = DATA_AT + (value & 0x1fff) * 8,
        .len = 1u << (value >> 16 & 15),
        .flags = (uint16_t)(value >> 20 & 7),
        .next = (uint16_t)((place + 1) % RING),
    };

    memcpy(vm_memory_at(&memory, queue_at + place % RING * 16, 16), &desc, sizeof(desc));
}

static void offer(uint64_t queue_at, unsigned place, uint32_t count)
{
    uint16_t *avail = vm_memory_at(&memory, queue_at + 0x1000, 4 + 2 * RING);

    for (uint32_t i = 0; i < count % RING + 1; i++)
        avail[2 + avail[1]++ % RING] = (uint16_t)((place + i) % RING);
}

static void step(struct machine *machine, const uint8_t bytes[8])
{
    const unsigned queue = bytes[1] % machine->device->queues;
    const uint64_t queue_at = QUEUE_AT + queue * QUEUE_GAP;
    const unsigned place = bytes[2] | bytes[3] << 8;
    uint32_t value;

    memcpy(&value, bytes + 4, sizeof(value));
    switch (bytes[0] % WHATS) {
    case READ:
    case WRITE:
        access_any(machine, bytes[0] % WHATS == WRITE, bytes[1], place, value);
        break;
    case KICK:
        virtio_kick(machine->device, queue);
        break;
    case KICK_REGISTER:
        set(machine, VIRTIO_MMIO_QUEUE_NOTIFY, place);
        break;
    case MEMORY:
        memcpy(vm_memory_at(&memory, queue_at + place % 0x3000, 4), &value, sizeof(value));
        break;
    case DATA:
        memcpy(vm_memory_at(&memory, DATA_AT + place, 4), &value, sizeof(value));
        break;
    case OFFER:
        offer(queue_at, place, value);
        break;
    case DESCRIBE:
        describe(queue_at, place, value);
        break;
    case SERVE:
        serve();
        break;
    case HOST:
        if (machine->kind->host)
            machine->kind->host(machine->device, value);
        break;
    case PAUSE:
        pause_device(machine, value & 1);
        break;
    default:
        begin(machine, value);
    }
}

/* ---- one input ---- */

static void set_up(void)
{
    require(vm_memory_new(&memory, VM_MEMORY_MIN, NULL) == 0);
    require(reactor_new(&(struct reactor_options){.no_uring = true}, &reactor) == 0);
}

/* Each queue has descriptors in pairs, readable then writable; numbers of pages in their data. */
static void lay_out(void)
{
    uint32_t *data = vm_memory_at(&memory, DATA_AT, DATA_BYTES);

    memset(vm_memory_at(&memory, QUEUE_AT, VIRTIO_QUEUES_MAX * QUEUE_GAP), 0,
           VIRTIO_QUEUES_MAX * QUEUE_GAP);
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        for (unsigned k = 0; k < RING; k++)
            describe(QUEUE_AT + i * QUEUE_GAP, k,
                     k * 64 | 6u << 16 | (k % 2 ? VRING_DESC_F_WRITE : VRING_DESC_F_NEXT) << 20);
    for (unsigned i = 0; i < DATA_BYTES / sizeof(*data); i++)
        data[i] = 0x100 + i % 0x200;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct machine machine = {.bus = {.count = 0}};

    if (!reactor)
        set_up();
    if (size == 0)
        return 0;
    lay_out();
    machine.kind = &kinds[data[0] % (sizeof(kinds) / sizeof(kinds[0]))];
    require(machine.kind->make(&memory, reactor, &machine.device) == 0);
    put_device(&machine);
    for (unsigned i = 0; i < STEPS_MAX && 1 + 8 * (i + 1) <= size; i++)
        step(&machine, data + 1 + 8 * i);
    serve();
    /* Whatever came before, a driver that begins anew is served. */
    begin(&machine, 0);
    virtio_free(machine.device);
    return 0;
}
