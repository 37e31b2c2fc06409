/* SPDX-License-Identifier: Apache-2.0 */
/* The map of physical memory; see ram_map.h. */
#include "ram_map.h"
#include "layout.h"

#include <assert.h>

/* KVM's page for real mode and its three of the TSS. */
#define KVM_BYTES UINT64_C(0x4000)

struct list {
    struct vm_map_entry *entry;
    unsigned count;
};

static void add(struct list *list, uint64_t from, uint64_t to, enum vm_map_type type)
{
    assert(from < to && list->count < VM_MAP_MAX);
    list->entry[list->count++] = (struct vm_map_entry){from, to - from, type};
}

unsigned vm_map_build(const struct vm_memory *memory, enum vm_map_for reader,
                      struct vm_map_entry map[VM_MAP_MAX])
{
    const struct vm_region *low = &memory->region[0], *high = &memory->region[1];
    struct list list = {map, 0};
    uint64_t from = 0;

    if (reader == VM_MAP_FOR_KERNEL) {
        add(&list, 0, VM_EBDA, VM_MAP_RAM);
        add(&list, VM_EBDA, 0xa0000, VM_MAP_RESERVED);
        add(&list, VM_ACPI_AT, VM_ACPI_AT + VM_ACPI_MAX, VM_MAP_RESERVED);
        from = VM_HIGH_RAM;
    }
    add(&list, from, vm_map_low_end(memory), VM_MAP_RAM);
    add(&list, vm_map_low_end(memory), low->size, VM_MAP_RESERVED);
    add(&list, VM_IDENTITY_MAP, VM_IDENTITY_MAP + KVM_BYTES, VM_MAP_RESERVED);
    if (memory->count > 1)
        add(&list, high->guest, high->guest + high->size, VM_MAP_RAM);
    return list.count;
}
