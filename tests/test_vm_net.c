/* SPDX-License-Identifier: Apache-2.0 */
/* The network device (vmm/virtio_net*.c) on a socket: frames, buffers, VLANs, the connection. */
#include "net_vlan.h"
#include "vm_net_guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MERGED VM_NET_BIT(VIRTIO_NET_F_MRG_RXBUF)
#define EVENTS VM_NET_BIT(VIRTIO_RING_F_EVENT_IDX)
#define TABLES VM_NET_BIT(VIRTIO_RING_F_INDIRECT_DESC)
#define USUAL  1526u /* bytes of a buffer */
#define MS     INT64_C(1000000)
#define CHAINS 8u

static struct vm_rig rig;
static struct vm_net_guest guest;
static struct vm_net_peer peer;
static char folder[64], path[96];
static uint8_t frame[VM_NET_FRAME_MAX];

static void open_guest(struct virtio_net_options options)
{
    options.name = "net 0";
    options.socket = path;
    vm_net_guest_open(&guest, &rig, &options);
}

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof(folder), "/tmp/vdisk-net-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    (void)snprintf(path, sizeof(path), "%s/net", folder);
    vm_rig_open(&rig, 2 * VM_RIG_MEMORY);
    vm_net_peer_listen(&peer, &rig, path);
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

/* Most tests: a guest with buffers, and who is connected with it. */
static void begin(uint64_t features, uint32_t buffer_bytes, unsigned buffers)
{
    open_guest((struct virtio_net_options){.vlan = 0});
    vm_net_peer_accept(&peer);
    vm_net_guest_begin(&guest, features, buffer_bytes);
    if (buffers > 0)
        vm_net_guest_post(&guest, buffers);
}

static void send_numbered(size_t length, unsigned number)
{
    vm_net_frame(frame, length, number);
    vm_net_guest_send(&guest, NULL, frame, length);
}

/* ---- frames ---- */

static const size_t sizes[] = {14, 59, 60, 1500, 1514, 4096, 9014, 32768, 65535, VM_NET_FRAME_MAX};

static void test_frames_pass_both_ways_byte_for_byte(void **state)
{
    const size_t count = sizeof(sizes) / sizeof(sizes[0]);
    uint64_t bytes = 0;

    (void)state;
    begin(MERGED | EVENTS | TABLES, USUAL, 200);
    for (unsigned i = 0; i < count; i++) {
        send_numbered(sizes[i], i);
        vm_net_peer_expect(&peer, sizes[i], i);
        vm_net_peer_send(&peer, sizes[i], 100 + i);
        vm_net_guest_expect(&guest, sizes[i], 100 + i);
        bytes += sizes[i];
    }
    assert_int_equal(vm_net_guest_reap(&guest), count);
    assert_int_equal(vm_net_guest_counts(&guest).in.frames, count);
    assert_int_equal(vm_net_guest_counts(&guest).out.frames, count);
    assert_int_equal(vm_net_guest_counts(&guest).in.bytes, bytes);
    assert_int_equal(vm_net_guest_counts(&guest).out.bytes, bytes);
}

static void test_many_frames_pass_both_ways_in_order(void **state)
{
    unsigned sent = 0, got = 0;

    (void)state;
    begin(MERGED | EVENTS, USUAL, 100);
    while (got < 1000) {
        for (unsigned i = 0; i < 50; i++, sent++) {
            send_numbered(60 + sent % 1400, sent);
            vm_net_peer_send(&peer, 60 + sent % 1300, sent);
        }
        for (; got < sent; got++) {
            vm_net_guest_expect(&guest, 60 + got % 1300, got);
            vm_net_peer_expect(&peer, 60 + got % 1400, got);
        }
        (void)vm_net_guest_reap(&guest);
    }
    assert_int_equal(guest.reaped, sent);
}

static void test_chains_of_any_shape_hold_a_frame(void **state)
{
    struct vm_net_guest *g = &guest;
    uint64_t at;
    uint8_t *bytes;

    (void)state;
    begin(TABLES, USUAL, 0);
    at = vm_driver_alloc(&g->driver, 8192);
    bytes = vm_driver_at(&g->driver, at, 8192);
    for (unsigned cut = 1; cut < 40; cut++) { /* also within the header */
        const struct vm_buffer out[] = {
            {at, cut, false}, {at + cut, 0, false}, {at + cut, 112 - cut, false}};
        const struct vm_buffer in[] = {{at + 4096, cut, true}, {at + 4096 + cut, 1526 - cut, true}};
        uint16_t head;

        memset(bytes, 0, VM_NET_HEADER);
        vm_net_frame(bytes + VM_NET_HEADER, 100, cut);
        (void)vm_driver_add_indirect(&g->driver, 1, out, 3);
        (void)vm_driver_kick(&g->driver, 1);
        vm_net_peer_expect(&peer, 100, cut);
        (void)vm_driver_add(&g->driver, 0, in, 2);
        (void)vm_driver_kick(&g->driver, 0);
        vm_net_peer_send(&peer, 200, cut);
        assert_int_equal(vm_driver_wait(&g->driver, 0, &head), VM_NET_HEADER + 200);
        vm_net_frame(frame, 200, cut);
        assert_memory_equal(bytes + 4096 + VM_NET_HEADER, frame, 200);
        assert_int_equal(bytes[4096 + 10], 1); /* num_buffers */
        (void)vm_net_guest_reap(g);
    }
}

/* The number of buffers is in the first, wherever its bytes lie. */
static void test_merged_buffers_are_counted_in_the_first(void **state)
{
    struct virtio_net_hdr_v1 header;
    uint64_t at;
    const uint8_t *bytes;
    uint32_t length;
    uint16_t head;

    (void)state;
    begin(MERGED, 100, 0);
    at = vm_driver_alloc(&guest.driver, 4096);
    bytes = vm_driver_at(&guest.driver, at, 4096);
    for (unsigned i = 0; i < 4; i++) {
        const struct vm_buffer pieces[] = {{at + i * 100, 11, true}, {at + i * 100 + 50, 39, true}};

        (void)vm_driver_add(&guest.driver, 0, pieces, 2); /* 50 bytes */
    }
    (void)vm_driver_kick(&guest.driver, 0);
    vm_net_peer_send(&peer, 150, 7);
    assert_int_equal(vm_driver_wait(&guest.driver, 0, &head), 50);
    for (unsigned i = 1; i < 4; i++) {
        assert_true(vm_driver_take(&guest.driver, 0, &head, &length));
        assert_int_equal(length, i < 3 ? 50 : 12);
    }
    memcpy(&header, bytes, 11);
    memcpy((uint8_t *)&header + 11, bytes + 50, 1);
    assert_int_equal(header.num_buffers, 4);
}

static void test_a_round_of_frames_is_one_interrupt(void **state)
{
    eventfd_t pulses;

    (void)state;
    begin(MERGED, USUAL, 100);
    vm_rig_settle(&rig);
    (void)vm_driver_is_raised(&guest.driver);
    for (unsigned i = 0; i < 32; i++)
        vm_net_peer_send(&peer, 100, i);
    vm_rig_settle(&rig);
    assert_int_equal(eventfd_read(guest.driver.device->line.fd, &pulses), 0);
    assert_int_equal(pulses, 1);
    for (unsigned i = 0; i < 32; i++)
        vm_net_guest_expect(&guest, 100, i);
}

/* ---- buffers ---- */

static void count_step(struct reactor_op *op)
{
    *(bool *)op->owner = true;
}

/* How many rounds the reactor finds something to do in within 20 ms. */
static unsigned rounds_of_idleness(void)
{
    bool over = false;
    struct reactor_op sleep = {.kind = REACTOR_SLEEP,
                               .deadline = reactor_now() + 20 * MS,
                               .done = count_step,
                               .owner = &over};
    unsigned rounds = 0;

    vm_rig_settle(&rig);
    reactor_submit(rig.reactor, &sleep);
    while (!over) {
        reactor_step(rig.reactor, true);
        rounds++;
    }
    return rounds;
}

static void test_frames_wait_for_buffers_and_nothing_spins(void **state)
{
    (void)state;
    begin(MERGED | EVENTS, USUAL, 0);
    for (unsigned i = 0; i < 100; i++)
        vm_net_peer_send(&peer, 1000, i);
    assert_in_range(rounds_of_idleness(), 1, 5);
    vm_net_guest_post(&guest, 1);
    for (unsigned i = 0; i < 100; i++)
        vm_net_guest_expect(&guest, 1000, i);
    assert_int_equal(vm_net_guest_counts(&guest).in.drops, 0);
}

/* Nothing of a frame is given before all of it can be; then its buffers are in order. */
static void test_a_frame_waits_until_all_its_buffers_are_there(void **state)
{
    struct virtio_net_hdr_v1 header;

    (void)state;
    begin(MERGED | EVENTS, 500, 3);
    vm_net_peer_send(&peer, 3000, 1);
    vm_net_peer_send(&peer, 100, 2);
    vm_rig_settle(&rig);
    assert_int_equal(vm_net_guest_take(&guest, &header, frame), 0);
    vm_net_guest_post(&guest, 2);
    vm_rig_settle(&rig);
    assert_int_equal(vm_net_guest_take(&guest, &header, frame), 0);
    vm_net_guest_post(&guest, 2);
    vm_net_guest_expect(&guest, 3000, 1);
    vm_net_guest_expect(&guest, 100, 2);
}

static void test_a_frame_that_no_buffers_can_hold_is_dropped(void **state)
{
    (void)state;
    begin(EVENTS, USUAL, 2); /* not merged */
    vm_net_peer_send(&peer, 1515, 1);
    vm_net_peer_send(&peer, 1514, 2);
    vm_net_guest_expect(&guest, 1514, 2);
    assert_int_equal(vm_net_guest_counts(&guest).in.drops, 1);

    vm_net_guest_begin(&guest, MERGED, 100); /* a full ring is not enough */
    vm_net_guest_post(&guest, VM_NET_SIZE);
    vm_net_peer_send(&peer, 25589, 3);
    vm_net_peer_send(&peer, 25588, 4);
    vm_net_guest_expect(&guest, 25588, 4);
    assert_int_equal(vm_net_guest_counts(&guest).in.drops, 2);
}

static void test_frames_of_the_guest_wait_for_a_slow_peer(void **state)
{
    unsigned sent = 0;

    (void)state;
    begin(EVENTS, USUAL, 1);
    for (unsigned stuck = 0; stuck < 3;) { /* until nobody takes any more */
        while (guest.sent - guest.reaped < VM_NET_SIZE)
            send_numbered(1500, sent++);
        vm_rig_settle(&rig);
        stuck = vm_net_guest_reap(&guest) > 0 ? 0 : stuck + 1;
    }
    assert_in_range(rounds_of_idleness(), 1, 5);
    for (unsigned i = 0; i < sent; i++)
        vm_net_peer_expect(&peer, 1500, i);
    vm_rig_settle(&rig);
    (void)vm_net_guest_reap(&guest);
    assert_int_equal(guest.reaped, sent);
    assert_int_equal(vm_net_guest_counts(&guest).out.drops, 0);
}

/* ---- what is told ---- */

static void read_mac(uint8_t mac[6])
{
    for (uint32_t i = 0; i < 6; i++)
        mac[i] = (uint8_t)vm_driver_config(&guest.driver, i, 1);
}

static void test_the_address_is_the_given_one_or_local_and_random(void **state)
{
    const uint8_t given[6] = {0x52, 0x54, 0, 1, 2, 3};
    uint8_t mac[6], other[6];

    (void)state;
    open_guest((struct virtio_net_options){.has_mac = true, .mac = {0x52, 0x54, 0, 1, 2, 3}});
    assert_true(vm_driver_offered(&guest.driver) & VM_NET_BIT(VIRTIO_NET_F_MAC));
    read_mac(mac);
    assert_memory_equal(mac, given, 6);
    vm_net_guest_close(&guest);
    rig.bus.count = 0;
    open_guest((struct virtio_net_options){.has_mac = false});
    read_mac(mac);
    assert_int_equal(mac[0] & 3, 2);
    virtio_net_mac(guest.driver.device, other);
    assert_memory_equal(mac, other, 6);
    vm_net_guest_close(&guest);
    rig.bus.count = 0;
    open_guest((struct virtio_net_options){.has_mac = false});
    read_mac(other);
    assert_memory_not_equal(mac, other, 6);
}

/* Who is at the other end of a socket does not know headers of virtio. */
static void test_a_socket_has_no_offloads(void **state)
{
    const uint64_t wanted = VM_NET_BIT(VIRTIO_F_VERSION_1) | EVENTS | TABLES | MERGED |
                            VM_NET_BIT(VIRTIO_NET_F_MAC) | VM_NET_BIT(VIRTIO_NET_F_STATUS);

    (void)state;
    open_guest((struct virtio_net_options){.vlan = 0});
    assert_int_equal(vm_driver_offered(&guest.driver), wanted);
}

static void expect_no_device(struct virtio_net_options options, const char *part)
{
    struct virtio_device *device;
    struct vdisk_error error = {.text = ""};

    options.name = "net 0";
    assert_int_equal(virtio_net_new(&options, &rig.memory, rig.reactor, &device, &error), -EINVAL);
    assert_non_null(strstr(error.text, part));
}

static void test_options_that_make_no_device_are_refused(void **state)
{
    static char longer[200];

    (void)state;
    memset(longer, 'x', sizeof(longer) - 1);
    expect_no_device((struct virtio_net_options){.vlan = 0}, "a tap or a socket");
    expect_no_device((struct virtio_net_options){.tap = "a", .socket = "b"}, "a tap or a socket");
    expect_no_device((struct virtio_net_options){.socket = path, .vlan = 4095}, "VLAN");
    expect_no_device((struct virtio_net_options){.socket = path, .has_mac = true, .mac = {1}},
                     "address");
    expect_no_device((struct virtio_net_options){.socket = path, .has_mac = true}, "address");
    expect_no_device((struct virtio_net_options){.socket = longer}, "path");
    expect_no_device((struct virtio_net_options){.tap = "tap%d"}, "tap");
    expect_no_device((struct virtio_net_options){.tap = ""}, "tap");
    expect_no_device((struct virtio_net_options){.tap = "longer-than-15-b"}, "tap");
    open_guest((struct virtio_net_options){.vlan = 4094});
}

/* ---- VLANs ---- */

static void tag(uint8_t *with, size_t length, unsigned type, unsigned tci, unsigned number)
{
    vm_net_frame(frame, length, number);
    memcpy(with, frame, 12);
    with[12] = (uint8_t)(type >> 8);
    with[13] = (uint8_t)type;
    with[14] = (uint8_t)(tci >> 8);
    with[15] = (uint8_t)tci;
    memcpy(with + 16, frame + 12, length - 12);
}

static void test_frames_of_the_guest_are_tagged_outside_alone(void **state)
{
    static const unsigned types[] = {0x8100, 0x88a8, 0x9100};
    static uint8_t wanted[2000], got[VM_NET_FRAME_MAX];

    (void)state;
    open_guest((struct virtio_net_options){.vlan = 0x123});
    vm_net_peer_accept(&peer);
    vm_net_guest_begin(&guest, EVENTS, USUAL);
    vm_net_guest_post(&guest, 16);
    for (unsigned i = 0; i < 3; i++) { /* what the guest tags goes nowhere */
        tag(wanted, 100, types[i], i == 1 ? 0x123 : 5, i);
        vm_net_guest_send(&guest, NULL, wanted, 104);
    }
    send_numbered(VM_NET_FRAME_MAX - 3, 4); /* with the tag it would be too long */
    send_numbered(14, 8);
    send_numbered(1514, 9);
    vm_rig_settle(&rig);
    tag(wanted, 14, 0x8100, 0x123, 8);
    assert_int_equal(vm_net_peer_take(&peer, got), 18);
    assert_memory_equal(got, wanted, 18);
    tag(wanted, 1514, 0x8100, 0x123, 9);
    assert_int_equal(vm_net_peer_take(&peer, got), 1518);
    assert_memory_equal(got, wanted, 1518);
    assert_int_equal(vm_net_guest_counts(&guest).out.drops, 4);
    assert_int_equal(vm_net_guest_counts(&guest).out.bytes, 1528);
    send_numbered(VM_NET_FRAME_MAX - 4, 10);
    while (vm_net_peer_take(&peer, got) == 0)
        vm_rig_settle(&rig);
    assert_int_equal(vm_net_guest_counts(&guest).out.frames, 3);
}

/* Places that a header names go along; none is within what comes before them, or past 64 KiB. */
static void test_places_in_a_frame_go_along_with_a_tag(void **state)
{
    static const struct {
        unsigned start, length, start_after, length_after;
        bool add, good;
    } cases[] = {
        {34, 54, 38, 58, true, true},       {38, 58, 34, 54, false, true},
        {34, 0, 38, 0, true, true},         {38, 0, 34, 0, false, true},
        {65531, 60, 65535, 64, true, true}, {65532, 60, 0, 0, true, false},
        {18, 3, 14, 0, false, true},        {17, 60, 0, 0, false, false},
        {34, 65535, 38, 0, true, true},
    };

    (void)state;
    open_guest((struct virtio_net_options){.vlan = 1});
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct virtio_net_hdr_v1 header = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                           .csum_start = (uint16_t)cases[i].start,
                                           .hdr_len = (uint16_t)cases[i].length};
        uint8_t bytes[64] = {0};

        assert_int_equal(cases[i].add ? net_vlan_add(&header, bytes + 4, 1)
                                      : net_vlan_remove(&header, bytes),
                         cases[i].good);
        if (!cases[i].good)
            continue;
        assert_int_equal(header.csum_start, cases[i].start_after);
        assert_int_equal(header.hdr_len, cases[i].length_after);
    }
}

static void test_the_guest_sees_frames_of_its_vlan_alone(void **state)
{
    static uint8_t bytes[2000];

    (void)state;
    open_guest((struct virtio_net_options){.vlan = 0x123});
    vm_net_peer_accept(&peer);
    vm_net_guest_begin(&guest, EVENTS, USUAL);
    vm_net_guest_post(&guest, 16);
    vm_net_peer_send(&peer, 100, 1); /* untagged */
    tag(bytes, 100, 0x8100, 0x124, 2);
    assert_true(vm_net_peer_try_send(&peer, bytes, 104));
    tag(bytes, 100, 0x8100, 0, 3); /* only a priority */
    assert_true(vm_net_peer_try_send(&peer, bytes, 104));
    tag(bytes, 100, 0x88a8, 0x123, 4);
    assert_true(vm_net_peer_try_send(&peer, bytes, 104));
    tag(bytes, 14, 0x8100, 0x123, 5);
    assert_true(vm_net_peer_try_send(&peer, bytes, 17)); /* cut off within its type */
    tag(bytes, 14, 0x8100, 0xe123, 6);                   /* with a priority */
    assert_true(vm_net_peer_try_send(&peer, bytes, 18));
    tag(bytes, 1514, 0x8100, 0x123, 7);
    assert_true(vm_net_peer_try_send(&peer, bytes, 1518));
    vm_net_guest_expect(&guest, 14, 6);
    vm_net_guest_expect(&guest, 1514, 7);
    assert_int_equal(vm_net_guest_counts(&guest).in.frames, 2);
    assert_int_equal(vm_net_guest_counts(&guest).in.bytes, 1528);
}

static void test_tags_pass_as_they_are_without_a_vlan(void **state)
{
    static uint8_t bytes[2000], got[VM_NET_FRAME_MAX];
    struct virtio_net_hdr_v1 header;

    (void)state;
    begin(EVENTS, USUAL, 4);
    tag(bytes, 100, 0x8100, 0x123, 1);
    vm_net_guest_send(&guest, NULL, bytes, 104);
    vm_rig_settle(&rig);
    assert_int_equal(vm_net_peer_take(&peer, got), 104);
    assert_memory_equal(got, bytes, 104);
    assert_true(vm_net_peer_try_send(&peer, bytes, 104));
    assert_int_equal(vm_net_guest_receive(&guest, &header, got), 104);
    assert_memory_equal(got, bytes, 104);
}

/* ---- the connection ---- */

static void test_a_connection_that_ends_is_made_again(void **state)
{
    int64_t since;

    (void)state;
    begin(MERGED | EVENTS, USUAL, 50);
    vm_net_guest_await_link(&guest, true);
    for (unsigned i = 0; i < 2; i++) {
        since = reactor_now();
        vm_net_peer_hang_up(&peer);
        vm_net_guest_await_link(&guest, false);
        assert_false(vm_net_guest_counts(&guest).is_up);
        send_numbered(100, 1); /* is lost, and does not block */
        vm_rig_settle(&rig);
        assert_int_equal(vm_net_guest_reap(&guest), 1);
        assert_int_equal(vm_net_guest_counts(&guest).out.drops, i + 1);
        vm_net_guest_await_link(&guest, true);
        assert_in_range(reactor_now() - since, 95 * MS, 1000 * MS);
        vm_net_peer_accept(&peer);
        vm_net_peer_send(&peer, 5000, 10 + i);
        vm_net_guest_expect(&guest, 5000, 10 + i);
        send_numbered(500, 20 + i);
        vm_net_peer_expect(&peer, 500, 20 + i);
        assert_int_equal(vm_net_guest_reap(&guest), 1);
    }
}

static void test_a_socket_may_come_later(void **state)
{
    (void)state;
    vm_net_peer_close(&peer);
    (void)unlink(path);
    open_guest((struct virtio_net_options){.vlan = 0});
    vm_net_guest_begin(&guest, EVENTS, USUAL);
    vm_net_guest_post(&guest, 4);
    assert_int_equal(vm_driver_config(&guest.driver, offsetof(struct virtio_net_config, status), 2),
                     0);
    vm_net_peer_listen(&peer, &rig, path);
    vm_net_guest_await_link(&guest, true);
    vm_net_peer_accept(&peer);
    vm_net_peer_send(&peer, 100, 1);
    vm_net_guest_expect(&guest, 100, 1);
}

/* Also when the guest looks at nothing: no buffers, nothing to send. */
static void test_the_end_of_a_connection_is_noticed_by_an_idle_device(void **state)
{
    (void)state;
    open_guest((struct virtio_net_options){.vlan = 0});
    vm_net_peer_accept(&peer);
    vm_net_peer_hang_up(&peer);
    vm_rig_settle(&rig);
    assert_false(vm_net_guest_counts(&guest).is_up);
    vm_net_peer_accept(&peer);
    vm_rig_settle(&rig);
    assert_true(vm_net_guest_counts(&guest).is_up);
}

static void test_what_is_no_frame_ends_the_connection(void **state)
{
    static const uint8_t nonsense[8] = {0, 1, 0, 18}; /* longer by one than any */
    static const uint8_t runts[9] = {0, 0, 0, 0, 0, 0, 0, 1, 7};

    (void)state;
    begin(MERGED | EVENTS, USUAL, 50);
    assert_int_equal(write(peer.fd, runts, sizeof(runts)), sizeof(runts)); /* are dropped */
    vm_net_peer_send(&peer, 100, 1);
    vm_net_guest_expect(&guest, 100, 1);
    assert_int_equal(vm_net_guest_counts(&guest).in.drops, 2);
    assert_int_equal(write(peer.fd, nonsense, sizeof(nonsense)), sizeof(nonsense));
    vm_net_guest_await_link(&guest, false);
    vm_net_peer_hang_up(&peer);
    vm_net_peer_accept(&peer);
    vm_net_guest_await_link(&guest, true);
    vm_net_peer_send(&peer, 100, 2);
    vm_net_guest_expect(&guest, 100, 2);
}

/* ---- suspending ---- */

static void test_it_goes_on_after_saving_and_loading(void **state)
{
    const struct virtio_net_options options = {.name = "net 0", .socket = path};
    struct virtio_device *other;
    uint8_t before[6], after[6];
    json_t *saved;

    (void)state;
    begin(MERGED | EVENTS, 500, 5);
    vm_net_peer_send(&peer, 3000, 1); /* more than its buffers hold: fetched, and taken back */
    vm_rig_settle(&rig);
    virtio_net_mac(guest.driver.device, before);
    virtio_pause(guest.driver.device);
    send_numbered(200, 2);
    saved = virtio_save(guest.driver.device, NULL);
    assert_non_null(saved);
    assert_int_equal(virtio_net_new(&options, &rig.memory, rig.reactor, &other, NULL), 0);
    assert_int_equal(virtio_load(other, saved, NULL), 0);
    json_decref(saved);
    virtio_free(guest.driver.device);
    guest.driver.device = rig.bus.range[0].device = other;
    virtio_net_mac(other, after);
    assert_memory_equal(before, after, 6);
    vm_net_peer_hang_up(&peer);
    vm_net_peer_accept(&peer);
    virtio_resume(other);
    vm_net_peer_expect(&peer, 200, 2);
    for (unsigned i = 0; i < 10; i++) { /* all five buffers are still there */
        vm_net_peer_send(&peer, 2400, 3 + i);
        vm_net_guest_expect(&guest, 2400, 3 + i);
    }
}

/* A driver that was told of a link which is no more hears of it. */
static void test_a_link_that_is_down_after_loading_is_told(void **state)
{
    const struct virtio_net_options options = {.name = "net 0", .socket = path};
    struct virtio_device *other;
    json_t *saved;

    (void)state;
    begin(EVENTS, USUAL, 1);
    virtio_pause(guest.driver.device);
    saved = virtio_save(guest.driver.device, NULL);
    assert_non_null(saved);
    vm_net_peer_close(&peer);
    assert_int_equal(virtio_net_new(&options, &rig.memory, rig.reactor, &other, NULL), 0);
    assert_int_equal(virtio_load(other, saved, NULL), 0);
    json_decref(saved);
    virtio_free(guest.driver.device);
    guest.driver.device = rig.bus.range[0].device = other;
    assert_false(vm_net_guest_counts(&guest).is_up);
    virtio_resume(other);
    assert_int_equal(vm_driver_interrupt(&guest.driver) & VIRTIO_MMIO_INT_CONFIG,
                     VIRTIO_MMIO_INT_CONFIG);
    vm_net_guest_await_link(&guest, false);
}

static void expect_no_load(json_t *saved, const char *key, json_t *value)
{
    const struct virtio_net_options options = {.name = "net 0", .socket = path};
    json_t *copy = json_deep_copy(saved);
    struct virtio_device *other;

    assert_non_null(copy);
    assert_int_equal(json_object_set_new(json_object_get(copy, "own"), key, value), 0);
    assert_int_equal(virtio_net_new(&options, &rig.memory, rig.reactor, &other, NULL), 0);
    assert_int_equal(virtio_load(other, copy, NULL), -EINVAL);
    virtio_free(other);
    json_decref(copy);
}

static void test_a_senseless_state_is_refused(void **state)
{
    json_t *saved;

    (void)state;
    begin(EVENTS, USUAL, 1);
    virtio_pause(guest.driver.device);
    saved = virtio_save(guest.driver.device, NULL);
    virtio_resume(guest.driver.device);
    assert_non_null(saved);
    expect_no_load(saved, "mac", json_string("x"));
    expect_no_load(saved, "mac", json_integer(INT64_C(1) << 48));
    expect_no_load(saved, "mac", json_integer(-1));
    expect_no_load(saved, "up", json_integer(1));
    expect_no_load(saved, "queues", json_integer(1));
    json_decref(saved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_frames_pass_both_ways_byte_for_byte),
        TEST(test_many_frames_pass_both_ways_in_order),
        TEST(test_chains_of_any_shape_hold_a_frame),
        TEST(test_merged_buffers_are_counted_in_the_first),
        TEST(test_a_round_of_frames_is_one_interrupt),
        TEST(test_frames_wait_for_buffers_and_nothing_spins),
        TEST(test_a_frame_waits_until_all_its_buffers_are_there),
        TEST(test_a_frame_that_no_buffers_can_hold_is_dropped),
        TEST(test_frames_of_the_guest_wait_for_a_slow_peer),
        TEST(test_the_address_is_the_given_one_or_local_and_random),
        TEST(test_a_socket_has_no_offloads),
        TEST(test_options_that_make_no_device_are_refused),
        TEST(test_frames_of_the_guest_are_tagged_outside_alone),
        TEST(test_places_in_a_frame_go_along_with_a_tag),
        TEST(test_the_guest_sees_frames_of_its_vlan_alone),
        TEST(test_tags_pass_as_they_are_without_a_vlan),
        TEST(test_a_connection_that_ends_is_made_again),
        TEST(test_a_socket_may_come_later),
        TEST(test_the_end_of_a_connection_is_noticed_by_an_idle_device),
        TEST(test_what_is_no_frame_ends_the_connection),
        TEST(test_it_goes_on_after_saving_and_loading),
        TEST(test_a_link_that_is_down_after_loading_is_told),
        TEST(test_a_senseless_state_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
