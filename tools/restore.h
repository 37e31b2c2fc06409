/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `vdisk run --restore FILE`: what was suspended there (statefile.h) goes on, if its drives are as
 * they were then. Drives are known by the ids of their images, never by their names.
 */
#ifndef TOOLS_RESTORE_H
#define TOOLS_RESTORE_H

#include "imagespec.h"
#include "options.h"
#include "statefile.h"

/* What the guest was started with; NULL: it had none. */
struct restore_guest {
    json_t *manifest; /* whose the texts are */
    const char *name, *kernel, *initrd, *command, *firmware, *vsock;
    uint64_t memory; /* bytes */
    unsigned cpus;
    unsigned drives;
    bool read_only; /* the first of them */
    struct option_list nets;
};

/* Returns an exit status, having reported. After success restore_forget() is due. */
int restore_describe(const struct statefile *file, struct restore_guest *out);
/* Zeros are allowed. */
void restore_forget(struct restore_guest *guest);
/* Likewise: whether these are the guest's drives, and nothing has changed them since. */
int restore_check(const struct statefile *file, const struct imagespec *specs, unsigned count,
                  const struct vdisk_key *key);

#endif
