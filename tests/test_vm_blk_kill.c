/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process behind a drive is killed in the middle of many requests, and another takes its place:
 * the guest has each request answered once, and finds what it wrote. So it does when it resets the
 * drive, or the machine is paused, while nobody serves it.
 *
 * Each slot of a ring has a place of its own on the drive, and writes numbers there, or reads them.
 */
#include "sim_random.h"
#include "vhost_kit.h"
#include "vm_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define QUEUES 2u
#define BLOCK  4096u
#define PACKED CLIENT_BIT(VIRTIO_F_RING_PACKED)

struct place {
    uint32_t newest; /* number that was asked to be written last */
    uint32_t surely; /* and that was answered last: one of these two and between is there */
    unsigned asked;
};

static struct vm_rig rig;
static struct disk disk;
static struct place places[QUEUES][DISK_RING];
static struct sim_rng rng;
static unsigned answered, outstanding;

/* ---- requests ---- */

static uint64_t offset_of(unsigned queue, unsigned slot)
{
    return (queue * DISK_RING + slot) * (uint64_t)BLOCK;
}

static void fill(uint32_t *words, uint32_t place, uint32_t number)
{
    for (unsigned i = 0; i < BLOCK / 4; i += 2) {
        words[i] = number ? place : 0;
        words[i + 1] = number;
    }
}

static void submit(unsigned queue)
{
    int slot = client_slot(disk.client, queue);

    if (slot < 0)
        return;
    struct place *place = &places[queue][slot];
    bool is_write = sim_rng_chance(&rng, 2, 3);
    uint32_t *words = (void *)client_data(disk.client, queue, slot);

    if (is_write)
        fill(words, queue * DISK_RING + (unsigned)slot, ++place->newest);
    else
        memset(words, 0xee, BLOCK);
    client_submit(disk.client, queue, slot, is_write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
                  offset_of(queue, (unsigned)slot), is_write ? BLOCK : 0, is_write ? 0 : BLOCK, 2);
    place->asked++;
}

static void judge(unsigned queue, unsigned slot)
{
    struct place *place = &places[queue][slot];
    const uint32_t *words = (void *)client_data(disk.client, queue, (int)slot);
    static uint32_t expected[BLOCK / 4];

    assert_int_equal(disk.client->queue[queue].slot[slot].status, VIRTIO_BLK_S_OK);
    if (disk.client->queue[queue].slot[slot].type == VIRTIO_BLK_T_IN) {
        fill(expected, queue * DISK_RING + slot, words[1]);
        assert_memory_equal(words, expected, BLOCK); /* whole, and of that place */
        assert_in_range(words[1], place->surely, place->newest);
        place->newest = words[1];
    }
    place->surely = place->newest;
}

static void reap(unsigned queue)
{
    (void)client_poll(disk.client, queue);
    for (unsigned i = 0; i < DISK_RING; i++) {
        struct client_slot *slot = &disk.client->queue[queue].slot[i];

        assert_int_equal(slot->answers + slot->busy, places[queue][i].asked);
        if (!slot->ended)
            continue;
        slot->ended = false;
        answered++;
        judge(queue, i);
    }
}

static void run(unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++) {
        for (unsigned q = 0; q < QUEUES; q++) {
            for (unsigned n = (unsigned)sim_rng_below(&rng, 12); n > 0; n--)
                submit(q);
            client_kick(disk.client, q);
            reap(q);
        }
        usleep(100);
    }
}

static bool is_busy(unsigned queue)
{
    for (unsigned i = 0; i < DISK_RING; i++)
        if (disk.client->queue[queue].slot[i].busy)
            return true;
    return false;
}

static void wait_for_all(void)
{
    for (unsigned q = 0; q < QUEUES; q++) {
        while (is_busy(q)) {
            assert_int_equal(client_wait(disk.client, q), 0);
            reap(q);
        }
    }
}

/* What was outstanding is forgotten: it may have been done, or not. */
static void begin_anew(uint64_t without)
{
    disk_begin(&disk, without);
    for (unsigned q = 0; q < QUEUES; q++)
        for (unsigned i = 0; i < DISK_RING; i++)
            places[q][i].asked = 0;
}

static void read_everything(void)
{
    for (unsigned q = 0; q < QUEUES; q++) {
        for (unsigned i = 0; i < DISK_RING; i++) {
            uint32_t words[BLOCK / 4];

            assert_int_equal(disk_do(&disk, 0, VIRTIO_BLK_T_IN, offset_of(q, i), words, BLOCK),
                             VIRTIO_BLK_S_OK);
            assert_in_range(words[1], places[q][i].surely, places[q][i].newest);
            disk.client->queue[0].slot[0].answers--; /* which was not asked by submit() */
            disk.client->queue[0].slot[0].ended = false;
        }
    }
}

/* ---- lives ---- */

static unsigned rounds(void)
{
    const char *is_long = getenv("VDISK_TEST_LONG");

    return is_long && strcmp(is_long, "1") == 0 ? 200 : 4;
}

static void opened(void)
{
    struct virtio_blk_options options = disk_options(&disk, kit.socket);

    options.queues = QUEUES;
    server_begin();
    disk_open(&disk, &rig, 0, &options);
}

static void count_outstanding(void)
{
    for (unsigned q = 0; q < QUEUES; q++) {
        reap(q);
        for (unsigned i = 0; i < DISK_RING; i++)
            outstanding += disk.client->queue[q].slot[i].busy;
    }
}

static void killed_again_and_again(uint64_t without)
{
    opened();
    begin_anew(without);
    for (unsigned round = 0; round < rounds(); round++) {
        run(1 + (unsigned)sim_rng_below(&rng, 30));
        server_kill();
        count_outstanding();
        run(2); /* the guest does not know */
        server_begin();
        if (round % 2)
            wait_for_all();
        disk_wait_lines(&disk, 2 * (round + 1));
    }
    wait_for_all();
    read_everything();
    print_message("%u answers, %u requests that a killed one had not answered\n", answered,
                  outstanding);
    assert_true(outstanding > 0);
    assert_false(disk_needs_reset(&disk));
    assert_true(disk_has_told(&disk, "is lost"));
    assert_true(disk_has_told(&disk, "is back"));
    assert_int_equal(disk_lines(&disk), 2 * rounds());
    disk_close(&disk);
}

static void test_a_guest_with_split_rings_sees_nothing_of_a_kill(void **state)
{
    (void)state;
    killed_again_and_again(PACKED);
}

static void test_a_guest_with_packed_rings_sees_nothing_of_a_kill(void **state)
{
    (void)state;
    killed_again_and_again(0);
}

static void reset_meanwhile(uint64_t without)
{
    opened();
    begin_anew(without);
    for (unsigned round = 0; round < rounds(); round++) {
        run(1 + (unsigned)sim_rng_below(&rng, 20));
        server_kill();
        if (round % 2)
            assert_true(disk_wait_told(&disk, "is lost"));
        disk_reset(&disk); /* ends at once */
        if (round % 4 == 1) {
            begin_anew(without);
            run(2);
            disk_reset(&disk);
        }
        if (round % 4 == 2)
            server_begin();
        begin_anew(without);
        run(2);
        if (round % 4 != 2)
            server_begin();
        wait_for_all();
        read_everything();
    }
    disk_close(&disk);
}

static void test_a_reset_with_split_rings_while_nobody_serves_is_one(void **state)
{
    (void)state;
    reset_meanwhile(PACKED);
}

static void test_a_reset_with_packed_rings_while_nobody_serves_is_one(void **state)
{
    (void)state;
    reset_meanwhile(0);
}

static void paused_meanwhile(uint64_t without)
{
    opened();
    begin_anew(without);
    for (unsigned round = 0; round < rounds(); round++) {
        run(1 + (unsigned)sim_rng_below(&rng, 20));
        if (round % 2)
            server_kill();
        virtio_pause(disk.device);
        /* What a back end has taken with it cannot be saved. */
        json_t *saved = virtio_save(disk.device, NULL);

        if (round % 2 == 0)
            assert_non_null(saved);
        json_decref(saved);
        if (round % 2 == 0)
            server_kill();
        if (round % 4 < 2)
            server_begin();
        virtio_resume(disk.device);
        if (round % 4 >= 2)
            server_begin();
        wait_for_all();
        read_everything();
    }
    disk_close(&disk);
}

static void test_a_pause_with_split_rings_may_outlive_a_back_end(void **state)
{
    (void)state;
    paused_meanwhile(PACKED);
}

static void test_a_pause_with_packed_rings_may_outlive_a_back_end(void **state)
{
    (void)state;
    paused_meanwhile(0);
}

/* ---- all of them ---- */

static int begin(void **state)
{
    (void)state;
    memset(places, 0, sizeof(places));
    answered = outstanding = 0;
    if (kit_make_image())
        return -1;
    server_prepare();
    vm_rig_open(&rig, DISK_MEMORY);
    return 0;
}

static int end(void **state)
{
    (void)state;
    vm_rig_close(&rig);
    server_finish();
    return kit_remove_image();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_guest_with_split_rings_sees_nothing_of_a_kill),
        TEST(test_a_guest_with_packed_rings_sees_nothing_of_a_kill),
        TEST(test_a_reset_with_split_rings_while_nobody_serves_is_one),
        TEST(test_a_reset_with_packed_rings_while_nobody_serves_is_one),
        TEST(test_a_pause_with_split_rings_may_outlive_a_back_end),
        TEST(test_a_pause_with_packed_rings_may_outlive_a_back_end),
    };
    const char *seed = getenv("VDISK_TEST_SEED");
    uint64_t number = seed ? strtoull(seed, NULL, 0) : 1;

    sim_rng_seed(&rng, number);
    print_message("VDISK_TEST_SEED=%llu\n", (unsigned long long)number);
    if (vdisk_init())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
