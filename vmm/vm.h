/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest: the machine, its devices, and its life from start to end.
 *
 * One thread, which runs the reactor, makes and controls it; what a vCPU finds (a reset, power off)
 * is posted there. A device's registers are used by the vCPUs' threads, under the device's lock.
 */
#ifndef VMM_VM_H
#define VMM_VM_H

#include "config.h"

#include "vdisk/error.h"

#include <jansson.h>
#include <stdbool.h>

struct vm;

/* Everything up to the first instruction. `config` stays the caller's, and in place. -errno. */
int vm_new(const struct vm_config *config, struct vm **out, struct vdisk_error *error);
/* NULL is allowed. */
void vm_free(struct vm *vm);

/* Runs the guest until it is off or vm_end(). 0: it went as somebody wanted; else why not. */
int vm_run(struct vm *vm, struct vdisk_error *error);

/* ---- by the thread that runs it ---- */

/* No instruction is executed, and no device touches memory, until vm_resume(). Nothing if it is so
 * already. */
void vm_pause(struct vm *vm);
/* -EBUSY: it is being suspended. */
int vm_resume(struct vm *vm);
/*
 * By a task: pauses it, and writes all that it is (vm_state.h) to a descriptor, which stays the
 * caller's and does not block from now on. It stays paused in any case. -EBUSY: that is under way,
 * or a drive has requests with a back end that is away; -ECANCELED: it ends; -errno.
 */
int vm_suspend(struct vm *vm, int fd, struct vdisk_error *error);
bool vm_is_suspending(const struct vm *vm);
void vm_press_button(struct vm *vm);
/* vm_run() returns soon. */
void vm_end(struct vm *vm);
/* Of the memory this much is the guest's to use; it follows when it likes. -EINVAL: more than it
 * has. */
int vm_set_balloon(struct vm *vm, uint64_t bytes, struct vdisk_error *error);
/* Of network `index`, both directions. VDISK_E_NOT_FOUND. */
int vm_set_net_limits(struct vm *vm, unsigned index, const struct limit_setting *in,
                      const struct limit_setting *out, struct vdisk_error *error);
/* New references; NULL without memory. */
json_t *vm_info(const struct vm *vm);
json_t *vm_metrics(const struct vm *vm);

#endif
