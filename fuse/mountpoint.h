/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Folders at which drives are mounted: through fusermount3, for root as for others, and told by the
 * kernel's list of mounts.
 *
 * A mount lasts as long as the process that made it: another one stays, and takes it away when that
 * process has ended, however it did.
 */
#ifndef FUSE_MOUNTPOINT_H
#define FUSE_MOUNTPOINT_H

#include "vdisk/error.h"

#include <stdbool.h>
#include <sys/types.h>

#define MOUNTPOINT_TYPE   "fuse.vdisk"
/* In the root folder of a mount, not listed: a link that says which process serves it. */
#define MOUNTPOINT_SERVER ".server"

/*
 * Mounts at a folder. *device gets /dev/fuse, close-on-exec, with nothing read from it yet;
 * `source` is what df(1) shows. Before threads. VDISK_E_EXISTS: a drive is mounted there; -ENOTDIR,
 * -ENOTCONN: what is mounted there is dead; -EPERM and others: fusermount3 refuses; -ENOENT.
 */
int mountpoint_mount(const char *folder, const char *source, bool writable, int *device,
                     struct vdisk_error *error);

/* Has the kernel read further ahead than it does by itself; only root may. When the mount is up, by
 * another process than the one that serves it. */
void mountpoint_read_ahead(const char *folder);

/* Whether a drive is mounted at the folder, alive or dead: 1 or 0, or -errno. */
int mountpoint_is_used(const char *folder);

/* The process that serves it, or 0: dead, or another user's. */
pid_t mountpoint_server(const char *folder);

/* Takes the mount away. VDISK_E_IN_USE: files or folders of it are open. -EPERM and others. */
int mountpoint_unmount(const char *folder, struct vdisk_error *error);

#endif
