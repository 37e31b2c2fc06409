/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine without its devices: a VM of KVM, its RAM, interrupt controllers, timer and vCPUs,
 * each a thread. Devices are on two buses and reached by their threads.
 *
 * From one thread, but for what says otherwise.
 */
#ifndef VMM_MACHINE_H
#define VMM_MACHINE_H

#include "bus.h"
#include "memory.h"

#include "vdisk/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct vm_machine;

enum vm_entry_kind {
    VM_ENTRY_LONG,  /* 64-bit mode with `tables`; rip, rsi = argument: bzImage */
    VM_ENTRY_PVH,   /* 32-bit, flat, no paging; eip, ebx = argument */
    VM_ENTRY_RESET, /* as a processor after RESET: the firmware below 4 GiB */
    VM_ENTRY_REAL,  /* real mode at 0:ip, for tests */
};

struct vm_entry {
    enum vm_entry_kind kind;
    uint64_t address, argument;
    uint64_t tables; /* LONG: CR3 */
    uint64_t gdt;    /* LONG, PVH: where a GDT is, see boot.c; selectors 0x10 code, 0x18 data */
};

enum vm_event {
    VM_EVENT_RESET,  /* `why` is static: a triple fault, or what KVM was asked for */
    VM_EVENT_FAILED, /* KVM cannot go on; `why` says so */
};

struct vm_machine_options {
    struct vm_memory *memory;
    const struct vm_bus *ports, *mmio; /* stay the caller's, as does memory */
    unsigned cpus;
    /* Called by a vCPU's thread, which then stops; at most once between two starts. Must not call
     * back into the machine. */
    void (*event)(void *opaque, enum vm_event event, const char *why);
    void *opaque;
};

/* -errno, with what is missing: /dev/kvm, rights, an extension, memory. */
int vm_machine_new(const struct vm_machine_options *options, struct vm_machine **out,
                   struct vdisk_error *error);
/* Ends the vCPUs. NULL is allowed. */
void vm_machine_free(struct vm_machine *machine);

/* ---- wiring, before the start; KVM keeps no reference to the descriptors' numbers ---- */

/* An eventfd that raises the pin, as edges. -errno. */
int vm_machine_irqfd(struct vm_machine *machine, unsigned pin, int fd);
/* Writes of `value`, of 4 bytes, to `address` go to the eventfd. `on` false takes it back. -errno.
 * By any thread. */
int vm_machine_ioeventfd(struct vm_machine *machine, uint64_t address, uint32_t value, int fd,
                         bool on);
/* A level. By any thread. */
void vm_machine_set_irq(struct vm_machine *machine, unsigned pin, bool high);
/* ROM: `host` (page-aligned, the caller's, stays) appears at a guest address, read-only. -errno. */
int vm_machine_add_rom(struct vm_machine *machine, uint64_t guest, void *host, uint64_t size);

/* ---- life ---- */

/* Puts the processors, interrupt controllers and timers into their first state: processor 0 at
 * `entry`, others waiting for it. The machine is stopped. Also after it ran: a reset. Levels of
 * pins (vm_machine_set_irq) and memory stay what they are. -errno. */
int vm_machine_prepare(struct vm_machine *machine, const struct vm_entry *entry,
                       struct vdisk_error *error);
/* vCPUs run from now on. Their threads come to be with the first start, and so have what the
 * process has given up by then; they take the signal SIGRTMIN. -errno; -EBUSY: they run. */
int vm_machine_start(struct vm_machine *machine);
/* Stops all vCPUs at an instruction's end, with no access to a device under way; waits for it. A
 * vCPU may be within a device's register access, so the caller holds no lock of a device, and does
 * not block what a device waits for. Nothing when stopped. */
void vm_machine_stop(struct vm_machine *machine);
/* Microseconds of processor time that a vCPU has had. By any thread. */
uint64_t vm_machine_cpu_time(const struct vm_machine *machine, unsigned cpu);

/* ---- state, while stopped ---- */

/* All of processors, interrupt controllers, timers and clock, in JSON (binary parts in base64);
 * a new reference. -errno. */
int vm_machine_save(struct vm_machine *machine, json_t **out, struct vdisk_error *error);
/* Into a new machine, with its memory as it was. -EINVAL: not such a state; -ENOTSUP: this host's
 * processor lacks what the guest was told it has. After a failure the machine can only be freed.
 * Pins that were high (vm_machine_set_irq) are to be set again. */
int vm_machine_load(struct vm_machine *machine, const json_t *state, struct vdisk_error *error);

#endif
