/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A back end that is killed in the middle of many requests, and started again: the front end, which
 * kept its rings and the in-flight memory, has every request answered exactly once, and finds what
 * it wrote.
 *
 * Each block holds the number of its write. What was flushed is there; what was answered and not
 * flushed may be lost with the process, back to any number from the flushed one on.
 */
#include "sim_random.h"
#include "vhost_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define QUEUES     2u
#define RING       64u
#define BLOCK      UINT64_C(4096)
#define SLOT_BYTES (8 * BLOCK)
#define BLOCKS     1024u /* so few that they are written often */
#define OK         VIRTIO_BLK_S_OK

struct block {
    bool busy;
    uint32_t newest;    /* number of the last write that was asked for */
    uint32_t low, high; /* what may be there */
    uint32_t marked;    /* by the flush that is under way: `low` when it was asked for */
    uint32_t flushed;
};

static struct block blocks[BLOCKS];
static unsigned asked[QUEUES][RING];
static bool flushing;
static bool write_through; /* what was answered lasts */
static struct client *client;
static struct sim_rng rng;
static pid_t server;
static unsigned kills, answered, answered_late;

/* ---- requests ---- */

static void fill_block(uint8_t *bytes, uint32_t at, uint32_t number)
{
    for (unsigned i = 0; i < BLOCK; i += 8) {
        memcpy(bytes + i, &at, 4);
        memcpy(bytes + i + 4, &number, 4);
    }
}

static uint32_t number_in(const uint8_t *bytes, uint32_t at)
{
    uint8_t expected[BLOCK];
    uint32_t number;

    memcpy(&number, bytes + 4, 4);
    if (number == 0)
        memset(expected, 0, BLOCK);
    else
        fill_block(expected, at, number);
    assert_memory_equal(bytes, expected, BLOCK); /* whole, and of that place */
    return number;
}

static void submit_flush(unsigned queue, int slot)
{
    flushing = true;
    for (unsigned i = 0; i < BLOCKS; i++)
        blocks[i].marked = blocks[i].low;
    client_submit(client, queue, slot, VIRTIO_BLK_T_FLUSH, 0, 0, 0, 1);
    asked[queue][slot]++;
}

static bool submit_random(unsigned queue)
{
    int slot = client_slot(client, queue);
    uint32_t at = (uint32_t)sim_rng_below(&rng, BLOCKS - 8), count;
    bool is_write = sim_rng_chance(&rng, 2, 3);

    if (slot < 0)
        return false;
    if (!flushing && !write_through && sim_rng_chance(&rng, 1, 30)) {
        submit_flush(queue, slot);
        return true;
    }
    for (count = 0; count < 1 + at % 8 && !blocks[at + count].busy; count++)
        ;
    if (count == 0)
        return false;
    uint8_t *bytes = client_data(client, queue, slot);
    uint32_t length = count * (uint32_t)BLOCK;

    for (uint32_t i = 0; i < count; i++) {
        struct block *block = &blocks[at + i];

        block->busy = true;
        if (is_write)
            fill_block(bytes + i * BLOCK, at + i, block->high = ++block->newest);
    }
    client_submit(client, queue, slot, is_write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, at * BLOCK,
                  is_write ? length : 0, is_write ? 0 : length, 2);
    asked[queue][slot]++;
    return true;
}

static void judge(const struct client_slot *slot, const uint8_t *bytes)
{
    assert_int_equal(slot->status, OK);
    if (slot->type == VIRTIO_BLK_T_FLUSH) {
        for (unsigned i = 0; i < BLOCKS; i++)
            blocks[i].flushed = blocks[i].marked;
        flushing = false;
        return;
    }
    for (uint64_t i = 0; i < slot->length / BLOCK; i++) {
        uint32_t at = (uint32_t)(slot->offset / BLOCK + i);
        struct block *block = &blocks[at];

        block->busy = false;
        if (slot->type == VIRTIO_BLK_T_OUT) {
            block->low = block->high;
            continue;
        }
        uint32_t number = number_in(bytes + i * BLOCK, at);

        assert_in_range(number, block->low, block->high);
        block->low = block->high = number;
    }
}

static void reap(unsigned queue)
{
    (void)client_poll(client, queue);
    for (int i = 0; i < (int)RING; i++) {
        struct client_slot *slot = &client->queue[queue].slot[i];

        assert_int_equal(slot->answers + slot->busy, asked[queue][i]);
        if (!slot->ended)
            continue;
        slot->ended = false;
        answered++;
        judge(slot, client_data(client, queue, i));
    }
}

static bool is_busy(unsigned queue)
{
    for (unsigned i = 0; i < RING; i++)
        if (client->queue[queue].slot[i].busy)
            return true;
    return false;
}

static void wait_for_all(void)
{
    for (unsigned q = 0; q < QUEUES; q++) {
        while (is_busy(q)) {
            assert_int_equal(client_wait(client, q), 0);
            reap(q);
        }
    }
}

static void run(unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        for (unsigned q = 0; q < QUEUES; q++) {
            for (unsigned n = (unsigned)sim_rng_below(&rng, 16); n > 0; n--)
                (void)submit_random(q);
            client_kick(client, q);
            reap(q);
        }
        usleep(100);
    }
}

/* ---- the back end ---- */

/* As front ends do it: again and again. The kernel may keep the socket of one that was killed for a
 * moment, and a connection to that is closed at once. */
static void start_server(bool no_uring)
{
    int result = -ENOENT;

    server = kit_fork(no_uring);
    assert_true(server > 0);
    for (unsigned i = 0; i < 30000 && result; i++) {
        result = client_connect(client, kit.socket);
        if (result)
            usleep(2000);
    }
    assert_int_equal(result, 0);
    for (unsigned q = 0; q < client->options.queues; q++)
        (void)eventfd_write(client->queue[q].kick, 1);
}

static void kill_server(void)
{
    assert_int_equal(kill(server, SIGKILL), 0);
    assert_int_equal(waitpid(server, NULL, 0), server);
    server = 0;
    kills++;
}

/* What was answered before the end counts; what was not flushed may be lost. */
static void take_stock(void)
{
    for (unsigned q = 0; q < QUEUES; q++)
        reap(q);
    for (unsigned i = 0; i < BLOCKS && !write_through; i++)
        blocks[i].low = blocks[i].marked = blocks[i].flushed;
}

static void one_life(unsigned round)
{
    unsigned before = answered;

    start_server(round % 3 == 2);
    if (round % 4 == 3) {
        wait_for_all();
        answered_late += answered - before;
    }
    run(1 + (unsigned)sim_rng_below(&rng, 40));
    kill_server();
    client_disconnect(client);
    take_stock();
}

static void killed_again_and_again(uint64_t without)
{
    struct client_options options = {
        .queues = QUEUES, .ring_size = RING, .data_bytes = SLOT_BYTES, .without = without};
    const char *is_long = getenv("VDISK_TEST_LONG");
    unsigned rounds = is_long && strcmp(is_long, "1") == 0 ? 500 : 25;

    memset(blocks, 0, sizeof(blocks));
    memset(asked, 0, sizeof(asked));
    flushing = false;
    write_through = without & CLIENT_BIT(VIRTIO_BLK_F_FLUSH);
    kills = answered = answered_late = 0;
    assert_int_equal(client_new(&options, &client), 0);
    for (unsigned round = 0; round < rounds; round++)
        one_life(round);
    start_server(false);
    wait_for_all();
    run(20);
    wait_for_all();
    print_message("%u kills, %u answers, %u of them to what a killed one had taken or not seen\n",
                  kills, answered, answered_late);
    assert_true(answered_late > 0);
}

/* ---- tests ---- */

static void test_split_rings(void **state)
{
    (void)state;
    killed_again_and_again(CLIENT_BIT(VIRTIO_F_RING_PACKED));
}

static void test_packed_rings(void **state)
{
    (void)state;
    killed_again_and_again(0);
}

static void test_packed_rings_without_tables(void **state)
{
    (void)state;
    killed_again_and_again(CLIENT_BIT(VIRTIO_RING_F_INDIRECT_DESC) |
                           CLIENT_BIT(VIRTIO_RING_F_EVENT_IDX));
}

static void test_split_rings_without_tables(void **state)
{
    (void)state;
    killed_again_and_again(CLIENT_BIT(VIRTIO_F_RING_PACKED) |
                           CLIENT_BIT(VIRTIO_RING_F_INDIRECT_DESC) |
                           CLIENT_BIT(VIRTIO_RING_F_EVENT_IDX));
}

/* A driver that cannot flush. */
static void test_write_through(void **state)
{
    (void)state;
    killed_again_and_again(CLIENT_BIT(VIRTIO_BLK_F_FLUSH));
}

/* One that has switched the cache off. */
static void test_a_cache_that_was_switched_off(void **state)
{
    struct client_options options = {.queues = 1, .ring_size = RING, .data_bytes = SLOT_BYTES};
    struct vhost_wire_config config = {.offset = offsetof(struct virtio_blk_config, wce),
                                       .size = 1};
    struct virtio_blk_config seen;
    uint8_t bytes[BLOCK];

    (void)state;
    assert_int_equal(client_new(&options, &client), 0);
    start_server(false);
    assert_int_equal(client_config(client, &seen), 0);
    assert_int_equal(seen.wce, 1);
    assert_int_equal(client_do(client, VHOST_SET_CONFIG, &config, 13, NULL, 0), 0);
    assert_int_equal(client_config(client, &seen), 0);
    assert_int_equal(seen.wce, 0);
    for (uint32_t i = 0; i < 50; i++) {
        fill_block(bytes, i, i + 1);
        assert_int_equal(client_request(client, 0, VIRTIO_BLK_T_OUT, i * BLOCK, bytes, BLOCK), OK);
    }
    kill_server();
    client_disconnect(client);
    start_server(false);
    for (uint32_t i = 0; i < 50; i++) {
        assert_int_equal(client_request(client, 0, VIRTIO_BLK_T_IN, i * BLOCK, bytes, BLOCK), OK);
        assert_int_equal(number_in(bytes, i), i + 1);
    }
}

static int set_up(void **state)
{
    (void)state;
    return kit_make_image();
}

static int tear_down(void **state)
{
    (void)state;
    if (server > 0)
        kill_server();
    client_free(client);
    client = NULL;
    return kit_remove_image();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_split_rings),
        TEST(test_packed_rings),
        TEST(test_packed_rings_without_tables),
        TEST(test_split_rings_without_tables),
        TEST(test_write_through),
        TEST(test_a_cache_that_was_switched_off),
    };
    const char *seed = getenv("VDISK_TEST_SEED");
    uint64_t number = seed ? strtoull(seed, NULL, 0) : 1;

    sim_rng_seed(&rng, number);
    print_message("VDISK_TEST_SEED=%llu\n", (unsigned long long)number);
    if (vdisk_init())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
