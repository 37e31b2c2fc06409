/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a virtio device (vmm/virtio.c, vmm/virtio_state.c, vmm/queue.c) with requests in its
 * hands: reset, failure, a queue that is taken back, pause, save and load.
 */
#include "vm_driver.h"
#include "vm_slow.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define BROKEN      VIRTIO_CONFIG_S_NEEDS_RESET
#define EVENT_INDEX (UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX)
#define SIZE        16u
#define REQUESTS    8u

static struct vm_rig rig;
static struct vm_driver driver;
static struct vm_slow *slow;
static struct vm_buffer buffer[REQUESTS];

static int set_up(void **state)
{
    (void)state;
    vm_rig_open(&rig, VM_RIG_MEMORY);
    slow = vm_slow_new(&rig.memory, rig.reactor);
    vm_driver_open(&driver, &rig, &slow->device);
    for (unsigned i = 0; i < REQUESTS; i++)
        buffer[i] = (struct vm_buffer){vm_driver_alloc(&driver, 1), 1, true};
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    vm_driver_close(&driver);
    vm_rig_close(&rig);
    return 0;
}

/* Requests [from, to) in queue 0. */
static void ask(unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++)
        (void)vm_driver_add(&driver, 0, &buffer[i], 1);
    (void)vm_driver_kick(&driver, 0);
    vm_rig_settle(&rig);
}

/* How often a request was answered. */
static unsigned answers(unsigned request)
{
    return *(uint8_t *)vm_driver_at(&driver, buffer[request].guest, 1);
}

/* What the driver is given back by now. */
static unsigned take_all(void)
{
    unsigned count = 0;
    uint32_t length;
    uint16_t head;

    while (vm_driver_take(&driver, 0, &head, &length))
        count++;
    return count;
}

static void expect_each_answered_once(void)
{
    for (unsigned i = 0; i < REQUESTS; i++)
        assert_int_equal(answers(i), 1);
    assert_int_equal(driver.queue[0].free_count, driver.queue[0].size);
}

/* ---- reset and failure ---- */

static void test_a_reset_forgets_what_is_under_way(void **state)
{
    (void)state;
    vm_driver_begin(&driver, EVENT_INDEX, SIZE);
    ask(0, 4);
    assert_int_equal(slow->held_count, 4);
    vm_slow_answer(slow, 1);
    uint64_t used_at = driver.queue[0].used_at;

    (void)vm_driver_add(&driver, 0, &buffer[4], 1);
    (void)vm_driver_kick(&driver, 0); /* is under way when the reset comes */
    assert_int_equal(vm_driver_interrupt(&driver), VIRTIO_MMIO_INT_VRING);
    vm_driver_reset(&driver);
    vm_rig_settle(&rig);
    assert_int_equal(slow->held_count, 0);
    assert_int_equal(answers(4), 0);
    assert_int_equal(((uint16_t *)vm_driver_at(&driver, used_at, 4))[1], 1);
    assert_false(vm_driver_is_raised(&driver));
    /* A new life begins with new queues, at their beginning. */
    vm_driver_begin(&driver, 0, 2 * SIZE);
    ask(4, REQUESTS);
    vm_slow_answer(slow, 4);
    assert_int_equal(take_all(), 4);
    assert_int_equal(answers(1), 0);
    assert_int_equal(answers(4), 1);
}

static void test_a_device_that_failed_serves_nothing_until_reset(void **state)
{
    struct vm_buffer readable = {buffer[0].guest, 1, false};

    (void)state;
    vm_driver_begin(&driver, 0, SIZE);
    (void)vm_driver_add(&driver, 1, &readable, 1);
    (void)vm_driver_kick(&driver, 1);
    assert_int_equal(vm_driver_interrupt(&driver), VIRTIO_MMIO_INT_CONFIG);
    assert_int_equal(vm_driver_status(&driver), 0xf | BROKEN);
    unsigned kicks = slow->kicks;

    ask(0, 1);
    assert_int_equal(slow->kicks, kicks);
    assert_int_equal(slow->held_count, 0);
    vm_driver_write(&driver, VIRTIO_MMIO_STATUS, 0xf);
    assert_int_equal(vm_driver_status(&driver), 0xf | BROKEN);
    /* Once: a driver that does not look is not told again and again. */
    virtio_fail(&slow->device);
    assert_false(vm_driver_is_raised(&driver));
    vm_driver_begin(&driver, 0, SIZE);
    ask(0, 1);
    assert_int_equal(slow->held_count, 1);
}

static void test_a_ring_that_makes_no_sense_fails_the_device(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        vm_driver_begin(&driver, 0, SIZE);
        uint16_t head = vm_driver_add(&driver, 0, &buffer[0], 1);

        if (i == 0) /* more than there is room for */
            driver.queue[0].avail[1] = SIZE + 1;
        else if (i == 1) /* no such descriptor */
            driver.queue[0].avail[2] = SIZE;
        else /* a loop */
            driver.queue[0].desc[head] = (struct vring_desc){0, 1, VRING_DESC_F_NEXT, head};
        (void)vm_driver_kick(&driver, 0);
        assert_int_equal(vm_driver_interrupt(&driver), VIRTIO_MMIO_INT_CONFIG);
        assert_int_equal(vm_driver_status(&driver), 0xf | BROKEN);
    }
}

static void test_a_device_that_cannot_start_needs_a_reset(void **state)
{
    (void)state;
    slow->refuse = -EIO;
    assert_true(vm_driver_negotiate(&driver, 0));
    vm_driver_go(&driver);
    assert_int_equal(vm_driver_status(&driver), 0xf | BROKEN);
    assert_int_equal(vm_driver_interrupt(&driver), VIRTIO_MMIO_INT_CONFIG);
    slow->refuse = 0;
    vm_driver_begin(&driver, 0, SIZE);
    assert_int_equal(slow->stops, 0);
}

static void test_a_queue_is_taken_back_while_others_go_on(void **state)
{
    (void)state;
    vm_driver_begin(&driver, EVENT_INDEX, SIZE);
    ask(0, 2);
    (void)vm_driver_add(&driver, 1, &buffer[2], 1);
    vm_driver_write(&driver, VIRTIO_MMIO_QUEUE_SEL, 1);
    vm_driver_write(&driver, VIRTIO_MMIO_QUEUE_READY, 0);
    assert_int_equal(vm_driver_read(&driver, VIRTIO_MMIO_QUEUE_READY), 0);
    (void)vm_driver_kick(&driver, 1);
    ask(3, REQUESTS);
    assert_int_equal(slow->held_count, 7);
    vm_slow_answer(slow, 7);
    assert_int_equal(take_all(), 7);
    assert_int_equal(answers(2), 0);
    /* Only a reset gives it back. */
    vm_driver_write(&driver, VIRTIO_MMIO_QUEUE_READY, 1);
    assert_int_equal(vm_driver_read(&driver, VIRTIO_MMIO_QUEUE_READY), 0);
    assert_int_equal(vm_driver_status(&driver), 0xf);
}

/* ---- pause, save, load ---- */

static void test_a_paused_device_is_still_and_forgets_nothing(void **state)
{
    (void)state;
    vm_driver_begin(&driver, EVENT_INDEX, SIZE);
    ask(0, 3);
    virtio_pause(&slow->device);
    virtio_pause(&slow->device);
    assert_int_equal(slow->stops, 1);
    unsigned kicks = slow->kicks;

    ask(3, REQUESTS);
    virtio_config_changed(&slow->device);
    assert_int_equal(slow->kicks, kicks);
    assert_int_equal(slow->held_count, 3);
    assert_false(vm_driver_is_raised(&driver));
    virtio_resume(&slow->device);
    virtio_resume(&slow->device);
    assert_int_equal(slow->starts, 2);
    assert_int_equal(vm_driver_interrupt(&driver), VIRTIO_MMIO_INT_CONFIG);
    vm_rig_settle(&rig);
    assert_int_equal(slow->held_count, REQUESTS);
    vm_slow_answer(slow, REQUESTS);
    assert_int_equal(take_all(), REQUESTS);
    expect_each_answered_once();
}

static void test_what_was_kept_is_forgotten_with_a_reset(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        vm_driver_begin(&driver, 0, SIZE);
        ask(0, 3);
        assert_int_equal(slow->held_count, 3);
        virtio_pause(&slow->device);
        if (i == 0) { /* it cannot go on */
            slow->refuse = -EIO;
            virtio_resume(&slow->device);
            slow->refuse = 0;
            assert_int_equal(vm_driver_status(&driver), 0xf | BROKEN);
            vm_driver_reset(&driver);
        } else {
            vm_driver_reset(&driver);
            virtio_resume(&slow->device);
        }
        assert_int_equal(slow->held_count, 0);
        assert_false(slow->device.started);
    }
    vm_driver_begin(&driver, 0, SIZE);
    ask(0, REQUESTS);
    vm_slow_answer(slow, REQUESTS);
    assert_int_equal(take_all(), REQUESTS);
    expect_each_answered_once();
}

static void test_a_device_without_driver_can_be_paused(void **state)
{
    (void)state;
    virtio_pause(&slow->device);
    virtio_resume(&slow->device);
    assert_int_equal(slow->starts, 0);
    assert_false(vm_driver_is_raised(&driver));
    vm_driver_begin(&driver, 0, SIZE);
}

static json_t *save(void)
{
    json_t *saved;

    virtio_pause(&slow->device);
    saved = virtio_save(&slow->device, NULL);
    assert_non_null(saved);
    return saved;
}

/* The device is gone, and another takes its place. */
static void replace_device(void)
{
    virtio_free(&slow->device);
    slow = vm_slow_new(&rig.memory, rig.reactor);
    driver.device = rig.bus.range[0].device = &slow->device;
}

static void test_a_loaded_device_goes_on_with_what_was_under_way(void **state)
{
    json_t *saved;
    char *text;

    (void)state;
    vm_driver_begin(&driver, EVENT_INDEX | VM_SLOW_FEATURES, SIZE);
    ask(0, 5);
    vm_slow_answer(slow, 2); /* the driver has not looked yet */
    for (unsigned i = 5; i < REQUESTS; i++)
        (void)vm_driver_add(&driver, 0, &buffer[i], 1);
    saved = save();
    text = json_dumps(saved, 0); /* as in a file */
    json_decref(saved);
    saved = json_loads(text, 0, NULL);
    free(text);
    replace_device();
    assert_int_equal(virtio_load(&slow->device, saved, NULL), 0);
    assert_int_equal(slow->starts, 0);
    assert_int_equal(vm_driver_status(&driver), 0xf);
    assert_int_equal(slow->device.accepted, driver.features);
    virtio_resume(&slow->device);
    assert_int_equal(vm_driver_interrupt(&driver), VIRTIO_MMIO_INT_VRING);
    vm_rig_settle(&rig);
    assert_int_equal(slow->held_count, 6);
    vm_slow_answer(slow, 6);
    assert_int_equal(take_all(), REQUESTS);
    expect_each_answered_once();
    json_decref(saved);
}

static void test_a_failed_device_is_as_failed_when_loaded(void **state)
{
    json_t *saved;

    (void)state;
    vm_driver_begin(&driver, 0, SIZE);
    virtio_fail(&slow->device);
    saved = save();
    replace_device();
    assert_int_equal(virtio_load(&slow->device, saved, NULL), 0);
    virtio_resume(&slow->device);
    assert_int_equal(slow->starts, 0);
    assert_int_equal(vm_driver_status(&driver), 0xf | BROKEN);
    vm_driver_begin(&driver, 0, SIZE);
    json_decref(saved);
}

/* One member at a time is another. */
static void test_states_that_make_no_sense_are_not_loaded(void **state)
{
    static const struct {
        const char *member, *value;
        int code;
    } wrong[] = {
        {"id", "4", -EINVAL},
        {"id", "\"60\"", -EINVAL},
        {"status", "8", -EINVAL},
        {"status", "31", -EINVAL},
        {"status", "7", -EINVAL}, /* queues are ready, without features */
        {"status", "-1", -EINVAL},
        {"interrupts", "4", -EINVAL},
        {"interrupts", "-1", -EINVAL},
        {"generation", "4294967296", -EINVAL},
        {"generation", "-1", -EINVAL},
        {"queue_select", "-1", -EINVAL},
        {"features_select", "4294967296", -EINVAL},
        {"accepted_select", "null", -EINVAL},
        {"features_beyond", "true", -ENOTSUP},
        {"features", "1", -ENOTSUP},
        {"features", "4294967297", -ENOTSUP},
        {"features", "-1", -ENOTSUP},
        {"features", "1.0", -EINVAL},
        {"queues", "[]", -EINVAL},
        {"queues", "{}", -EINVAL},
        {"queues", "null", -EINVAL},
        {"own", "null", -EINVAL},
        {"own", "{}", -EINVAL},
        {"own", "{\"held\": [], \"queues\": [0, 0]}", -EINVAL},
        {"own", "{\"held\": [], \"queues\": [0, 0, 65536]}", -EINVAL},
        {"own", "{\"held\": [], \"queues\": [0, 0, -1]}", -EINVAL},
        {"own", "{\"held\": [], \"queues\": [0, 0, null]}", -EINVAL},
        {"more", "1", -EINVAL},
    };
    json_t *saved;

    (void)state;
    vm_driver_begin(&driver, 0, SIZE);
    saved = save();
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        json_t *other = json_deep_copy(saved);
        struct vdisk_error error = {.code = 0};

        json_object_set_new(other, wrong[i].member,
                            json_loads(wrong[i].value, JSON_DECODE_ANY, NULL));
        replace_device();
        assert_int_equal(virtio_load(&slow->device, other, &error), wrong[i].code);
        assert_int_equal(error.code, wrong[i].code);
        assert_non_null(strstr(error.text, "slow"));
        json_object_del(other, wrong[i].member);
        replace_device();
        assert_int_equal(virtio_load(&slow->device, other, NULL),
                         strcmp(wrong[i].member, "more") ? -EINVAL : 0);
        json_decref(other);
    }
    json_decref(saved);
}

static void test_a_status_is_loaded_that_steps_lead_to(void **state)
{
    static const uint8_t right[] = {0, 1, 3, 11, 15}; /* broken or given up, or not */
    json_t *saved = save();

    (void)state;
    json_object_set_new(saved, "features", json_integer(INT64_C(1) << VIRTIO_F_VERSION_1));
    for (unsigned status = 0; status < 256; status++) {
        bool is_right = false;

        for (unsigned i = 0; i < sizeof(right); i++)
            is_right |= (status & 0x3f) == right[i];
        json_object_set_new(saved, "status", json_integer(status));
        replace_device();
        assert_int_equal(virtio_load(&slow->device, saved, NULL), is_right ? 0 : -EINVAL);
    }
    json_decref(saved);
}

static void test_queues_that_make_no_sense_are_not_loaded(void **state)
{
    static const struct {
        const char *member, *value;
        int code;
    } wrong[] = {
        {"ready", "1", -EINVAL},    {"size", "0", -EINVAL},      {"size", "-1", -EINVAL},
        {"size", "65536", -EINVAL}, {"size", "3", -ENOTSUP},     {"size", "256", -ENOTSUP},
        {"desc", "null", -EINVAL},  {"avail", "\"0\"", -EINVAL}, {"used", "1.5", -EINVAL},
        {"other", "1", -EINVAL},
    };
    json_t *saved;

    (void)state;
    vm_driver_begin(&driver, 0, SIZE);
    saved = save();
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        json_t *other = json_deep_copy(saved);

        json_object_set_new(json_array_get(json_object_get(other, "queues"), 2), wrong[i].member,
                            json_loads(wrong[i].value, JSON_DECODE_ANY, NULL));
        replace_device();
        assert_int_equal(virtio_load(&slow->device, other, NULL), wrong[i].code);
        json_decref(other);
    }
    json_decref(saved);
}

/* It makes sense, but not to this memory. */
static void test_a_loaded_queue_outside_ram_is_the_guests_trouble(void **state)
{
    json_t *saved;

    (void)state;
    vm_driver_begin(&driver, 0, SIZE);
    saved = save();
    json_object_set_new(json_array_get(json_object_get(saved, "queues"), 2), "desc",
                        json_integer(-16));
    replace_device();
    assert_int_equal(virtio_load(&slow->device, saved, NULL), 0);
    virtio_resume(&slow->device);
    assert_int_equal(vm_driver_status(&driver), 0xf | BROKEN);
    json_decref(saved);
}

static void test_a_device_without_queues_or_with_too_many_is_refused(void **state)
{
    struct virtio_device device = {.ops = slow->device.ops, .offered = VM_QUEUE_FEATURES};

    (void)state;
    assert_int_equal(virtio_init(&device, &rig.memory, rig.reactor), -EINVAL);
    device.queues = VIRTIO_QUEUES_MAX + 1;
    assert_int_equal(virtio_init(&device, &rig.memory, rig.reactor), -EINVAL);
    device.queues = 1;
    device.offered = 0;
    assert_int_equal(virtio_init(&device, &rig.memory, rig.reactor), -EINVAL);
    virtio_free(NULL);
}

/* ---- with two threads ---- */

static void answer_one(void *opaque)
{
    (void)opaque;
    if (slow->held_count > 0)
        vm_slow_answer(slow, 1);
}

/* The vCPU's thread kicks, resets and pauses while the reactor's serves. */
static void test_a_vcpu_and_the_reactor_share_a_device(void **state)
{
    unsigned taken = 0;

    (void)state;
    vm_rig_run(&rig);
    for (unsigned round = 0; round < 40; round++) {
        vm_driver_begin(&driver, round % 2 ? EVENT_INDEX : 0, SIZE);
        driver.by_register = round % 3 == 0;
        for (unsigned i = 0; i < REQUESTS; i++) {
            (void)vm_driver_add(&driver, 0, &buffer[i], 1);
            (void)vm_driver_kick(&driver, 0);
            if (i % 4 == 1) {
                virtio_pause(&slow->device);
                virtio_resume(&slow->device);
            }
            vm_rig_call(&rig, answer_one, NULL);
            taken += take_all();
        }
    }
    assert_in_range(taken, 1, 40 * REQUESTS);
    /* What was answered is given back in the end, by interrupts. */
    vm_driver_begin(&driver, EVENT_INDEX, SIZE);
    for (unsigned i = 0; i < REQUESTS; i++) {
        uint16_t head = vm_driver_add(&driver, 0, &buffer[i], 1), used;
        uint32_t length;

        (void)vm_driver_kick(&driver, 0);
        while (!vm_driver_take(&driver, 0, &used, &length))
            vm_rig_call(&rig, answer_one, NULL);
        assert_int_equal(used, head);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_a_reset_forgets_what_is_under_way),
        TEST(test_a_device_that_failed_serves_nothing_until_reset),
        TEST(test_a_ring_that_makes_no_sense_fails_the_device),
        TEST(test_a_device_that_cannot_start_needs_a_reset),
        TEST(test_a_queue_is_taken_back_while_others_go_on),
        TEST(test_a_paused_device_is_still_and_forgets_nothing),
        TEST(test_what_was_kept_is_forgotten_with_a_reset),
        TEST(test_a_device_without_driver_can_be_paused),
        TEST(test_a_loaded_device_goes_on_with_what_was_under_way),
        TEST(test_a_failed_device_is_as_failed_when_loaded),
        TEST(test_states_that_make_no_sense_are_not_loaded),
        TEST(test_a_status_is_loaded_that_steps_lead_to),
        TEST(test_queues_that_make_no_sense_are_not_loaded),
        TEST(test_a_loaded_queue_outside_ram_is_the_guests_trouble),
        TEST(test_a_device_without_queues_or_with_too_many_is_refused),
        TEST(test_a_vcpu_and_the_reactor_share_a_device),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
