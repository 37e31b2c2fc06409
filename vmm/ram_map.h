/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The map of physical memory that a guest is told (e820). RAM is what vm_memory has, but for the
 * last page below the gap, which is ours in the guest's memory (generation.h), and for the legacy
 * hole, where the ACPI tables are.
 */
#ifndef VMM_RAM_MAP_H
#define VMM_RAM_MAP_H

#include "memory.h"

#include <stdint.h>

#define VM_MAP_MAX  8u
#define VM_OUR_PAGE 4096u

enum vm_map_type { /* of e820 and of PVH */
    VM_MAP_RAM = 1,
    VM_MAP_RESERVED = 2,
};

struct vm_map_entry {
    uint64_t address, length;
    enum vm_map_type type;
};

enum vm_map_for {
    VM_MAP_FOR_KERNEL,
    VM_MAP_FOR_FIRMWARE, /* which knows the legacy hole, and has memory there for itself */
};

/* Where the RAM below the gap ends for a guest: the address of our page. */
static inline uint64_t vm_map_low_end(const struct vm_memory *memory)
{
    return memory->region[0].size - VM_OUR_PAGE;
}

/* By address; the number of entries. */
unsigned vm_map_build(const struct vm_memory *memory, enum vm_map_for reader,
                      struct vm_map_entry map[VM_MAP_MAX]);

#endif
