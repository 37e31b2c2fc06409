/* SPDX-License-Identifier: Apache-2.0 */
/* A processor's first state. */
#ifndef VMM_CPU_H
#define VMM_CPU_H

#include "cpu_state.h"
#include "machine.h"

/*
 * Makes the state of a processor after RESET, which `state` is, that of one which begins at the
 * entry, or (`waits`) which waits for another to start it. -EINVAL: no such kind.
 */
int vm_cpu_enter(struct vm_cpu_state *state, const struct vm_entry *entry, bool waits);

#endif
