/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A drive of a virtual machine, served by vdiskd's back end in this process: all that a guest does
 * with it while nothing goes wrong, and what a guest that breaks the rules gets.
 */
#include "vhost_kit.h"
#include "vm_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>

#define IN      VIRTIO_BLK_T_IN
#define OUT     VIRTIO_BLK_T_OUT
#define FLUSH   VIRTIO_BLK_T_FLUSH
#define DISCARD VIRTIO_BLK_T_DISCARD
#define OK      VIRTIO_BLK_S_OK
#define PACKED  CLIENT_BIT(VIRTIO_F_RING_PACKED)
#define BLOCK   4096u

static struct vm_rig rig;
static struct disk disk;
static uint8_t data[BLOCK], back[BLOCK], zeros[BLOCK];

static void fill(uint8_t seed)
{
    for (unsigned i = 0; i < BLOCK; i++)
        data[i] = (uint8_t)(seed + i * 7 + i / 256);
}

static void opened(unsigned queues)
{
    struct virtio_blk_options options = disk_options(&disk, kit.socket);

    options.queues = queues;
    disk_open(&disk, &rig, 0, &options);
}

static void write_and_read(struct disk *on, unsigned queue, uint64_t offset, uint8_t seed)
{
    fill(seed);
    assert_int_equal(disk_do(on, queue, OUT, offset, data, BLOCK), OK);
    memset(back, 0, sizeof(back));
    assert_int_equal(disk_do(on, queue, IN, offset, back, BLOCK), OK);
    assert_memory_equal(back, data, BLOCK);
}

static void expect_zeros(uint64_t offset)
{
    memset(back, 1, sizeof(back));
    assert_int_equal(disk_do(&disk, 0, IN, offset, back, BLOCK), OK);
    assert_memory_equal(back, zeros, BLOCK);
}

/* ---- requests ---- */

static void all_requests(unsigned queues, uint64_t without)
{
    struct virtio_blk_discard_write_zeroes range = {.num_sectors = BLOCK / 512};

    opened(queues);
    disk_begin(&disk, without);
    assert_int_equal(disk_capacity(&disk), KIT_SIZE);
    for (unsigned q = 0; q < queues; q++)
        for (unsigned i = 0; i < 3 * DISK_RING; i++) /* around the ring */
            write_and_read(&disk, q, (q * 256 + i) * BLOCK, (uint8_t)(q * 50 + i));
    assert_int_equal(disk_do(&disk, queues - 1, FLUSH, 0, NULL, 0), OK);
    assert_int_equal(disk_do(&disk, 0, DISCARD, 0, &range, sizeof(range)), OK);
    expect_zeros(0);
    range.sector = BLOCK / 512;
    assert_int_equal(disk_do(&disk, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, &range, sizeof(range)), OK);
    expect_zeros(BLOCK);
    assert_int_equal(disk_do(&disk, 0, IN, KIT_SIZE, back, BLOCK), VIRTIO_BLK_S_IOERR);
    assert_false(disk_needs_reset(&disk));
    assert_int_equal(disk_lines(&disk), 0);
    disk_close(&disk);
}

static void test_requests_are_done_by_a_split_ring(void **state)
{
    (void)state;
    all_requests(1, PACKED);
}

static void test_requests_are_done_by_a_packed_ring(void **state)
{
    (void)state;
    all_requests(1, 0);
}

static void test_requests_are_done_by_several_split_rings(void **state)
{
    (void)state;
    all_requests(4, PACKED);
}

static void test_requests_are_done_by_several_packed_rings(void **state)
{
    (void)state;
    all_requests(4, 0);
}

static void test_requests_are_done_without_tables_and_event_indices(void **state)
{
    (void)state;
    all_requests(1, PACKED | CLIENT_BIT(VIRTIO_RING_F_INDIRECT_DESC) |
                        CLIENT_BIT(VIRTIO_RING_F_EVENT_IDX));
}

static void test_two_drives_do_not_disturb_each_other(void **state)
{
    static struct disk second;
    struct virtio_blk_options options = disk_options(&second, kit.witness);

    (void)state;
    opened(1);
    disk_open(&second, &rig, 1, &options);
    disk_begin(&disk, 0);
    disk_begin(&second, PACKED);
    write_and_read(&disk, 0, 0, 1);
    /* They are the same image here, by two sockets. */
    assert_int_equal(disk_do(&second, 0, IN, 0, back, BLOCK), OK);
    assert_memory_equal(back, data, BLOCK);
    write_and_read(&second, 0, BLOCK, 2);
    disk_reset(&disk);
    write_and_read(&second, 0, BLOCK, 3);
    disk_close(&disk);
    write_and_read(&second, 0, BLOCK, 4);
    disk_close(&second);
}

/* ---- what the drive is like ---- */

static unsigned queues_of(unsigned queues, unsigned cpus)
{
    struct virtio_blk_options options = disk_options(&disk, kit.socket);
    unsigned count, said;

    options.queues = queues;
    options.cpus = cpus;
    disk_open(&disk, &rig, 0, &options);
    count = disk.device->queues;
    said = vm_driver_config(&disk.driver, offsetof(struct virtio_blk_config, num_queues), 2);
    assert_int_equal(said, count);
    assert_int_equal(!!(vm_driver_offered(&disk.driver) & CLIENT_BIT(VIRTIO_BLK_F_MQ)), count > 1);
    disk_close(&disk);
    return count;
}

static void test_a_drive_has_a_queue_for_each_processor_if_it_can(void **state)
{
    (void)state;
    assert_int_equal(queues_of(0, 1), 1);
    rig.bus = (struct vm_bus){.count = 0};
    assert_int_equal(queues_of(0, 3), 3);
    rig.bus = (struct vm_bus){.count = 0};
    assert_int_equal(queues_of(0, 64), VIRTIO_QUEUES_MAX);
    rig.bus = (struct vm_bus){.count = 0};
    assert_int_equal(queues_of(2, 64), 2);
}

static int try_it(const struct virtio_blk_options *options, struct vdisk_error *error)
{
    struct kit_held before = kit_held();
    struct virtio_device *device = NULL;
    int rc = virtio_blk_new(options, &rig.memory, rig.reactor, &device, error);

    assert_null(device);
    assert_non_null(strstr(error->text, options->name));
    assert_non_null(strstr(error->text, options->socket));
    assert_true(kit_let_go(before));
    return rc;
}

static void test_a_drive_that_cannot_be_is_refused_with_the_reason(void **state)
{
    struct virtio_blk_options options = disk_options(&disk, kit.socket);
    struct vdisk_error error;

    (void)state;
    options.queues = VIRTIO_QUEUES_MAX + 1;
    assert_int_equal(try_it(&options, &error), -EINVAL);
    assert_non_null(strstr(error.text, "17 queues, of which there can be 16"));
    options.queues = 1;
    options.read_only = true;
    assert_int_equal(try_it(&options, &error), -ENOTSUP);
    assert_non_null(strstr(error.text, "export it read-only"));
    options.socket = "/nowhere/at/all";
    assert_int_equal(try_it(&options, &error), -ENOENT);
    assert_non_null(strstr(error.text, "No such file or directory"));
}

static void test_a_read_only_drive_is_read_and_not_written(void **state)
{
    struct virtio_blk_options options = disk_options(&disk, kit.socket);

    (void)state;
    options.read_only = true;
    disk_open(&disk, &rig, 0, &options);
    disk_begin(&disk, 0);
    assert_true(disk.client->features & CLIENT_BIT(VIRTIO_BLK_F_RO));
    expect_zeros(0);
    fill(1);
    assert_int_equal(disk_do(&disk, 0, OUT, 0, data, BLOCK), VIRTIO_BLK_S_IOERR);
    /* A driver that does not want to know of it is not let in by that. */
    disk_reset(&disk);
    disk_begin(&disk, CLIENT_BIT(VIRTIO_BLK_F_RO));
    assert_int_equal(disk_do(&disk, 0, OUT, 0, data, BLOCK), VIRTIO_BLK_S_IOERR);
    expect_zeros(0);
    disk_close(&disk);
}

static int change_size(struct vdisk_image *image, void *size)
{
    return vdisk_resize(image, *(const uint64_t *)size, false);
}

static void resize_it(void)
{
    uint64_t size = 2 * KIT_SIZE;

    assert_int_equal(export_call(kit.export, change_size, &size, NULL), 0);
    export_resized(kit.export);
}

static void test_the_guest_hears_of_a_new_size(void **state)
{
    (void)state;
    opened(1);
    disk_begin(&disk, 0);
    write_and_read(&disk, 0, 0, 1);
    (void)vm_driver_is_raised(&disk.driver);
    uint32_t generation = vm_driver_read(&disk.driver, VIRTIO_MMIO_CONFIG_GENERATION);

    kit_run(resize_it);
    assert_true(vm_driver_interrupt(&disk.driver) & VIRTIO_MMIO_INT_CONFIG);
    assert_int_not_equal(vm_driver_read(&disk.driver, VIRTIO_MMIO_CONFIG_GENERATION), generation);
    assert_int_equal(disk_capacity(&disk), 2 * KIT_SIZE);
    write_and_read(&disk, 0, 2 * KIT_SIZE - BLOCK, 2);
    disk_close(&disk);
}

static void test_a_new_size_is_there_for_a_driver_that_comes_later(void **state)
{
    (void)state;
    opened(1);
    kit_run(resize_it);
    for (unsigned i = 0; i < 20000 && disk_capacity(&disk) == KIT_SIZE; i++) {
        disk_begin(&disk, 0); /* each time the drive is looked at anew */
        disk_reset(&disk);
    }
    assert_int_equal(disk_capacity(&disk), 2 * KIT_SIZE);
    disk_close(&disk);
}

static uint32_t write_back(void)
{
    return vm_driver_config(&disk.driver, offsetof(struct virtio_blk_config, wce), 1);
}

static void test_the_write_cache_is_switched_until_a_reset(void **state)
{
    const uint32_t at = offsetof(struct virtio_blk_config, wce);

    (void)state;
    opened(1);
    disk_begin(&disk, 0);
    assert_int_equal(write_back(), 1);
    vm_driver_set_config(&disk.driver, at, 0, 1);
    assert_int_equal(write_back(), 0);
    write_and_read(&disk, 0, 0, 1);
    vm_driver_set_config(&disk.driver, at, 77, 1);
    assert_int_equal(write_back(), 1);
    vm_driver_set_config(&disk.driver, at, 0, 4); /* not a field */
    vm_driver_set_config(&disk.driver, 0, 1, 4);
    assert_int_equal(write_back(), 1);
    assert_int_equal(disk_capacity(&disk), KIT_SIZE);
    vm_driver_set_config(&disk.driver, at, 0, 1);
    disk_reset(&disk);
    assert_int_equal(write_back(), 1);
    disk_begin(&disk, CLIENT_BIT(VIRTIO_BLK_F_CONFIG_WCE));
    vm_driver_set_config(&disk.driver, at, 0, 1); /* not accepted */
    assert_int_equal(write_back(), 1);
    write_and_read(&disk, 0, 0, 2);
    disk_close(&disk);
}

/* ---- stop and start ---- */

static void test_a_reset_ends_what_was_asked_and_begins_anew(void **state)
{
    (void)state;
    opened(2);
    for (unsigned round = 0; round < 20; round++) {
        disk_begin(&disk, round % 2 ? PACKED : 0);
        write_and_read(&disk, round % 2, round * BLOCK, (uint8_t)round);
        for (unsigned i = 0; i < 8; i++)
            client_submit(disk.client, 0, client_slot(disk.client, 0), IN, 0, 0, BLOCK, 1);
        client_kick(disk.client, 0);
        disk_reset(&disk);
        /* Whatever is there after a reset is the guest's. */
        memset(disk.client->queue[0].data, 0x5a, DISK_RING * (size_t)DISK_DATA);
        memset(disk.client->queue[0].ring, 0x5a, CLIENT_USED_AT);
        for (unsigned i = 0; i < DISK_RING * DISK_DATA; i++)
            assert_int_equal(disk.client->queue[0].data[i], 0x5a);
    }
    assert_int_equal(disk_lines(&disk), 0);
    disk_close(&disk);
}

static unsigned submit_writes(unsigned count, uint8_t seed)
{
    for (unsigned i = 0; i < count; i++) {
        int slot = client_slot(disk.client, 0);

        fill((uint8_t)(seed + i));
        memcpy(client_data(disk.client, 0, slot), data, BLOCK);
        client_submit(disk.client, 0, slot, OUT, i * BLOCK, BLOCK, 0, 1);
    }
    client_kick(disk.client, 0);
    return count;
}

/* What has ended, all of it well; how many. */
static unsigned take_answers(void)
{
    unsigned count = 0;

    (void)client_poll(disk.client, 0);
    for (unsigned i = 0; i < DISK_RING; i++) {
        struct client_slot *slot = &disk.client->queue[0].slot[i];

        if (slot->ended) {
            slot->ended = false;
            assert_int_equal(slot->status, OK);
            count++;
        }
    }
    return count;
}

static void expect_answers(unsigned count)
{
    unsigned ended = take_answers();

    while (ended < count) {
        assert_int_equal(client_wait(disk.client, 0), 0);
        ended += take_answers();
    }
    assert_int_equal(ended, count);
}

static void expect_written(unsigned count, uint8_t seed)
{
    for (unsigned i = 0; i < count; i++) {
        fill((uint8_t)(seed + i));
        assert_int_equal(disk_do(&disk, 0, IN, i * BLOCK, back, BLOCK), OK);
        assert_memory_equal(back, data, BLOCK);
    }
}

static void paused_and_resumed(uint64_t without)
{
    opened(1);
    disk_begin(&disk, without);
    for (unsigned round = 0; round < 20; round++) {
        unsigned asked = submit_writes(8, (uint8_t)round);

        virtio_pause(disk.device);
        /* What was taken has ended; what comes now waits. */
        asked -= take_answers();
        asked += submit_writes(4, (uint8_t)round);
        assert_int_equal(take_answers(), 0);
        virtio_resume(disk.device);
        expect_answers(asked);
        expect_written(8, (uint8_t)round);
    }
    assert_int_equal(disk_lines(&disk), 0);
    disk_close(&disk);
}

static void test_a_paused_split_ring_goes_on_where_it_was(void **state)
{
    (void)state;
    paused_and_resumed(PACKED);
}

static void test_a_paused_packed_ring_goes_on_where_it_was(void **state)
{
    (void)state;
    paused_and_resumed(0);
}

/* Another process has the memory and the devices then; here it is another device. */
static void suspended(uint64_t without)
{
    struct virtio_blk_options options = disk_options(&disk, kit.socket);
    struct virtio_device *next;
    struct client *client;

    opened(1);
    disk_begin(&disk, without);
    vm_driver_set_config(&disk.driver, offsetof(struct virtio_blk_config, wce), 0, 1);
    for (unsigned i = 0; i < DISK_RING + 5; i++)
        write_and_read(&disk, 0, 0, (uint8_t)i);
    virtio_pause(disk.device);
    unsigned asked = submit_writes(8, 3);
    json_t *saved = virtio_save(disk.device, NULL);

    assert_non_null(saved);
    client = disk.client;
    disk.client = NULL;
    disk_close(&disk);
    rig.bus = (struct vm_bus){.count = 0};
    disk_open(&disk, &rig, 0, &options);
    next = disk.device;
    free(disk.client);
    disk.client = client;
    assert_int_equal(virtio_load(next, saved, NULL), 0);
    json_decref(saved);
    client->queue[0].kick = next->kick[0];
    client->queue[0].call = next->line.fd;
    virtio_resume(next);
    expect_answers(asked);
    expect_written(asked, 3);
    assert_int_equal(write_back(), 0);
    disk_close(&disk);
}

static void test_a_split_ring_outlives_a_suspended_machine(void **state)
{
    (void)state;
    suspended(PACKED);
}

static void test_a_packed_ring_outlives_a_suspended_machine(void **state)
{
    (void)state;
    suspended(0);
}

static int load_with(const char *key, json_t *value, json_t *saved, struct vdisk_error *error)
{
    json_t *copy = json_deep_copy(saved);
    int rc;

    assert_int_equal(json_object_set_new(json_object_get(copy, "own"), key, value), 0);
    rc = virtio_load(disk.device, copy, error);
    json_decref(copy);
    return rc;
}

static void test_a_state_that_does_not_fit_is_refused(void **state)
{
    struct vdisk_error error;

    (void)state;
    opened(2);
    disk_begin(&disk, 0);
    write_and_read(&disk, 0, 0, 1);
    virtio_pause(disk.device);
    json_t *saved = virtio_save(disk.device, NULL);

    assert_non_null(saved);
    assert_int_equal(load_with("bases", json_pack("[i]", 1), saved, &error), -EINVAL);
    assert_int_equal(load_with("bases", json_pack("[i,i]", 1, -1), saved, &error), -EINVAL);
    assert_int_equal(load_with("bases", json_pack("[i,s]", 1, "1"), saved, &error), -EINVAL);
    assert_int_equal(load_with("bases", json_pack("[i,I]", 1, (json_int_t)1 << 32), saved, &error),
                     -EINVAL);
    assert_int_equal(load_with("bases", json_null(), saved, &error), -EINVAL);
    assert_int_equal(load_with("write_back", json_integer(1), saved, &error), -EINVAL);
    assert_int_equal(load_with("capacity", json_integer(KIT_SIZE / 512 + 1), saved, &error),
                     -ENOTSUP);
    assert_non_null(strstr(error.text, "smaller"));
    assert_int_equal(load_with("capacity", json_integer(KIT_SIZE / 512 - 1), saved, &error), 0);
    uint32_t generation = vm_driver_read(&disk.driver, VIRTIO_MMIO_CONFIG_GENERATION);

    /* It is larger than the guest knows. */
    assert_int_equal(disk_capacity(&disk), KIT_SIZE);
    assert_int_not_equal(vm_driver_read(&disk.driver, VIRTIO_MMIO_CONFIG_GENERATION), generation);
    json_decref(saved);
    disk_close(&disk);
}

/* ---- a guest that breaks the rules ---- */

static void test_rings_that_are_not_in_memory_break_the_device_alone(void **state)
{
    static const uint32_t places[] = {VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
                                      VIRTIO_MMIO_QUEUE_USED_LOW};

    (void)state;
    opened(1);
    for (unsigned i = 0; i < 6; i++) {
        disk_prepare(&disk, i % 2 ? PACKED : 0);
        disk.device->queue[0].ready = false;
        vm_driver_write(&disk.driver, places[i / 2] + 4, 0x4000);
        vm_driver_write(&disk.driver, VIRTIO_MMIO_QUEUE_READY, 1);
        vm_driver_go(&disk.driver);
        assert_true(disk_needs_reset(&disk));
        disk_reset(&disk);
    }
    disk_begin(&disk, 0);
    write_and_read(&disk, 0, 0, 1);
    assert_int_equal(kit_events(VHOST_EVENT_FAILED), 0);
    assert_int_equal(kit_events(VHOST_EVENT_OPENED), 1);
    disk_close(&disk);
}

static void test_a_chain_that_breaks_the_rules_is_told_to_the_driver(void **state)
{
    (void)state;
    opened(2);
    for (unsigned i = 0; i < 4; i++) {
        disk_begin(&disk, i % 2 ? PACKED : 0);
        write_and_read(&disk, 0, 0, 1);
        int slot = client_slot(disk.client, 0);

        client_submit(disk.client, 0, slot, IN, 0, 0, BLOCK, 1);
        /* The table of an indirect descriptor: its first one has no memory. */
        uint64_t *table = (uint64_t *)(void *)(disk.client->queue[0].tables + slot * 256);

        table[0] = UINT64_C(1) << 50;
        client_kick(disk.client, 0);
        assert_true(disk_wait_needs_reset(&disk));
        disk_reset(&disk);
        assert_false(disk_needs_reset(&disk));
    }
    disk_begin(&disk, 0);
    write_and_read(&disk, 0, 0, 2);
    assert_true(disk_wait_told(&disk, "broke the rules"));
    assert_int_equal(disk_lines(&disk), 1); /* no flood of them */
    assert_int_equal(kit_events(VHOST_EVENT_OPENED), 1);
    disk_close(&disk);
}

/* ---- all of them ---- */

static int begin(void **state)
{
    const struct vhost_options *options = *state;

    if (kit_make_image() || kit_start(false, options))
        return -1;
    vm_rig_open(&rig, DISK_MEMORY);
    return 0;
}

static int end(void **state)
{
    (void)state;
    vm_rig_close(&rig);
    (void)kit_stop();
    return kit_remove_image();
}

static struct vhost_options read_only = {.read_only = true};

#define TEST(name)               cmocka_unit_test_setup_teardown(name, begin, end)
#define TEST_WITH(name, options) cmocka_unit_test_prestate_setup_teardown(name, begin, end, options)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_requests_are_done_by_a_split_ring),
        TEST(test_requests_are_done_by_a_packed_ring),
        TEST(test_requests_are_done_by_several_split_rings),
        TEST(test_requests_are_done_by_several_packed_rings),
        TEST(test_requests_are_done_without_tables_and_event_indices),
        TEST(test_two_drives_do_not_disturb_each_other),
        TEST(test_a_drive_has_a_queue_for_each_processor_if_it_can),
        TEST(test_a_drive_that_cannot_be_is_refused_with_the_reason),
        TEST_WITH(test_a_read_only_drive_is_read_and_not_written, &read_only),
        TEST(test_the_guest_hears_of_a_new_size),
        TEST(test_a_new_size_is_there_for_a_driver_that_comes_later),
        TEST(test_the_write_cache_is_switched_until_a_reset),
        TEST(test_a_reset_ends_what_was_asked_and_begins_anew),
        TEST(test_a_paused_split_ring_goes_on_where_it_was),
        TEST(test_a_paused_packed_ring_goes_on_where_it_was),
        TEST(test_a_split_ring_outlives_a_suspended_machine),
        TEST(test_a_packed_ring_outlives_a_suspended_machine),
        TEST(test_a_state_that_does_not_fit_is_refused),
        TEST(test_rings_that_are_not_in_memory_break_the_device_alone),
        TEST(test_a_chain_that_breaks_the_rules_is_told_to_the_driver),
    };

    if (vdisk_init())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
