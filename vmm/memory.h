/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's RAM: one memfd, so that it can be shared with vdiskd, in one or two regions (layout.h).
 * It is neither dumped with core nor merged with pages of others. The guest and vdiskd change it at
 * any time. May be read by any thread once made.
 */
#ifndef VMM_MEMORY_H
#define VMM_MEMORY_H

#include "vdisk/error.h"

#include <stdint.h>

#define VM_MEMORY_MIN (UINT64_C(16) << 20)
#define VM_MEMORY_MAX (UINT64_C(1) << 42)

struct vm_region {
    uint64_t guest, size; /* bytes */
    uint64_t offset;      /* in the memfd */
    uint8_t *host;
};

struct vm_memory {
    int fd;
    uint64_t size;
    unsigned count;
    struct vm_region region[2];
};

/* `size` is a multiple of 4096 from VM_MEMORY_MIN to VM_MEMORY_MAX. -EINVAL; -errno. */
int vm_memory_new(struct vm_memory *memory, uint64_t size, struct vdisk_error *error);
void vm_memory_free(struct vm_memory *memory);
/* Where `length` bytes from a guest address are; NULL: not all of them are RAM, in one region. */
void *vm_memory_at(const struct vm_memory *memory, uint64_t guest, uint64_t length);

#endif
