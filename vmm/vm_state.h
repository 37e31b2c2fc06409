/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All of a guest that is stopped, out of its parts and into new ones. In JSON it is
 *
 *     {"guest":   {"memory": bytes, "cpus": N, "devices": [{"id": of virtio, "queues": N,
 *                  "mac": of a network}, ...]},     what must be the same where it goes on
 *      "machine": of vm_machine_save(),
 *      "serial", "power", "rtc": of these,
 *      "firmware": {"rom": BYTES, "config": of vm_fw_cfg_save()} or null,
 *      "virtio":  [of virtio_save(), ...]}          by slot, as are the devices
 *
 * and RAM comes behind it (vm_stream.h).
 */
#ifndef VMM_VM_STATE_H
#define VMM_VM_STATE_H

#include "firmware.h"
#include "vm_devices.h"
#include "vm_stream.h"

/* Of one guest, by the thread that has the machine; devices are paused. */
struct vm_state_parts {
    const struct vm_memory *memory;
    struct vm_machine *machine;
    const struct vm_devices *devices;
    const struct vm_firmware *firmware;
    struct vm_fw_cfg *fw_cfg; /* NULL: no firmware */
};

/* Writes all of it. The parts stay as they are. -EBUSY: a drive has requests with a back end that
 * is away; errors of vm_stream.h. */
int vm_state_write(const struct vm_state_parts *parts, const struct vm_stream *stream,
                   struct vdisk_error *error);
/*
 * Reads all of it into new parts, with RAM of zeros; devices are paused then. -EINVAL: the guest
 * had other parts, or it makes no sense; -ENOTSUP: this host, or a drive, lacks what it had; errors
 * of vm_stream.h. After a failure the parts can only be freed.
 */
int vm_state_read(const struct vm_state_parts *parts, const struct vm_stream *stream,
                  struct vdisk_error *error);

#endif
