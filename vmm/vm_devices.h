/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All devices of a guest, by its config, at their places (layout.h). Of virtio, drives come first,
 * so that the first drive is the guest's first disk.
 */
#ifndef VMM_VM_DEVICES_H
#define VMM_VM_DEVICES_H

#include "config.h"
#include "layout.h"
#include "machine.h"
#include "ports.h"
#include "power.h"
#include "rtc.h"
#include "serial.h"
#include "virtio.h"

struct vm_devices {
    const struct vm_config *config;
    const struct vm_memory *memory;
    struct reactor *reactor;
    struct vm_machine *machine; /* once there is one */
    struct vm_bus ports, mmio;
    struct vm_serial *serial;
    struct vm_power *power;
    struct vm_rtc *rtc;
    struct vm_ports *legacy;
    unsigned slots; /* of virtio, the first are for drives */
    struct virtio_device *virtio[VM_VIRTIO_MAX];
    struct virtio_device *net[VM_NETS_MAX], *balloon; /* those of them */
};

/* Everything but drives: what needs rights. By the reactor's thread, before any other.
 * VDISK_E_LIMIT: more than there are places for. -errno; vm_devices_free() is due in any case. */
int vm_devices_begin(struct vm_devices *devices, const struct vm_power_events *power,
                     struct vdisk_error *error);
/* The drives: threads begin. `told` is for what becomes of them later, in whatever thread. */
int vm_devices_add_drives(struct vm_devices *devices, struct vdisk_error *error);
/* Wires all of virtio to the machine, which is in devices->machine. */
int vm_devices_wire(struct vm_devices *devices, struct vdisk_error *error);
/* With the machine stopped or gone. */
void vm_devices_free(struct vm_devices *devices);

/* ---- while the machine is stopped ---- */

/* As after power on. */
void vm_devices_reset(struct vm_devices *devices);
void vm_devices_pause(struct vm_devices *devices);
void vm_devices_resume(struct vm_devices *devices);

#endif
