/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's side of a virtio-mmio device: a driver that finds it, negotiates, sets up queues and
 * uses them as Linux does, through a bus and the guest's memory, and fails the test when the device
 * breaks the rules.
 *
 * Everything runs on the test's thread, where waiting for an interrupt steps the reactor; or the
 * reactor has a thread of its own (vm_rig_run()), and the test's is that of a vCPU.
 */
#ifndef VM_DRIVER_H
#define VM_DRIVER_H

#include "bus.h"
#include "memory.h"
#include "virtio_mmio.h"

#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>

#define VM_RIG_MEMORY VM_MEMORY_MIN

/* What a device needs of a machine. */
struct vm_rig {
    struct vm_memory memory;
    struct vm_bus bus;
    struct reactor *reactor;
    pthread_t thread;
    bool has_thread;
};

void vm_rig_open(struct vm_rig *rig, uint64_t memory_bytes);
/* The devices are gone. */
void vm_rig_close(struct vm_rig *rig);
/* The reactor runs on a thread of its own from now on. */
void vm_rig_run(struct vm_rig *rig);
/* It ends. */
void vm_rig_halt(struct vm_rig *rig);
/* Calls it on the reactor's thread, and waits until it is done. */
void vm_rig_call(struct vm_rig *rig, void (*what)(void *opaque), void *opaque);
/* Some rounds of the reactor: whatever was kicked is served, unless it kicks itself again and
 * again. */
void vm_rig_settle(struct vm_rig *rig);

struct vm_buffer {
    uint64_t guest;
    uint32_t length;
    bool writable; /* by the device; these come last */
};

struct vm_driver_queue {
    uint16_t size;
    uint64_t desc_at, avail_at, used_at; /* guest addresses */
    struct vring_desc *desc;
    uint16_t *avail, *used; /* flags, idx, ring..., event of the other side's index */
    uint16_t free, free_count, kicked, seen;
    uint16_t *chain; /* by head: descriptors in use */
};

struct vm_driver {
    struct vm_rig *rig;
    struct virtio_device *device; /* only for its line, its kicks and the number of its queues */
    uint64_t address;
    uint64_t next; /* guest memory from here on is free */
    uint64_t features;
    bool by_register; /* kicks are writes of QUEUE_NOTIFY that nothing catches */
    struct vm_driver_queue queue[VIRTIO_QUEUES_MAX];
};

/* Puts the device on the bus, and looks at it as a driver that probes. */
void vm_driver_open(struct vm_driver *driver, struct vm_rig *rig, struct virtio_device *device);
/* Frees the device, before the rig halts. */
void vm_driver_close(struct vm_driver *driver);

/* ---- registers ---- */

uint32_t vm_driver_read(const struct vm_driver *driver, uint32_t at);
void vm_driver_write(const struct vm_driver *driver, uint32_t at, uint32_t value);
uint32_t vm_driver_status(const struct vm_driver *driver);
/* A field of the configuration, of 1, 2 or 4 bytes. */
uint32_t vm_driver_config(const struct vm_driver *driver, uint32_t at, unsigned size);
void vm_driver_set_config(const struct vm_driver *driver, uint32_t at, uint32_t value,
                          unsigned size);
uint64_t vm_driver_offered(const struct vm_driver *driver);

/* ---- the steps ---- */

/* Accepts what is offered of `wanted`. Whether FEATURES_OK stays. */
bool vm_driver_negotiate(struct vm_driver *driver, uint64_t wanted);
/* Lays out a queue, and makes it ready. */
void vm_driver_set_queue(struct vm_driver *driver, unsigned index, uint16_t size);
/* DRIVER_OK. */
void vm_driver_go(const struct vm_driver *driver);
/* All of these, with all queues of that size. */
void vm_driver_begin(struct vm_driver *driver, uint64_t wanted, uint16_t size);
/* Writes 0 to the status, and forgets the queues. */
void vm_driver_reset(struct vm_driver *driver);

/* ---- memory ---- */

/* Zeroed; page-aligned. */
uint64_t vm_driver_alloc(struct vm_driver *driver, uint64_t bytes);
/* Where it is; all of it is RAM. */
void *vm_driver_at(const struct vm_driver *driver, uint64_t guest, uint64_t length);

/* ---- requests ---- */

/* Makes a chain available, without a kick; its head. */
uint16_t vm_driver_add(struct vm_driver *driver, unsigned index, const struct vm_buffer *buffers,
                       unsigned count);
/* The same with an indirect table. */
uint16_t vm_driver_add_indirect(struct vm_driver *driver, unsigned index,
                                const struct vm_buffer *buffers, unsigned count);
/* If the device wants one. Whether it did. */
bool vm_driver_kick(struct vm_driver *driver, unsigned index);
/* The next that was used. False: none. */
bool vm_driver_take(struct vm_driver *driver, unsigned index, uint16_t *head, uint32_t *length);
/* Waits for the next that is used, by interrupts; the length that the device wrote. */
uint32_t vm_driver_wait(struct vm_driver *driver, unsigned index, uint16_t *head);
/* One after the other: add, kick, wait. The length that the device wrote. */
uint32_t vm_driver_do(struct vm_driver *driver, unsigned index, const struct vm_buffer *buffers,
                      unsigned count);

/* ---- interrupts ---- */

/* Waits for the line; the interrupt status, which is acknowledged. */
uint32_t vm_driver_interrupt(const struct vm_driver *driver);
/* Whether the line was raised since it was looked at last. */
bool vm_driver_is_raised(const struct vm_driver *driver);

#endif
