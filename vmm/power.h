/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fixed hardware of ACPI: PM1 status, enable and control registers, the power button, the PM
 * timer (24 bits, by CLOCK_MONOTONIC), and the reset register; at the addresses of layout.h. It is
 * always in ACPI mode (SMI_CMD of the FADT is 0). Of sleep states it has S5 alone.
 *
 * The timer raises no interrupt (TMR_STS stays 0): nobody asks for one, a clock source is read.
 *
 * All functions by any thread, but not from the callbacks.
 */
#ifndef VMM_POWER_H
#define VMM_POWER_H

#include "bus.h"

#include "vdisk/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct vm_power;

struct vm_power_events {
    /* The level of the SCI (VM_IRQ_SCI, active high); with the lock held, so in order. */
    void (*sci)(void *opaque, bool high);
    /* What the guest asks for, by its vCPU's thread, without the lock; again if it asks again. */
    void (*off)(void *opaque);
    void (*reset)(void *opaque, const char *how); /* static */
    void *opaque;
};

/* `now` gives nanoseconds; NULL: CLOCK_MONOTONIC. NULL without memory. */
struct vm_power *vm_power_new(const struct vm_power_events *events, uint64_t (*now)(void));
void vm_power_free(struct vm_power *power); /* NULL is allowed */
/* -errno as vm_bus_add(). */
int vm_power_add(struct vm_power *power, struct vm_bus *ports);
/* As after power on; the timer goes on. */
void vm_power_reset(struct vm_power *power);

/* Presses the button. A guest that listens to it shuts down. */
void vm_power_button(struct vm_power *power);

/* ---- while the machine is stopped ---- */

/* A new reference; NULL without memory. */
json_t *vm_power_save(struct vm_power *power);
/* The timer goes on from where it was. -EINVAL: not such a state; all is as it was. */
int vm_power_load(struct vm_power *power, const json_t *from, struct vdisk_error *error);

#endif
