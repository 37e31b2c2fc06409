/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The clock of a PC: an MC146818 with its 128 bytes, two ports. It shows CLOCK_REALTIME in UTC,
 * shifted by what the guest has set, so that it is right after the machine was suspended, too. What
 * the guest sets lasts as long as the device.
 *
 * It interrupts for an alarm (of a day, by its three registers) and for each update, and so once a
 * second at most. There is no periodic interrupt: the kernel's timers are others.
 */
#ifndef VMM_RTC_H
#define VMM_RTC_H

#include "bus.h"
#include "reactor.h"

#include "vdisk/error.h"

#include <jansson.h>
#include <time.h>

#define VM_RTC_PORTS   2u
#define VM_RTC_CENTURY 0x32u /* the byte with the century, for the FADT */

struct vm_rtc;

struct vm_rtc_options {
    void (*now)(struct timespec *time); /* NULL: CLOCK_REALTIME */
    /* The level of the interrupt, by the thread that changes it; it calls nothing of the clock. */
    void (*irq)(void *opaque, bool high);
    void *opaque;
    struct reactor *reactor; /* NULL: what has come is found out when the guest looks */
};

/* Begin and end are of the reactor's thread. NULL without memory. */
struct vm_rtc *vm_rtc_new(const struct vm_rtc_options *options);
void vm_rtc_free(struct vm_rtc *rtc); /* NULL is allowed */
/* With the machine's reset: the time stays, interrupts are off. */
void vm_rtc_reset(struct vm_rtc *rtc);
/* -errno as vm_bus_add(). */
int vm_rtc_add(struct vm_rtc *rtc, struct vm_bus *ports, uint64_t base);

/* A new reference; NULL without memory. */
json_t *vm_rtc_save(struct vm_rtc *rtc);
/* -EINVAL: not such a state; the clock is as it was. */
int vm_rtc_load(struct vm_rtc *rtc, const json_t *from, struct vdisk_error *error);

#endif
