/* SPDX-License-Identifier: Apache-2.0 */
/* The device of random numbers (vmm/virtio_rng.c), as a driver sees it. */
#include "virtio_rng.h"
#include "vm_driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <linux/virtio_ids.h>
#include <string.h>

#define EVENT_INDEX (UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT    (UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC)
#define SIZE        64u
#define MOST        4096u /* bytes of a request */

static struct vm_rig rig;
static struct vm_driver driver;

static int set_up(void **state)
{
    struct virtio_device *device;

    (void)state;
    vm_rig_open(&rig, VM_RIG_MEMORY);
    if (virtio_rng_new(&rig.memory, rig.reactor, &device))
        return -1;
    vm_driver_open(&driver, &rig, device);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    vm_driver_close(&driver);
    vm_rig_close(&rig);
    return 0;
}

static struct vm_buffer buffer_of(uint32_t length)
{
    return (struct vm_buffer){vm_driver_alloc(&driver, length + 1), length, true};
}

static unsigned count_zeros(const struct vm_buffer *buffer)
{
    const uint8_t *bytes = vm_driver_at(&driver, buffer->guest, buffer->length + 1);
    unsigned zeros = 0;

    for (uint32_t i = 0; i < buffer->length; i++)
        zeros += bytes[i] == 0;
    assert_int_equal(bytes[buffer->length], 0); /* nothing past the end */
    return zeros;
}

static void test_a_buffer_is_filled_with_other_bytes_each_time(void **state)
{
    struct vm_buffer one, other;

    (void)state;
    vm_driver_begin(&driver, EVENT_INDEX | INDIRECT, SIZE);
    assert_int_equal(driver.device->id, VIRTIO_ID_RNG);
    one = buffer_of(64);
    other = buffer_of(64);
    assert_int_equal(vm_driver_do(&driver, 0, &one, 1), 64);
    assert_int_equal(vm_driver_do(&driver, 0, &other, 1), 64);
    assert_in_range(count_zeros(&one), 0, 10);
    assert_in_range(count_zeros(&other), 0, 10);
    assert_memory_not_equal(vm_driver_at(&driver, one.guest, 64),
                            vm_driver_at(&driver, other.guest, 64), 64);
}

static void test_a_request_is_given_a_page_at_most(void **state)
{
    struct vm_buffer buffer;

    (void)state;
    vm_driver_begin(&driver, 0, SIZE);
    buffer = buffer_of(1u << 20);
    assert_int_equal(vm_driver_do(&driver, 0, &buffer, 1), MOST);
    assert_in_range(count_zeros(&buffer), (1u << 20) - MOST, (1u << 20) - MOST / 2);
}

static void test_buffers_in_pieces_are_filled(void **state)
{
    struct vm_buffer buffers[3];
    uint16_t head, used;

    (void)state;
    vm_driver_begin(&driver, INDIRECT, SIZE);
    for (unsigned i = 0; i < 3; i++)
        buffers[i] = buffer_of(100);
    assert_int_equal(vm_driver_do(&driver, 0, buffers, 3), 300);
    for (unsigned i = 0; i < 3; i++) {
        assert_in_range(count_zeros(&buffers[i]), 0, 20);
        buffers[i] = buffer_of(100);
    }
    head = vm_driver_add_indirect(&driver, 0, buffers, 3);
    assert_true(vm_driver_kick(&driver, 0));
    assert_int_equal(vm_driver_wait(&driver, 0, &used), 300);
    assert_int_equal(used, head);
    for (unsigned i = 0; i < 3; i++)
        assert_in_range(count_zeros(&buffers[i]), 0, 20);
}

/* The rest of a full ring waits for later rounds, and needs no kick. */
static void test_a_round_is_short_and_all_are_served(void **state)
{
    struct vm_buffer buffer;
    uint32_t length;
    uint16_t head;
    unsigned first;

    (void)state;
    vm_driver_begin(&driver, EVENT_INDEX, SIZE);
    buffer = buffer_of(MOST);
    for (unsigned i = 0; i < SIZE; i++)
        (void)vm_driver_add(&driver, 0, &buffer, 1);
    assert_true(vm_driver_kick(&driver, 0));
    while (!vm_driver_take(&driver, 0, &head, &length))
        reactor_step(rig.reactor, true);
    for (first = 1; vm_driver_take(&driver, 0, &head, &length); first++)
        ;
    assert_in_range(first, 1, SIZE / 2);
    for (unsigned i = first; i < SIZE; i++)
        assert_int_equal(vm_driver_wait(&driver, 0, &head), MOST);
    assert_false(vm_driver_take(&driver, 0, &head, &length));
}

static void expect_failure(const struct vm_buffer *buffers, unsigned count)
{
    uint32_t length;
    uint16_t head;

    vm_driver_begin(&driver, 0, SIZE);
    (void)vm_driver_add(&driver, 0, buffers, count);
    (void)vm_driver_kick(&driver, 0);
    assert_int_equal(vm_driver_interrupt(&driver), VIRTIO_MMIO_INT_CONFIG);
    assert_int_equal(vm_driver_status(&driver), 0xf | VIRTIO_CONFIG_S_NEEDS_RESET);
    assert_false(vm_driver_take(&driver, 0, &head, &length));
}

static void test_a_driver_that_breaks_the_rules_has_to_reset(void **state)
{
    struct vm_buffer good = buffer_of(64), zero = {good.guest, 0, true},
                     readable = {good.guest, 64, false},
                     far = {rig.memory.size - 32, 64, true}, /* ends past RAM */
        both[2] = {readable, good};

    (void)state;
    expect_failure(&zero, 1);
    expect_failure(&readable, 1);
    expect_failure(&far, 1);
    expect_failure(both, 2);
    vm_driver_begin(&driver, 0, SIZE);
    assert_int_equal(vm_driver_do(&driver, 0, &good, 1), 64);
}

static void test_it_goes_on_after_saving_and_loading(void **state)
{
    struct virtio_device *other;
    struct vm_buffer buffers[3] = {buffer_of(64), buffer_of(64), buffer_of(64)};
    uint16_t head;
    json_t *saved;

    (void)state;
    vm_driver_begin(&driver, EVENT_INDEX, SIZE);
    assert_int_equal(vm_driver_do(&driver, 0, &buffers[0], 1), 64);
    (void)vm_driver_add(&driver, 0, &buffers[1], 1);
    virtio_pause(driver.device);
    (void)vm_driver_add(&driver, 0, &buffers[2], 1);
    (void)vm_driver_kick(&driver, 0); /* is seen by nobody */
    saved = virtio_save(driver.device, NULL);
    assert_non_null(saved);

    assert_int_equal(virtio_rng_new(&rig.memory, rig.reactor, &other), 0);
    assert_int_equal(virtio_load(other, saved, NULL), 0);
    json_decref(saved);
    virtio_free(driver.device);
    driver.device = rig.bus.range[0].device = other;
    vm_rig_settle(&rig);
    assert_int_equal(count_zeros(&buffers[1]), 64);
    virtio_resume(other);
    assert_int_equal(vm_driver_wait(&driver, 0, &head), 64);
    assert_int_equal(vm_driver_wait(&driver, 0, &head), 64);
    assert_in_range(count_zeros(&buffers[1]), 0, 10);
    assert_in_range(count_zeros(&buffers[2]), 0, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_a_buffer_is_filled_with_other_bytes_each_time),
        TEST(test_a_request_is_given_a_page_at_most),
        TEST(test_buffers_in_pieces_are_filled),
        TEST(test_a_round_is_short_and_all_are_served),
        TEST(test_a_driver_that_breaks_the_rules_has_to_reset),
        TEST(test_it_goes_on_after_saving_and_loading),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
