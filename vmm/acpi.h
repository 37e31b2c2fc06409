/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest is told of the machine, as ACPI tables (ACPI 6.4): processors and interrupt
 * controllers (MADT), power management (FADT), devices (DSDT).
 *
 * The tables are built once, with their pointers as offsets, and a list of the places of pointers
 * and checksums. Whoever puts them somewhere goes through that list: vm_acpi_place(), or a firmware
 * that is given it (firmware.h).
 */
#ifndef VMM_ACPI_H
#define VMM_ACPI_H

#include "layout.h"

#include <stdbool.h>
#include <stdint.h>

struct vm_acpi_config {
    unsigned cpus;         /* 1 to VM_CPUS_MAX, with their numbers as APIC ids */
    uint32_t virtio_slots; /* a bit for each device, see vm_virtio_address() */
    bool serial, rtc;
    bool keyboard;       /* a controller that answers; it has no keyboard */
    uint64_t generation; /* guest address of the 16 bytes of generation.h; 0: none */
};

#define VM_ACPI_RSDP_BYTES   36u
#define VM_ACPI_TABLES_MAX   8192u
#define VM_ACPI_TABLES_ALIGN 64u
#define VM_ACPI_POINTERS     8u
#define VM_ACPI_SUMS         8u

/* In the RSDP, or in the tables. */
struct vm_acpi_spot {
    bool in_rsdp;
    uint32_t at;
};

struct vm_acpi_pointer { /* an offset into the tables, to which their address is to be added */
    struct vm_acpi_spot spot;
    uint32_t bytes; /* 4 or 8 */
};

struct vm_acpi_sum { /* a byte that makes the sum of a range 0 */
    struct vm_acpi_spot spot;
    uint32_t from, length; /* in the same place */
};

struct vm_acpi {
    uint32_t size; /* of tables */
    unsigned pointers, sums;
    struct vm_acpi_pointer pointer[VM_ACPI_POINTERS];
    struct vm_acpi_sum sum[VM_ACPI_SUMS];
    uint8_t rsdp[VM_ACPI_RSDP_BYTES];
    uint8_t tables[VM_ACPI_TABLES_MAX];
};

/* -EINVAL: processors or slots that there cannot be. */
int vm_acpi_make(const struct vm_acpi_config *config, struct vm_acpi *out);
/* The RSDP and the tables for the guest address `at`, a multiple of VM_ACPI_TABLES_ALIGN, into
 * `to`, which has VM_ACPI_MAX bytes. */
void vm_acpi_place(const struct vm_acpi *acpi, uint64_t at, uint8_t *to);
/* Both, for VM_ACPI_AT: the RSDP is there. */
int vm_acpi_build(const struct vm_acpi_config *config, uint8_t *to);

#endif
