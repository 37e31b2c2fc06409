/* SPDX-License-Identifier: Apache-2.0 */
/* Drivers of the network device that break the rules, or reset it at any moment. */
#include "vm_net_guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MERGED VM_NET_BIT(VIRTIO_NET_F_MRG_RXBUF)
#define EVENTS VM_NET_BIT(VIRTIO_RING_F_EVENT_IDX)
#define TABLES VM_NET_BIT(VIRTIO_RING_F_INDIRECT_DESC)
#define USUAL  1526u
#define IN     0u
#define OUT    1u

static struct vm_rig rig;
static struct vm_net_guest guest;
static struct vm_net_peer peer;
static char folder[64], path[96];
static uint8_t frame[VM_NET_FRAME_MAX];
static uint64_t page; /* of the guest */

static int set_up(void **state)
{
    const struct virtio_net_options options = {.name = "net 0", .socket = path};

    (void)state;
    (void)snprintf(folder, sizeof(folder), "/tmp/vdisk-net-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    (void)snprintf(path, sizeof(path), "%s/net", folder);
    vm_rig_open(&rig, 2 * VM_RIG_MEMORY);
    vm_net_peer_listen(&peer, &rig, path);
    vm_net_guest_open(&guest, &rig, &options);
    vm_net_peer_accept(&peer);
    page = vm_driver_alloc(&guest.driver, 4096);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    vm_net_guest_close(&guest);
    vm_rig_close(&rig);
    vm_net_peer_close(&peer);
    (void)unlink(path);
    return rmdir(folder);
}

static void expect_frames_to_pass(void)
{
    vm_net_guest_begin(&guest, MERGED | EVENTS, USUAL);
    vm_net_guest_post(&guest, 8);
    vm_net_frame(frame, 1000, 1);
    vm_net_guest_send(&guest, NULL, frame, 1000);
    vm_net_peer_expect(&peer, 1000, 1);
    vm_net_peer_send(&peer, 3000, 2);
    vm_net_guest_expect(&guest, 3000, 2);
}

/* ---- chains ---- */

/* The device asks for a reset when it meets the chain, and gives nothing back. */
static void expect_failure(uint64_t features, unsigned queue, const struct vm_buffer *buffers,
                           unsigned count)
{
    uint32_t length;
    uint16_t head;

    vm_net_guest_begin(&guest, features, USUAL);
    (void)vm_driver_add(&guest.driver, queue, buffers, count);
    if (queue == IN)
        vm_net_peer_send(&peer, 60, 1);
    (void)vm_driver_kick(&guest.driver, queue);
    assert_int_equal(vm_driver_interrupt(&guest.driver), VIRTIO_MMIO_INT_CONFIG);
    assert_int_equal(vm_driver_status(&guest.driver), 0xf | VIRTIO_CONFIG_S_NEEDS_RESET);
    vm_rig_settle(&rig);
    assert_false(vm_driver_take(&guest.driver, queue, &head, &length));
}

static void test_buffers_that_break_the_rules_need_a_reset(void **state)
{
    const struct vm_buffer good = {page, USUAL, true}, readable = {page, USUAL, false},
                           zero = {page, 0, true}, tiny = {page, 11, true},
                           far = {rig.memory.size - 32, 1526, true},
                           nowhere = {UINT64_MAX - 8, 1526, true}, both[2] = {readable, good};

    (void)state;
    expect_failure(0, IN, &readable, 1);
    expect_failure(0, IN, &zero, 1);
    expect_failure(0, IN, &tiny, 1);
    expect_failure(0, IN, &far, 1);
    expect_failure(0, IN, &nowhere, 1);
    expect_failure(0, IN, both, 2);
    expect_failure(MERGED, IN, &zero, 1);
    expect_failure(MERGED, IN, &tiny, 1);
    expect_frames_to_pass();
}

/* Also behind a good one, when part of the frame is placed. */
static void test_a_bad_buffer_amid_merged_ones_needs_a_reset(void **state)
{
    const struct vm_buffer good = {page, 100, true}, zero = {page, 0, true};
    uint32_t length;
    uint16_t head;

    (void)state;
    vm_net_guest_begin(&guest, MERGED, USUAL);
    (void)vm_driver_add(&guest.driver, IN, &good, 1);
    (void)vm_driver_add(&guest.driver, IN, &zero, 1);
    (void)vm_driver_kick(&guest.driver, IN);
    vm_net_peer_send(&peer, 200, 1);
    assert_int_equal(vm_driver_interrupt(&guest.driver), VIRTIO_MMIO_INT_CONFIG);
    assert_false(vm_driver_take(&guest.driver, IN, &head, &length));
    expect_frames_to_pass();
}

static void test_frames_that_break_the_rules_need_a_reset(void **state)
{
    const struct vm_buffer good = {page, 112, false}, writable = {page, 112, true},
                           far = {rig.memory.size - 32, 112, false}, both[2] = {good, writable};
    const struct vm_buffer header[2] = {{page, 12, false}, far};

    (void)state;
    expect_failure(0, OUT, &writable, 1);
    expect_failure(0, OUT, &far, 1);
    expect_failure(0, OUT, header, 2);
    expect_failure(0, OUT, both, 2);
    expect_frames_to_pass();
}

static void test_rings_that_break_the_rules_need_a_reset(void **state)
{
    (void)state;
    for (unsigned queue = IN; queue <= OUT; queue++) {
        vm_net_guest_begin(&guest, EVENTS, USUAL);
        guest.driver.queue[queue].avail[2] = 999; /* no descriptor */
        guest.driver.queue[queue].avail[1] = 1;
        if (queue == IN) /* else it would stay for the guest that follows */
            vm_net_peer_send(&peer, 60, 1);
        (void)vm_driver_kick(&guest.driver, queue);
        assert_int_equal(vm_driver_interrupt(&guest.driver), VIRTIO_MMIO_INT_CONFIG);
        vm_net_guest_begin(&guest, EVENTS, USUAL);
        guest.driver.queue[queue].avail[1] = 5000; /* more than there are */
        if (queue == IN) /* else it would stay for the guest that follows */
            vm_net_peer_send(&peer, 60, 1);
        (void)vm_driver_kick(&guest.driver, queue);
        assert_int_equal(vm_driver_interrupt(&guest.driver), VIRTIO_MMIO_INT_CONFIG);
    }
    expect_frames_to_pass();
}

/* ---- frames and headers ---- */

static void send_chain(uint32_t length, unsigned times)
{
    struct vm_buffer pieces[64];

    for (unsigned i = 0; i < times; i++)
        pieces[i] = (struct vm_buffer){page, length, false};
    (void)vm_driver_add(&guest.driver, OUT, pieces, times);
    (void)vm_driver_kick(&guest.driver, OUT);
    guest.sent++;
}

static void test_frames_of_no_fit_size_are_dropped(void **state)
{
    (void)state;
    vm_net_guest_begin(&guest, EVENTS, USUAL);
    send_chain(0, 1);
    send_chain(11, 1);
    send_chain(12, 1);
    send_chain(25, 1);
    send_chain(4096, 17);
    send_chain(2u << 20, 60); /* nobody reads all that */
    vm_net_frame(frame, 100, 1);
    vm_net_guest_send(&guest, NULL, frame, 100);
    vm_net_peer_expect(&peer, 100, 1);
    assert_int_equal(vm_net_guest_reap(&guest), 7);
    assert_int_equal(vm_net_guest_counts(&guest).out.drops, 6);
    assert_int_equal(vm_net_guest_counts(&guest).out.frames, 1);
}

static void test_offloads_that_were_not_accepted_are_not_taken(void **state)
{
    const struct virtio_net_hdr_v1 bad[] = {
        {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16},
        {.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1000},
        {.gso_type = VIRTIO_NET_HDR_GSO_ECN},
        {.gso_type = 0x7f, .gso_size = 1},
    };
    const struct virtio_net_hdr_v1 harmless = {.flags = 0xfe,
                                               .hdr_len = 65535,
                                               .gso_size = 9,
                                               .csum_start = 9,
                                               .csum_offset = 9,
                                               .num_buffers = 77};
    const unsigned count = sizeof(bad) / sizeof(bad[0]);

    (void)state;
    vm_net_guest_begin(&guest, EVENTS, USUAL);
    vm_net_frame(frame, 2000, 1);
    for (unsigned i = 0; i < count; i++)
        vm_net_guest_send(&guest, &bad[i], frame, 2000);
    vm_net_guest_send(&guest, &harmless, frame, 2000);
    vm_net_peer_expect(&peer, 2000, 1);
    assert_int_equal(vm_net_guest_reap(&guest), count + 1);
    assert_int_equal(vm_net_guest_counts(&guest).out.drops, count);
}

/* A guest that sends without end does not keep others from their turn. */
static void note_done(struct reactor_op *op)
{
    *(bool *)op->owner = true;
}

static void test_a_round_of_the_guest_ends(void **state)
{
    bool over = false;
    struct reactor_op sleep = {.kind = REACTOR_SLEEP, .done = note_done, .owner = &over};

    (void)state;
    vm_net_guest_begin(&guest, EVENTS, USUAL);
    for (unsigned i = 0; i < VM_NET_SIZE; i++)
        send_chain(1, 1);
    reactor_submit(rig.reactor, &sleep);
    while (!over)
        reactor_step(rig.reactor, true);
    assert_in_range(vm_net_guest_reap(&guest), 0, VM_NET_SIZE - 1);
    vm_rig_settle(&rig);
    (void)vm_net_guest_reap(&guest);
    assert_int_equal(guest.reaped, VM_NET_SIZE);
}

/* ---- resets ---- */

static void test_a_reset_forgets_the_frame_at_hand(void **state)
{
    const struct limit_setting slow = {1, 1}, none = {0, 0};
    struct virtio_net_hdr_v1 header;

    (void)state;
    virtio_net_limits(guest.driver.device, &slow, &slow);
    vm_net_guest_begin(&guest, MERGED | EVENTS, USUAL);
    vm_net_guest_post(&guest, 8);
    vm_net_frame(frame, 100, 9);
    for (unsigned i = 0; i < 2; i++) { /* the second waits for the limit */
        vm_net_peer_send(&peer, 100, i);
        vm_net_guest_send(&guest, NULL, frame, 100);
    }
    vm_rig_settle(&rig);
    vm_driver_reset(&guest.driver);
    virtio_net_limits(guest.driver.device, &none, &none);
    vm_rig_settle(&rig);
    assert_int_equal(vm_net_peer_take(&peer, frame), 100);
    assert_int_equal(vm_net_peer_take(&peer, frame), 0);
    vm_net_guest_begin(&guest, MERGED | EVENTS, USUAL);
    vm_net_guest_post(&guest, 8);
    vm_rig_settle(&rig);
    assert_int_equal(vm_net_guest_take(&guest, &header, frame), 0);
    expect_frames_to_pass();
}

static atomic_bool flood_is_over;

/* Sends and takes what it can, whatever the device does meanwhile. */
static void *flood(void *opaque)
{
    static uint8_t out[1514], in[VM_NET_FRAME_MAX];

    (void)opaque;
    vm_net_frame(out, sizeof(out), 3);
    while (!flood_is_over) {
        (void)vm_net_peer_try_send(&peer, out, sizeof(out));
        (void)vm_net_peer_take(&peer, in);
    }
    return NULL;
}

static void test_resets_amid_traffic_by_a_thread_of_its_own(void **state)
{
    const uint64_t features[] = {0, EVENTS, MERGED | EVENTS, MERGED | TABLES};
    pthread_t thread;

    (void)state;
    vm_rig_run(&rig);
    flood_is_over = false;
    assert_int_equal(pthread_create(&thread, NULL, flood, NULL), 0);
    vm_net_frame(frame, 1000, 4);
    for (unsigned i = 0; i < 60; i++) {
        struct virtio_net_hdr_v1 header;

        guest.driver.next = page + 4096; /* the memory of the last round */
        guest.out_at = vm_driver_alloc(&guest.driver, VM_NET_SIZE * VM_NET_SLOT);
        vm_net_guest_begin(&guest, features[i % 4], i % 4 < 2 ? USUAL : 600);
        vm_net_guest_post(&guest, 32);
        for (unsigned j = 0; j < 40; j++)
            vm_net_guest_send(&guest, NULL, frame, 1000);
        for (unsigned j = 0; j < i % 7; j++)
            (void)vm_net_guest_receive(&guest, &header, frame);
        if (i % 3 == 0)
            virtio_pause(guest.driver.device);
        (void)vm_net_guest_counts(&guest);
        if (i % 3 == 0)
            virtio_resume(guest.driver.device);
        vm_net_frame(frame, 1000, 4);
        vm_driver_reset(&guest.driver);
    }
    flood_is_over = true;
    assert_int_equal(pthread_join(thread, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_buffers_that_break_the_rules_need_a_reset),
        TEST(test_a_bad_buffer_amid_merged_ones_needs_a_reset),
        TEST(test_frames_that_break_the_rules_need_a_reset),
        TEST(test_rings_that_break_the_rules_need_a_reset),
        TEST(test_frames_of_no_fit_size_are_dropped),
        TEST(test_offloads_that_were_not_accepted_are_not_taken),
        TEST(test_a_round_of_the_guest_ends),
        TEST(test_a_reset_forgets_the_frame_at_hand),
        TEST(test_resets_amid_traffic_by_a_thread_of_its_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
