/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine for tests: 16 MiB of RAM, a bare guest (vm_guests.h), and a device that keeps what the
 * guest reports. The device is at ports and in memory; reads of it give a count of its own.
 */
#ifndef TESTS_VM_MACHINE_KIT_H
#define TESTS_VM_MACHINE_KIT_H

#include "machine.h"
#include "vm_guests.h"

#include <pthread.h>
#include <stdbool.h>

#define VM_KIT_REPORTS 65536u

struct vm_kit_report {
    uint64_t value;
    uint64_t offset; /* in the device, from 0x10000 on for memory */
    unsigned size;
    bool read;
};

struct vm_kit {
    struct vm_memory memory;
    struct vm_bus ports, mmio;
    struct vm_machine *machine;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned count, reads;
    unsigned dwelling; /* reads that wait */
    bool dwell;        /* a read waits until its processor is told to stop */
    struct vm_kit_report report[VM_KIT_REPORTS];
    unsigned events;
    enum vm_event event;
    char why[256];
};

/* Whether there is a KVM that can be used; else prints why not. */
bool vm_kit_usable(void);

/* Fails the test if it cannot be had. */
struct vm_kit *vm_kit_new(unsigned cpus);
void vm_kit_free(struct vm_kit *kit);

/* Puts a guest into any RAM. How it begins. */
struct vm_entry vm_kit_place(const struct vm_memory *memory, const struct vm_guest *guest);
/* Puts the guest into RAM, prepares the machine for it. */
void vm_kit_load(struct vm_kit *kit, const struct vm_guest *guest);
/* The same, and starts it. */
void vm_kit_run(struct vm_kit *kit, const struct vm_guest *guest);

/* Waits until there are so many reports, or an event. Fails the test after some seconds. */
void vm_kit_wait(struct vm_kit *kit, unsigned reports);
void vm_kit_wait_event(struct vm_kit *kit);
/* Until there are so many reports, whatever events. */
void vm_kit_wait_reports(struct vm_kit *kit, unsigned reports);
/* The next read of the device waits until its processor is told to stop: lets the machine run, and
 * stops it there. */
void vm_kit_stop_in_read(struct vm_kit *kit);
/* The number of reports; value of one. */
unsigned vm_kit_count(struct vm_kit *kit);
uint64_t vm_kit_value(struct vm_kit *kit, unsigned n);
void vm_kit_forget(struct vm_kit *kit);

#endif
