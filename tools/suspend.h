/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `vdisk ctl --vm NAME suspend FILE`: a guest of `vdisk run`, and what its drives are now, into a
 * file (statefile.h); then the guest is ended. Unless all of that works there is no file, and the
 * guest goes on as if nothing had been.
 */
#ifndef TOOLS_SUSPEND_H
#define TOOLS_SUSPEND_H

#include "keyopt.h"

#include <stdbool.h>

struct suspend_options {
    const char *guest, *file;
    struct keyopt key; /* of the file */
    bool quiet;
};

/* Returns an exit status, having reported. */
int suspend_guest(const struct suspend_options *options);

#endif
