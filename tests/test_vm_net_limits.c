/* SPDX-License-Identifier: Apache-2.0 */
/* The limits of a network device, on a socket, by the clock. */
#include "vm_net_guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define MERGED   VM_NET_BIT(VIRTIO_NET_F_MRG_RXBUF)
#define EVENTS   VM_NET_BIT(VIRTIO_RING_F_EVENT_IDX)
#define USUAL    1526u
#define MS       INT64_C(1000000)
#define SECOND   INT64_C(1000000000)
#define ATTEMPTS 3 /* the machine may have had something else to do */

static struct vm_rig rig;
static struct vm_net_guest guest;
static struct vm_net_peer peer;
static char folder[64], path[96];
static uint8_t frame[VM_NET_FRAME_MAX];

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof(folder), "/tmp/vdisk-net-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    (void)snprintf(path, sizeof(path), "%s/net", folder);
    vm_rig_open(&rig, VM_RIG_MEMORY);
    vm_net_peer_listen(&peer, &rig, path);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    vm_rig_close(&rig);
    vm_net_peer_close(&peer);
    (void)unlink(path);
    return rmdir(folder);
}

static void begin(struct limit_setting in, struct limit_setting out)
{
    const struct virtio_net_options options = {
        .name = "net 0", .socket = path, .in = in, .out = out};

    rig.bus.count = 0;
    vm_net_guest_open(&guest, &rig, &options);
    vm_net_peer_accept(&peer);
    vm_net_guest_begin(&guest, MERGED | EVENTS, USUAL);
    vm_net_guest_post(&guest, 128);
    vm_net_frame(frame, 1514, 0);
}

static void end(void)
{
    vm_net_guest_close(&guest);
    vm_net_peer_hang_up(&peer);
}

/* A round of the device; both ends take what has come. */
static void step(bool wait)
{
    static uint8_t got[VM_NET_FRAME_MAX];
    struct virtio_net_hdr_v1 header;

    reactor_step(rig.reactor, wait);
    while (vm_net_peer_take(&peer, got) > 0)
        ;
    while (vm_net_guest_take(&guest, &header, got) > 0)
        ;
    (void)vm_net_guest_reap(&guest);
}

/* Both ends send frames of `length` as fast as they can, for so long. */
static void saturate(int64_t nanoseconds, size_t length)
{
    const int64_t until = reactor_now() + nanoseconds;

    do {
        while (vm_net_peer_try_send(&peer, frame, length))
            ;
        while (guest.sent - guest.reaped < VM_NET_SIZE)
            vm_net_guest_send(&guest, NULL, frame, length);
        step(nanoseconds > 0);
    } while (reactor_now() < until);
}

static void note_over(struct reactor_op *op)
{
    *(bool *)op->owner = true;
}

/* How many rounds there were in so long. */
static unsigned rest(int64_t nanoseconds)
{
    bool over = false;
    struct reactor_op sleep = {.kind = REACTOR_SLEEP,
                               .deadline = reactor_now() + nanoseconds,
                               .done = note_over,
                               .owner = &over};
    unsigned rounds = 0;

    reactor_submit(rig.reactor, &sleep);
    for (; !over; rounds++)
        reactor_step(rig.reactor, true);
    return rounds;
}

/* What passes in `elapsed`, from a full bucket, to within 3 % and a frame. */
static bool is_near(uint64_t bytes, uint64_t rate, uint64_t burst, int64_t elapsed, size_t length)
{
    double wanted = (double)burst + (double)rate * (double)elapsed / (double)SECOND;
    double off = (double)bytes - wanted;

    print_message("%.0f bytes wanted, %llu passed\n", wanted, (unsigned long long)bytes);
    return (off < 0 ? -off : off) <= 0.03 * wanted + (double)length;
}

static void test_rates_are_kept_both_ways(void **state)
{
    static const struct {
        uint64_t in, out;
        size_t length;
    } rates[] = {{200000, 400000, 200}, {2000000, 1000000, 1514}, {20000000, 10000000, 1514}};

    (void)state;
    for (unsigned i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
        const uint64_t burst_in = rates[i].in / 50, burst_out = rates[i].out / 50;
        bool good = false;

        for (unsigned attempt = 0; attempt < ATTEMPTS && !good; attempt++) {
            struct virtio_net_counts counts;
            int64_t since;

            begin((struct limit_setting){rates[i].in, burst_in},
                  (struct limit_setting){rates[i].out, burst_out});
            since = reactor_now();
            saturate(200 * MS, rates[i].length);
            counts = vm_net_guest_counts(&guest);
            since = reactor_now() - since;
            good = is_near(counts.in.bytes, rates[i].in, burst_in, since, rates[i].length) &&
                   is_near(counts.out.bytes, rates[i].out, burst_out, since, rates[i].length);
            assert_int_equal(counts.in.drops + counts.out.drops, 0);
            end();
        }
        assert_true(good);
    }
}

/* The thread comes 20 ms late each time, as on a machine that is busy. */
static void test_a_late_thread_costs_no_rate(void **state)
{
    const struct limit_setting limit = {1000000, 2000};
    const struct timespec pause = {.tv_nsec = 20 * MS};
    struct virtio_net_counts counts;
    int64_t since;

    (void)state;
    begin(limit, limit);
    since = reactor_now();
    for (unsigned i = 0; i < 11; i++) {
        for (unsigned j = 0; j < 10; j++)
            saturate(0, 1000);
        if (i < 10)
            (void)nanosleep(&pause, NULL);
    }
    counts = vm_net_guest_counts(&guest);
    since = reactor_now() - since;
    assert_in_range(counts.in.bytes, 180000, 4000 + since / 1000);
    assert_in_range(counts.out.bytes, 180000, 4000 + since / 1000);
    end();
}

/* 100 frames go each way, 50 of them at once; how long these took. */
static int64_t send_a_burst(void)
{
    const struct virtio_net_counts before = vm_net_guest_counts(&guest);
    const int64_t since = reactor_now();
    struct virtio_net_counts now;
    int64_t took;

    for (unsigned i = 0; i < 100; i++) {
        vm_net_peer_send(&peer, 1000, i);
        vm_net_guest_send(&guest, NULL, frame, 1000);
    }
    do {
        step(true);
        now = vm_net_guest_counts(&guest);
    } while (now.in.frames - before.in.frames < 50 || now.out.frames - before.out.frames < 50);
    took = reactor_now() - since;
    /* No more than the burst, and what has come since. */
    assert_in_range(now.in.frames - before.in.frames, 50, 52 + took / MS);
    assert_in_range(now.out.frames - before.out.frames, 50, 52 + took / MS);
    while (now.in.frames - before.in.frames < 100 || now.out.frames - before.out.frames < 100) {
        step(true);
        now = vm_net_guest_counts(&guest);
    }
    assert_in_range(reactor_now() - since, 48 * MS, 20 * SECOND); /* the others took their time */
    return took;
}

static void test_a_burst_passes_once_and_is_refilled(void **state)
{
    const struct limit_setting limit = {1000000, 50000};
    bool good = false;

    (void)state;
    for (unsigned attempt = 0; attempt < ATTEMPTS && !good; attempt++) {
        begin(limit, limit);
        good = send_a_burst() < 25 * MS; /* at the rate it would be 50 */
        (void)rest(60 * MS);             /* 50 fill it */
        good = send_a_burst() < 25 * MS && good;
        end();
    }
    assert_true(good);
}

static void test_other_limits_hold_at_once(void **state)
{
    static uint8_t got[VM_NET_FRAME_MAX];
    const struct limit_setting slow = {1, 1}, none = {0, 0}; /* a frame in 25 minutes */
    struct virtio_net_hdr_v1 header;

    (void)state;
    begin(slow, slow);
    for (unsigned i = 0; i < 100; i++) {
        vm_net_peer_send(&peer, 1000, i);
        vm_net_guest_send(&guest, NULL, frame, 1000);
    }
    vm_rig_settle(&rig);
    assert_int_equal(vm_net_guest_counts(&guest).in.frames, 1);
    assert_int_equal(vm_net_guest_counts(&guest).out.frames, 1);
    virtio_net_limits(guest.driver.device, &none, &slow);
    for (unsigned i = 0; i < 100; i++)
        vm_net_guest_expect(&guest, 1000, i);
    assert_int_equal(vm_net_guest_counts(&guest).out.frames, 1);
    virtio_net_limits(guest.driver.device, &slow, &none);
    for (unsigned i = 0; i < 100; i++)
        while (vm_net_peer_take(&peer, got) == 0)
            reactor_step(rig.reactor, false);
    vm_net_peer_send(&peer, 1000, 1);
    vm_net_peer_send(&peer, 1000, 2);
    vm_rig_settle(&rig);
    assert_int_equal(vm_net_guest_take(&guest, &header, got), 1000);
    assert_int_equal(vm_net_guest_take(&guest, &header, got), 0);
    end();
}

/* A wait for an old, slow limit ends early for a new one that still limits. */
static void test_a_wait_is_as_long_as_the_new_limit_says(void **state)
{
    const struct limit_setting slow = {1, 1}, faster = {100000, 1};

    (void)state;
    begin(slow, slow);
    vm_net_peer_send(&peer, 1000, 1);
    vm_net_peer_send(&peer, 1000, 2);
    vm_net_guest_expect(&guest, 1000, 1);
    vm_rig_settle(&rig);
    virtio_net_limits(guest.driver.device, &faster, &faster); /* its debt takes 10 ms now */
    vm_net_guest_expect(&guest, 1000, 2);
    end();
}

static void test_waiting_for_a_limit_is_idle(void **state)
{
    const struct limit_setting slow = {1, 1};

    (void)state;
    begin(slow, slow);
    for (unsigned i = 0; i < 100; i++) {
        vm_net_peer_send(&peer, 1000, i);
        vm_net_guest_send(&guest, NULL, frame, 1000);
    }
    vm_rig_settle(&rig);
    assert_in_range(rest(20 * MS), 1, 5);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_rates_are_kept_both_ways),
        TEST(test_a_late_thread_costs_no_rate),
        TEST(test_a_burst_passes_once_and_is_refilled),
        TEST(test_other_limits_hold_at_once),
        TEST(test_a_wait_is_as_long_as_the_new_limit_says),
        TEST(test_waiting_for_a_limit_is_idle),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
