/* SPDX-License-Identifier: Apache-2.0 */
/* The registers of a virtio device in memory: VIRTIO 1.2, section 4.2, version 2. */
#ifndef VMM_VIRTIO_MMIO_H
#define VMM_VIRTIO_MMIO_H

#include "bus.h"
#include "virtio.h"

/* Puts the device at an address of the bus (VM_VIRTIO_BYTES of it). -errno as vm_bus_add(). */
int virtio_mmio_add(struct vm_bus *mmio, uint64_t address, struct virtio_device *device);

#endif
