/* SPDX-License-Identifier: Apache-2.0 */
/* The DSDT: devices that cannot be found by looking. */
#include "acpi_impl.h"

#include <stdio.h>

#define SERIAL_PORTS 8u
#define RTC_PORTS    2u

static size_t begin_device(struct vm_aml *aml, const char *name, const char *id, uint64_t number)
{
    size_t mark = vm_aml_begin_device(aml, name);

    vm_aml_name(aml, "_HID");
    if (id[0] == 'P' && id[1] == 'N' && id[2] == 'P')
        vm_aml_eisa_id(aml, id);
    else
        vm_aml_string(aml, id);
    vm_aml_name_integer(aml, "_UID", number);
    return mark;
}

static void add_processors(struct vm_aml *aml, unsigned cpus)
{
    for (unsigned i = 0; i < cpus; i++) {
        char name[16];

        snprintf(name, sizeof(name), "C%03X", i);
        vm_aml_end(aml, begin_device(aml, name, "ACPI0007", i));
    }
}

static void add_legacy(struct vm_aml *aml, const char *name, const char *id, uint16_t base,
                       uint8_t ports, unsigned irq)
{
    size_t device = begin_device(aml, name, id, 0);
    size_t resources = vm_aml_begin_resources(aml);

    vm_aml_ports(aml, base, ports);
    vm_aml_irq(aml, irq);
    vm_aml_end_resources(aml, resources);
    vm_aml_end(aml, device);
}

static void add_virtio(struct vm_aml *aml, unsigned slot)
{
    char name[16];

    snprintf(name, sizeof(name), "V%03X", slot);
    size_t device = begin_device(aml, name, "LNRO0005", slot);
    size_t resources = vm_aml_begin_resources(aml);

    vm_aml_memory(aml, (uint32_t)vm_virtio_address(slot), VM_VIRTIO_BYTES);
    vm_aml_interrupt(aml, vm_virtio_irq(slot));
    vm_aml_end_resources(aml, resources);
    vm_aml_end(aml, device);
}

/* The buffer of the generation, and a generic event device (section 5.6.9) that tells of a new
 * one. */
static void add_generation(struct vm_aml *aml, uint64_t address)
{
    size_t device = begin_device(aml, "VGEN", "VDSK0001", 0), inner;

    vm_aml_name_string(aml, "_CID", "VM_Gen_Counter");
    vm_aml_name_string(aml, "_DDN", "VM_Gen_Counter");
    vm_aml_name(aml, "ADDR");
    inner = vm_aml_begin_package(aml, 2);
    vm_aml_integer(aml, address & UINT32_MAX);
    vm_aml_integer(aml, address >> 32);
    vm_aml_end(aml, inner);
    vm_aml_end(aml, device);

    device = begin_device(aml, "GED", "ACPI0013", 0);
    inner = vm_aml_begin_resources(aml);
    vm_aml_interrupt(aml, VM_IRQ_GENERATION);
    vm_aml_end_resources(aml, inner);
    inner = vm_aml_begin_method(aml, "_EVT", 1);
    vm_aml_notify(aml, "\\_SB.VGEN", 0x80);
    vm_aml_end(aml, inner);
    vm_aml_end(aml, device);
}

void vm_acpi_dsdt(const struct vm_acpi_config *config, struct vm_aml *aml)
{
    size_t mark;

    vm_aml_name(aml, "\\_S5");
    mark = vm_aml_begin_package(aml, 2); /* for PM1a and PM1b */
    vm_aml_integer(aml, VM_SLEEP_OFF);
    vm_aml_integer(aml, VM_SLEEP_OFF);
    vm_aml_end(aml, mark);

    mark = vm_aml_begin_scope(aml, "\\_SB");
    add_processors(aml, config->cpus);
    if (config->serial)
        add_legacy(aml, "COM1", "PNP0501", VM_PORT_SERIAL, SERIAL_PORTS, VM_IRQ_SERIAL);
    if (config->rtc)
        add_legacy(aml, "RTC", "PNP0B00", VM_PORT_RTC, RTC_PORTS, VM_IRQ_RTC);
    for (unsigned slot = 0; slot < VM_VIRTIO_MAX; slot++)
        if (config->virtio_slots >> slot & 1)
            add_virtio(aml, slot);
    if (config->generation)
        add_generation(aml, config->generation);
    vm_aml_end(aml, mark);
}
