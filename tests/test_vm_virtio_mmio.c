/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registers of a virtio device (vmm/virtio_mmio.c): what is read and written of any size, at
 * any time, and in any order.
 */
#include "vm_driver.h"
#include "vm_slow.h"

#include "layout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#define ACK      VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRIVER   VIRTIO_CONFIG_S_DRIVER
#define FEATURES VIRTIO_CONFIG_S_FEATURES_OK
#define OK       VIRTIO_CONFIG_S_DRIVER_OK
#define BROKEN   VIRTIO_CONFIG_S_NEEDS_RESET
#define RUNNING  (ACK | DRIVER | FEATURES | OK)
#define V1       (UINT64_C(1) << VIRTIO_F_VERSION_1)

static struct vm_rig rig;
static struct vm_driver driver;
static struct vm_slow *slow;

static int set_up(void **state)
{
    (void)state;
    vm_rig_open(&rig, VM_RIG_MEMORY);
    slow = vm_slow_new(&rig.memory, rig.reactor);
    vm_driver_open(&driver, &rig, &slow->device);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    vm_driver_close(&driver);
    vm_rig_close(&rig);
    return 0;
}

static void set_status(uint32_t status)
{
    vm_driver_write(&driver, VIRTIO_MMIO_STATUS, status);
}

static uint32_t get(uint32_t at)
{
    return vm_driver_read(&driver, at);
}

static void set(uint32_t at, uint32_t value)
{
    vm_driver_write(&driver, at, value);
}

static void take_features(uint32_t select, uint32_t value)
{
    set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
    set(VIRTIO_MMIO_DRIVER_FEATURES, value);
}

/* ---- sizes ---- */

static void test_registers_are_read_as_a_whole_or_as_zeros(void **state)
{
    static const struct {
        uint64_t at;
        unsigned size;
    } odd[] = {{0, 1}, {0, 2}, {0, 8}, {1, 4}, {2, 4}, {3, 1}, {0xfc, 8}, {0xfe, 4}, {0x1f8, 8}};
    const uint8_t zeros[8] = {0};

    (void)state;
    for (unsigned i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        uint8_t data[8];

        memset(data, 0xee, sizeof(data));
        vm_bus_read(&rig.bus, driver.address + odd[i].at, data, odd[i].size);
        assert_memory_equal(data, zeros, odd[i].size);
    }
    assert_int_equal(get(VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
    assert_int_equal(get(VIRTIO_MMIO_VERSION), 2);
    assert_int_equal(get(VIRTIO_MMIO_DEVICE_ID), VM_SLOW_ID);
    /* Write-only ones, those of version 1 and what there is none of. */
    for (uint32_t at = VIRTIO_MMIO_DEVICE_FEATURES_SEL; at < VIRTIO_MMIO_CONFIG; at += 4)
        if (at != VIRTIO_MMIO_QUEUE_NUM_MAX && (at < VIRTIO_MMIO_SHM_LEN_LOW || at > 0xbc))
            assert_int_equal(get(at), 0);
    assert_int_equal(get(VIRTIO_MMIO_SHM_LEN_LOW), UINT32_MAX);
    assert_int_equal(get(VIRTIO_MMIO_SHM_LEN_HIGH), UINT32_MAX);
}

static void test_registers_are_written_as_a_whole_or_not(void **state)
{
    static const uint8_t ack[8] = {ACK};

    (void)state;
    for (unsigned size = 1; size <= 8; size *= 2)
        if (size != 4)
            vm_bus_write(&rig.bus, driver.address + VIRTIO_MMIO_STATUS, ack, size);
    vm_bus_write(&rig.bus, driver.address + VIRTIO_MMIO_STATUS + 1, ack, 4);
    vm_bus_write(&rig.bus, driver.address + VIRTIO_MMIO_STATUS - 1, ack, 4);
    assert_int_equal(vm_driver_status(&driver), 0);
    vm_bus_write(&rig.bus, driver.address + VIRTIO_MMIO_STATUS, ack, 4);
    assert_int_equal(vm_driver_status(&driver), ACK);
}

static void test_what_is_read_only_or_unknown_is_not_written(void **state)
{
    uint32_t before[VIRTIO_MMIO_CONFIG / 4];

    (void)state;
    for (unsigned i = 0; i < VIRTIO_MMIO_CONFIG / 4; i++)
        before[i] = get(4 * i);
    for (uint32_t at = 0; at < VIRTIO_MMIO_CONFIG; at += 4)
        if (at != VIRTIO_MMIO_STATUS && at != VIRTIO_MMIO_DEVICE_FEATURES_SEL &&
            at != VIRTIO_MMIO_QUEUE_SEL)
            set(at, UINT32_MAX);
    for (unsigned i = 0; i < VIRTIO_MMIO_CONFIG / 4; i++)
        assert_int_equal(get(4 * i), before[i]);
}

/* ---- the driver's steps ---- */

static void test_features_are_shown_by_words(void **state)
{
    (void)state;
    assert_true(vm_driver_offered(&driver) == (VM_QUEUE_FEATURES | VM_SLOW_FEATURES));
    for (unsigned select = 2; select < 34; select++) {
        set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
        assert_int_equal(get(VIRTIO_MMIO_DEVICE_FEATURES), 0);
    }
    set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, UINT32_MAX);
    assert_int_equal(get(VIRTIO_MMIO_DEVICE_FEATURES), 0);
}

static bool is_accepted(uint64_t features, uint32_t select, uint32_t value)
{
    set_status(0);
    set_status(ACK);
    set_status(ACK | DRIVER);
    take_features(0, (uint32_t)features);
    take_features(1, (uint32_t)(features >> 32));
    take_features(select, value);
    set_status(ACK | DRIVER | FEATURES);
    return vm_driver_status(&driver) == (ACK | DRIVER | FEATURES);
}

static void test_features_that_were_not_offered_are_refused(void **state)
{
    (void)state;
    assert_true(is_accepted(V1, 1, 1));
    assert_true(is_accepted(VM_QUEUE_FEATURES | VM_SLOW_FEATURES, 0, 1u << 3));
    assert_false(is_accepted(V1 | 1, 1, 1));
    assert_false(is_accepted(V1 | UINT64_C(1) << VIRTIO_F_RING_PACKED, 0, 0));
    assert_false(is_accepted(V1, 2, 1)); /* 64 */
    assert_false(is_accepted(V1, UINT32_MAX, 1));
    assert_false(is_accepted(VM_SLOW_FEATURES, 0, 0)); /* a driver of an older kind */
    /* It may think again. */
    take_features(1, 1);
    set_status(ACK | DRIVER | FEATURES);
    assert_int_equal(vm_driver_status(&driver), ACK | DRIVER | FEATURES);
    assert_true(is_accepted(V1, 2, 0));
}

static void test_features_are_settled_once(void **state)
{
    (void)state;
    take_features(1, 1); /* before there is a driver */
    assert_int_equal(slow->device.accepted, 0);
    assert_true(vm_driver_negotiate(&driver, VM_SLOW_FEATURES));
    take_features(0, 0);
    take_features(1, UINT32_MAX);
    assert_int_equal(slow->device.accepted, V1 | VM_SLOW_FEATURES);
    vm_driver_reset(&driver);
    assert_int_equal(slow->device.accepted, 0);
}

static void test_steps_are_taken_in_their_order(void **state)
{
    (void)state;
    set_status(DRIVER);
    set_status(FEATURES);
    set_status(OK);
    set_status(DRIVER | FEATURES | OK);
    assert_int_equal(vm_driver_status(&driver), 0);
    set_status(ACK | BROKEN | 0xffffff30);
    assert_int_equal(vm_driver_status(&driver), ACK);
    set_status(ACK | DRIVER | OK);
    assert_int_equal(vm_driver_status(&driver), ACK | DRIVER);
    take_features(1, 1);
    set_status(FEATURES); /* none goes back by itself */
    assert_int_equal(vm_driver_status(&driver), ACK | DRIVER | FEATURES);
    set_status(VIRTIO_CONFIG_S_FAILED);
    assert_int_equal(vm_driver_status(&driver), ACK | DRIVER | FEATURES | VIRTIO_CONFIG_S_FAILED);
    assert_int_equal(slow->starts, 0);
    set_status(OK);
    assert_int_equal(slow->starts, 1);
    set_status(RUNNING);
    assert_int_equal(slow->starts, 1);
    set_status(0);
    assert_int_equal(vm_driver_status(&driver), 0);
    assert_int_equal(slow->stops, 1);
    set_status(0);
    assert_int_equal(slow->stops, 1);
}

/* ---- queues ---- */

static void set_queue(uint32_t size, uint64_t desc)
{
    set(VIRTIO_MMIO_QUEUE_NUM, size);
    set(VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)desc);
    set(VIRTIO_MMIO_QUEUE_DESC_HIGH, (uint32_t)(desc >> 32));
    set(VIRTIO_MMIO_QUEUE_READY, 1);
}

static void expect_unset(unsigned queue)
{
    const struct virtio_queue_settings *settings = &slow->device.queue[queue];

    assert_false(settings->ready);
    assert_int_equal(settings->size, 0);
    assert_int_equal(settings->desc, 0);
}

static void test_queues_are_set_up_between_features_and_start(void **state)
{
    (void)state;
    set_queue(8, 4096);
    set_status(ACK);
    set_status(ACK | DRIVER);
    set_queue(8, 4096);
    expect_unset(0);
    assert_true(vm_driver_negotiate(&driver, 0));
    vm_driver_set_queue(&driver, 0, 8);
    /* Not while it is ready, */
    set_queue(16, 0);
    assert_int_equal(slow->device.queue[0].size, 8);
    assert_int_equal(slow->device.queue[0].desc, driver.queue[0].desc_at);
    /* but when it is taken back. */
    set(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_int_equal(get(VIRTIO_MMIO_QUEUE_READY), 0);
    set_queue(16, UINT64_C(0x123456789abcdef0));
    assert_int_equal(slow->device.queue[0].size, 16);
    assert_int_equal(slow->device.queue[0].desc, UINT64_C(0x123456789abcdef0));
    set(VIRTIO_MMIO_QUEUE_READY, 0);
    vm_driver_set_queue(&driver, 0, 8);
    vm_driver_go(&driver);
    set(VIRTIO_MMIO_QUEUE_SEL, 1);
    set_queue(8, 4096);
    expect_unset(1);
}

static void test_sizes_of_queues_are_checked(void **state)
{
    static const uint32_t wrong[] = {0, 3, 127, 256, 65536, 65536 + 8, UINT32_MAX};

    (void)state;
    assert_true(vm_driver_negotiate(&driver, 0));
    assert_int_equal(get(VIRTIO_MMIO_QUEUE_NUM_MAX), VM_SLOW_QUEUE);
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        set_queue(wrong[i], 4096);
        assert_int_equal(get(VIRTIO_MMIO_QUEUE_READY), 0);
        assert_int_equal(slow->device.queue[0].size, 0);
    }
    set_queue(VM_SLOW_QUEUE, 4096);
    assert_int_equal(get(VIRTIO_MMIO_QUEUE_READY), 1);
}

static void test_there_are_no_more_queues_than_there_are(void **state)
{
    static const uint32_t wrong[] = {VM_SLOW_QUEUES, VIRTIO_QUEUES_MAX, 65536, UINT32_MAX};

    (void)state;
    assert_true(vm_driver_negotiate(&driver, 0));
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        set(VIRTIO_MMIO_QUEUE_SEL, wrong[i]);
        assert_int_equal(get(VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
        set_queue(8, 4096);
        assert_int_equal(get(VIRTIO_MMIO_QUEUE_READY), 0);
    }
    assert_int_equal(slow->device.queue[VM_SLOW_QUEUES].size, 0);
    set(VIRTIO_MMIO_QUEUE_SEL, VM_SLOW_QUEUES - 1);
    assert_int_equal(get(VIRTIO_MMIO_QUEUE_NUM_MAX), VM_SLOW_QUEUE);
}

static void test_a_queue_outside_ram_is_not_started(void **state)
{
    static const struct {
        uint64_t desc, avail, used;
    } wrong[] = {
        {VM_RIG_MEMORY - 16, 0, 4096},
        {0, VM_RIG_MEMORY - 16, 4096},
        {0, 4096, VM_RIG_MEMORY - 16},
        {VM_RIG_MEMORY, 0, 4096},
        {UINT64_MAX - 15, 0, 4096},
        {0, UINT64_MAX - 1, 4096},
        {0, 4096, UINT64_MAX - 3},
        {8, 0x1000, 0x2000}, /* not aligned */
        {0, 0x1001, 0x2000},
        {0, 0x1000, 0x2002},
        {VM_VIRTIO_AT, 0x1000, 0x2000}, /* a device, with its registers */
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_true(vm_driver_negotiate(&driver, 0));
        set(VIRTIO_MMIO_QUEUE_SEL, 1);
        set(VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)wrong[i].avail);
        set(VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (uint32_t)(wrong[i].avail >> 32));
        set(VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)wrong[i].used);
        set(VIRTIO_MMIO_QUEUE_USED_HIGH, (uint32_t)(wrong[i].used >> 32));
        set_queue(16, wrong[i].desc);
        assert_int_equal(get(VIRTIO_MMIO_QUEUE_READY), 1);
        set_status(RUNNING);
        assert_int_equal(vm_driver_status(&driver), RUNNING | BROKEN);
        assert_int_equal(vm_driver_interrupt(&driver), VIRTIO_MMIO_INT_CONFIG);
        assert_false(slow->device.started);
    }
    assert_int_equal(slow->stops, 0);
}

/* ---- configuration ---- */

static void test_the_configuration_has_any_size_and_an_end(void **state)
{
    uint8_t data[8];

    (void)state;
    for (unsigned i = 0; i < VM_SLOW_CONFIG; i++)
        vm_driver_set_config(&driver, i, 0x80 + i, 1);
    assert_int_equal(vm_driver_config(&driver, 0, 4), 0x83828180);
    assert_int_equal(vm_driver_config(&driver, 3, 2), 0x8483);
    assert_int_equal(vm_driver_config(&driver, 11, 1), 0x8b);
    vm_bus_read(&rig.bus, driver.address + VIRTIO_MMIO_CONFIG + 4, data, 8);
    assert_memory_equal(data, "\x84\x85\x86\x87\x88\x89\x8a\x8b", 8);
    /* Past the end, wholly or in part. */
    assert_int_equal(vm_driver_config(&driver, 12, 1), 0);
    assert_int_equal(vm_driver_config(&driver, 10, 4), 0);
    assert_int_equal(vm_driver_config(&driver, 0xfc, 4), 0);
    vm_driver_set_config(&driver, 10, UINT32_MAX, 4);
    vm_driver_set_config(&driver, 12, UINT32_MAX, 4);
    assert_int_equal(vm_driver_config(&driver, 8, 4), 0x8b8a8988);
}

static void test_a_change_of_configuration_is_seen(void **state)
{
    uint32_t before = get(VIRTIO_MMIO_CONFIG_GENERATION);

    (void)state;
    virtio_config_changed(&slow->device);
    assert_int_equal(get(VIRTIO_MMIO_CONFIG_GENERATION), before + 1);
    assert_false(vm_driver_is_raised(&driver)); /* there is no driver */
    vm_driver_begin(&driver, 0, 8);
    virtio_config_changed(&slow->device);
    assert_int_equal(get(VIRTIO_MMIO_CONFIG_GENERATION), before + 2);
    assert_int_equal(vm_driver_interrupt(&driver), VIRTIO_MMIO_INT_CONFIG);
    /* Not even a reset makes an old one look new. */
    vm_driver_reset(&driver);
    assert_int_equal(get(VIRTIO_MMIO_CONFIG_GENERATION), before + 2);
}

/* ---- interrupts ---- */

static void test_interrupts_stay_until_they_are_acknowledged(void **state)
{
    (void)state;
    vm_driver_begin(&driver, 0, 8);
    virtio_interrupt(&slow->device);
    virtio_config_changed(&slow->device);
    assert_true(vm_driver_is_raised(&driver));
    assert_int_equal(get(VIRTIO_MMIO_INTERRUPT_STATUS), 3);
    set(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    assert_int_equal(get(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
    set(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING | 0xf0);
    assert_int_equal(get(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
    /* An edge for each, also when the one before is not acknowledged. */
    virtio_config_changed(&slow->device);
    assert_true(vm_driver_is_raised(&driver));
    set(VIRTIO_MMIO_INTERRUPT_ACK, UINT32_MAX);
    assert_int_equal(get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    virtio_interrupt(&slow->device);
    vm_driver_reset(&driver);
    assert_int_equal(get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

static void test_a_device_whose_interrupts_come_from_outside_may_always_have_one(void **state)
{
    (void)state;
    slow->device.outside_interrupts = true;
    vm_driver_begin(&driver, 0, 8);
    assert_int_equal(get(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
    virtio_config_changed(&slow->device);
    assert_int_equal(get(VIRTIO_MMIO_INTERRUPT_STATUS), 3);
    set(VIRTIO_MMIO_INTERRUPT_ACK, 3);
    assert_int_equal(get(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
}

/* ---- kicks ---- */

static void test_kicks_come_by_the_register_too(void **state)
{
    static const uint32_t wrong[] = {VM_SLOW_QUEUES, VIRTIO_QUEUES_MAX, 0x10000, UINT32_MAX};

    (void)state;
    set(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    vm_rig_settle(&rig);
    assert_int_equal(slow->kicks, 0); /* nothing has started */
    vm_driver_begin(&driver, 0, 8);
    vm_rig_settle(&rig);
    assert_int_equal(slow->kicks, VM_SLOW_QUEUES); /* each is looked at once */
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        set(VIRTIO_MMIO_QUEUE_NOTIFY, wrong[i]);
    vm_rig_settle(&rig);
    assert_int_equal(slow->kicks, VM_SLOW_QUEUES);
    for (unsigned i = 0; i < VM_SLOW_QUEUES; i++) {
        struct vm_buffer buffer = {vm_driver_alloc(&driver, 16), 16, true};

        driver.by_register = i % 2 == 0;
        (void)vm_driver_add(&driver, i, &buffer, 1);
        assert_true(vm_driver_kick(&driver, i));
        vm_rig_settle(&rig);
        assert_int_equal(slow->held_count, i + 1);
        assert_int_equal(slow->held[i].queue, i);
    }
}

static void test_a_device_with_too_much_configuration_is_refused(void **state)
{
    struct vm_bus bus = {.count = 0};

    (void)state;
    slow->device.config_bytes = 0x101;
    assert_int_equal(virtio_mmio_add(&bus, VM_VIRTIO_AT, &slow->device), -22);
    slow->device.config_bytes = 0x100;
    assert_int_equal(virtio_mmio_add(&bus, VM_VIRTIO_AT, &slow->device), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_registers_are_read_as_a_whole_or_as_zeros),
        TEST(test_registers_are_written_as_a_whole_or_not),
        TEST(test_what_is_read_only_or_unknown_is_not_written),
        TEST(test_features_are_shown_by_words),
        TEST(test_features_that_were_not_offered_are_refused),
        TEST(test_features_are_settled_once),
        TEST(test_steps_are_taken_in_their_order),
        TEST(test_queues_are_set_up_between_features_and_start),
        TEST(test_sizes_of_queues_are_checked),
        TEST(test_there_are_no_more_queues_than_there_are),
        TEST(test_a_queue_outside_ram_is_not_started),
        TEST(test_the_configuration_has_any_size_and_an_end),
        TEST(test_a_change_of_configuration_is_seen),
        TEST(test_interrupts_stay_until_they_are_acknowledged),
        TEST(test_a_device_whose_interrupts_come_from_outside_may_always_have_one),
        TEST(test_kicks_come_by_the_register_too),
        TEST(test_a_device_with_too_much_configuration_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
