/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vhost-user-blk device, by a front end and driver of our own: every byte is compared, with
 * split and packed rings, with io_uring and with the fall-back.
 */
#include "vhost_blk.h"
#include "vhost_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB       (UINT64_C(1) << 20)
#define BLOCK     UINT64_C(4096)
#define OK        VIRTIO_BLK_S_OK
#define IN        VIRTIO_BLK_T_IN
#define OUT       VIRTIO_BLK_T_OUT
#define FLUSH     VIRTIO_BLK_T_FLUSH
#define RING_BITS (CLIENT_BIT(VIRTIO_RING_F_INDIRECT_DESC) | CLIENT_BIT(VIRTIO_RING_F_EVENT_IDX))

static bool no_uring;
static uint64_t ring_without;
static struct client *client;
static uint8_t data[MIB], back[MIB];

static int set_up(void **state)
{
    (void)state;
    client = NULL;
    if (kit_make_image())
        return -1;
    return kit_start(no_uring, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    client_free(client);
    return kit_stop() || kit_remove_image();
}

static void new_client(unsigned queues, uint16_t ring_size, size_t data_bytes, uint64_t without)
{
    struct client_options options = {.queues = queues,
                                     .ring_size = ring_size,
                                     .data_bytes = data_bytes,
                                     .without = without | ring_without};

    client_free(client);
    client = NULL;
    assert_int_equal(client_new(&options, &client), 0);
}

static void connected(unsigned queues, uint16_t ring_size, size_t data_bytes, uint64_t without)
{
    new_client(queues, ring_size, data_bytes, without);
    assert_int_equal(client_connect(client, kit.socket), 0);
}

static void fill(unsigned seed)
{
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)((i >> 9) * 31 + i + seed * 7);
}

static int request(uint32_t type, uint64_t offset, void *bytes, uint32_t length)
{
    return client_request(client, 0, type, offset, bytes, length);
}

static int ranges(uint32_t type, uint64_t a, uint32_t a_bytes, uint64_t b, uint32_t b_bytes)
{
    struct virtio_blk_discard_write_zeroes range[2] = {
        {.sector = a / 512, .num_sectors = a_bytes / 512},
        {.sector = b / 512, .num_sectors = b_bytes / 512},
    };

    return request(type, 0, range, sizeof(range));
}

/* ---- requests ---- */

static void submit_writes(int count, uint64_t at)
{
    for (int i = 0; i < count; i++) {
        memcpy(client_data(client, 0, i), data, MIB);
        client_submit(client, 0, i, OUT, at + (uint64_t)i * MIB, MIB, 0, 2);
    }
    client_kick(client, 0);
}

static void all_answered(int count)
{
    for (int i = 0; i < count; i++) {
        while (client->queue[0].slot[i].busy)
            assert_int_equal(client_wait(client, 0), 0);
        assert_int_equal(client->queue[0].slot[i].status, OK);
    }
}

static void every_kind_of_request(void)
{
    struct virtio_blk_config config;
    struct export_info info;
    char id[VIRTIO_BLK_ID_BYTES], serial[VIRTIO_BLK_ID_BYTES];

    assert_int_equal(client_config(client, &config), 0);
    assert_int_equal(config.capacity, KIT_SIZE / 512);
    assert_int_equal(config.num_queues, VHOST_QUEUES_DEFAULT_MAX);
    export_get_info(kit.export, &info);
    vhost_blk_serial(serial, info.image_id);
    assert_int_equal(request(VIRTIO_BLK_T_GET_ID, 0, id, sizeof(id)), OK);
    assert_memory_equal(id, serial, sizeof(id));
    fill(1);
    assert_int_equal(request(OUT, MIB + 512, data, sizeof(data)), OK);
    assert_int_equal(request(FLUSH, 0, NULL, 0), OK);
    assert_int_equal(request(IN, MIB + 512, back, sizeof(back)), OK);
    assert_memory_equal(back, data, sizeof(data));
    assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, MIB + 8192, 65536, 2 * MIB - 4096, 4096), OK);
    assert_int_equal(ranges(VIRTIO_BLK_T_WRITE_ZEROES, 2 * MIB - 512, 0, MIB + 512, 1536), OK);
    memset(data, 0, 1536);
    memset(data + 8192 - 512, 0, 65536);
    memset(data + MIB - 4096 - 512, 0, 4096);
    assert_int_equal(request(IN, MIB + 512, back, sizeof(back)), OK);
    assert_memory_equal(back, data, sizeof(data));
    assert_int_equal(request(OUT, KIT_SIZE - 512, data, 1024), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(IN, KIT_SIZE, back, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(77, 0, data, 512), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(request(OUT, KIT_SIZE - 512, data, 512), OK);
}

/* With and without indirect tables, with and without the event index. */
static void test_every_kind_of_request_is_done(void **state)
{
    static const uint64_t without[] = {0, RING_BITS, CLIENT_BIT(VIRTIO_RING_F_INDIRECT_DESC),
                                       CLIENT_BIT(VIRTIO_RING_F_EVENT_IDX)};

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        connected(1, 16, MIB, without[i]);
        every_kind_of_request();
    }
}

static void test_zeroes_with_and_without_unmap(void **state)
{
    (void)state;
    connected(1, 16, MIB, 0);
    for (uint32_t flags = 0; flags < 2; flags++) {
        struct virtio_blk_discard_write_zeroes range = {
            .sector = 16, .num_sectors = 1024, .flags = flags};

        fill(flags);
        assert_int_equal(request(OUT, 0, data, sizeof(data)), OK);
        assert_int_equal(request(VIRTIO_BLK_T_WRITE_ZEROES, 0, &range, sizeof(range)), OK);
        memset(data + 8192, 0, 524288);
        assert_int_equal(request(IN, 0, back, sizeof(back)), OK);
        assert_memory_equal(back, data, sizeof(data));
    }
}

/* One that knows none of the protocol's features: a table of memory, rings that run from their
 * kick on, no acknowledgements. */
static void test_a_front_end_of_old(void **state)
{
    struct client_options options = {.queues = 1,
                                     .ring_size = 16,
                                     .data_bytes = MIB,
                                     .without = ring_without,
                                     .protocol_without = UINT64_MAX};

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        client_free(client);
        client = NULL;
        assert_int_equal(client_new(&options, &client), 0);
        assert_int_equal(client_connect(client, kit.socket), 0);
        fill(i);
        assert_int_equal(request(OUT, 512, data, sizeof(data)), OK);
        assert_int_equal(request(IN, 512, back, sizeof(back)), OK);
        assert_memory_equal(back, data, sizeof(data));
        options.without |= CLIENT_BIT(CLIENT_F_PROTOCOL);
    }
}

/* SET_MEM_TABLE again and again, with requests in flight. */
static void test_a_table_of_memory_is_replaced(void **state)
{
    struct client_options options = {.queues = 1,
                                     .ring_size = 16,
                                     .data_bytes = MIB,
                                     .without = ring_without,
                                     .protocol_without = CLIENT_BIT(CLIENT_P_MEM_SLOTS)};

    (void)state;
    client_free(client);
    client = NULL;
    assert_int_equal(client_new(&options, &client), 0);
    assert_int_equal(client_connect(client, kit.socket), 0);
    for (unsigned i = 0; i < 20; i++) {
        fill(i);
        submit_writes(8, 0);
        assert_int_equal(client_share_memory(client), 0);
        all_answered(8);
        assert_int_equal(request(IN, 7 * MIB, back, MIB), OK);
        assert_memory_equal(back, data, MIB);
    }
}

static void test_a_long_request_goes_piece_by_piece(void **state)
{
    const uint32_t length = 11 * MIB + 512;
    uint8_t *long_data, *long_back;

    (void)state;
    connected(1, 4, 12 * MIB, 0);
    long_data = malloc(length);
    long_back = malloc(length);
    assert_true(long_data && long_back);
    for (size_t i = 0; i < length; i++)
        long_data[i] = (uint8_t)(i * 2654435761u >> 13);
    assert_int_equal(request(OUT, 512, long_data, length), OK);
    assert_int_equal(request(IN, 512, long_back, length), OK);
    assert_memory_equal(long_back, long_data, length);
    free(long_data);
    free(long_back);
}

/* ---- many at once ---- */

#define QUEUES     4u
#define SLOT_BYTES (16 * BLOCK)
#define PART       (KIT_SIZE / QUEUES)

static uint8_t model[KIT_SIZE];
static bool block_busy[KIT_SIZE / BLOCK];
static uint32_t random_state;

static uint32_t next_random(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

static bool claim(uint64_t offset, uint64_t length, bool is_busy)
{
    for (uint64_t at = offset; is_busy && at < offset + length; at += BLOCK)
        if (block_busy[at / BLOCK])
            return false;
    for (uint64_t at = offset; at < offset + length; at += BLOCK)
        block_busy[at / BLOCK] = is_busy;
    return true;
}

static bool submit_random(unsigned index)
{
    int slot = client_slot(client, index);
    uint32_t length = (uint32_t)(BLOCK * (1 + next_random() % 16));
    uint64_t offset = index * PART + next_random() % ((PART - SLOT_BYTES) / BLOCK) * BLOCK;
    bool is_write = next_random() % 2;

    if (slot < 0 || !claim(offset, length, true))
        return false;
    uint8_t *bytes = client_data(client, index, slot);

    for (uint32_t i = 0; is_write && i < length; i += 4) {
        uint32_t word = next_random();

        memcpy(bytes + i, &word, 4);
    }
    if (is_write)
        memcpy(model + offset, bytes, length);
    else
        memset(bytes, 0xee, length);
    client_submit(client, index, slot, is_write ? OUT : IN, offset, is_write ? length : 0,
                  is_write ? 0 : length, 1 + next_random() % CLIENT_SEGMENTS);
    return true;
}

static unsigned reap(unsigned index)
{
    struct client_queue *queue = &client->queue[index];
    unsigned count = 0;

    for (int i = 0; i < client->options.ring_size; i++) {
        struct client_slot *slot = &queue->slot[i];

        if (!slot->ended)
            continue;
        slot->ended = false;
        count++;
        assert_int_equal(slot->status, OK);
        assert_int_equal(slot->written, slot->type == IN ? slot->length + 1 : 1);
        if (slot->type == IN)
            assert_memory_equal(client_data(client, index, i), model + slot->offset, slot->length);
        claim(slot->offset, slot->length, false);
    }
    return count;
}

static void run_at_random(unsigned requests)
{
    unsigned begun = 0, ended = 0;

    while (ended < requests) {
        for (unsigned q = 0; q < QUEUES; q++) {
            for (unsigned i = 0; i < 8 && begun < requests; i++)
                begun += submit_random(q);
            client_kick(client, q);
        }
        for (unsigned q = 0; q < QUEUES; q++) {
            unsigned busy = 0;

            for (unsigned i = 0; i < client->options.ring_size; i++)
                busy += client->queue[q].slot[i].busy;
            if (busy > 16 || (busy > 0 && begun == requests))
                assert_int_equal(client_wait(client, q), 0);
            else
                (void)client_poll(client, q);
            ended += reap(q);
        }
    }
}

static void test_many_requests_of_many_queues(void **state)
{
    (void)state;
    memset(model, 0, sizeof(model));
    memset(block_busy, 0, sizeof(block_busy));
    random_state = 1;
    connected(QUEUES, 64, SLOT_BYTES, 0);
    run_at_random(4000);
    /* From another life: indices begin anew, the bytes are there. */
    connected(QUEUES, 128, SLOT_BYTES, RING_BITS);
    run_at_random(4000);
}

static void test_more_data_than_are_held_at_once(void **state)
{
    enum {
        COUNT = 64
    };

    (void)state;
    connected(1, COUNT, 4 * MIB, 0);
    for (int i = 0; i < COUNT; i++) {
        memset(client_data(client, 0, i), i, 4 * MIB);
        assert_int_equal(client_slot(client, 0), i);
        client_submit(client, 0, i, OUT, (uint64_t)(i % 8) * 4 * MIB, 4 * MIB, 0, 3);
    }
    client_kick(client, 0);
    for (int i = 0; i < COUNT; i++)
        while (client->queue[0].slot[i].busy)
            assert_int_equal(client_wait(client, 0), 0);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(client->queue[0].slot[i].status, OK);
    assert_true(atomic_load(&export_stats(kit.export)->op[STATS_WRITE].bytes) == COUNT * 4 * MIB);
}

/* ---- the life of a queue ---- */

static void test_a_queue_stops_when_its_requests_have_ended(void **state)
{
    uint32_t base;

    (void)state;
    connected(2, 64, MIB, 0);
    for (unsigned round = 0; round < 3; round++) {
        fill(round);
        submit_writes(16, 0);
        assert_int_equal(client_wait(client, 0), 0);
        assert_int_equal(client_stop_queue(client, 0, &base), 0);
        (void)client_poll(client, 0);
        /* What was taken is answered. */
        if (client->features & CLIENT_BIT(VIRTIO_F_RING_PACKED))
            assert_int_equal(base & 0xffff, base >> 16);
        assert_int_equal(base & 0xffff, client_queue_base(client, 0) & 0xffff);
        assert_int_equal(client_request(client, 1, IN, 0, back, 512), OK);
        assert_int_equal(client_start_queue(client, 0), 0);
        all_answered(16);
        for (int i = 0; i < 16; i++) {
            assert_int_equal(client->queue[0].slot[i].answers, round + 1);
            assert_int_equal(request(IN, (uint64_t)i * MIB, back, MIB), OK);
            assert_memory_equal(back, data, MIB);
            client->queue[0].slot[0].answers = round + 1; /* it was used for the reads */
        }
    }
}

static void test_a_kick_may_come_before_the_queue_is_enabled(void **state)
{
    uint64_t number = 0;

    (void)state;
    new_client(1, 16, MIB, 0);
    client->fd = client_dial(kit.socket);
    assert_int_equal(client_negotiate(client), 0);
    assert_int_equal(client_share_memory(client), 0);
    assert_int_equal(client_set_up_queue(client, 0), 0);
    assert_int_equal(client_do(client, VHOST_SET_VRING_KICK, &number, 8, &client->queue[0].kick, 1),
                     0);
    submit_writes(1, 0);
    assert_int_equal(eventfd_write(client->queue[0].kick, 1), 0);
    usleep(20000);
    assert_int_equal(client_poll(client, 0), 0); /* not before */
    assert_int_equal(client_do_state(client, VHOST_SET_VRING_ENABLE, 0, 1), 0);
    all_answered(1);
}

static void test_events_may_be_replaced_in_flight(void **state)
{
    struct client_queue *queue;
    uint64_t number = 0;

    (void)state;
    connected(1, 16, MIB, 0);
    queue = &client->queue[0];
    for (unsigned i = 0; i < 20; i++) {
        int *event = i % 2 ? &queue->kick : &queue->call;

        submit_writes(8, 0);
        close(*event);
        *event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        assert_int_equal(client_do(client, i % 2 ? VHOST_SET_VRING_KICK : VHOST_SET_VRING_CALL,
                                   &number, 8, event, 1),
                         0);
        all_answered(8);
    }
}

static void test_a_device_is_reset(void **state)
{
    uint64_t status = 77;

    (void)state;
    connected(1, 16, MIB, 0);
    assert_int_equal(client_do_number(client, VHOST_SET_STATUS, 15), 0);
    assert_int_equal(client_get(client, VHOST_GET_STATUS, &status), 0);
    assert_int_equal(status, 15);
    assert_int_equal(request(OUT, 0, data, 512), OK);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(i ? client_do(client, VHOST_RESET_DEVICE, NULL, 0, NULL, 0)
                           : client_do_number(client, VHOST_SET_STATUS, 0),
                         0);
        assert_int_equal(client_get(client, VHOST_GET_STATUS, &status), 0);
        assert_int_equal(status, 0);
        client_queue_reset(client, 0);
        assert_int_equal(client_start_queue(client, 0), 0);
        assert_int_equal(request(OUT, 0, data, 512), OK);
    }
}

/* ---- the cache ---- */

static atomic_uint syncs; /* of the fall-back, whose calls we see */

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
    atomic_fetch_add(&syncs, 1);
    return __real_fdatasync(fd);
}

static unsigned syncs_of_writes(void)
{
    assert_int_equal(request(OUT, 0, data, 4096), OK); /* the first may bring one along */
    unsigned before = atomic_load(&syncs);

    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(request(OUT, 4096, data, 4096), OK);
    return atomic_load(&syncs) - before;
}

static void set_cache(uint8_t on)
{
    struct vhost_wire_config config = {
        .offset = offsetof(struct virtio_blk_config, wce), .size = 1, .bytes = {on}};
    struct virtio_blk_config seen;

    assert_int_equal(client_do(client, VHOST_SET_CONFIG, &config, 13, NULL, 0), 0);
    assert_int_equal(client_config(client, &seen), 0);
    assert_int_equal(seen.wce, on);
}

/* Switched off by the driver, or with one that cannot flush, each write is synced. */
static void test_the_cache_is_switched_off_and_on(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        bool is_synced = i == 1 || i == 3;

        connected(1, 16, MIB, i == 3 ? CLIENT_BIT(VIRTIO_BLK_F_FLUSH) : 0);
        set_cache(i != 1);
        unsigned count = syncs_of_writes();

        if (no_uring && is_synced)
            assert_true(count >= 20);
        else
            assert_true(count <= 2);
        assert_int_equal(client_do(client, VHOST_RESET_DEVICE, NULL, 0, NULL, 0), 0);
        struct virtio_blk_config seen;

        assert_int_equal(client_config(client, &seen), 0);
        assert_int_equal(seen.wce, 1);
    }
}

/* ---- memory ---- */

static void test_memory_comes_and_goes(void **state)
{
    const size_t bytes = 2 * MIB;
    int fd = memfd_create("more", MFD_CLOEXEC);
    uint8_t *more;
    struct vhost_wire_slot slot = {
        .region = {.guest = UINT64_C(1) << 40, .size = bytes, .user = 4096}};

    (void)state;
    connected(2, 16, MIB, 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    more = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(more != MAP_FAILED);
    fill(3);
    assert_int_equal(request(OUT, 0, data, MIB), OK);
    for (unsigned i = 0; i < 3; i++) {
        uint8_t *own = client->queue[0].data;

        assert_int_equal(client_do(client, VHOST_ADD_MEM_REG, &slot, sizeof(slot), &fd, 1), 0);
        assert_int_equal(client_do(client, VHOST_ADD_MEM_REG, &slot, sizeof(slot), &fd, 1), -EIO);
        memset(more, 0, bytes);
        /* The slot's data at the new address: only its guest address counts for the driver. */
        client->queue[0].data = client->memory + (slot.region.guest - CLIENT_GUEST) + 4096;
        client_submit(client, 0, 0, IN, 0, 0, MIB, 2);
        client->queue[0].data = own;
        client_kick(client, 0);
        all_answered(1);
        assert_memory_equal(more + 4096, data, MIB);
        assert_int_equal(client_do(client, VHOST_REM_MEM_REG, &slot, sizeof(slot), NULL, 0), 0);
        assert_int_equal(client_do(client, VHOST_REM_MEM_REG, &slot, sizeof(slot), NULL, 0), -EIO);
        assert_int_equal(request(IN, 0, back, MIB), OK);
    }
    munmap(more, bytes);
    close(fd);
}

static bool is_marked(const uint8_t *bits, uint64_t page)
{
    return bits[page / 8] & 1 << page % 8;
}

/* Of many requests, on all pages but those that the driver itself writes. */
static void every_change_is_marked(uint8_t *bits, uint64_t bytes)
{
    struct client_queue *queue = &client->queue[0];
    uint8_t *before = malloc(client->memory_bytes);
    unsigned changed = 0;

    assert_non_null(before);
    fill(9);
    assert_int_equal(request(OUT, 0, data, MIB), OK);
    memset(queue->data, 0, 16 * MIB);
    memset(bits, 0, bytes);
    memcpy(before, client->memory, client->memory_bytes);
    for (int i = 0; i < 16; i++)
        client_submit(client, 0, i, IN, (uint64_t)i * 512, 0, (uint32_t)(i * 4096 + 512), 3);
    client_kick(client, 0);
    all_answered(16);
    for (uint64_t at = 0; at < client->memory_bytes; at += BLOCK) {
        bool is_drivers = client->memory + at < queue->ring + CLIENT_USED_AT ||
                          client->memory + at >= queue->tables;

        if (is_drivers || memcmp(before + at, client->memory + at, BLOCK) == 0)
            continue;
        changed++;
        assert_true(is_marked(bits, (CLIENT_GUEST + at) / BLOCK));
    }
    assert_true(changed > 16 * 8);
    free(before);
}

static void test_pages_that_are_written_are_logged(void **state)
{
    const uint64_t pages = CLIENT_GUEST / BLOCK, bytes = pages / 8 + 4096;
    struct vhost_wire_log log = {.size = bytes};
    struct vhost_wire_address address;
    struct vhost_message reply;
    int fd = memfd_create("log", MFD_CLOEXEC);
    uint8_t *bits;

    (void)state;
    connected(1, 16, MIB, 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    bits = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(bits != MAP_FAILED);
    assert_int_equal(client_send(client, VHOST_SET_LOG_BASE, 0, &log, sizeof(log), &fd, 1), 0);
    assert_int_equal(client_receive(client, VHOST_SET_LOG_BASE, &reply), 0);
    assert_int_equal(request(IN, 0, back, 512), OK);
    for (uint64_t i = 0; i < bytes; i++)
        assert_int_equal(bits[i], 0); /* not yet */
    assert_int_equal(client_do_number(client, VHOST_SET_FEATURES,
                                      client->features | CLIENT_BIT(CLIENT_F_LOG_ALL)),
                     0);
    client_queue_address(client, 0, &address);
    address.flags = 1;
    assert_int_equal(client_do(client, VHOST_SET_VRING_ADDR, &address, sizeof(address), NULL, 0),
                     0);
    assert_int_equal(request(IN, 0, back, 3 * BLOCK), OK);
    uint64_t first = client_guest(client, client_data(client, 0, 0)) / BLOCK;

    for (uint64_t page = first; page < first + 3; page++)
        assert_true(is_marked(bits, page));
    assert_false(is_marked(bits, first + 5));
    /* The ring, too. */
    assert_true(is_marked(bits, client->features & CLIENT_BIT(VIRTIO_F_RING_PACKED)
                                    ? client_guest(client, client->queue[0].ring) / BLOCK
                                    : address.log / BLOCK));
    every_change_is_marked(bits, bytes);
    munmap(bits, bytes);
    close(fd);
}

/* ---- the export ---- */

static int change_size(struct vdisk_image *image, void *size)
{
    return vdisk_resize(image, *(const uint64_t *)size, false);
}

static void resize_it(void)
{
    uint64_t size = 2 * KIT_SIZE;
    struct vdisk_error error;

    assert_int_equal(export_call(kit.export, change_size, &size, &error), 0);
    export_resized(kit.export);
}

static void test_the_front_end_hears_of_a_new_size(void **state)
{
    struct virtio_blk_config config;

    (void)state;
    connected(1, 16, MIB, 0);
    assert_int_equal(request(OUT, KIT_SIZE, data, 512), VIRTIO_BLK_S_IOERR);
    assert_false(client_backend(client, 0));
    kit_run(resize_it);
    assert_true(client_backend(client, CLIENT_PATIENCE));
    assert_int_equal(client->config_changes, 1);
    assert_int_equal(client_config(client, &config), 0);
    assert_int_equal(config.capacity, 2 * KIT_SIZE / 512);
    assert_int_equal(request(OUT, KIT_SIZE, data, 512), OK);
}

static int take_snapshot(struct vdisk_image *image, void *name)
{
    return vdisk_snapshot_create(image, name);
}

static void snapshot_it(void)
{
    struct vdisk_error error;

    assert_int_equal(export_call(kit.export, take_snapshot, (void *)(uintptr_t) "one", &error), 0);
}

static void test_a_snapshot_is_a_read_only_drive(void **state)
{
    const struct vhost_options options = {.snapshot = "one"};

    (void)state;
    connected(1, 16, MIB, 0);
    fill(1);
    assert_int_equal(request(OUT, 0, data, MIB), OK);
    kit_run(snapshot_it);
    fill(2);
    assert_int_equal(request(OUT, 0, data, MIB), OK);
    kit_stop();
    assert_int_equal(kit_start(no_uring, &options), 0);
    connected(1, 16, MIB, 0);
    assert_true(client->offered & CLIENT_BIT(VIRTIO_BLK_F_RO));
    fill(1);
    assert_int_equal(request(IN, 0, back, MIB), OK);
    assert_memory_equal(back, data, MIB);
    assert_int_equal(request(OUT, 0, data, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(ranges(VIRTIO_BLK_T_DISCARD, 0, 4096, 4096, 4096), VIRTIO_BLK_S_UNSUPP);
}

static void test_a_read_only_drive(void **state)
{
    const struct vhost_options options = {.read_only = true, .queues_max = 1};
    struct virtio_blk_config config;

    (void)state;
    kit_stop();
    assert_int_equal(kit_start(no_uring, &options), 0);
    connected(1, 16, MIB, 0);
    assert_true(client->offered & CLIENT_BIT(VIRTIO_BLK_F_RO));
    assert_false(client->offered & CLIENT_BIT(VIRTIO_BLK_F_MQ));
    assert_int_equal(client_config(client, &config), 0);
    assert_int_equal(config.num_queues, 1);
    assert_int_equal(request(OUT, 0, data, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(IN, 0, back, 512), OK);
    assert_int_equal(back[0], 0);
}

static void remove_export(void)
{
    struct vdisk_error error;

    export_put(kit.export);
    kit.export = NULL;
    assert_int_equal(export_remove(kit.exports, "drive", &error), 0);
}

static void test_an_export_that_goes_ends_the_connection(void **state)
{
    uint64_t number;

    (void)state;
    connected(1, 16, MIB, 0);
    submit_writes(16, 0);
    kit_run(remove_export);
    assert_true(kit_event(VHOST_EVENT_CLOSED, 1));
    assert_int_equal(client_get(client, VHOST_GET_FEATURES, &number), -EPIPE);
    client_disconnect(client);
    client->fd = client_dial(kit.socket);
    assert_true(client->fd >= 0);
    assert_true(kit_event(VHOST_EVENT_DENIED, 1));
    assert_string_equal(kit_reason(), "there is no such export");
}

static void test_one_front_end_at_a_time(void **state)
{
    struct client *other;
    struct client_options options;
    uint64_t number;

    (void)state;
    connected(1, 16, MIB, 0);
    options = client->options;
    assert_int_equal(client_new(&options, &other), 0);
    other->fd = client_dial(kit.socket);
    assert_true(kit_event(VHOST_EVENT_DENIED, 1));
    assert_true(client_get(other, VHOST_GET_FEATURES, &number) < 0);
    assert_int_equal(request(OUT, 0, data, MIB), OK);
    /* At once, and with requests in flight. */
    for (unsigned i = 0; i < 10; i++) {
        submit_writes(8, 0);
        client_disconnect(client);
        client_free(client);
        client = NULL;
        connected(1, 16, MIB, 0);
        assert_int_equal(request(IN, 0, back, MIB), OK);
    }
    assert_int_equal(kit_events(VHOST_EVENT_DENIED), 1);
    client_free(other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_every_kind_of_request_is_done),
        TEST(test_zeroes_with_and_without_unmap),
        TEST(test_a_front_end_of_old),
        TEST(test_a_table_of_memory_is_replaced),
        TEST(test_a_long_request_goes_piece_by_piece),
        TEST(test_many_requests_of_many_queues),
        TEST(test_more_data_than_are_held_at_once),
        TEST(test_a_queue_stops_when_its_requests_have_ended),
        TEST(test_a_kick_may_come_before_the_queue_is_enabled),
        TEST(test_events_may_be_replaced_in_flight),
        TEST(test_a_device_is_reset),
        TEST(test_the_cache_is_switched_off_and_on),
        TEST(test_memory_comes_and_goes),
        TEST(test_pages_that_are_written_are_logged),
        TEST(test_the_front_end_hears_of_a_new_size),
        TEST(test_a_snapshot_is_a_read_only_drive),
        TEST(test_a_read_only_drive),
        TEST(test_an_export_that_goes_ends_the_connection),
        TEST(test_one_front_end_at_a_time),
    };
    int failed = 0;

    if (vdisk_init())
        return 1;
    for (unsigned i = 0; i < 4; i++) {
        char name[64];

        no_uring = i / 2;
        ring_without = i % 2 ? 0 : CLIENT_BIT(VIRTIO_F_RING_PACKED);
        snprintf(name, sizeof(name), "%s, %s", no_uring ? "threads" : "io_uring",
                 i % 2 ? "packed" : "split");
        failed += cmocka_run_group_tests_name(name, tests, NULL, NULL);
    }
    return failed;
}
