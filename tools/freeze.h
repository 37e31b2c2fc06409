/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hooks that bring what is written to a drive to rest while a snapshot of it is taken, and let it
 * go on: commands of the user's, such as `fsfreeze` within a guest.
 *
 * Whatever happens to us in between, also SIGKILL, the thaw hook runs: a process of its own waits
 * for our word, our end, or for FREEZE_LONGEST_S to pass.
 */
#ifndef TOOLS_FREEZE_H
#define TOOLS_FREEZE_H

#include "vdisk/error.h"

#include <stdbool.h>
#include <sys/types.h>

#define FREEZE_TIMEOUT_S 20 /* for the hook to end */
#define FREEZE_LONGEST_S 30 /* from its end to the thaw */

struct freeze {
    pid_t guard;
    int talk; /* with it: closed when the snapshot is there; -1: it has gone */
};

/* Runs the hook by /bin/sh. An error: it failed or took too long, and the thaw hook has run. */
int freeze_begin(struct freeze *freeze, const char *freeze_hook, const char *thaw_hook,
                 struct vdisk_error *error);
/* Runs the thaw hook, once. -ETIMEDOUT: it was thawed before this; -EIO: the thaw hook failed. */
int freeze_end(struct freeze *freeze, struct vdisk_error *error);

#endif
