/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A firmware, to boot a drive with its own boot loader: SeaBIOS as built for QEMU's microvm
 * (bios-microvm.bin). Its image is a ROM that ends at 4 GiB, where a processor begins; the last
 * part of it is also in the legacy hole, in RAM, for it changes itself there. What it has to know
 * it reads by fw_cfg, ACPI tables included, which it puts where it likes.
 */
#ifndef VMM_FIRMWARE_H
#define VMM_FIRMWARE_H

#include "acpi.h"
#include "fw_cfg.h"
#include "machine.h"
#include "memory.h"

#include "vdisk/error.h"

#include <stdint.h>

#define VM_FIRMWARE_MIN        (UINT64_C(64) << 10)
#define VM_FIRMWARE_MAX        (UINT64_C(8) << 20)
/* The legacy hole, as far as it is the firmware's. */
#define VM_FIRMWARE_SHADOW     UINT64_C(0xe0000)
#define VM_FIRMWARE_SHADOW_END UINT64_C(0x100000)

struct vm_firmware {
    uint8_t *rom;  /* page-aligned */
    uint64_t size; /* a multiple of a page */
};

/* Reads a regular file, whose descriptor stays the caller's. VDISK_E_MALFORMED: of no such size;
 * -errno. */
int vm_firmware_load(int fd, struct vm_firmware *out, struct vdisk_error *error);
void vm_firmware_free(struct vm_firmware *firmware);
/* Where its ROM belongs, for vm_machine_add_rom(). */
static inline uint64_t vm_firmware_at(const struct vm_firmware *firmware)
{
    return VM_GAP_END - firmware->size;
}

/* Each time before the guest begins: the copy in the legacy hole, and where to begin. */
void vm_firmware_place(const struct vm_firmware *firmware, const struct vm_memory *memory,
                       struct vm_entry *out);

struct vm_firmware_machine {
    const struct vm_memory *memory;
    struct vm_acpi_config acpi;
    int boot_slot; /* of the drive to boot from; -1: the first that has a boot sector */
};

/* Adds what there is to know of the machine. With a serial port the firmware's screen is there.
 * -EINVAL: as vm_acpi_make(); -errno as vm_fw_cfg_add(). */
int vm_firmware_describe(const struct vm_firmware_machine *machine, struct vm_fw_cfg *cfg);

#endif
