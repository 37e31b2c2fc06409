/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Comparing an image with a model of its drive: content, map, difference, and vdisk_check.
 */
#ifndef DRIVE_CHECK_H
#define DRIVE_CHECK_H

#include "drive_model.h"
#include "sim_random.h"
#include "vdisk/vdisk.h"

#define DRIVE_FAILURE_BYTES 600

/* One state of an image beside what it must be. */
struct drive_pair {
    struct vdisk_image *image;
    struct vdisk_snapshot *snapshot; /* NULL: the live state */
    const struct drive_state *state;
    const struct drive_state *below; /* what the base shows, NULL without a base */
};

/* Each returns true, or false with a sentence in `failure` (DRIVE_FAILURE_BYTES). */

/* All windows, in reads of random lengths, and some blocks outside of them. */
bool drive_check_content(const struct drive_pair *pair, struct sim_rng *rng, char *failure);
/* The map covers a random range without a gap; holes and zeros are what they say. */
bool drive_check_map(const struct drive_pair *pair, struct sim_rng *rng, char *failure);
/* Every block that differs is reported; with `exact`, each reported cluster has a block that was
 * changed between the two. */
bool drive_check_diff(const struct drive_pair *older, const struct drive_pair *newer, bool exact,
                      char *failure);
/* vdisk_check finds nothing, not even a leak. */
bool drive_check_image(struct vdisk_image *image, char *failure);

#endif
