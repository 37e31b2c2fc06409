/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Puts a kernel into a guest's memory without a firmware, and says where a processor begins. Two
 * kinds of file: a bzImage of Linux with a 64-bit entry (boot protocol 2.12 or later), and an
 * ELF file with a PVH entry, such as Linux' own vmlinux.
 *
 * The files are from outside, and may change while they are read: each part is read once, and
 * checked as it was read. At worst the guest does not start.
 */
#ifndef VMM_BOOT_H
#define VMM_BOOT_H

#include "machine.h"
#include "memory.h"

#include "vdisk/error.h"

#include <stdint.h>

/* At vm_entry.gdt, selectors 0x10 and 0x18, for code and data. */
#define VM_BOOT_GDT_BYTES 32u

struct vm_boot_options {
    int kernel_fd;
    int initrd_fd;       /* -1: none; a regular file */
    const char *command; /* NULL: empty */
    uint64_t rsdp;       /* of the ACPI tables; 0: none */
};

/*
 * Can be called again when the guest begins anew. VDISK_E_MALFORMED: not a kernel, or not all of
 * one; VDISK_E_UNSUPPORTED: one that cannot be entered here; VDISK_E_LIMIT: does not fit into the
 * memory, or the command line not into the kernel; -errno. `out` is set only with 0, the guest's
 * memory may have been changed with any result.
 */
int vm_boot_load(const struct vm_boot_options *options, const struct vm_memory *memory,
                 struct vm_entry *out, struct vdisk_error *error);

#endif
