/* SPDX-License-Identifier: Apache-2.0 */
/* The rig, registers and steps of a driver; its queues are in vm_driver_queue.c. */
#include "vm_driver.h"

#include "layout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_FREE UINT64_C(0x100000)
#define PAGE       UINT64_C(4096)
#define PATIENCE   (INT64_C(20) * 1000000000)
#define ROUNDS     64

/* ---- the rig ---- */

void vm_rig_open(struct vm_rig *rig, uint64_t memory_bytes)
{
    *rig = (struct vm_rig){.has_thread = false};
    assert_int_equal(vm_memory_new(&rig->memory, memory_bytes, NULL), 0);
    assert_int_equal(reactor_new(NULL, &rig->reactor), 0);
}

void vm_rig_close(struct vm_rig *rig)
{
    vm_rig_halt(rig);
    reactor_free(rig->reactor);
    vm_memory_free(&rig->memory);
}

static void *run(void *opaque)
{
    struct vm_rig *rig = opaque;

    reactor_run(rig->reactor);
    return NULL;
}

void vm_rig_run(struct vm_rig *rig)
{
    assert_int_equal(pthread_create(&rig->thread, NULL, run, rig), 0);
    rig->has_thread = true;
}

void vm_rig_halt(struct vm_rig *rig)
{
    if (!rig->has_thread)
        return;
    reactor_stop(rig->reactor);
    assert_int_equal(pthread_join(rig->thread, NULL), 0);
    rig->has_thread = false;
}

struct call {
    struct reactor_message message; /* first */
    void (*what)(void *opaque);
    void *opaque;
    sem_t done;
};

static void run_call(struct reactor_message *message)
{
    struct call *call = (struct call *)message;

    call->what(call->opaque);
    (void)sem_post(&call->done);
}

void vm_rig_call(struct vm_rig *rig, void (*what)(void *opaque), void *opaque)
{
    struct call call = {.message.run = run_call, .what = what, .opaque = opaque};

    if (!rig->has_thread) {
        what(opaque);
        return;
    }
    assert_int_equal(sem_init(&call.done, 0, 0), 0);
    reactor_post(rig->reactor, &call.message);
    while (sem_wait(&call.done))
        assert_int_equal(errno, EINTR);
    (void)sem_destroy(&call.done);
}

void vm_rig_settle(struct vm_rig *rig)
{
    for (unsigned i = 0; i < ROUNDS; i++)
        reactor_step(rig->reactor, false);
}

/* ---- begin and end ---- */

void vm_driver_open(struct vm_driver *driver, struct vm_rig *rig, struct virtio_device *device)
{
    *driver = (struct vm_driver){
        .rig = rig,
        .device = device,
        .address = vm_virtio_address(rig->bus.count),
        .next = FIRST_FREE + rig->bus.count * (rig->memory.region[0].size / 8),
    };
    assert_int_equal(virtio_mmio_add(&rig->bus, driver->address, device), 0);
    assert_int_equal(vm_driver_read(driver, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
    assert_int_equal(vm_driver_read(driver, VIRTIO_MMIO_VERSION), 2);
    assert_int_equal(vm_driver_read(driver, VIRTIO_MMIO_DEVICE_ID), device->id);
}

static void free_device(void *device)
{
    virtio_free(device);
}

void vm_driver_close(struct vm_driver *driver)
{
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        free(driver->queue[i].chain);
    vm_rig_call(driver->rig, free_device, driver->device);
}

/* ---- registers ---- */

static uint32_t get(const struct vm_driver *driver, uint32_t at, unsigned size)
{
    uint32_t value = 0;

    vm_bus_read(&driver->rig->bus, driver->address + at, (uint8_t *)&value, size);
    return le32toh(value);
}

static void set(const struct vm_driver *driver, uint32_t at, uint32_t value, unsigned size)
{
    value = htole32(value);
    vm_bus_write(&driver->rig->bus, driver->address + at, (const uint8_t *)&value, size);
}

uint32_t vm_driver_config(const struct vm_driver *driver, uint32_t at, unsigned size)
{
    return get(driver, VIRTIO_MMIO_CONFIG + at, size);
}

void vm_driver_set_config(const struct vm_driver *driver, uint32_t at, uint32_t value,
                          unsigned size)
{
    set(driver, VIRTIO_MMIO_CONFIG + at, value, size);
}

uint32_t vm_driver_read(const struct vm_driver *driver, uint32_t at)
{
    return get(driver, at, 4);
}

void vm_driver_write(const struct vm_driver *driver, uint32_t at, uint32_t value)
{
    set(driver, at, value, 4);
}

uint32_t vm_driver_status(const struct vm_driver *driver)
{
    return vm_driver_read(driver, VIRTIO_MMIO_STATUS);
}

uint64_t vm_driver_offered(const struct vm_driver *driver)
{
    uint64_t features;

    vm_driver_write(driver, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    features = (uint64_t)vm_driver_read(driver, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
    vm_driver_write(driver, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    return features | vm_driver_read(driver, VIRTIO_MMIO_DEVICE_FEATURES);
}

/* ---- the steps ---- */

static void add_status(const struct vm_driver *driver, uint32_t step)
{
    vm_driver_write(driver, VIRTIO_MMIO_STATUS, vm_driver_status(driver) | step);
}

bool vm_driver_negotiate(struct vm_driver *driver, uint64_t wanted)
{
    vm_driver_reset(driver);
    add_status(driver, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    add_status(driver, VIRTIO_CONFIG_S_DRIVER);
    driver->features = vm_driver_offered(driver) & (wanted | UINT64_C(1) << VIRTIO_F_VERSION_1);
    vm_driver_write(driver, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    vm_driver_write(driver, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(driver->features >> 32));
    vm_driver_write(driver, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    vm_driver_write(driver, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)driver->features);
    add_status(driver, VIRTIO_CONFIG_S_FEATURES_OK);
    return vm_driver_status(driver) & VIRTIO_CONFIG_S_FEATURES_OK;
}

static void write_address(const struct vm_driver *driver, uint32_t low, uint64_t address)
{
    vm_driver_write(driver, low, (uint32_t)address);
    vm_driver_write(driver, low + 4, (uint32_t)(address >> 32));
}

void vm_driver_set_queue(struct vm_driver *driver, unsigned index, uint16_t size)
{
    struct vm_driver_queue *queue = &driver->queue[index];

    vm_driver_write(driver, VIRTIO_MMIO_QUEUE_SEL, index);
    assert_int_equal(vm_driver_read(driver, VIRTIO_MMIO_QUEUE_READY), 0);
    assert_in_range(size, 1, vm_driver_read(driver, VIRTIO_MMIO_QUEUE_NUM_MAX));
    free(queue->chain);
    *queue = (struct vm_driver_queue){
        .size = size,
        .free_count = size,
        .desc_at = vm_driver_alloc(driver, 16u * size),
        .avail_at = vm_driver_alloc(driver, 6u + 2u * size),
        .used_at = vm_driver_alloc(driver, 6u + 8u * size),
        .chain = calloc(size, sizeof(*queue->chain)),
    };
    assert_non_null(queue->chain);
    queue->desc = vm_driver_at(driver, queue->desc_at, 16u * size);
    queue->avail = vm_driver_at(driver, queue->avail_at, 6u + 2u * size);
    queue->used = vm_driver_at(driver, queue->used_at, 6u + 8u * size);
    for (unsigned i = 0; i < size; i++)
        queue->desc[i].next = htole16((uint16_t)(i + 1));
    vm_driver_write(driver, VIRTIO_MMIO_QUEUE_NUM, size);
    write_address(driver, VIRTIO_MMIO_QUEUE_DESC_LOW, queue->desc_at);
    write_address(driver, VIRTIO_MMIO_QUEUE_AVAIL_LOW, queue->avail_at);
    write_address(driver, VIRTIO_MMIO_QUEUE_USED_LOW, queue->used_at);
    vm_driver_write(driver, VIRTIO_MMIO_QUEUE_READY, 1);
    assert_int_equal(vm_driver_read(driver, VIRTIO_MMIO_QUEUE_READY), 1);
}

void vm_driver_go(const struct vm_driver *driver)
{
    add_status(driver, VIRTIO_CONFIG_S_DRIVER_OK);
}

void vm_driver_begin(struct vm_driver *driver, uint64_t wanted, uint16_t size)
{
    assert_true(vm_driver_negotiate(driver, wanted));
    for (unsigned i = 0; i < driver->device->queues; i++)
        vm_driver_set_queue(driver, i, size);
    vm_driver_go(driver);
    assert_int_equal(vm_driver_status(driver), 0xf);
}

void vm_driver_reset(struct vm_driver *driver)
{
    vm_driver_write(driver, VIRTIO_MMIO_STATUS, 0);
    assert_int_equal(vm_driver_status(driver), 0);
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        free(driver->queue[i].chain);
        driver->queue[i] = (struct vm_driver_queue){0};
    }
}

/* ---- memory ---- */

void *vm_driver_at(const struct vm_driver *driver, uint64_t guest, uint64_t length)
{
    void *at = vm_memory_at(&driver->rig->memory, guest, length);

    assert_non_null(at);
    return at;
}

uint64_t vm_driver_alloc(struct vm_driver *driver, uint64_t bytes)
{
    uint64_t guest = driver->next;

    memset(vm_driver_at(driver, guest, bytes), 0, bytes);
    driver->next += (bytes + PAGE - 1) / PAGE * PAGE;
    return guest;
}

/* ---- interrupts ---- */

struct waiting {
    struct reactor_op line, sleep;
    bool line_done, sleep_done;
};

static void note_done(struct reactor_op *op)
{
    *(bool *)op->owner = true;
}

/* In the reactor of this thread. Whether it came in time. */
static bool step_until_raised(const struct vm_driver *driver)
{
    struct reactor *reactor = driver->rig->reactor;
    struct waiting waiting = {
        .line = {.kind = REACTOR_POLL, .fd = driver->device->line.fd, .events = POLLIN},
        .sleep = {.kind = REACTOR_SLEEP, .deadline = reactor_now() + PATIENCE},
    };
    bool in_time;

    waiting.line.done = waiting.sleep.done = note_done;
    waiting.line.owner = &waiting.line_done;
    waiting.sleep.owner = &waiting.sleep_done;
    reactor_submit(reactor, &waiting.line);
    reactor_submit(reactor, &waiting.sleep);
    while (!waiting.line_done && !waiting.sleep_done)
        reactor_step(reactor, true);
    in_time = waiting.line_done;
    reactor_cancel(reactor, in_time ? &waiting.sleep : &waiting.line);
    while (!waiting.line_done || !waiting.sleep_done)
        reactor_step(reactor, true);
    return in_time;
}

bool vm_driver_is_raised(const struct vm_driver *driver)
{
    eventfd_t count;

    return eventfd_read(driver->device->line.fd, &count) == 0;
}

uint32_t vm_driver_interrupt(const struct vm_driver *driver)
{
    struct pollfd line = {.fd = driver->device->line.fd, .events = POLLIN};
    uint32_t status;

    if (driver->rig->has_thread)
        assert_int_equal(poll(&line, 1, (int)(PATIENCE / 1000000)), 1);
    else
        assert_true(step_until_raised(driver));
    assert_true(vm_driver_is_raised(driver));
    status = vm_driver_read(driver, VIRTIO_MMIO_INTERRUPT_STATUS);
    vm_driver_write(driver, VIRTIO_MMIO_INTERRUPT_ACK, status);
    return status;
}
