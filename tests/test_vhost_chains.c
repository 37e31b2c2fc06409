/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile driver: chains and rings as no driver may make them. The queue is given up or the
 * request fails; the other queue of the device, and those of others, never notice.
 */
#include "vhost_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <endian.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#define RING      16u
#define CHAIN_MAX 300u
#define BYTES     131072u
#define SPLIT     1u
#define PACKED    2u
#define BOTH      3u
#define AVAIL     (1u << VRING_PACKED_DESC_F_AVAIL)
#define NEXT      VRING_DESC_F_NEXT
#define WRITE     VRING_DESC_F_WRITE
#define INDIRECT  VRING_DESC_F_INDIRECT
#define GIVES_UP  (-1) /* in place of a status */
#define OK        VIRTIO_BLK_S_OK
#define FAILS     VIRTIO_BLK_S_IOERR
#define UNKNOWN   VIRTIO_BLK_S_UNSUPP

struct attack {
    const char *name;
    void (*make)(void);
    int status;
    unsigned rings;
    bool direct_only;
};

static struct client *client, *witness;
static bool is_packed;
static struct vring_desc chain[CHAIN_MAX];
static unsigned length;

/* ---- where things are: all in the data of the first slot ---- */

static uint64_t header_at(void)
{
    return client_guest(client, client->queue[0].data);
}

static uint64_t data_at(void)
{
    return header_at() + 4096;
}

static uint64_t status_at(void)
{
    return header_at() + 65536;
}

static uint64_t nowhere(void)
{
    return CLIENT_GUEST + client->memory_bytes + 65536;
}

/* ---- making a chain ---- */

static void step(uint64_t guest, uint32_t bytes, unsigned flags)
{
    if (length > 0)
        chain[length - 1].flags |= NEXT;
    chain[length] = (struct vring_desc){guest, bytes, (uint16_t)flags, (uint16_t)(length + 1)};
    length++;
}

static void header(uint32_t type, uint64_t sector)
{
    struct virtio_blk_outhdr bytes = {.type = type, .sector = sector};

    memcpy(client->queue[0].data, &bytes, sizeof(bytes));
    step(header_at(), sizeof(bytes), 0);
}

static void status(void)
{
    step(status_at(), 1, WRITE);
}

static void read_to(uint64_t guest, uint32_t bytes)
{
    header(VIRTIO_BLK_T_IN, 0);
    step(guest, bytes, WRITE);
    status();
}

static void write_from(uint64_t guest, uint32_t bytes)
{
    header(VIRTIO_BLK_T_OUT, 0);
    step(guest, bytes, 0);
    status();
}

static void ranges(uint32_t type, uint32_t bytes, uint64_t sector, uint32_t sectors, uint32_t flags)
{
    struct virtio_blk_discard_write_zeroes range = {sector, sectors, flags};

    for (uint32_t at = 0; at < bytes; at += sizeof(range))
        memcpy(client->queue[0].data + 4096 + at, &range, sizeof(range));
    header(type, 0);
    if (bytes > 0)
        step(data_at(), bytes, 0);
    status();
}

/* ---- chains ---- */

static void only_a_status(void)
{
    status();
}
static void no_status(void)
{
    header(VIRTIO_BLK_T_OUT, 0);
    step(data_at(), 512, 0);
}
static void short_header(void)
{
    header(VIRTIO_BLK_T_IN, 0);
    chain[0].len = 15;
    status();
}
static void header_nowhere(void)
{
    step(nowhere(), 16, 0);
    status();
}
static void header_in_pieces(void)
{
    header(VIRTIO_BLK_T_IN, 0);
    chain[0].len = 5;
    step(header_at() + 5, 11, 0);
    step(data_at(), 511, WRITE);
    step(data_at() + 511, 2, WRITE); /* the status is its second byte */
    memset(client->queue[0].data + 65536, 0, 1);
}
static void status_nowhere(void)
{
    header(VIRTIO_BLK_T_GET_ID, 0);
    step(data_at(), 20, WRITE);
    step(nowhere(), 1, WRITE);
}
static void read_to_nowhere(void)
{
    read_to(nowhere(), 4096);
}
static void write_from_nowhere(void)
{
    write_from(nowhere(), 4096);
}
static void read_before_memory(void)
{
    read_to(CLIENT_GUEST - 512, 1024);
}
static void read_past_memory(void)
{
    read_to(CLIENT_GUEST + client->memory_bytes - 512, 1024);
}
static void write_past_memory(void)
{
    write_from(CLIENT_GUEST + client->memory_bytes - 512, 1024);
}
static void address_wraps(void)
{
    write_from(UINT64_MAX - 511, 1024);
}
static void address_is_the_last(void)
{
    read_to(UINT64_MAX, 512);
}
static void data_of_no_length(void)
{
    read_to(data_at(), 0);
}
static void no_length_at_all(void)
{
    step(header_at(), 0, 0);
    step(status_at(), 0, WRITE);
}
static void huge_data(void)
{
    read_to(data_at(), UINT32_MAX);
}
static void huge_data_in_parts(void)
{
    header(VIRTIO_BLK_T_OUT, 0);
    for (unsigned i = 0; i < 4; i++)
        step(data_at(), UINT32_C(1) << 30, 0);
    status();
}
static void large_data(void)
{
    read_to(data_at(), (uint32_t)KIT_SIZE + 512);
}
static void writable_before_readable(void)
{
    header(VIRTIO_BLK_T_OUT, 0);
    status();
    step(data_at(), 512, 0);
}
static void read_to_what_is_readable(void)
{
    header(VIRTIO_BLK_T_IN, 0);
    step(data_at(), 512, 0);
    status();
}
static void write_from_what_is_writable(void)
{
    header(VIRTIO_BLK_T_OUT, 0);
    step(data_at(), 512, WRITE);
    status();
}
static void part_of_a_sector(void)
{
    read_to(data_at(), 513);
}
static void sector_past_the_end(void)
{
    header(VIRTIO_BLK_T_OUT, KIT_SIZE / 512);
    step(data_at(), 512, 0);
    status();
}
static void sector_wraps(void)
{
    header(VIRTIO_BLK_T_IN, UINT64_MAX / 512 + 1);
    step(data_at(), 512, WRITE);
    status();
}
static void request_of_no_kind(void)
{
    header(4711, 0);
    step(data_at(), 512, 0);
    status();
}
static void no_ranges(void)
{
    ranges(VIRTIO_BLK_T_DISCARD, 0, 0, 8, 0);
}
static void part_of_a_range(void)
{
    ranges(VIRTIO_BLK_T_DISCARD, 15, 0, 8, 0);
}
static void too_many_ranges(void)
{
    ranges(VIRTIO_BLK_T_WRITE_ZEROES, 65 * 16, 0, 8, 0);
}
static void range_past_the_end(void)
{
    ranges(VIRTIO_BLK_T_DISCARD, 16, KIT_SIZE / 512 - 1, 2, 0);
}
static void range_wraps(void)
{
    ranges(VIRTIO_BLK_T_WRITE_ZEROES, 16, UINT64_MAX, 2, 0);
}
static void discard_with_unmap(void)
{
    ranges(VIRTIO_BLK_T_DISCARD, 16, 0, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
}
static void range_with_unknown_flags(void)
{
    ranges(VIRTIO_BLK_T_WRITE_ZEROES, 16, 0, 8, 2);
}
static void indirect_within(void)
{
    header(VIRTIO_BLK_T_IN, 0);
    step(data_at(), 32, INDIRECT);
    status();
}
static void table_of(uint64_t guest, uint32_t bytes)
{
    step(guest, bytes, INDIRECT);
}
static void table_nowhere(void)
{
    table_of(nowhere(), 32);
}
static void table_past_memory(void)
{
    table_of(CLIENT_GUEST + client->memory_bytes - 16, 32);
}
static void table_of_no_length(void)
{
    table_of(data_at(), 0);
}
static void table_of_odd_length(void)
{
    table_of(data_at(), 33);
}
static void table_that_is_huge(void)
{
    table_of(CLIENT_GUEST, 1025 * 16);
}
static void table_with_more(void)
{
    table_of(data_at(), 32);
    status();
}
static void chain_in_a_circle(void)
{
    read_to(data_at(), 512);
    chain[1].next = 0;
}
static void next_past_the_end(void)
{
    read_to(data_at(), 512);
    chain[1].next = 4096;
}
static void all_say_next(void)
{
    for (unsigned i = 0; i < RING; i++)
        step(header_at(), 16, NEXT);
}

static const struct attack attacks[] = {
    {"only a status", only_a_status, GIVES_UP, BOTH, false},
    {"no status", no_status, GIVES_UP, BOTH, false},
    {"short header", short_header, GIVES_UP, BOTH, false},
    {"header nowhere", header_nowhere, GIVES_UP, BOTH, false},
    {"header in pieces", header_in_pieces, OK, BOTH, false},
    {"status nowhere", status_nowhere, GIVES_UP, BOTH, false},
    {"read to nowhere", read_to_nowhere, FAILS, BOTH, false},
    {"write from nowhere", write_from_nowhere, FAILS, BOTH, false},
    {"read before memory", read_before_memory, FAILS, BOTH, false},
    {"read past memory", read_past_memory, FAILS, BOTH, false},
    {"write past memory", write_past_memory, FAILS, BOTH, false},
    {"address wraps", address_wraps, FAILS, BOTH, false},
    {"address is the last", address_is_the_last, FAILS, BOTH, false},
    {"data of no length", data_of_no_length, OK, BOTH, false},
    {"no length at all", no_length_at_all, GIVES_UP, BOTH, false},
    {"huge data", huge_data, GIVES_UP, BOTH, false},
    {"huge data in parts", huge_data_in_parts, GIVES_UP, BOTH, false},
    {"large data", large_data, FAILS, BOTH, false},
    {"writable before readable", writable_before_readable, GIVES_UP, BOTH, false},
    {"read to what is readable", read_to_what_is_readable, OK, BOTH, false},
    {"write from what is writable", write_from_what_is_writable, OK, BOTH, false},
    {"part of a sector", part_of_a_sector, FAILS, BOTH, false},
    {"sector past the end", sector_past_the_end, FAILS, BOTH, false},
    {"sector wraps", sector_wraps, FAILS, BOTH, false},
    {"request of no kind", request_of_no_kind, UNKNOWN, BOTH, false},
    {"no ranges", no_ranges, FAILS, BOTH, false},
    {"part of a range", part_of_a_range, FAILS, BOTH, false},
    {"too many ranges", too_many_ranges, FAILS, BOTH, false},
    {"range past the end", range_past_the_end, FAILS, BOTH, false},
    {"range wraps", range_wraps, FAILS, BOTH, false},
    {"discard with unmap", discard_with_unmap, UNKNOWN, BOTH, false},
    {"range with unknown flags", range_with_unknown_flags, UNKNOWN, BOTH, false},
    {"indirect within", indirect_within, GIVES_UP, BOTH, false},
    {"table nowhere", table_nowhere, GIVES_UP, BOTH, true},
    {"table past memory", table_past_memory, GIVES_UP, BOTH, true},
    {"table of no length", table_of_no_length, GIVES_UP, BOTH, true},
    {"table of odd length", table_of_odd_length, GIVES_UP, BOTH, true},
    {"table that is huge", table_that_is_huge, GIVES_UP, BOTH, true},
    {"table with more", table_with_more, GIVES_UP, BOTH, true},
    {"chain in a circle", chain_in_a_circle, GIVES_UP, SPLIT, false},
    {"next past the end", next_past_the_end, GIVES_UP, SPLIT, false},
    {"all say next", all_say_next, GIVES_UP, BOTH, true},
};

/* ---- making it available ---- */

static void put_split(void *to)
{
    memcpy(to, chain, length * sizeof(*chain));
}

static void put_packed(struct vring_packed_desc *to, bool in_table)
{
    for (unsigned i = 0; i < length; i++)
        to[i] = (struct vring_packed_desc){
            .addr = chain[i].addr,
            .len = chain[i].len,
            .flags = (uint16_t)(chain[i].flags | (in_table ? 0 : AVAIL)),
        };
}

static void make_available(bool through_table)
{
    struct client_queue *queue = &client->queue[0];
    uint16_t *avail = (void *)(queue->ring + CLIENT_AVAIL_AT);

    if (through_table) {
        if (is_packed)
            put_packed((void *)queue->tables, true);
        else
            put_split(queue->tables);
        chain[0] = (struct vring_desc){.addr = client_guest(client, queue->tables),
                                       .len = length * (uint32_t)sizeof(*chain),
                                       .flags = INDIRECT};
        length = 1;
    }
    queue->slot[0].busy = true;
    queue->slot[0].descriptors = (uint16_t)length;
    if (is_packed) {
        put_packed((void *)queue->ring, false);
    } else {
        put_split(queue->ring);
        avail[2] = 0;
        __atomic_store_n(&avail[1], 1, __ATOMIC_RELEASE);
    }
    (void)eventfd_write(queue->kick, 1);
}

static bool is_given_up(void)
{
    struct pollfd ready = {.fd = client->queue[0].err, .events = POLLIN};

    return poll(&ready, 1, CLIENT_PATIENCE) > 0;
}

/* ---- around it ---- */

static void connected(uint64_t without)
{
    struct client_options options = {
        .queues = 2,
        .ring_size = RING,
        .data_bytes = BYTES,
        .without = without | (is_packed ? 0 : CLIENT_BIT(VIRTIO_F_RING_PACKED)),
    };

    client_free(client);
    client = NULL;
    assert_int_equal(client_new(&options, &client), 0);
    assert_int_equal(client_connect(client, kit.socket), 0);
    length = 0;
}

/* The other queue, and the other connection. */
static void others_go_on(void)
{
    char id[VIRTIO_BLK_ID_BYTES], bytes[512] = {1};

    assert_int_equal(client_request(client, 1, VIRTIO_BLK_T_GET_ID, 0, id, sizeof(id)), OK);
    assert_int_equal(client_request(client, 1, VIRTIO_BLK_T_OUT, 0, bytes, 512), OK);
    assert_int_equal(client_request(witness, 0, VIRTIO_BLK_T_IN, 0, bytes, 512), OK);
    assert_int_equal(bytes[0], 1);
}

static void check(const struct attack *attack, bool through_table)
{
    connected(0);
    attack->make();
    make_available(through_table);
    if (attack->status == GIVES_UP) {
        assert_true(is_given_up());
        assert_int_equal(client_poll(client, 0), 0);
    } else {
        assert_int_equal(client_wait(client, 0), 0);
        if (attack->make != header_in_pieces)
            assert_int_equal(client->queue[0].data[65536], attack->status);
    }
    others_go_on();
}

static void test_chains_that_no_driver_may_make(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(attacks) / sizeof(*attacks); i++) {
        const struct attack *attack = &attacks[i];

        if (!(attack->rings & (is_packed ? PACKED : SPLIT)))
            continue;
        print_message("%s\n", attack->name);
        check(attack, false);
        if (!attack->direct_only)
            check(attack, true);
    }
}

static void test_what_was_not_negotiated_is_refused(void **state)
{
    (void)state;
    connected(CLIENT_BIT(VIRTIO_RING_F_INDIRECT_DESC));
    read_to(data_at(), 512);
    make_available(true);
    assert_true(is_given_up());
    others_go_on();
    connected(CLIENT_BIT(VIRTIO_BLK_F_DISCARD));
    ranges(VIRTIO_BLK_T_DISCARD, 16, 0, 8, 0);
    make_available(false);
    assert_int_equal(client_wait(client, 0), 0);
    assert_int_equal(client->queue[0].data[65536], UNKNOWN);
}

static void test_a_circle_in_a_table(void **state)
{
    (void)state;
    if (is_packed)
        return; /* a table of a packed ring is not linked */
    connected(0);
    read_to(data_at(), 512);
    chain[2].flags |= NEXT;
    chain[2].next = 2;
    make_available(true);
    assert_true(is_given_up());
    others_go_on();
}

static void test_indices_that_jump(void **state)
{
    static const uint16_t jumps[] = {RING + 1, 0x8000, UINT16_MAX};

    (void)state;
    if (is_packed)
        return; /* it has none */
    for (unsigned i = 0; i < 4; i++) {
        connected(0);
        uint16_t *avail = (void *)(client->queue[0].ring + CLIENT_AVAIL_AT);

        avail[2] = i < 3 ? 0 : RING; /* and a head that is none */
        __atomic_store_n(&avail[1], i < 3 ? jumps[i] : 1, __ATOMIC_RELEASE);
        assert_int_equal(eventfd_write(client->queue[0].kick, 1), 0);
        assert_true(is_given_up());
        others_go_on();
    }
}

/* A given-up queue answers GET_VRING_BASE, and works after a reset. */
static void test_a_queue_that_was_given_up_can_be_reset(void **state)
{
    char id[VIRTIO_BLK_ID_BYTES];
    uint32_t base;

    (void)state;
    connected(0);
    only_a_status();
    make_available(false);
    assert_true(is_given_up());
    assert_int_equal(client_stop_queue(client, 0, &base), 0);
    assert_int_equal(client_do(client, VHOST_RESET_DEVICE, NULL, 0, NULL, 0), 0);
    client_queue_reset(client, 0);
    assert_int_equal(client_start_queue(client, 0), 0);
    assert_int_equal(client_request(client, 0, VIRTIO_BLK_T_GET_ID, 0, id, sizeof(id)), OK);
}

/* ---- and the test itself ---- */

static int set_up(void **state)
{
    struct client_options options = {.queues = 1, .ring_size = RING, .data_bytes = 4096};

    (void)state;
    return kit_make_image() || kit_start(false, NULL) || client_new(&options, &witness) ||
           client_connect(witness, kit.witness);
}

static int tear_down(void **state)
{
    (void)state;
    client_free(client);
    client_free(witness);
    client = witness = NULL;
    return kit_stop() || kit_remove_image();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chains_that_no_driver_may_make),
        cmocka_unit_test(test_what_was_not_negotiated_is_refused),
        cmocka_unit_test(test_a_circle_in_a_table),
        cmocka_unit_test(test_indices_that_jump),
        cmocka_unit_test(test_a_queue_that_was_given_up_can_be_reset),
    };
    int failed = 0;

    if (vdisk_init())
        return 1;
    for (unsigned i = 0; i < 2; i++) {
        is_packed = i;
        failed +=
            cmocka_run_group_tests_name(is_packed ? "packed" : "split", tests, set_up, tear_down);
    }
    return failed;
}
