/* SPDX-License-Identifier: Apache-2.0 */
/* Only for acpi*.c. */
#ifndef VMM_ACPI_IMPL_H
#define VMM_ACPI_IMPL_H

#include "acpi.h"
#include "aml.h"

/* What follows the DSDT's header. */
void vm_acpi_dsdt(const struct vm_acpi_config *config, struct vm_aml *aml);

#endif
