/* SPDX-License-Identifier: Apache-2.0 */
/* Small kernels: what a loader wants to see, around code of the test's own. */
#ifndef VM_BOOT_KIT_H
#define VM_BOOT_KIT_H

#include <stddef.h>
#include <stdint.h>

#define VM_KIT_KERNEL_MAX   16384u
#define VM_KIT_PAYLOAD_MAX  12288u

/* Where things are in the files, and where they go. */
#define VM_KIT_LINUX_CODE   (1024u + 512u) /* in a bzImage: the 64-bit entry */
#define VM_KIT_LINUX_AT     UINT64_C(0x100000)
#define VM_KIT_LINUX_ROOM   65536u
#define VM_KIT_COMMAND_MAX  255u
#define VM_KIT_PVH_SEGMENTS 64u  /* two: notes, and code */
#define VM_KIT_PVH_NOTES    256u /* another's, and the entry's */
#define VM_KIT_PVH_CODE     512u
#define VM_KIT_PVH_AT       UINT64_C(0x200000)
#define VM_KIT_PVH_ROOM     65536u

/* A bzImage whose 64-bit entry is `code`; the size of the file. */
size_t vm_kit_linux(uint8_t file[VM_KIT_KERNEL_MAX], const uint8_t *code, size_t size);
/* An ELF file whose PVH entry is `code`. */
size_t vm_kit_pvh(uint8_t file[VM_KIT_KERNEL_MAX], const uint8_t *code, size_t size);
/* A file with these bytes, to be closed. */
int vm_kit_file(const void *bytes, size_t size);

#endif
