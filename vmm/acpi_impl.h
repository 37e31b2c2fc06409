/* SPDX-License-Identifier: Apache-2.0 */
/* Only for acpi*.c. */
#ifndef VMM_ACPI_IMPL_H
#define VMM_ACPI_IMPL_H

#include "acpi.h"

#include <stddef.h>

/* What follows the DSDT's header: its size, or 0 if it does not fit. */
size_t vm_acpi_dsdt(const struct vm_acpi_config *config, uint8_t *to, size_t room);

#endif
