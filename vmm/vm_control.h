/* SPDX-License-Identifier: Apache-2.0 */
/* The management socket of a guest: requests in JSON, as vdiskd's (docs/control.md). */
#ifndef VMM_VM_CONTROL_H
#define VMM_VM_CONTROL_H

#include "config.h"

#include "vdisk/error.h"

#include <sys/types.h>

struct audit;
struct reactor;
struct vm;
struct vm_control;

/* The socket, before the process is confined. A descriptor; -errno. */
int vm_control_listen(const struct vm_config *config, uid_t uid, gid_t gid,
                      struct vdisk_error *error);
/* Serves on `listener`, which it takes over. `audit` may be NULL. -errno; VDISK_E_NOT_FOUND: a user
 * of the config. */
int vm_control_start(struct vm *vm, struct reactor *reactor, const struct vm_config *config,
                     struct audit *audit, int listener, struct vm_control **out,
                     struct vdisk_error *error);
/* By a task: waits for requests under way. NULL is allowed. */
void vm_control_stop(struct vm_control *control);

#endif
