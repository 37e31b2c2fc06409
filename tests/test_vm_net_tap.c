/* SPDX-License-Identifier: Apache-2.0 */
/* The network device on a tap, in a network namespace of its own. */
#include "vm_net_guest.h"
#include "vm_netns.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/if_tun.h>
#include <string.h>
#include <unistd.h>

#define BIT(x)   VM_NET_BIT(x)
#define MERGED   BIT(VIRTIO_NET_F_MRG_RXBUF)
#define EVENTS   BIT(VIRTIO_RING_F_EVENT_IDX)
#define OUT_CSUM BIT(VIRTIO_NET_F_CSUM)
#define OUT_TSO  (OUT_CSUM | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6))
#define IN_CSUM  BIT(VIRTIO_NET_F_GUEST_CSUM)
#define IN_TSO   (IN_CSUM | BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6))
#define USUAL    1526u
#define TAP      "vmtap"
#define VLAN     0x234u
#define HEADERS  54u /* of Ethernet, IPv4, TCP */

static const char *why_not; /* there is no namespace */
static struct vm_rig rig;
static struct vm_net_guest guest;
static int packets = -1;
static bool with_header;
static uint8_t frame[VM_NET_FRAME_MAX];
static struct vm_netns_frame got;

static int set_up(void **state)
{
    (void)state;
    if (why_not)
        return 0;
    vm_rig_open(&rig, 2 * VM_RIG_MEMORY);
    assert_true(vm_netns_make_tap(TAP, 0, -1));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (why_not)
        return 0;
    if (packets >= 0)
        close(packets);
    packets = -1;
    if (guest.driver.device)
        vm_net_guest_close(&guest);
    guest.driver.device = NULL;
    vm_rig_close(&rig);
    if (vm_netns_exists(TAP))
        vm_netns_remove(TAP);
    return 0;
}

static void need_namespace(void)
{
    if (!why_not)
        return;
    print_message("%s\n", why_not);
    skip();
}

static void begin_opened(bool header, uint64_t features, unsigned buffers)
{
    vm_netns_set_up(TAP, true);
    with_header = header;
    packets = vm_netns_packets(TAP, header);
    vm_net_guest_begin(&guest, features, USUAL);
    if (buffers > 0)
        vm_net_guest_post(&guest, buffers);
}

static void begin(unsigned vlan, bool header, uint64_t features, unsigned buffers)
{
    const struct virtio_net_options options = {.name = "net 0", .tap = TAP, .vlan = vlan};

    need_namespace();
    vm_net_guest_open(&guest, &rig, &options);
    begin_opened(header, features, buffers);
}

static void send_numbered(size_t length, unsigned number)
{
    vm_net_frame(frame, length, number);
    vm_net_guest_send(&guest, NULL, frame, length);
}

static void host_sends(size_t length, unsigned number)
{
    vm_net_frame(frame, length, number);
    vm_netns_send(packets, NULL, frame, length);
}

/* The host sees nothing, or a frame. */
static bool host_receives(void)
{
    vm_rig_settle(&rig);
    return vm_netns_receive(packets, with_header, &got);
}

static void host_expects(size_t length, unsigned number)
{
    assert_true(host_receives());
    vm_net_frame(frame, length, number);
    assert_int_equal(got.length, length);
    assert_memory_equal(got.bytes, frame, length);
}

/* ---- frames ---- */

static void test_frames_pass_both_ways_byte_for_byte(void **state)
{
    static const size_t sizes[] = {14, 59, 60, 1000, 1514};

    (void)state;
    begin(0, false, EVENTS, 100);
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        send_numbered(sizes[i], i);
        host_expects(sizes[i], i);
        assert_int_equal(got.vlan, 0);
        host_sends(sizes[i], 50 + i);
        vm_net_guest_expect(&guest, sizes[i], 50 + i);
    }
    for (unsigned i = 0; i < 100; i++)
        host_sends(100 + i, i);
    for (unsigned i = 0; i < 100; i++)
        vm_net_guest_expect(&guest, 100 + i, i);
    for (unsigned i = 0; i < 200; i++)
        send_numbered(100 + i, i);
    for (unsigned i = 0; i < 200; i++)
        host_expects(100 + i, i);
}

static void test_frames_wait_in_the_tap_for_buffers(void **state)
{
    (void)state;
    begin(0, false, EVENTS, 0);
    for (unsigned i = 0; i < 300; i++) {
        host_sends(500, i);
        if (i % 16 == 0)
            vm_rig_settle(&rig);
    }
    vm_net_guest_post(&guest, 10);
    for (unsigned i = 0; i < 300; i++)
        vm_net_guest_expect(&guest, 500, i);
    assert_int_equal(vm_net_guest_counts(&guest).in.frames, 300);
    assert_int_equal(vm_net_guest_counts(&guest).in.drops, 0);
}

static void test_a_vlan_is_outside_alone(void **state)
{
    static uint8_t tagged[200];

    (void)state;
    begin(VLAN, false, EVENTS, 16);
    send_numbered(60, 1);
    host_expects(60, 1); /* the kernel has taken the tag out */
    assert_int_equal(got.vlan, VLAN);
    host_sends(100, 2); /* untagged */
    vm_net_frame(frame, 100, 3);
    memcpy(tagged, frame, 12);
    memcpy(tagged + 16, frame + 12, 88);
    memcpy(tagged + 12, (const uint8_t[]){0x81, 0, 0x02, 0x35}, 4); /* another */
    vm_netns_send(packets, NULL, tagged, 104);
    vm_net_guest_send(&guest, NULL, tagged, 104);
    tagged[15] = 0x34;
    vm_netns_send(packets, NULL, tagged, 104);
    vm_net_guest_send(&guest, NULL, tagged, 104);
    vm_net_guest_expect(&guest, 100, 3);
    assert_int_equal(vm_net_guest_counts(&guest).in.frames, 1);
    assert_false(host_receives()); /* what the guest tagged */
    assert_int_equal(vm_net_guest_counts(&guest).out.drops, 2);
}

/* ---- offloads ---- */

static uint32_t sum16(const uint8_t *bytes, size_t length, uint32_t sum)
{
    for (size_t i = 0; i < length; i++)
        sum += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

/* Of TCP's pseudo header. */
static uint32_t pseudo_sum(const uint8_t *ip, size_t tcp_bytes)
{
    return sum16(ip + 12, 8, 6 + (uint32_t)tcp_bytes);
}

static void put16(uint8_t *to, uint32_t value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}

/* A segment of TCP whose checksum is left to others. */
static struct virtio_net_hdr make_segment(size_t length, unsigned mss)
{
    static const uint8_t ip[20] = {0x45, 0, 0,  0, 0, 1, 0,  0, 64, 6,
                                   0,    0, 10, 0, 0, 1, 10, 0, 0,  2};
    static const uint8_t tcp[20] = {0, 80, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 4, 0};

    vm_net_frame(frame, length, 77);
    put16(frame + 12, 0x0800);
    memcpy(frame + 14, ip, 20);
    put16(frame + 16, (uint32_t)length - 14);
    put16(frame + 24, ~sum16(frame + 14, 20, 0));
    memcpy(frame + 34, tcp, 20);
    put16(frame + 50, pseudo_sum(frame + 14, length - 34));
    return (struct virtio_net_hdr){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                   .gso_type = mss ? VIRTIO_NET_HDR_GSO_TCPV4 : 0,
                                   .gso_size = (uint16_t)mss,
                                   .hdr_len = HEADERS,
                                   .csum_start = 34,
                                   .csum_offset = 16};
}

static void host_sends_segment(unsigned vlan, size_t length, unsigned mss)
{
    static uint8_t tagged[VM_NET_FRAME_MAX];
    struct virtio_net_hdr header = make_segment(length, mss);

    if (vlan == 0) {
        vm_netns_send(packets, &header, frame, length);
        return;
    }
    memcpy(tagged, frame, 12);
    put16(tagged + 12, 0x8100);
    put16(tagged + 14, vlan);
    memcpy(tagged + 16, frame + 12, length - 12);
    header.csum_start += 4;
    header.hdr_len += 4;
    vm_netns_send(packets, &header, tagged, length + 4);
}

static void guest_sends_segment(size_t length, unsigned mss)
{
    const struct virtio_net_hdr header = make_segment(length, mss);
    struct virtio_net_hdr_v1 longer = {.flags = 0};

    memcpy(&longer, &header, sizeof(header));
    vm_net_guest_send(&guest, &longer, frame, length);
}

static void expect_places(const struct virtio_net_hdr_v1 *header, unsigned mss)
{
    assert_int_equal(header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_F_NEEDS_CSUM);
    assert_int_equal(header->csum_start, 34);
    assert_int_equal(header->csum_offset, 16);
    assert_int_equal(header->gso_type, mss ? VIRTIO_NET_HDR_GSO_TCPV4 : 0);
    assert_int_equal(header->gso_size, mss);
}

/* From the guest, with and without a VLAN: as one frame, with the places in it where they are. */
static void guest_offloads_reach_the_host(unsigned vlan)
{
    struct virtio_net_hdr_v1 header = {.flags = 0};

    begin(vlan, true, OUT_TSO, 0);
    assert_int_equal(guest.driver.features & OUT_TSO, OUT_TSO);
    for (unsigned mss = 0; mss <= 1000; mss += 1000) {
        const size_t length = mss ? 20054 : 1054;

        guest_sends_segment(length, mss);
        assert_true(host_receives());
        assert_int_equal(got.vlan, vlan);
        assert_int_equal(got.length, length);
        (void)make_segment(length, mss);
        assert_memory_equal(got.bytes, frame, length);
        memcpy(&header, &got.header, sizeof(got.header));
        expect_places(&header, mss);
    }
}

static void test_offloads_of_the_guest_reach_the_host(void **state)
{
    (void)state;
    guest_offloads_reach_the_host(0);
}

static void test_offloads_of_the_guest_reach_the_host_in_a_vlan(void **state)
{
    (void)state;
    guest_offloads_reach_the_host(VLAN);
}

static void host_offloads_reach_the_guest(unsigned vlan)
{
    struct virtio_net_hdr_v1 header;

    begin(vlan, true, IN_TSO | MERGED, 64);
    assert_int_equal(guest.driver.features & IN_TSO, IN_TSO);
    for (unsigned mss = 0; mss <= 1000; mss += 1000) {
        const size_t length = mss ? 20054 : 1054;

        host_sends_segment(vlan, length, mss);
        assert_int_equal(vm_net_guest_receive(&guest, &header, got.bytes), length);
        (void)make_segment(length, mss);
        assert_memory_equal(got.bytes, frame, length);
        expect_places(&header, mss);
    }
}

static void test_offloads_of_the_host_reach_the_guest(void **state)
{
    (void)state;
    host_offloads_reach_the_guest(0);
}

static void test_offloads_of_the_host_reach_the_guest_in_a_vlan(void **state)
{
    (void)state;
    host_offloads_reach_the_guest(VLAN);
}

/* A driver that accepted none gets plain frames: whole, short, with their checksums. */
static void host_is_spared_nothing(unsigned vlan)
{
    struct virtio_net_hdr_v1 header;
    size_t payload = 0;

    begin(vlan, true, 0, 64);
    host_sends_segment(vlan, 20054, 1000);
    while (payload < 20000) {
        size_t length = vm_net_guest_receive(&guest, &header, got.bytes);

        assert_in_range(length, HEADERS + 1, HEADERS + 1000);
        assert_int_equal(header.flags, 0);
        assert_int_equal(header.gso_type, VIRTIO_NET_HDR_GSO_NONE);
        assert_int_equal(
            sum16(got.bytes + 34, length - 34, pseudo_sum(got.bytes + 14, length - 34)), 0xffff);
        payload += length - HEADERS;
    }
    assert_int_equal(payload, 20000);
}

static void test_a_driver_without_offloads_gets_plain_frames(void **state)
{
    (void)state;
    host_is_spared_nothing(0);
}

static void test_a_driver_without_offloads_gets_plain_frames_in_a_vlan(void **state)
{
    (void)state;
    host_is_spared_nothing(VLAN);
}

/* What came for a driver that took offloads is not for the next one, which does not. */
static void test_a_frame_for_another_driver_is_dropped(void **state)
{
    (void)state;
    begin(0, true, IN_TSO | MERGED, 0);
    host_sends_segment(0, 20054, 1000);
    host_sends_segment(0, 1054, 0);
    host_sends_segment(0, 1054, 0);
    vm_net_guest_begin(&guest, 0, USUAL);
    vm_net_guest_post(&guest, 4);
    close(packets);
    packets = vm_netns_packets(TAP, false);
    host_sends(100, 5);
    vm_net_guest_expect(&guest, 100, 5);
    assert_int_equal(vm_net_guest_counts(&guest).in.drops, 3);
}

static void test_nonsense_of_the_guest_does_not_reach_the_host(void **state)
{
    const struct virtio_net_hdr good = {.flags = 1,
                                        .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                        .gso_size = 1000,
                                        .hdr_len = HEADERS,
                                        .csum_start = 34,
                                        .csum_offset = 16};
    struct virtio_net_hdr bad[8];
    const unsigned count = sizeof(bad) / sizeof(bad[0]);

    (void)state;
    begin(0, true, OUT_CSUM | BIT(VIRTIO_NET_F_HOST_TSO4), 0);
    for (unsigned i = 0; i < count; i++)
        bad[i] = good;
    bad[0].flags = 0;
    bad[1].gso_size = 0;
    bad[2].gso_type = VIRTIO_NET_HDR_GSO_TCPV6;
    bad[3].gso_type |= VIRTIO_NET_HDR_GSO_ECN;
    bad[4].csum_start = 1999; /* its end is past the frame's */
    bad[5].csum_offset = 65535;
    bad[6].csum_start = 13;
    bad[7].gso_type = VIRTIO_NET_HDR_GSO_UDP;
    for (unsigned i = 0; i < count; i++) {
        struct virtio_net_hdr_v1 longer = {.flags = 0};

        (void)make_segment(2000, 1000);
        memcpy(&longer, &bad[i], sizeof(bad[i]));
        vm_net_guest_send(&guest, &longer, frame, 2000);
        assert_false(host_receives());
        assert_int_equal(vm_net_guest_counts(&guest).out.drops, i + 1);
    }
}

/* A frame that is right, of a driver that has not asked whether it may. */
static void test_a_frame_is_not_cut_up_for_who_has_not_asked(void **state)
{
    (void)state;
    begin(0, true, OUT_CSUM | BIT(VIRTIO_NET_F_HOST_TSO6), 0);
    guest_sends_segment(2000, 1000);
    assert_false(host_receives());
    assert_int_equal(vm_net_guest_counts(&guest).out.drops, 1);
}

static void test_segmentation_without_checksums_is_no_choice(void **state)
{
    const struct virtio_net_options options = {.name = "net 0", .tap = TAP};

    (void)state;
    need_namespace();
    vm_net_guest_open(&guest, &rig, &options);
    assert_true(vm_driver_negotiate(&guest.driver, BIT(VIRTIO_NET_F_GUEST_TSO4)));
    vm_driver_go(&guest.driver);
    assert_int_equal(vm_driver_status(&guest.driver), 0xf | VIRTIO_CONFIG_S_NEEDS_RESET);
}

/* ---- the tap itself ---- */

static void test_the_mtu_is_the_taps_and_holds(void **state)
{
    const uint64_t mtu = BIT(VIRTIO_NET_F_MTU);

    (void)state;
    need_namespace();
    vm_netns_set_mtu(TAP, 1400);
    begin(0, false, mtu, 0);
    assert_int_equal(guest.driver.features & mtu, mtu);
    assert_int_equal(vm_driver_config(&guest.driver, offsetof(struct virtio_net_config, mtu), 2),
                     1400);
    send_numbered(1414, 1);
    host_expects(1414, 1);
    send_numbered(1423, 2); /* more than two tags above it */
    assert_false(host_receives());
    assert_int_equal(vm_net_guest_counts(&guest).out.drops, 1);
    vm_net_guest_begin(&guest, 0, USUAL); /* not told of it */
    send_numbered(1423, 2);
    host_expects(1423, 2);
}

static void test_a_tap_that_is_removed_is_a_link_that_is_down(void **state)
{
    (void)state;
    begin(0, false, EVENTS, 4);
    vm_net_guest_await_link(&guest, true);
    host_sends(100, 1);
    vm_net_guest_expect(&guest, 100, 1);
    vm_netns_remove(TAP);
    vm_net_guest_await_link(&guest, false);
    send_numbered(100, 2); /* is lost, and does not block */
    vm_rig_settle(&rig);
    assert_int_equal(vm_net_guest_reap(&guest), 1);
}

/* Without buffers the device does not wait for frames: it hears of it by sending. */
static void test_a_removed_tap_is_noticed_by_sending(void **state)
{
    (void)state;
    begin(0, false, EVENTS, 0);
    host_sends(100, 1);
    vm_rig_settle(&rig);
    vm_netns_remove(TAP);
    vm_rig_settle(&rig);
    send_numbered(100, 2);
    vm_net_guest_await_link(&guest, false);
    assert_int_equal(vm_net_guest_counts(&guest).out.drops, 1);
}

static void test_a_tap_that_is_set_down_loses_frames_and_comes_again(void **state)
{
    (void)state;
    begin(0, false, EVENTS, 4);
    vm_netns_set_up(TAP, false);
    send_numbered(100, 1);
    vm_rig_settle(&rig);
    assert_int_equal(vm_net_guest_reap(&guest), 1);
    assert_int_equal(vm_net_guest_counts(&guest).out.drops, 1);
    vm_netns_set_up(TAP, true);
    host_sends(100, 2);
    vm_net_guest_expect(&guest, 100, 2);
    send_numbered(100, 3);
    host_expects(100, 3);
}

static void expect_refusal(const char *name, int code, const char *part)
{
    const struct virtio_net_options options = {.name = "net 0", .tap = name};
    struct vdisk_error error = {.text = ""};
    struct virtio_device *device;

    assert_int_equal(virtio_net_new(&options, &rig.memory, rig.reactor, &device, &error), code);
    assert_non_null(strstr(error.text, name));
    if (!strstr(error.text, part))
        fail_msg("`%s` says nothing of `%s`", error.text, part);
}

static void test_a_tap_that_cannot_be_had_is_explained(void **state)
{
    (void)state;
    begin(0, false, EVENTS, 0);
    expect_refusal(TAP, -EBUSY, "in use");
    expect_refusal("lo", -EINVAL, "not a tap");
    vm_netns_set_right(false);
    expect_refusal("vmother", -EPERM, "no tap");
    vm_netns_set_right(true);
    if (!vm_netns_make_tap("vmother", 0, 12345))
        return;
    vm_netns_set_right(false);
    expect_refusal("vmother", -EPERM, "owner");
    vm_netns_set_right(true);
    vm_netns_remove("vmother");
}

static void test_the_owner_of_a_tap_needs_no_rights(void **state)
{
    static const short kinds[] = {0, IFF_MULTI_QUEUE};
    const struct virtio_net_options options = {.name = "net 0", .tap = TAP};

    (void)state;
    need_namespace();
    for (unsigned i = 0; i < 2; i++) {
        vm_netns_remove(TAP);
        assert_true(vm_netns_make_tap(TAP, kinds[i], (int)geteuid()));
        vm_netns_set_right(false);
        vm_net_guest_open(&guest, &rig, &options);
        vm_netns_set_right(true);
        begin_opened(false, EVENTS, 4);
        host_sends(100, 1);
        vm_net_guest_expect(&guest, 100, 1);
        vm_net_guest_close(&guest);
        guest.driver.device = NULL;
        rig.bus.count = 0;
        close(packets);
        packets = -1;
    }
}

static void test_a_tap_that_is_not_there_is_made_for_a_while(void **state)
{
    const struct virtio_net_options options = {.name = "net 0", .tap = TAP};

    (void)state;
    need_namespace();
    vm_netns_remove(TAP);
    vm_net_guest_open(&guest, &rig, &options);
    assert_true(vm_netns_is_up(TAP));
    begin_opened(false, EVENTS, 4);
    host_sends(100, 1);
    vm_net_guest_expect(&guest, 100, 1);
    vm_net_guest_close(&guest);
    guest.driver.device = NULL;
    assert_false(vm_netns_exists(TAP));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_frames_pass_both_ways_byte_for_byte),
        TEST(test_frames_wait_in_the_tap_for_buffers),
        TEST(test_a_vlan_is_outside_alone),
        TEST(test_offloads_of_the_guest_reach_the_host),
        TEST(test_offloads_of_the_guest_reach_the_host_in_a_vlan),
        TEST(test_offloads_of_the_host_reach_the_guest),
        TEST(test_offloads_of_the_host_reach_the_guest_in_a_vlan),
        TEST(test_a_driver_without_offloads_gets_plain_frames),
        TEST(test_a_driver_without_offloads_gets_plain_frames_in_a_vlan),
        TEST(test_a_frame_for_another_driver_is_dropped),
        TEST(test_nonsense_of_the_guest_does_not_reach_the_host),
        TEST(test_a_frame_is_not_cut_up_for_who_has_not_asked),
        TEST(test_segmentation_without_checksums_is_no_choice),
        TEST(test_the_mtu_is_the_taps_and_holds),
        TEST(test_a_tap_that_is_removed_is_a_link_that_is_down),
        TEST(test_a_removed_tap_is_noticed_by_sending),
        TEST(test_a_tap_that_is_set_down_loses_frames_and_comes_again),
        TEST(test_a_tap_that_cannot_be_had_is_explained),
        TEST(test_the_owner_of_a_tap_needs_no_rights),
        TEST(test_a_tap_that_is_not_there_is_made_for_a_while),
    };

    why_not = vm_netns_enter();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
