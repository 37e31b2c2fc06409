/* SPDX-License-Identifier: Apache-2.0 */
/* Where things are: a guest's physical addresses, ports and interrupts. */
#ifndef VMM_LAYOUT_H
#define VMM_LAYOUT_H

#include <stdint.h>

/* ---- physical memory ---- */

/* RAM begins at 0; what does not fit below the gap goes on at 4 GiB. */
#define VM_GAP_BEGIN      UINT64_C(0xd0000000)
#define VM_GAP_END        UINT64_C(0x100000000)

#define VM_START_INFO     UINT64_C(0x6000) /* of PVH, with its list of modules and memory map */
#define VM_ZERO_PAGE      UINT64_C(0x7000)
#define VM_BOOT_TABLES    UINT64_C(0x9000) /* page tables: 6 pages, see boot.c; after them the GDT */
#define VM_COMMAND_LINE   UINT64_C(0x20000) /* up to VM_COMMAND_MAX bytes with the NUL */
#define VM_COMMAND_MAX    4096u
#define VM_EBDA           UINT64_C(0x9fc00) /* RAM ends here, and goes on at VM_HIGH_RAM */
#define VM_ACPI_AT        UINT64_C(0xe0000) /* RSDP first, then all tables */
#define VM_ACPI_MAX       0x20000u
#define VM_HIGH_RAM       UINT64_C(0x100000)

/* In the gap. */
#define VM_VIRTIO_AT      UINT64_C(0xd0000000) /* virtio-mmio devices */
#define VM_VIRTIO_STEP    0x1000u
#define VM_VIRTIO_BYTES   0x200u
#define VM_VIRTIO_MAX     16u
#define VM_IOAPIC         UINT64_C(0xfec00000)
#define VM_LAPIC          UINT64_C(0xfee00000)
#define VM_IDENTITY_MAP   UINT64_C(0xfeffc000) /* KVM's own page, then its three of the TSS */
#define VM_TSS            UINT64_C(0xfeffd000)

/* ---- ports ---- */

#define VM_PORT_SERIAL    0x3f8u /* 8 ports */
#define VM_PORT_RTC       0x70u  /* 2 */
#define VM_PORT_KEYBOARD  0x60u  /* the controller: 0x60 and 0x64 */
#define VM_PORT_PM1_EVENT 0x600u /* status and enable: 4 bytes */
#define VM_PORT_PM1_CTRL  0x604u /* 2 bytes */
#define VM_PORT_PM_TIMER  0x608u /* 4 bytes, 24 bits at 3,579,545 Hz */
#define VM_PORT_RESET     0xcf9u /* RESET_REG of the FADT; VM_RESET_VALUE resets */
#define VM_RESET_VALUE    0x06u
#define VM_SLEEP_OFF      5u     /* SLP_TYP of PM1_CTRL that switches the machine off: S5 */
#define VM_PORT_FW_CFG    0x510u /* selector, data; DMA at 0x514 */

/* ---- interrupts (pins of the I/O APIC) ---- */

#define VM_IRQ_SERIAL     4u
#define VM_IRQ_RTC        8u
#define VM_IRQ_SCI        9u
#define VM_IRQ_GENERATION 3u /* the VM generation ID is another: edges */

/* Of virtio-mmio device `slot`; edges. */
static inline unsigned vm_virtio_irq(unsigned slot)
{
    static const uint8_t irq[VM_VIRTIO_MAX] = {16, 17, 18, 19, 20, 21, 22, 23,
                                               5,  6,  7,  10, 11, 12, 14, 15};

    return irq[slot];
}

static inline uint64_t vm_virtio_address(unsigned slot)
{
    return VM_VIRTIO_AT + (uint64_t)slot * VM_VIRTIO_STEP;
}

#define VM_CPUS_MAX 64u

#endif
