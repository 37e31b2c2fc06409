/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A serial port: a 16550A as PCs have it. It sends at once and is never late; the baud rate is
 * kept and means nothing.
 *
 * Its interrupt is the level of the chip's pin behind OUT2, as on a PC's board. The pin goes down
 * and up again with each byte written, so that whoever looks for edges (an ISA interrupt) finds
 * one for each reason, and whoever looks for a level finds that. A pulse would do for edges alone,
 * and comes by way of the kernel's work queue; the level is there before the guest goes on.
 *
 * All functions by any thread. The port's lock is held while `irq`, `output` and `room` are called:
 * they come in order, and must not call the port.
 */
#ifndef VMM_SERIAL_H
#define VMM_SERIAL_H

#include "bus.h"

#include "vdisk/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#define VM_SERIAL_PORTS 8u
#define VM_SERIAL_QUEUE 4096u /* bytes of input that wait for the guest */

struct vm_serial;

/* Who is at the other end of the line. */
struct vm_serial_peer {
    /* What the guest sends, in whatever thread it does. It is always taken; false: no more for
     * now, and the guest is told that the transmitter is full, until vm_serial_ready(). A guest
     * that sends all the same is not kept from it. */
    bool (*output)(void *opaque, const uint8_t *bytes, size_t count);
    /* After input was refused, or vm_serial_room() was 0: there is room again. */
    void (*room)(void *opaque);
    void *opaque;
};

/* NULL without memory. */
struct vm_serial *vm_serial_new(void (*irq)(void *opaque, bool high), void *opaque);
void vm_serial_free(struct vm_serial *serial); /* NULL is allowed */
/* -errno as vm_bus_add(). */
int vm_serial_add(struct vm_serial *serial, struct vm_bus *ports, uint64_t base);
/* NULL: nobody, and what is sent is lost. The former peer is not called any more. */
void vm_serial_connect(struct vm_serial *serial, const struct vm_serial_peer *peer);
/* As after power on. Input that waits does so still, but for what is in the chip's FIFO. */
void vm_serial_reset(struct vm_serial *serial);

/* How many bytes of input there is room for. */
size_t vm_serial_room(struct vm_serial *serial);
/* Input; how many bytes of it were taken. */
size_t vm_serial_input(struct vm_serial *serial, const uint8_t *bytes, size_t count);
/* More output can be taken, after it said that it cannot. */
void vm_serial_ready(struct vm_serial *serial);

/* ---- while the machine is stopped ---- */

/* Registers, and input that waits; a new reference, NULL without memory. */
json_t *vm_serial_save(struct vm_serial *serial);
/* -EINVAL: not such a state; the port is as it was. */
int vm_serial_load(struct vm_serial *serial, const json_t *from, struct vdisk_error *error);

#endif
