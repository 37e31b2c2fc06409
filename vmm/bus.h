/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who answers at an address: ports or physical memory. Ranges are added before the guest runs, and
 * never removed; afterwards any vCPU's thread may access it. A device has its own lock.
 */
#ifndef VMM_BUS_H
#define VMM_BUS_H

#include <stdint.h>

#define VM_BUS_RANGES 64u

struct vm_bus_ops {
    /* `offset` is within the range, and so is offset + size; `size` is 1, 2, 4 or 8 and as the
     * guest likes it. A read fills all `size` bytes of `data`. */
    void (*read)(void *device, uint64_t offset, uint8_t *data, unsigned size);
    void (*write)(void *device, uint64_t offset, const uint8_t *data, unsigned size);
};

struct vm_bus_range {
    uint64_t base, length;
    const struct vm_bus_ops *ops;
    void *device;
};

struct vm_bus { /* zeroed: empty */
    unsigned count;
    struct vm_bus_range range[VM_BUS_RANGES]; /* by address */
};

/* -EEXIST: overlaps; -ENOSPC; -EINVAL: empty, or wraps. */
int vm_bus_add(struct vm_bus *bus, uint64_t base, uint64_t length, const struct vm_bus_ops *ops,
               void *device);
/* What nobody answers, wholly or in part, reads as all ones and is not written. */
void vm_bus_read(const struct vm_bus *bus, uint64_t address, uint8_t *data, unsigned size);
void vm_bus_write(const struct vm_bus *bus, uint64_t address, const uint8_t *data, unsigned size);

#endif
