/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ports that kernels and firmware touch on any PC, and what they need of them:
 *
 *     0x60, 0x64  the keyboard's controller: there is no keyboard, its command to reset resets
 *     0x61        timer 2 and speaker, where KVM's own timer does not take it
 *                 (KVM_PIT_SPEAKER_DUMMY): bits as written, and a timer that has always run out, so
 *                 that nobody waits for it
 *     0x80        delays, and codes of the self-test
 *     0x92        A20 is on; resets
 */
#ifndef VMM_PORTS_H
#define VMM_PORTS_H

#include "bus.h"

struct vm_ports;

/* `reset` is called by a vCPU's thread, without a lock; `how` it was asked for is static. NULL
 * without memory. */
struct vm_ports *vm_ports_new(void (*reset)(void *opaque, const char *how), void *opaque);
void vm_ports_free(struct vm_ports *ports); /* NULL is allowed */
/* -errno as vm_bus_add(). */
int vm_ports_add(struct vm_ports *ports, struct vm_bus *bus);

#endif
