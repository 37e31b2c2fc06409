/* SPDX-License-Identifier: Apache-2.0 */
/* Whether /dev/kvm is there, and fast enough for an operating system. */
#ifndef VMM_PROBE_H
#define VMM_PROBE_H

#include "vdisk/error.h"

#include <stdint.h>

#define VM_PROBE_INSTRUCTIONS 1000000u

/* Runs a guest of that many instructions. In *nanoseconds how long it took. -errno: it does not run
 * at all; -ETIMEDOUT: it was given up after 20 s. */
int vm_probe(int64_t *nanoseconds, struct vdisk_error *error);

#endif
