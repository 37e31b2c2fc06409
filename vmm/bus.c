/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges in the order of their addresses, found by halving; see bus.h. */
#include "bus.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

/* How many ranges begin at or below the address. */
static unsigned count_up_to(const struct vm_bus *bus, uint64_t address)
{
    unsigned low = 0, high = bus->count;

    while (low < high) {
        unsigned middle = (low + high) / 2;

        if (bus->range[middle].base <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int vm_bus_add(struct vm_bus *bus, uint64_t base, uint64_t length, const struct vm_bus_ops *ops,
               void *device)
{
    unsigned at = count_up_to(bus, base);
    uint64_t last;

    if (length == 0 || __builtin_add_overflow(base, length - 1, &last))
        return -EINVAL;
    if (at > 0 && base - bus->range[at - 1].base < bus->range[at - 1].length)
        return -EEXIST;
    if (at < bus->count && last >= bus->range[at].base)
        return -EEXIST;
    if (bus->count == VM_BUS_RANGES)
        return -ENOSPC;
    memmove(&bus->range[at + 1], &bus->range[at], (bus->count - at) * sizeof(bus->range[0]));
    bus->range[at] =
        (struct vm_bus_range){.base = base, .length = length, .ops = ops, .device = device};
    bus->count++;
    return 0;
}

/* The range that has all of [address, address + size); NULL: none. */
static const struct vm_bus_range *find(const struct vm_bus *bus, uint64_t address, unsigned size)
{
    unsigned at = count_up_to(bus, address);
    const struct vm_bus_range *range;

    if (at == 0)
        return NULL;
    range = &bus->range[at - 1];
    if (size > range->length || address - range->base > range->length - size)
        return NULL;
    return range;
}

void vm_bus_read(const struct vm_bus *bus, uint64_t address, uint8_t *data, unsigned size)
{
    const struct vm_bus_range *range = find(bus, address, size);

    if (range)
        range->ops->read(range->device, address - range->base, data, size);
    else
        memset(data, 0xff, size);
}

void vm_bus_write(const struct vm_bus *bus, uint64_t address, const uint8_t *data, unsigned size)
{
    const struct vm_bus_range *range = find(bus, address, size);

    if (range)
        range->ops->write(range->device, address - range->base, data, size);
}
