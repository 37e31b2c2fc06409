/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A drive whose back end is silent, goes away, comes back as another, or refuses: a vCPU is never
 * held for longer than it was said, and the guest is told when its drive is not what it was.
 *
 * The back end is one that says what a test wants (vm_backend.h), and serves no request.
 */
#include "vhost_front.h"
#include "vhost_kit.h"
#include "vm_backend.h"
#include "vm_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define MILLISECOND INT64_C(1000000)
#define SECOND      (1000 * MILLISECOND)
#define BIT(number) (UINT64_C(1) << (number))
#define QUEUES      2u
#define SECTORS     4096u /* what the back end has at first */

static char directory[64], path[80];
static struct backend backend;
static struct vm_rig rig;
static struct disk disk;

/* What the back end says from now on. */
#define SAYS(change)                                                                               \
    do {                                                                                           \
        backend_lock(&backend);                                                                    \
        change;                                                                                    \
        backend_unlock(&backend);                                                                  \
    } while (0)

static void opened(int64_t patience)
{
    struct virtio_blk_options options = disk_options(&disk, path);

    options.queues = QUEUES;
    options.patience = patience;
    disk_open(&disk, &rig, 0, &options);
}

/* All queues are the back end's. */
static void begun(void)
{
    disk_begin(&disk, 0);
    assert_true(backend_wait(&backend, VHOST_SET_VRING_ENABLE));
}

static void wait_enabled(void)
{
    for (unsigned i = 0; i < 20000; i++) {
        bool enabled;

        SAYS(enabled = backend.seen.queue[0].enabled && backend.seen.queue[1].enabled);
        if (enabled)
            return;
        usleep(1000);
    }
    fail_msg("the queues are not served");
}

/* Goes away, and comes back when it is to. */
static void leave(void)
{
    backend_stop(&backend);
    unlink(path);
    assert_true(disk_wait_told(&disk, "is lost"));
}

static void come_back(void)
{
    assert_int_equal(backend_start(&backend, path), 0);
}

static int64_t since(int64_t then)
{
    return reactor_now() - then;
}

/* ---- silence ---- */

static void test_a_reset_waits_for_a_silent_back_end_until_the_deadline(void **state)
{
    (void)state;
    opened(500 * MILLISECOND);
    begun();
    wait_enabled();
    SAYS(backend.fault = BACKEND_SILENT; backend.fault_request = VHOST_GET_VRING_BASE);
    int64_t then = reactor_now();

    disk_reset(&disk);
    assert_in_range(since(then), 500 * MILLISECOND, 20 * SECOND);
    assert_true(disk_wait_told(&disk, "does not answer GET_VRING_BASE"));
    SAYS(backend.fault = BACKEND_FINE);
    assert_true(disk_wait_told(&disk, "is back"));
    begun();
    wait_enabled();
    disk_close(&disk);
}

static void test_a_start_does_not_wait_for_a_silent_back_end(void **state)
{
    (void)state;
    opened(500 * MILLISECOND);
    SAYS(backend.fault = BACKEND_SILENT; backend.fault_request = VHOST_SET_MEM_TABLE);
    disk_begin(&disk, 0);
    assert_true(disk_wait_told(&disk, "does not answer SET_MEM_TABLE"));
    assert_false(disk_needs_reset(&disk));
    SAYS(backend.fault = BACKEND_FINE);
    wait_enabled();
    disk_close(&disk);
}

static void test_a_reset_does_not_wait_for_one_that_is_silent_from_the_beginning(void **state)
{
    (void)state;
    opened(100 * SECOND);
    begun();
    wait_enabled();
    SAYS(backend.fault = BACKEND_SILENT; backend.fault_request = VHOST_GET_FEATURES);
    backend_drop(&backend);
    assert_true(disk_wait_told(&disk, "is lost"));
    assert_true(backend_wait(&backend, VHOST_GET_FEATURES));
    int64_t then = reactor_now();

    disk_reset(&disk);
    disk_begin(&disk, 0);
    disk_reset(&disk);
    disk_close(&disk);
    assert_in_range(since(then), 0, 20 * SECOND);
}

/* ---- away ---- */

static void test_a_reset_ends_at_once_while_nobody_is_there(void **state)
{
    (void)state;
    opened(0);
    begun();
    wait_enabled();
    leave();
    int64_t then = reactor_now();

    for (unsigned i = 0; i < 100; i++) {
        disk_reset(&disk);
        disk_begin(&disk, 0);
    }
    assert_in_range(since(then), 0, 20 * SECOND);
    assert_false(disk_needs_reset(&disk));
    assert_int_equal(disk_lines(&disk), 1);
    come_back();
    wait_enabled(); /* what was begun meanwhile */
    assert_true(disk_wait_told(&disk, "is back"));
    assert_int_equal(disk_lines(&disk), 2);
    disk_close(&disk);
}

static int64_t processor_time(void)
{
    struct timespec time;

    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time), 0);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static void test_waiting_for_a_back_end_costs_nothing(void **state)
{
    (void)state;
    opened(0);
    begun();
    wait_enabled();
    leave();
    int64_t before = processor_time();

    usleep(250000);
    assert_in_range(processor_time() - before, 0, 15 * MILLISECOND);
    disk_close(&disk);
    come_back(); /* to be stopped */
}

static void test_a_drive_can_be_given_up_while_nobody_is_there(void **state)
{
    (void)state;
    opened(0);
    begun();
    wait_enabled();
    leave();
    disk_close(&disk);
    come_back(); /* to be stopped */
}

static void test_the_in_flight_memory_goes_to_the_next_one(void **state)
{
    uint32_t last;

    (void)state;
    SAYS(backend.inflight_bytes = 4096);
    opened(0);
    begun();
    wait_enabled();
    leave();
    SAYS(backend.inflight_bytes = 8192);
    come_back();
    wait_enabled();
    SAYS(last = (uint32_t)backend.seen.inflight.size);
    assert_int_equal(last, 4096);
    /* After a pause there is nothing in flight, */
    virtio_pause(disk.device);
    virtio_resume(disk.device);
    wait_enabled();
    SAYS(last = (uint32_t)backend.seen.inflight.size);
    assert_int_equal(last, 8192);
    /* nor is there after a reset. */
    SAYS(backend.inflight_bytes = 4096);
    disk_reset(&disk);
    begun();
    wait_enabled();
    SAYS(last = (uint32_t)backend.seen.inflight.size);
    assert_int_equal(last, 4096);
    disk_close(&disk);
}

static void test_queues_go_on_where_the_last_one_was(void **state)
{
    uint32_t base;

    (void)state;
    opened(0);
    disk_begin(&disk, 0);
    wait_enabled();
    /* Five requests were used, as far as the guest's memory says. */
    ((uint16_t *)(void *)(disk.client->queue[1].ring + CLIENT_USED_AT))[1] = 5;
    leave();
    come_back();
    wait_enabled();
    SAYS(base = backend.seen.queue[1].base);
    assert_int_equal(base, 5);
    SAYS(backend.base = 77);
    virtio_pause(disk.device);
    virtio_resume(disk.device);
    wait_enabled();
    SAYS(base = backend.seen.queue[1].base);
    assert_int_equal(base, 77);
    disk_reset(&disk);
    disk_begin(&disk, 0);
    wait_enabled();
    SAYS(base = backend.seen.queue[1].base);
    assert_int_equal(base, 0);
    disk_close(&disk);
}

static void test_the_memory_is_shared_once_with_each(void **state)
{
    unsigned tables;

    (void)state;
    opened(0);
    for (unsigned i = 0; i < 2; i++) {
        begun();
        wait_enabled();
        virtio_pause(disk.device);
        virtio_resume(disk.device);
        wait_enabled();
        disk_reset(&disk);
        begun();
        wait_enabled();
        SAYS(tables = backend.seen.tables);
        assert_int_equal(tables, 1);
        leave();
        come_back();
        assert_true(disk_wait_told(&disk, "is back"));
        disk_reset(&disk);
    }
    disk_close(&disk);
}

static void test_kicks_and_interrupts_are_repeated_for_a_new_one(void **state)
{
    eventfd_t count;

    (void)state;
    opened(0);
    begun();
    wait_enabled();
    (void)eventfd_read(disk.device->kick[0], &count);
    (void)eventfd_read(disk.device->kick[1], &count);
    (void)vm_driver_is_raised(&disk.driver);
    leave();
    come_back();
    assert_true(disk_wait_told(&disk, "is back"));
    assert_int_equal(eventfd_read(disk.device->kick[0], &count), 0);
    assert_int_equal(eventfd_read(disk.device->kick[1], &count), 0);
    assert_true(vm_driver_is_raised(&disk.driver));
    disk_close(&disk);
}

static void test_the_mode_of_the_cache_is_repeated_for_a_new_one(void **state)
{
    const uint32_t at = offsetof(struct virtio_blk_config, wce);
    uint32_t where;
    uint8_t what;

    (void)state;
    opened(0);
    begun();
    wait_enabled();
    vm_driver_set_config(&disk.driver, at, 0, 1);
    SAYS(where = backend.seen.written_at; what = backend.seen.written[0]);
    assert_int_equal(where, at); /* before the write of the register has ended */
    assert_int_equal(what, 0);
    leave();
    come_back();
    wait_enabled();
    SAYS(where = backend.seen.written_at; what = backend.seen.written[0]);
    assert_int_equal(where, at);
    assert_int_equal(what, 0);
    disk_reset(&disk);
    SAYS(where = backend.seen.resets);
    assert_int_equal(where, 1);
    disk_close(&disk);
}

static void *no_memory(size_t size)
{
    (void)size;
    return NULL;
}

static void test_requests_that_are_away_with_a_back_end_cannot_be_saved(void **state)
{
    struct vdisk_error error = {.code = 0};

    (void)state;
    opened(0);
    begun();
    wait_enabled();
    virtio_pause(disk.device);
    json_t *saved = virtio_save(disk.device, NULL);

    assert_non_null(saved);
    json_decref(saved);
    virtio_resume(disk.device);
    wait_enabled();
    leave();
    virtio_pause(disk.device);
    assert_null(virtio_save(disk.device, &error));
    assert_int_equal(error.code, -EBUSY);
    json_set_alloc_funcs(no_memory, free);
    assert_null(virtio_save(disk.device, &error));
    json_set_alloc_funcs(malloc, free);
    assert_int_equal(error.code, -ENOMEM);
    come_back();
    virtio_resume(disk.device);
    wait_enabled();
    virtio_pause(disk.device);
    saved = virtio_save(disk.device, NULL);
    assert_non_null(saved);
    json_decref(saved);
    disk_close(&disk);
}

/* ---- another drive ---- */

static void returns_as_another(const char *why)
{
    come_back();
    assert_true(disk_wait_needs_reset(&disk));
    assert_true(disk_wait_told(&disk, why));
    backend_lock(&backend);
    assert_false(backend.seen.queue[0].enabled || backend.seen.queue[1].enabled);
    backend_unlock(&backend);
    assert_int_equal(disk_lines(&disk), 2);
}

static void served_and_left(void)
{
    opened(0);
    begun();
    wait_enabled();
    leave();
}

static void test_a_smaller_drive_is_not_the_same(void **state)
{
    (void)state;
    served_and_left();
    SAYS(backend.config.capacity = SECTORS - 1);
    returns_as_another("it is smaller");
    assert_int_equal(disk_capacity(&disk), SECTORS * UINT64_C(512));
    /* A driver that begins anew takes it as it is. */
    disk_reset(&disk);
    assert_int_equal(disk_capacity(&disk), (SECTORS - 1) * UINT64_C(512));
    begun();
    wait_enabled();
    assert_false(disk_needs_reset(&disk));
    disk_close(&disk);
}

static void test_a_drive_that_is_smaller_than_when_it_was_saved_is_not_the_same(void **state)
{
    (void)state;
    opened(0);
    begun();
    wait_enabled();
    virtio_pause(disk.device);
    json_t *saved = virtio_save(disk.device, NULL);

    disk_close(&disk);
    rig.bus = (struct vm_bus){.count = 0};
    opened(0);
    assert_int_equal(virtio_load(disk.device, saved, NULL), 0);
    json_decref(saved);
    leave();
    SAYS(backend.config.capacity = SECTORS - 1);
    come_back();
    assert_true(disk_wait_told(&disk, "is back"));
    virtio_resume(disk.device);
    assert_true(disk_wait_needs_reset(&disk));
    assert_true(disk_has_told(&disk, "it is smaller"));
    disk_close(&disk);
}

static void test_a_change_before_the_driver_begins_is_seen_between_two_reads(void **state)
{
    const uint32_t change[3] = {2, VHOST_FLAG_VERSION, 0};
    uint32_t before, after;

    (void)state;
    opened(0);
    before = vm_driver_read(&disk.driver, VIRTIO_MMIO_CONFIG_GENERATION);
    SAYS(backend.config.capacity = SECTORS + 1);
    assert_int_equal(backend_say(&backend, change, sizeof(change)), 0);
    for (unsigned i = 0; i < 20000 && disk_capacity(&disk) == SECTORS * UINT64_C(512); i++)
        usleep(1000);
    assert_int_equal(disk_capacity(&disk), (SECTORS + 1) * UINT64_C(512));
    after = vm_driver_read(&disk.driver, VIRTIO_MMIO_CONFIG_GENERATION);
    assert_int_not_equal(before, after);
    disk_close(&disk);
}

static void test_a_larger_drive_is_the_same(void **state)
{
    (void)state;
    served_and_left();
    (void)vm_driver_is_raised(&disk.driver);
    SAYS(backend.config.capacity = SECTORS + 1; backend.config.num_queues = BACKEND_QUEUES);
    come_back();
    wait_enabled();
    while (!(vm_driver_interrupt(&disk.driver) & VIRTIO_MMIO_INT_CONFIG))
        ;
    assert_int_equal(disk_capacity(&disk), (SECTORS + 1) * UINT64_C(512));
    assert_int_equal(
        vm_driver_config(&disk.driver, offsetof(struct virtio_blk_config, num_queues), 2), QUEUES);
    assert_false(disk_needs_reset(&disk));
    disk_close(&disk);
}

static void test_a_drive_that_lacks_accepted_features_is_not_the_same(void **state)
{
    (void)state;
    served_and_left();
    SAYS(backend.features &= ~BIT(VIRTIO_BLK_F_FLUSH));
    returns_as_another("lacks features");
    disk_close(&disk);
}

static void test_a_drive_that_lacks_other_features_is_the_same(void **state)
{
    (void)state;
    opened(0);
    disk_begin(&disk, BIT(VIRTIO_BLK_F_FLUSH));
    wait_enabled();
    leave();
    SAYS(backend.features &= ~BIT(VIRTIO_BLK_F_FLUSH));
    come_back();
    wait_enabled();
    assert_false(disk_needs_reset(&disk));
    disk_close(&disk);
}

static void test_a_drive_that_became_read_only_is_not_the_same(void **state)
{
    (void)state;
    served_and_left();
    SAYS(backend.features |= BIT(VIRTIO_BLK_F_RO));
    returns_as_another("it is read-only now");
    disk_close(&disk);
}

static void test_a_drive_that_became_writable_is_not_the_same(void **state)
{
    (void)state;
    SAYS(backend.features |= BIT(VIRTIO_BLK_F_RO));
    served_and_left();
    SAYS(backend.features &= ~BIT(VIRTIO_BLK_F_RO));
    returns_as_another("it is not read-only any more");
    /* Whatever the driver does. */
    disk_reset(&disk);
    disk_begin(&disk, BIT(VIRTIO_BLK_F_RO));
    assert_true(disk_wait_needs_reset(&disk));
    disk_close(&disk);
}

static void test_a_drive_with_fewer_queues_is_not_the_same(void **state)
{
    (void)state;
    served_and_left();
    SAYS(backend.queues = 1);
    returns_as_another("fewer queues");
    disk_close(&disk);
}

static void test_a_drive_with_other_blocks_is_not_the_same(void **state)
{
    (void)state;
    served_and_left();
    SAYS(backend.config.blk_size = 4096);
    returns_as_another("blocks of another size");
    disk_close(&disk);
}

static void test_a_drive_that_takes_less_at_once_is_not_the_same(void **state)
{
    (void)state;
    served_and_left();
    SAYS(backend.config.seg_max = 1);
    returns_as_another("smaller requests");
    disk_close(&disk);
}

/* ---- refusals, and nonsense ---- */

static void test_a_back_end_that_refuses_a_queue_breaks_the_device_until_a_reset(void **state)
{
    (void)state;
    opened(0);
    SAYS(backend.fault = BACKEND_REFUSE; backend.fault_request = VHOST_SET_VRING_ADDR);
    disk_begin(&disk, 0);
    assert_true(disk_wait_needs_reset(&disk));
    assert_true(disk_wait_told(&disk, "refuses SET_VRING_ADDR"));
    SAYS(backend.fault = BACKEND_FINE);
    disk_reset(&disk);
    disk_begin(&disk, 0);
    wait_enabled();
    assert_false(disk_needs_reset(&disk));
    assert_int_equal(disk_lines(&disk), 1);
    disk_close(&disk);
}

static void test_an_error_of_a_queue_is_told_to_the_driver(void **state)
{
    (void)state;
    opened(0);
    begun();
    wait_enabled();
    SAYS(assert_int_equal(eventfd_write(backend.seen.queue[1].err, 1), 0));
    assert_true(disk_wait_needs_reset(&disk));
    disk_reset(&disk);
    begun();
    wait_enabled();
    assert_false(disk_needs_reset(&disk));
    disk_close(&disk);
}

static void test_a_failure_does_not_outlive_the_reset_that_it_meets(void **state)
{
    (void)state;
    opened(0);
    begun();
    wait_enabled();
    pthread_mutex_lock(&disk.device->lock); /* as a vCPU that is about to reset it */
    SAYS(assert_int_equal(eventfd_write(backend.seen.queue[1].err, 1), 0));
    assert_true(disk_wait_told(&disk, "broke the rules"));
    virtio_set_status(disk.device, 0);
    pthread_mutex_unlock(&disk.device->lock);
    assert_int_equal(disk_capacity(&disk), SECTORS * UINT64_C(512));
    assert_false(disk_needs_reset(&disk));
    begun();
    wait_enabled();
    assert_false(disk_needs_reset(&disk));
    disk_close(&disk);
}

static void test_a_back_end_that_talks_out_of_turn_is_left(void **state)
{
    const uint32_t nonsense[3] = {2, 77, 0};
    unsigned connections = 0;

    (void)state;
    opened(0);
    begun();
    wait_enabled();
    assert_int_equal(backend_say(&backend, nonsense, sizeof(nonsense)), 0);
    assert_true(disk_wait_told(&disk, "is lost"));
    assert_true(disk_wait_told(&disk, "is back"));
    SAYS(assert_int_equal(send(backend.connection, nonsense, sizeof(nonsense), MSG_NOSIGNAL),
                          sizeof(nonsense)));
    for (unsigned i = 0; i < 20000 && connections < 3; i++) {
        usleep(1000);
        SAYS(connections = backend.connections);
    }
    assert_int_equal(connections, 3);
    wait_enabled();
    disk_close(&disk);
}

static void test_a_back_end_without_news_will_do(void **state)
{
    (void)state;
    SAYS(backend.protocol &= ~(BIT(VHOST_P_BACKEND_REQ) | BIT(VHOST_P_RESET_DEVICE)));
    SAYS(backend.features |= BIT(VIRTIO_F_RING_PACKED));
    opened(0);
    assert_true(vm_driver_offered(&disk.driver) & BIT(VIRTIO_F_RING_PACKED));
    begun();
    wait_enabled();
    disk_reset(&disk);
    begun();
    wait_enabled();
    disk_close(&disk);
}

/* Where such a ring was when the back end was lost, nothing else says. */
static void test_there_are_no_packed_rings_without_in_flight_memory(void **state)
{
    (void)state;
    SAYS(backend.protocol &= ~BIT(VHOST_P_INFLIGHT));
    SAYS(backend.features |= BIT(VIRTIO_F_RING_PACKED));
    opened(0);
    assert_false(vm_driver_offered(&disk.driver) & BIT(VIRTIO_F_RING_PACKED));
    begun();
    wait_enabled();
    disk_close(&disk);
}

/* ---- all of them ---- */

static int begin(void **state)
{
    const char *tmp = getenv("TMPDIR");

    (void)state;
    snprintf(directory, sizeof(directory), "%s/vdisk-away-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof(path), "%s/s", directory);
    vm_rig_open(&rig, DISK_MEMORY);
    backend_init(&backend);
    SAYS(backend.config.capacity = SECTORS);
    return backend_start(&backend, path);
}

static int end(void **state)
{
    (void)state;
    backend_stop(&backend);
    vm_rig_close(&rig);
    unlink(path);
    return rmdir(directory);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_reset_waits_for_a_silent_back_end_until_the_deadline),
        TEST(test_a_start_does_not_wait_for_a_silent_back_end),
        TEST(test_a_reset_does_not_wait_for_one_that_is_silent_from_the_beginning),
        TEST(test_a_reset_ends_at_once_while_nobody_is_there),
        TEST(test_waiting_for_a_back_end_costs_nothing),
        TEST(test_a_drive_can_be_given_up_while_nobody_is_there),
        TEST(test_the_in_flight_memory_goes_to_the_next_one),
        TEST(test_queues_go_on_where_the_last_one_was),
        TEST(test_the_memory_is_shared_once_with_each),
        TEST(test_kicks_and_interrupts_are_repeated_for_a_new_one),
        TEST(test_the_mode_of_the_cache_is_repeated_for_a_new_one),
        TEST(test_requests_that_are_away_with_a_back_end_cannot_be_saved),
        TEST(test_a_smaller_drive_is_not_the_same),
        TEST(test_a_drive_that_is_smaller_than_when_it_was_saved_is_not_the_same),
        TEST(test_a_change_before_the_driver_begins_is_seen_between_two_reads),
        TEST(test_a_larger_drive_is_the_same),
        TEST(test_a_drive_that_lacks_accepted_features_is_not_the_same),
        TEST(test_a_drive_that_lacks_other_features_is_the_same),
        TEST(test_a_drive_that_became_read_only_is_not_the_same),
        TEST(test_a_drive_that_became_writable_is_not_the_same),
        TEST(test_a_drive_with_fewer_queues_is_not_the_same),
        TEST(test_a_drive_with_other_blocks_is_not_the_same),
        TEST(test_a_drive_that_takes_less_at_once_is_not_the_same),
        TEST(test_a_back_end_that_refuses_a_queue_breaks_the_device_until_a_reset),
        TEST(test_an_error_of_a_queue_is_told_to_the_driver),
        TEST(test_a_failure_does_not_outlive_the_reset_that_it_meets),
        TEST(test_a_back_end_that_talks_out_of_turn_is_left),
        TEST(test_a_back_end_without_news_will_do),
        TEST(test_there_are_no_packed_rings_without_in_flight_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
