/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A source in memory for images that are being filled: some pieces are zeros, and what is asked of
 * it may fail.
 */
#ifndef FILL_SOURCE_H
#define FILL_SOURCE_H

#include "sim_random.h"
#include "vdisk/vdisk.h"

struct fill_source {
    struct vdisk_source source; /* to be given to the library */
    uint8_t *bytes;
    bool broken;           /* everything fails with -EIO */
    unsigned fail_one_in;  /* 0: nothing fails else */
    struct sim_rng rng;    /* for that */
    uint64_t reads, nexts; /* that were answered */
    uint64_t read_bytes;
};

/* Of any size; never NULL. */
struct fill_source *fill_source_new(uint64_t size, uint32_t piece_bytes, uint64_t seed);
void fill_source_free(struct fill_source *source); /* NULL is allowed */

#endif
