/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The clock of a PC: an MC146818 with its 128 bytes, two ports. It shows CLOCK_REALTIME in UTC,
 * shifted by what the guest has set, so that it is right after the machine was suspended, too. What
 * the guest sets lasts as long as the device.
 *
 * It raises no interrupts. The probe of Linux's driver (rtc-cmos) asks for registers that answer,
 * valid memory and the mode of 24 hours, and for no interrupt; the time is read and set without
 * one, and the kernel's timers are others. What is missing: an alarm never comes, so whoever waits
 * for one, or with hwclock for the next second, does so in vain; and there is no periodic
 * interrupt.
 */
#ifndef VMM_RTC_H
#define VMM_RTC_H

#include "bus.h"

#include "vdisk/error.h"

#include <jansson.h>
#include <time.h>

#define VM_RTC_PORTS   2u
#define VM_RTC_CENTURY 0x32u /* the byte with the century, for the FADT */

struct vm_rtc;

/* `now` says what time it is; NULL: CLOCK_REALTIME. NULL without memory. */
struct vm_rtc *vm_rtc_new(void (*now)(struct timespec *time));
void vm_rtc_free(struct vm_rtc *rtc); /* NULL is allowed */
/* -errno as vm_bus_add(). */
int vm_rtc_add(struct vm_rtc *rtc, struct vm_bus *ports, uint64_t base);

/* A new reference; NULL without memory. */
json_t *vm_rtc_save(struct vm_rtc *rtc);
/* -EINVAL: not such a state; the clock is as it was. */
int vm_rtc_load(struct vm_rtc *rtc, const json_t *from, struct vdisk_error *error);

#endif
