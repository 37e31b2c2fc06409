/* SPDX-License-Identifier: Apache-2.0 */
/* What the kinds of kernels share; only for boot*.c. */
#ifndef VMM_BOOT_IMPL_H
#define VMM_BOOT_IMPL_H

#include "boot.h"

#include <stddef.h>

#define VM_BOOT_HEAD_BYTES 4096u

struct vm_boot {
    const struct vm_boot_options *options;
    const struct vm_memory *memory;
    struct vdisk_error *error;
    /* The beginning of the kernel's file, zeros after its end. */
    size_t head_bytes;
    uint8_t head[VM_BOOT_HEAD_BYTES];
};

struct vm_boot_initrd {
    uint64_t address, size; /* 0, 0: none */
};

/* Reads up to `length` bytes, and says in *have how many there were. -errno. */
int vm_boot_read_some(int fd, uint64_t offset, void *to, size_t length, size_t *have);
/* All of these bytes of the kernel's file, or it is truncated. */
int vm_boot_read(struct vm_boot *boot, uint64_t offset, void *to, size_t length);
/* Loads the initrd into RAM in [from, to), as high as it can be. */
int vm_boot_initrd(struct vm_boot *boot, uint64_t from, uint64_t to, struct vm_boot_initrd *out);
/* The command line, which may have `most` characters, at VM_COMMAND_LINE. */
int vm_boot_command(struct vm_boot *boot, uint64_t most);
/* The GDT, with this descriptor for code; its address. */
uint64_t vm_boot_gdt(const struct vm_memory *memory, uint64_t code);
/* Memory below VM_HIGH_RAM, which is always there; zeroed. */
void *vm_boot_low(const struct vm_memory *memory, uint64_t address, size_t bytes);

int vm_boot_linux(struct vm_boot *boot, struct vm_entry *out);
int vm_boot_pvh(struct vm_boot *boot, struct vm_entry *out);

#endif
