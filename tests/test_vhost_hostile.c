/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile front end: messages as nobody may send them, memory that is none or is taken away,
 * rings that change while they are read, and an end at any moment. It is refused or disconnected;
 * who uses the other socket never notices, and nothing of what was sent is kept.
 */
#include "sim_random.h"
#include "vhost_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define RING       16u
#define SLOT_BYTES 65536u
#define OK         VIRTIO_BLK_S_OK
#define OUT        VIRTIO_BLK_T_OUT
#define IN         VIRTIO_BLK_T_IN
#define NACK       (-EIO)
#define ENDS       (-EPIPE)

static struct client *client, *witness;
static struct kit_held held;
static unsigned rounds; /* more with VDISK_TEST_LONG */

static void new_client(uint64_t protocol_without)
{
    struct client_options options = {.queues = 2,
                                     .ring_size = RING,
                                     .data_bytes = SLOT_BYTES,
                                     .protocol_without = protocol_without};

    client_free(client);
    client = NULL;
    assert_int_equal(client_new(&options, &client), 0);
}

static void connected(void)
{
    new_client(0);
    assert_int_equal(client_connect(client, kit.socket), 0);
}

static void others_go_on(void)
{
    char bytes[512] = {1};

    assert_int_equal(client_request(witness, 0, OUT, 0, bytes, 512), OK);
    assert_int_equal(client_request(witness, 0, IN, 0, bytes, 512), OK);
    assert_int_equal(bytes[0], 1);
}

/* The device is there for the next one. */
static void next_is_served(void)
{
    char bytes[512];

    connected();
    assert_int_equal(client_request(client, 0, IN, 0, bytes, 512), OK);
    assert_int_equal(client_request(client, 1, IN, 0, bytes, 512), OK);
    others_go_on();
}

/* The connection is closed by the other side. */
static bool is_disconnected(void)
{
    struct pollfd ready = {.fd = client->fd, .events = POLLIN};
    char bytes[4096];

    for (;;) {
        if (poll(&ready, 1, CLIENT_PATIENCE) <= 0)
            return false;
        if (recv(client->fd, bytes, sizeof(bytes), 0) <= 0)
            return true;
    }
}

/* ---- messages ---- */

static int send_raw(const void *bytes, size_t length)
{
    return send(client->fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length ? 0 : -errno;
}

static void test_headers_that_are_none(void **state)
{
    static const uint32_t headers[][3] = {{VHOST_GET_FEATURES, 0, 0},
                                          {VHOST_GET_FEATURES, 2, 0},
                                          {VHOST_GET_FEATURES, 5, 0},
                                          {VHOST_SET_FEATURES, 1, UINT32_MAX},
                                          {VHOST_SET_FEATURES, 1, 513},
                                          {VHOST_GET_FEATURES, 1, 8},
                                          {0, 0, 0},
                                          {UINT32_MAX, UINT32_MAX, UINT32_MAX},
                                          {VHOST_SET_MEM_TABLE, 1, 0x80000000}};

    (void)state;
    for (size_t i = 0; i < sizeof(headers) / sizeof(*headers); i++) {
        uint8_t bytes[1024] = {0};

        connected();
        memcpy(bytes, headers[i], sizeof(headers[i]));
        assert_int_equal(send_raw(bytes, sizeof(bytes)), 0);
        assert_true(is_disconnected());
    }
    next_is_served();
}

/* Every request that is known, with each size that it cannot have. */
static void test_payloads_of_wrong_sizes(void **state)
{
    static const struct {
        uint32_t request, size;
    } right[] = {
        {VHOST_SET_FEATURES, 8},   {VHOST_SET_MEM_TABLE, 8},    {VHOST_SET_LOG_BASE, 16},
        {VHOST_SET_VRING_NUM, 8},  {VHOST_SET_VRING_ADDR, 40},  {VHOST_SET_VRING_BASE, 8},
        {VHOST_GET_VRING_BASE, 8}, {VHOST_SET_VRING_KICK, 8},   {VHOST_SET_VRING_CALL, 8},
        {VHOST_SET_VRING_ERR, 8},  {VHOST_SET_VRING_ENABLE, 8}, {VHOST_GET_CONFIG, 12},
        {VHOST_SET_CONFIG, 12},    {VHOST_GET_INFLIGHT_FD, 20}, {VHOST_SET_INFLIGHT_FD, 20},
        {VHOST_ADD_MEM_REG, 40},   {VHOST_REM_MEM_REG, 40},     {VHOST_SET_STATUS, 8},
        {VHOST_RESET_DEVICE, 0},   {VHOST_GET_FEATURES, 0},     {VHOST_SET_PROTOCOL_FEATURES, 8},
    };
    uint8_t payload[VHOST_PAYLOAD_MAX];

    (void)state;
    memset(payload, 0xff, sizeof(payload));
    for (size_t i = 0; i < 2 * sizeof(right) / sizeof(*right); i++) {
        uint32_t size = right[i / 2].size;

        if (i % 2 && size == 0)
            continue;
        connected();
        assert_int_equal(client_send(client, right[i / 2].request, 0, payload,
                                     i % 2 ? size - 1 : VHOST_PAYLOAD_MAX, &client->memory_fd, 1),
                         0);
        assert_true(is_disconnected());
    }
    next_is_served();
}

static void test_a_request_that_is_not_known(void **state)
{
    static const uint32_t requests[] = {0, 19, 20, 22, 33, 41, 9999, UINT32_MAX};
    uint64_t number = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(requests) / sizeof(*requests); i++) {
        connected();
        assert_int_equal(client_do_number(client, requests[i], number), NACK);
        assert_int_equal(client_get(client, VHOST_GET_FEATURES, &number), 0);
        /* Without an acknowledgement there is no other way to say so. */
        assert_int_equal(client_send(client, requests[i], 0, NULL, 0, NULL, 0), 0);
        assert_true(is_disconnected());
    }
    next_is_served();
}

/* Without NEED_REPLY a refusal is the end; with it the front end may go on. */
static void refused(uint32_t request, const void *payload, uint32_t size, int fd)
{
    uint64_t number;
    const int *fds = fd >= 0 ? &fd : NULL;

    connected();
    assert_int_equal(client_do(client, request, payload, size, fds, fd >= 0), NACK);
    assert_int_equal(client_get(client, VHOST_GET_FEATURES, &number), 0);
    assert_int_equal(client_send(client, request, 0, payload, size, fds, fd >= 0), 0);
    assert_true(is_disconnected());
}

static void refused_number(uint32_t request, uint64_t number, int fd)
{
    refused(request, &number, sizeof(number), fd);
}

static void refused_state(uint32_t request, uint32_t index, uint32_t number)
{
    refused_number(request, index | (uint64_t)number << 32, -1);
}

static void test_requests_with_values_that_cannot_be(void **state)
{
    struct vhost_wire_config config = {.offset = 32, .size = 1, .bytes = {2}};

    (void)state;
    refused_number(VHOST_SET_FEATURES, UINT64_C(1) << 63, -1);
    refused_number(VHOST_SET_PROTOCOL_FEATURES, UINT64_C(1) << 63, -1);
    refused_state(VHOST_SET_VRING_ENABLE, VHOST_QUEUES_DEFAULT_MAX, 1);
    refused_state(VHOST_SET_VRING_ENABLE, UINT32_MAX, 1);
    refused_state(VHOST_SET_VRING_NUM, 2, 0);
    refused_state(VHOST_SET_VRING_NUM, 2, 1025);
    refused_state(VHOST_SET_VRING_NUM, 0, 16); /* it is in use */
    refused_state(VHOST_SET_VRING_BASE, 0, 0);
    refused_number(VHOST_SET_VRING_KICK, 255, client->memory_fd);
    refused_number(VHOST_SET_VRING_KICK, 0, client->memory_fd); /* always ready */
    refused_number(VHOST_SET_VRING_KICK, 0x100, -1);            /* to be polled */
    refused(VHOST_SET_CONFIG, &config, 13, -1);                 /* 2 */
    config.bytes[0] = 1;
    config.offset = 0;
    refused(VHOST_SET_CONFIG, &config, 13, -1);
    config.offset = 31;
    config.size = 4;
    refused(VHOST_SET_CONFIG, &config, 16, -1);
    next_is_served();
}

static void test_in_flight_memory_that_cannot_be(void **state)
{
    static const struct vhost_wire_inflight wires[] = {
        {.size = 65536, .queues = 0, .queue_size = 16},
        {.size = 65536, .queues = 17, .queue_size = 16},
        {.size = 65536, .queues = 1, .queue_size = 0},
        {.size = 1 << 24, .queues = 1, .queue_size = 1025},
        {.size = 64, .queues = 2, .queue_size = 16},
        {.size = 0, .queues = 2, .queue_size = 16},
        {.size = UINT64_MAX, .queues = 2, .queue_size = 16},
        {.size = 65536, .offset = UINT64_MAX - 4096, .queues = 2, .queue_size = 16},
        {.size = UINT64_C(1) << 40, .queues = 2, .queue_size = 16},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(wires) / sizeof(*wires); i++) {
        new_client(CLIENT_BIT(CLIENT_P_INFLIGHT));
        client->fd = client_dial(kit.socket);
        assert_int_equal(client_negotiate(client), 0);
        assert_int_equal(client_do(client, VHOST_SET_INFLIGHT_FD, &wires[i], sizeof(wires[i]),
                                   &client->memory_fd, 1),
                         NACK);
    }
    next_is_served();
}

/* Whatever the memory holds, each queue works or is given up. */
static void test_in_flight_memory_that_holds_nonsense(void **state)
{
    struct vhost_wire_inflight wire = {.size = 65536, .queues = 2, .queue_size = RING};
    struct sim_rng rng;
    uint8_t *bytes;
    int fd = memfd_create("nonsense", MFD_CLOEXEC);

    (void)state;
    sim_rng_seed(&rng, 1);
    assert_int_equal(ftruncate(fd, 65536), 0);
    bytes = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(bytes != MAP_FAILED);
    for (unsigned i = 0; i < rounds; i++) {
        /* 32 bytes of header, then entries: mostly small numbers, right in what is checked first.
         */
        for (unsigned at = 0; at < 65536; at += 2) {
            uint16_t word = (uint16_t)sim_rng_below(&rng, sim_rng_chance(&rng, 1, 8) ? 65536 : 20);

            memcpy(bytes + at, &word, 2);
        }
        memcpy(bytes + 8, (uint16_t[]){1, RING}, 4);
        memcpy(bytes + 576 + 8, (uint16_t[]){1, RING}, 4);
        new_client(0);
        client->inflight = wire;
        client->inflight_fd = dup(fd);
        client->options.without = i % 2 ? CLIENT_BIT(VIRTIO_F_RING_PACKED) : 0;
        assert_int_equal(client_connect(client, kit.socket), 0);
        uint32_t base;

        assert_int_equal(client_stop_queue(client, 0, &base), 0);
        assert_int_equal(client_stop_queue(client, 1, &base), 0);
    }
    munmap(bytes, 65536);
    close(fd);
    next_is_served();
}

/* ---- memory ---- */

static struct vhost_wire_slot slot_of(uint64_t guest, uint64_t size, uint64_t user, uint64_t offset)
{
    return (struct vhost_wire_slot){
        .region = {.guest = guest, .size = size, .user = user, .offset = offset}};
}

static void test_memory_that_is_none(void **state)
{
    const uint64_t far = UINT64_C(1) << 40;
    int fds[] = {eventfd(0, EFD_CLOEXEC),
                 open("/dev/zero", O_RDWR | O_CLOEXEC),
                 open("/", O_RDONLY | O_CLOEXEC),
                 open("/proc/self/exe", O_RDONLY | O_CLOEXEC),
                 socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
                 memfd_create("short", MFD_CLOEXEC)};

    (void)state;
    connected();
    struct vhost_wire_slot bad[] = {
        slot_of(far, 0, far, 0),
        slot_of(UINT64_MAX - 4095, 8192, far, 0),
        slot_of(far, 8192, UINT64_MAX - 4095, 0),
        slot_of(far, 4096, far, UINT64_MAX - 4095),
        slot_of(far, 4096, far, UINT64_MAX),
        slot_of(far, 4096, far, client->memory_bytes),
        slot_of(far, UINT64_MAX, far, 0),
        slot_of(CLIENT_GUEST + 4096, 4096, far, 0), /* overlaps */
        slot_of(far, 4096, (uintptr_t)client->memory + 4096, 0),
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_int_equal(
            client_do(client, VHOST_ADD_MEM_REG, &bad[i], sizeof(*bad), &client->memory_fd, 1),
            NACK);
    for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++) {
        struct vhost_wire_slot slot = slot_of(far, 4096, far, 0);

        assert_true(fds[i] >= 0);
        assert_int_equal(client_do(client, VHOST_ADD_MEM_REG, &slot, sizeof(slot), &fds[i], 1),
                         NACK);
        close(fds[i]);
    }
    /* None of that did any harm. */
    char bytes[512];

    assert_int_equal(client_request(client, 0, IN, 0, bytes, 512), OK);
    next_is_served();
}

static void test_no_more_memory_slots_than_there_are(void **state)
{
    uint64_t slots;
    char bytes[512];

    (void)state;
    connected();
    assert_int_equal(client_get(client, VHOST_GET_MAX_MEM_SLOTS, &slots), 0);
    assert_int_equal(slots, 64);
    for (unsigned round = 0; round < 2; round++) {
        for (uint64_t i = 1; i <= slots; i++) {
            struct vhost_wire_slot slot = slot_of(i << 40, 4096, i << 40, (i - 1) * 4096);

            assert_int_equal(
                client_do(client, VHOST_ADD_MEM_REG, &slot, sizeof(slot), &client->memory_fd, 1),
                i < slots ? 0 : NACK);
        }
        for (uint64_t i = 1; i < slots; i++) {
            struct vhost_wire_slot slot = slot_of(i << 40, 4096, i << 40, 0);

            assert_int_equal(client_do(client, VHOST_REM_MEM_REG, &slot, sizeof(slot), NULL, 0), 0);
        }
    }
    assert_int_equal(client_request(client, 0, IN, 0, bytes, 512), OK);
}

/* A message has as many descriptors as it has, and the rest is closed. */
static void test_more_and_fewer_descriptors_than_needed(void **state)
{
    struct vhost_wire_table table = {.count = 2};
    uint64_t number = 0;
    int fds[VHOST_FDS_MAX];

    (void)state;
    connected();
    for (unsigned i = 0; i < VHOST_FDS_MAX; i++)
        fds[i] = client->queue[0].kick;
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(
            client_do(client, VHOST_SET_VRING_KICK, &number, 8, fds, i % 2 ? VHOST_FDS_MAX : 1), 0);
        assert_int_equal(client_do(client, VHOST_SET_OWNER, NULL, 0, fds, VHOST_FDS_MAX), 0);
        assert_int_equal(client_do_number(client, VHOST_SET_STATUS, 1), 0);
        assert_int_equal(client_do(client, 9999, NULL, 0, fds, VHOST_FDS_MAX), NACK);
    }
    char bytes[512];

    assert_int_equal(client_request(client, 0, IN, 0, bytes, 512), OK);
    table.region[0] = (struct vhost_wire_region){CLIENT_GUEST, 4096, 4096, 0};
    assert_int_equal(client_send(client, VHOST_SET_MEM_TABLE, 0, &table, 8 + 64, fds, 1), 0);
    assert_true(is_disconnected());
    next_is_served();
}

/* Rings that are not in memory, or not where one may be. */
static void test_rings_that_are_not_in_memory(void **state)
{
    static const uint64_t shifts[] = {UINT64_C(1) << 40, 1, 8, UINT64_MAX - 4096};

    (void)state;
    for (unsigned i = 0; i < 12; i++) {
        struct vhost_wire_address address;
        struct pollfd ready;

        connected();
        client_queue_address(client, 0, &address);
        *(i % 3 == 0   ? &address.desc
          : i % 3 == 1 ? &address.avail
                       : &address.used) +=
            i / 3 == 2 ? UINT64_C(2) * client->memory_bytes : shifts[i / 3];
        assert_int_equal(
            client_do(client, VHOST_SET_VRING_ADDR, &address, sizeof(address), NULL, 0), 0);
        ready = (struct pollfd){.fd = client->queue[0].err, .events = POLLIN};
        assert_int_equal(poll(&ready, 1, CLIENT_PATIENCE), 1);
    }
    next_is_served();
}

/* ---- memory that is taken away ---- */

enum taken {
    ALL_MEMORY,
    DATA_ONLY,
    INFLIGHT,
    LOG,
    TAKEN,
};

static void submit_all(uint32_t type)
{
    for (int i = 0; i < (int)RING; i++) {
        bool is_write = type == OUT;

        client_submit(client, 0, i, type, (uint64_t)i * SLOT_BYTES, is_write ? SLOT_BYTES : 0,
                      is_write ? 0 : SLOT_BYTES, 2);
    }
}

static int share_own_inflight(void)
{
    client->inflight = (struct vhost_wire_inflight){.size = 65536, .queues = 2, .queue_size = RING};
    client->inflight_fd = memfd_create("inflight", MFD_CLOEXEC);
    return ftruncate(client->inflight_fd, 65536);
}

static int share_log(void)
{
    struct vhost_wire_log log = {.size = 4096 + CLIENT_GUEST / 4096 / 8};
    struct vhost_wire_address address;
    struct vhost_message reply;
    int fd = memfd_create("log", MFD_CLOEXEC);

    client_queue_address(client, 0, &address);
    address.flags = 1;
    if (ftruncate(fd, (off_t)log.size) ||
        client_send(client, VHOST_SET_LOG_BASE, 0, &log, sizeof(log), &fd, 1) ||
        client_receive(client, VHOST_SET_LOG_BASE, &reply) ||
        client_do_number(client, VHOST_SET_FEATURES,
                         client->features | CLIENT_BIT(CLIENT_F_LOG_ALL)) ||
        client_do(client, VHOST_SET_VRING_ADDR, &address, sizeof(address), NULL, 0))
        return -1;
    return fd;
}

static void take_away(enum taken what, uint32_t type)
{
    struct vhost_wire_state enable = {.index = 0, .num = 1};
    unsigned failed = kit_events(VHOST_EVENT_FAILED);
    int log = -1;

    new_client(0);
    if (what == INFLIGHT)
        assert_int_equal(share_own_inflight(), 0);
    assert_int_equal(client_connect(client, kit.socket), 0);
    if (what == LOG) {
        log = share_log();
        assert_true(log >= 0);
    }
    /* The queue stands still until it is gone: else it might serve all before. */
    assert_int_equal(client_do_state(client, VHOST_SET_VRING_ENABLE, 0, 0), 0);
    submit_all(type);
    /* From here on we may not touch it ourselves. */
    if (what == ALL_MEMORY)
        assert_int_equal(ftruncate(client->memory_fd, 0), 0);
    else if (what == DATA_ONLY)
        assert_int_equal(ftruncate(client->memory_fd, 20480), 0);
    else
        assert_int_equal(ftruncate(what == LOG ? log : client->inflight_fd, 0), 0);
    assert_int_equal(
        client_send(client, VHOST_SET_VRING_ENABLE, 0, &enable, sizeof(enable), NULL, 0), 0);
    assert_true(is_disconnected());
    assert_true(kit_event(VHOST_EVENT_FAILED, failed + 1));
    assert_string_equal(kit_reason(), "shared memory became shorter than it was");
    if (log >= 0)
        close(log);
    others_go_on();
}

static void test_memory_that_is_taken_away(void **state)
{
    (void)state;
    for (unsigned what = 0; what < TAKEN; what++) {
        take_away(what, OUT);
        take_away(what, IN);
    }
    next_is_served();
}

/* ---- memory that changes under us ---- */

struct scribbler {
    pthread_t thread;
    uint8_t *memory; /* mapped a second time, as another process would */
    atomic_bool stop;
    uint64_t seed;
};

/* Descriptors, indices, tables and headers: plausible values where they are, and any others. */
static void *scribble(void *arg)
{
    struct scribbler *scribbler = arg;
    struct client_queue *queue = &client->queue[0];
    struct sim_rng rng;

    sim_rng_seed(&rng, scribbler->seed);
    while (!atomic_load(&scribbler->stop)) {
        uint8_t *to = sim_rng_chance(&rng, 1, 3) ? queue->ring + sim_rng_below(&rng, 256)
                      : sim_rng_chance(&rng, 1, 2)
                          ? queue->ring + CLIENT_AVAIL_AT + sim_rng_below(&rng, 40)
                          : queue->headers + sim_rng_below(&rng, RING * 2304);

        to = scribbler->memory + (to - client->memory);
        /* One bit, mostly: what results is nearly right. */
        if (sim_rng_chance(&rng, 7, 8))
            *to ^= (uint8_t)(1u << sim_rng_below(&rng, 8));
        else
            *to = (uint8_t)sim_rng_next(&rng);
    }
    return NULL;
}

static void under_a_scribbler(unsigned round)
{
    struct scribbler scribbler = {.seed = round};
    uint32_t base;

    new_client(0);
    client->options.without = (round & 1 ? CLIENT_BIT(VIRTIO_F_RING_PACKED) : 0) |
                              (round & 2 ? CLIENT_BIT(VIRTIO_RING_F_INDIRECT_DESC) : 0) |
                              (round & 4 ? CLIENT_BIT(VIRTIO_RING_F_EVENT_IDX) : 0);
    assert_int_equal(client_connect(client, kit.socket), 0);
    scribbler.memory =
        mmap(NULL, client->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, client->memory_fd, 0);
    assert_true(scribbler.memory != MAP_FAILED);
    atomic_init(&scribbler.stop, false);
    assert_int_equal(pthread_create(&scribbler.thread, NULL, scribble, &scribbler), 0);
    for (unsigned i = 0; i < 50; i++) {
        int slot = (int)(i % (RING / 4));

        client->queue[0].descriptors_free = RING;
        client_submit(client, 0, slot, i % 2 ? OUT : IN, (uint64_t)i * 4096, i % 2 ? 4096 : 0,
                      i % 2 ? 0 : 4096, 2);
        (void)eventfd_write(client->queue[0].kick, 1);
        usleep(200);
    }
    /* Whatever became of it, it stops. */
    assert_int_equal(client_stop_queue(client, 0, &base), 0);
    atomic_store(&scribbler.stop, true);
    pthread_join(scribbler.thread, NULL);
    munmap(scribbler.memory, client->memory_bytes);
    others_go_on();
}

static void test_rings_that_change_while_they_are_read(void **state)
{
    (void)state;
    for (unsigned i = 0; i < rounds; i++)
        under_a_scribbler(i);
    next_is_served();
}

/* ---- the end, at any moment ---- */

static void test_an_end_after_any_message(void **state)
{
    (void)state;
    for (unsigned count = 1;; count++) {
        new_client(count % 2 ? CLIENT_BIT(CLIENT_P_MEM_SLOTS) : 0);
        client->sends_left = count;
        if (client_connect(client, kit.socket) == 0)
            break;
        client_disconnect(client);
    }
    next_is_served();
}

static void test_an_end_within_a_message(void **state)
{
    struct vhost_wire_state wire = {.index = 0, .num = 1};
    uint8_t bytes[VHOST_HEADER_BYTES + sizeof(wire)];

    (void)state;
    memcpy(bytes, (uint32_t[]){VHOST_SET_VRING_ENABLE, VHOST_FLAG_VERSION, sizeof(wire)},
           VHOST_HEADER_BYTES);
    memcpy(bytes + VHOST_HEADER_BYTES, &wire, sizeof(wire));
    for (size_t length = 1; length < sizeof(bytes); length++) {
        connected();
        assert_int_equal(send_raw(bytes, length), 0);
        client_disconnect(client);
    }
    /* And one that comes byte by byte. */
    connected();
    for (size_t i = 0; i < sizeof(bytes); i++) {
        assert_int_equal(send_raw(bytes + i, 1), 0);
        usleep(100);
    }
    uint64_t number;

    assert_int_equal(client_get(client, VHOST_GET_FEATURES, &number), 0);
    next_is_served();
}

static void test_an_end_with_requests_in_flight(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2 * rounds; i++) {
        connected();
        submit_all(i % 2 ? OUT : IN);
        client_kick(client, 0);
        if (i % 3 == 0)
            (void)client_wait(client, 0);
        if (i % 5 == 0) /* nobody reads the answer */
            (void)client_send(client, VHOST_GET_FEATURES, 0, NULL, 0, NULL, 0);
        client_disconnect(client);
    }
    next_is_served();
}

/* ---- and the test itself ---- */

static int set_up(void **state)
{
    (void)state;
    others_go_on();
    held = kit_held();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    client_free(client);
    client = NULL;
    if (kit_let_go(held))
        return 0;
    print_error("descriptors %u, then %u; mappings %u, then %u\n", held.descriptors,
                kit_held().descriptors, held.mappings, kit_held().mappings);
    return -1;
}

static int set_up_group(void **state)
{
    struct client_options options = {.queues = 1, .ring_size = RING, .data_bytes = 4096};

    (void)state;
    return kit_make_image() || kit_start(false, NULL) || client_new(&options, &witness) ||
           client_connect(witness, kit.witness);
}

static int tear_down_group(void **state)
{
    (void)state;
    client_free(witness);
    return kit_stop() || kit_remove_image();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_headers_that_are_none),
        TEST(test_payloads_of_wrong_sizes),
        TEST(test_a_request_that_is_not_known),
        TEST(test_requests_with_values_that_cannot_be),
        TEST(test_in_flight_memory_that_cannot_be),
        TEST(test_in_flight_memory_that_holds_nonsense),
        TEST(test_memory_that_is_none),
        TEST(test_no_more_memory_slots_than_there_are),
        TEST(test_more_and_fewer_descriptors_than_needed),
        TEST(test_rings_that_are_not_in_memory),
        TEST(test_memory_that_is_taken_away),
        TEST(test_rings_that_change_while_they_are_read),
        TEST(test_an_end_after_any_message),
        TEST(test_an_end_within_a_message),
        TEST(test_an_end_with_requests_in_flight),
    };
    const char *is_long = getenv("VDISK_TEST_LONG");

    rounds = is_long && strcmp(is_long, "1") == 0 ? 2000 : 40;
    if (vdisk_init())
        return 1;
    return cmocka_run_group_tests(tests, set_up_group, tear_down_group);
}
