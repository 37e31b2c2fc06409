/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VM generation ID: 16 bytes by chance in the guest's memory, which are others whenever the
 * guest goes on from a state that it may go on from elsewhere, too. Linux then seeds its random
 * numbers anew. The ACPI tables say where it is; "Virtual Machine Generation ID", Microsoft 2012.
 */
#ifndef VMM_GENERATION_H
#define VMM_GENERATION_H

#include "memory.h"
#include "ram_map.h"

#include <stdint.h>

#define VM_GENERATION_BYTES 16u

/* Where it is, in the page that the map of memory keeps for us. */
static inline uint64_t vm_generation_at(const struct vm_memory *memory)
{
    return vm_map_low_end(memory);
}

/* -errno: no random numbers. */
int vm_generation_new(uint8_t guid[VM_GENERATION_BYTES]);
/* A new one, into the guest's memory. The guest is told by an edge at VM_IRQ_GENERATION (layout.h).
 */
int vm_generation_set(const struct vm_memory *memory);

#endif
