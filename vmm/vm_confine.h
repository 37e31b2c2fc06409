/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest's process gives up before the guest runs: its user, namespaces, the file system, and
 * the system calls that it does not need. The guest is hostile, and so may be what it gets hold of.
 */
#ifndef VMM_VM_CONFINE_H
#define VMM_VM_CONFINE_H

#include "config.h"

#include "vdisk/error.h"

#include <sys/types.h>

/* Whom the process will be; itself without config->user. VDISK_E_NOT_FOUND. */
int vm_confine_user(const struct vm_config *config, uid_t *uid, gid_t *gid,
                    struct vdisk_error *error);
/*
 * Before any thread: what is open stays open, and sockets named in the config can be connected to.
 * What the kernel does not permit of namespaces and Landlock is left out and logged; all else is an
 * error. -errno.
 */
int vm_confine(const struct vm_config *config, struct vdisk_error *error);

#endif
