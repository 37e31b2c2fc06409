/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small images on simulated disks that between them hold every structure of the format, with all
 * the states that led there: what an attacker with copies of the file over time has.
 */
#ifndef TAMPER_KIT_H
#define TAMPER_KIT_H

#include "picture.h"
#include "sim_io.h"

#define TAMPER_GENERATIONS 32u

/* The disk as it was durable at one moment, and what it shows when opened. */
struct tamper_generation {
    struct sim *sim;
    struct picture *picture;
};

struct tamper_image {
    struct sim *sim; /* the disk that is being written */
    unsigned count;
    struct tamper_generation generation[TAMPER_GENERATIONS]; /* the last one is the image */
};

extern const struct vdisk_key tamper_key;
extern const char *const tamper_passphrase;

/* Header with all kinds of slots; raw, compressed (also sharing blocks) and patched clusters; zero
 * runs, a zero subtree, holes; three levels; epochs; snapshots that branch, one of them marked. */
struct tamper_image *tamper_build_clean(void);
/* The same, then flushes and no end: the journal holds records. */
struct tamper_image *tamper_build_unclean(void);
/* Deletes "victim" on a copy of the disk whose sync number `nth` and later ones fail; the disk as
 * it then is. */
struct sim *tamper_interrupt_deletion(const struct sim *disk, uint64_t nth);
/* In the middle of deleting a snapshot. */
struct tamper_image *tamper_build_deleting(void);
/* An overlay; the base is a file. */
struct tamper_image *tamper_build_overlay(const char *base_path);
void tamper_free(struct tamper_image *image);

static inline const struct tamper_generation *tamper_last(const struct tamper_image *image)
{
    return &image->generation[image->count - 1];
}

/* The disk stays the caller's. */
int tamper_open(struct sim *sim, bool read_only, struct vdisk_image **image);
/* Compressible (`packs`) or random bytes that follow from the seed, whole 4 KiB blocks. */
int tamper_write(struct vdisk_image *image, uint64_t offset, uint64_t length, uint64_t seed,
                 bool packs);
/* Notes what is durable now, and what it shows. */
void tamper_note(struct tamper_image *image);

#define TAMPER_NEWEST UINT32_MAX
/* What the disk shows has to be the newest generation or errors; or all of it one of the older ones
 * from `oldest` on, or errors: else the test fails, with `what`. Returns what opening did;
 * *errors counts the other answers that were errors. */
int tamper_judge(const struct tamper_image *image, struct sim *disk, unsigned oldest, int flags,
                 const char *what, unsigned *errors);

#endif
