/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a running guest has its sockets: a folder by its name, of its user's alone, in /run/vdisk
 * for root and in $XDG_RUNTIME_DIR/vdisk for others. In it are
 *
 *     lock              held by each of the programs while it runs
 *     vmm/socket        management of vdisk-vmm
 *     disks/socket      management of its vdiskd
 *     driveN            its drives, for vdisk-vmm
 *     nbd               its drives by NBD, to be looked at
 */
#ifndef TOOLS_RUNDIR_H
#define TOOLS_RUNDIR_H

#include "vdisk/error.h"

#include <stdbool.h>

#define RUNDIR_BYTES    80 /* of a folder's path, so that a socket in it has a name */
#define RUNDIR_NAME_MAX 32 /* letters, digits, `-`, `_`, `.`; not first */

struct rundir {
    char path[RUNDIR_BYTES];
    int lock;
};

/* -EINVAL: not a name; -ENAMETOOLONG; -ENOENT: no XDG_RUNTIME_DIR. */
int rundir_find(const char *name, char path[RUNDIR_BYTES], struct vdisk_error *error);
/* Makes it for `user` (root's choice; NULL: ourselves) and takes it. As above; VDISK_E_IN_USE: a
 * guest of that name runs; VDISK_E_NOT_FOUND: there is no such user; -errno. */
int rundir_take(const char *name, const char *user, struct rundir *out, struct vdisk_error *error);
/* Waits, so many seconds at most, until nobody has taken the folder at a path. Whether that is so.
 */
bool rundir_await(const char *path, int seconds);
/* Removes it with what is in it. */
void rundir_give(struct rundir *dir);

#endif
