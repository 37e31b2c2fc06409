/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copying a drive into a new image: reads and writes in flight, zeros left out.
 */
#ifndef TOOLS_COPYIN_H
#define TOOLS_COPYIN_H

#include "source.h"

#include "vdisk/vdisk.h"

#include <stdbool.h>
#include <stdint.h>

struct copyin {
    struct source *source;
    struct vdisk_image *image; /* reads as zeros, and is as large as the source, rounded up */
    const char *path;          /* of the image, for messages */
    /* Zeros are left out in units of this many bytes, a power of two from 4096: a cluster where
     * data is compressed, since a part of one would cost more. */
    uint64_t unit;
    bool quiet;
};

/* Returns an exit status, having reported. Nothing is flushed. */
int copyin_run(const struct copyin *copy);

#endif
