/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vdisk_io without any storage, for tests of the loop: it completes what was submitted in a
 * random order that follows from a seed.
 */
#ifndef FAKE_IO_H
#define FAKE_IO_H

#include "sim_random.h"
#include "vdisk/io.h"

#define FAKE_IO_MAX_IN_FLIGHT 4096

struct fake_io {
    struct vdisk_io io;
    struct sim_rng rng;
    struct vdisk_io_request *queue[FAKE_IO_MAX_IN_FLIGHT];
    unsigned in_flight, submitted, completed;
    int polls, blocking_polls;
    bool lazy;                    /* completes only in blocking polls */
    uint64_t fail_offset;         /* requests at this offset end with fail_result */
    int fail_result;              /* 0: none fails */
    struct vdisk_io_request last; /* copy of what was submitted last */
};

void fake_io_init(struct fake_io *fake, uint64_t seed);
/* SEED of the environment or 1; prints it. */
uint64_t fake_io_seed(void);

#endif
