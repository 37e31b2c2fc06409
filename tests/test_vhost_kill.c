/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A back end that is killed in the middle of many requests, and started again: the front end, which
 * kept its rings and the in-flight memory, has every request answered exactly once, and finds what
 * was answered, flushed or not: its guest knows nothing of the kill.
 *
 * Each block holds the number of its last write, or zeros.
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
    uint32_t newest; /* number of the last write that was asked for */
    uint32_t number; /* what is there, or will be; 0: zeros */
};

struct question {
    uint32_t at, count; /* blocks */
    unsigned asked;
};

static struct block blocks[BLOCKS];
static struct question questions[QUEUES][RING];
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

static bool claim(struct question *question)
{
    uint32_t at = (uint32_t)sim_rng_below(&rng, BLOCKS - 8), count = 0;

    while (count < 1 + at % 8 && !blocks[at + count].busy)
        blocks[at + count++].busy = true;
    question->at = at;
    question->count = count;
    return count > 0;
}

static uint32_t random_type(void)
{
    static const uint32_t types[] = {
        VIRTIO_BLK_T_IN,  VIRTIO_BLK_T_IN,      VIRTIO_BLK_T_OUT,
        VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_OUT,     VIRTIO_BLK_T_OUT,
        VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES};

    return sim_rng_chance(&rng, 1, 30) ? VIRTIO_BLK_T_FLUSH : types[sim_rng_below(&rng, 9)];
}

/* The data, and what will be there. Bytes of them. */
static uint32_t prepare(const struct question *question, uint32_t type, uint8_t *bytes)
{
    const struct virtio_blk_discard_write_zeroes range = {.sector = question->at * BLOCK / 512,
                                                          .num_sectors = question->count *
                                                                         (uint32_t)(BLOCK / 512)};

    for (uint32_t i = 0; i < question->count && type != VIRTIO_BLK_T_IN; i++) {
        struct block *block = &blocks[question->at + i];

        block->number = type == VIRTIO_BLK_T_OUT ? ++block->newest : 0;
        if (type == VIRTIO_BLK_T_OUT)
            fill_block(bytes + i * BLOCK, question->at + i, block->number);
    }
    if (type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_OUT)
        return question->count * (uint32_t)BLOCK;
    memcpy(bytes, &range, sizeof(range));
    return sizeof(range);
}

static bool submit_random(unsigned queue)
{
    int slot = client_slot(client, queue);
    uint32_t type = random_type(), length = 0;

    if (slot < 0)
        return false;
    struct question *question = &questions[queue][slot];

    question->count = 0;
    if (type == VIRTIO_BLK_T_FLUSH && !(client->features & CLIENT_BIT(VIRTIO_BLK_F_FLUSH)))
        return false;
    if (type != VIRTIO_BLK_T_FLUSH && !claim(question))
        return false;
    if (type != VIRTIO_BLK_T_FLUSH)
        length = prepare(question, type, client_data(client, queue, slot));
    client_submit(client, queue, slot, type, question->at * BLOCK,
                  type == VIRTIO_BLK_T_IN ? 0 : length, type == VIRTIO_BLK_T_IN ? length : 0, 2);
    question->asked++;
    return true;
}

static void judge(const struct client_slot *slot, const struct question *question,
                  const uint8_t *bytes)
{
    assert_int_equal(slot->status, OK);
    for (uint32_t i = 0; i < question->count; i++) {
        struct block *block = &blocks[question->at + i];

        block->busy = false;
        if (slot->type == VIRTIO_BLK_T_IN)
            assert_int_equal(number_in(bytes + i * BLOCK, question->at + i), block->number);
    }
}

static void reap(unsigned queue)
{
    (void)client_poll(client, queue);
    for (int i = 0; i < (int)RING; i++) {
        struct client_slot *slot = &client->queue[queue].slot[i];

        assert_int_equal(slot->answers + slot->busy, questions[queue][i].asked);
        if (!slot->ended)
            continue;
        slot->ended = false;
        answered++;
        judge(slot, &questions[queue][i], client_data(client, queue, i));
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
    /* What was answered before the end. */
    for (unsigned q = 0; q < QUEUES; q++)
        reap(q);
}

static void killed_again_and_again(uint64_t without)
{
    struct client_options options = {
        .queues = QUEUES, .ring_size = RING, .data_bytes = SLOT_BYTES, .without = without};
    const char *is_long = getenv("VDISK_TEST_LONG");
    unsigned rounds = is_long && strcmp(is_long, "1") == 0 ? 500 : 25;

    memset(blocks, 0, sizeof(blocks));
    memset(questions, 0, sizeof(questions));
    kills = answered = answered_late = 0;
    assert_int_equal(client_new(&options, &client), 0);
    for (unsigned round = 0; round < rounds; round++)
        one_life(round);
    start_server(false);
    wait_for_all();
    run(20);
    wait_for_all();
    for (uint32_t i = 0; i < BLOCKS; i++) {
        uint8_t bytes[BLOCK];

        assert_int_equal(client_request(client, 0, VIRTIO_BLK_T_IN, i * BLOCK, bytes, BLOCK), OK);
        assert_int_equal(number_in(bytes, i), blocks[i].number);
    }
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

static void test_a_driver_that_cannot_flush(void **state)
{
    (void)state;
    killed_again_and_again(CLIENT_BIT(VIRTIO_BLK_F_FLUSH));
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
        TEST(test_a_driver_that_cannot_flush),
    };
    const char *seed = getenv("VDISK_TEST_SEED");
    uint64_t number = seed ? strtoull(seed, NULL, 0) : 1;

    sim_rng_seed(&rng, number);
    print_message("VDISK_TEST_SEED=%llu\n", (unsigned long long)number);
    if (vdisk_init())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
