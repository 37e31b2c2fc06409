/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes ACPI Machine Language (ACPI 6.4, section 20) into memory of the caller's: what a table of
 * our own needs of it. Too much sets `full`, and nothing more is written.
 *
 * What has a length is begun and ended: each vm_aml_begin() gives a mark for vm_aml_end().
 */
#ifndef VMM_AML_H
#define VMM_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vm_aml {
    uint8_t *bytes;
    size_t room, used;
    bool full;
};

void vm_aml_bytes(struct vm_aml *aml, const void *bytes, size_t length);

/* Of 1 to 4 characters, filled up with '_'; "\\" and "\\AAAA.BBBB" are paths from the root. */
void vm_aml_path(struct vm_aml *aml, const char *path);
void vm_aml_integer(struct vm_aml *aml, uint64_t value);
void vm_aml_string(struct vm_aml *aml, const char *text);
/* "PNP0501": three letters, four digits of base 16. */
void vm_aml_eisa_id(struct vm_aml *aml, const char *id);

/* Name (path, ...): the value follows. */
void vm_aml_name(struct vm_aml *aml, const char *path);
void vm_aml_name_integer(struct vm_aml *aml, const char *path, uint64_t value);
void vm_aml_name_string(struct vm_aml *aml, const char *path, const char *text);
/* Notify (path, value) */
void vm_aml_notify(struct vm_aml *aml, const char *path, uint64_t value);

size_t vm_aml_begin_scope(struct vm_aml *aml, const char *path);
size_t vm_aml_begin_device(struct vm_aml *aml, const char *path);
/* Serialized. */
size_t vm_aml_begin_method(struct vm_aml *aml, const char *path, unsigned arguments);
size_t vm_aml_begin_package(struct vm_aml *aml, unsigned elements);
void vm_aml_end(struct vm_aml *aml, size_t mark);

/* Name (_CRS, ResourceTemplate () {...}), of less than 240 bytes. */
size_t vm_aml_begin_resources(struct vm_aml *aml);
void vm_aml_ports(struct vm_aml *aml, uint16_t base, uint8_t count);
void vm_aml_irq(struct vm_aml *aml, unsigned irq); /* of the ISA bus */
void vm_aml_memory(struct vm_aml *aml, uint32_t base, uint32_t bytes);
void vm_aml_interrupt(struct vm_aml *aml, uint32_t pin); /* an edge, of one device */
void vm_aml_end_resources(struct vm_aml *aml, size_t mark);

#endif
