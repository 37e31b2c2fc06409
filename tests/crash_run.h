/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One run of the power-cut test: a random workload on an image whose disk is simulated. At every
 * operation that reaches the disk the power is cut, on copies: the disks that it could leave are
 * opened and compared with the model. On some of them the run goes on (a run within the run),
 * so that recoveries are cut short as well.
 *
 * Everything follows from the seed. The first failure ends the process, after it was noted where
 * the parent finds it.
 */
#ifndef CRASH_RUN_H
#define CRASH_RUN_H

#include "crash_model.h"
#include "fill_source.h"
#include "sim_io.h"

#define CRASH_SLOTS        8u
#define CRASH_JOURNAL_LOG2 5u
#define CRASH_IO_BYTES     (UINT64_C(512) * 1024)
#define CRASH_DEPTH_MAX    2u /* runs within runs within runs have no cuts */

enum crash_profile {
    CRASH_DATA,      /* writes, flushes, discards, reopening */
    CRASH_SNAPSHOTS, /* and snapshots, rollbacks */
    CRASH_ALL,       /* and sizes, compaction */
    CRASH_HURRY,     /* flushes without a pause, beside checkpoints that take long */
    CRASH_FILLING,   /* an image that is filled from a source, and detached from it */
    CRASH_PROFILES,
};

enum crash_step {
    CRASH_WRITE,
    CRASH_WRITE_FUA,
    CRASH_FLUSH,
    CRASH_DISCARD,
    CRASH_ZERO,
    CRASH_READ,
    CRASH_CHECKPOINT,
    CRASH_REOPEN,
    CRASH_KILL,
    CRASH_CREATE,
    CRASH_DELETE,
    CRASH_ROLLBACK,
    CRASH_RESIZE,
    CRASH_COMPACT,
    CRASH_KEYS,
    CRASH_FILL,
    CRASH_DETACH,
    CRASH_STEPS,
};

/* In memory that the parent shares. */
struct crash_shared {
    uint64_t next_seed, end_seed; /* seeds to be taken */
    uint64_t states;              /* disks that were opened and compared */
    uint64_t runs, deep;
    uint64_t mode[SIM_CRASH_MODES];
    uint64_t step[CRASH_STEPS];
    uint64_t recovered;      /* had a journal to replay */
    uint64_t half_deleted;   /* were in the middle of deleting a snapshot */
    uint64_t without_a_copy; /* were opened with one copy of something destroyed */
    uint64_t one_superblock; /* had only one good superblock */
    uint64_t half_filled;    /* still had a source */
    uint64_t before, after;  /* what was cut short had not happened, or had */
    char failure[1024];
};

/* Where a process is, for the parent in case it dies. */
struct crash_place {
    uint64_t seed, op; /* of the outermost run */
    bool verbose;
    unsigned mode;
};

struct crash_slot {
    struct vdisk_request request;
    struct crash_run *run;
    uint64_t id;
    uint64_t when; /* the world's clock at submission */
    bool busy;
    uint8_t *buffer;   /* CRASH_IO_BYTES and 512 */
    uint8_t *expected; /* of a read */
};

struct crash_run {
    struct crash_shared *shared;
    struct crash_place *place;
    uint64_t seed;
    uint64_t only_op; /* 0: every operation is cut */
    enum crash_profile profile;
    struct sim_rng rng;
    struct sim *sim;
    struct vdisk_image *image;
    struct fill_source *source; /* NULL: none; shared by runs within the run */
    bool detached;              /* durably: the source is not needed any more */
    struct crash_world *world;
    struct crash_world *after; /* how what is under way may end, or NULL */
    struct crash_slot slot[CRASH_SLOTS];
    unsigned in_flight, depth, names;
    uint64_t requests, cuts;
    uint64_t hot[4], hot_bytes;
    bool changed; /* since the last cut */
    bool quiet;   /* no cuts now */
};

extern const struct vdisk_key crash_key, crash_second_key;

enum crash_profile crash_profile_of(uint64_t seed);
/* A whole run from creation to the last check. */
void crash_run_seed(struct crash_shared *shared, struct crash_place *place, uint64_t seed,
                    uint64_t only_op);
/* Goes on with an image that was opened after a cut; takes image, sim and world over. */
void crash_run_again(const struct crash_run *above, struct sim *sim, struct vdisk_image *image,
                     struct crash_world *world, uint64_t seed);
/* What the image is to be opened with. */
struct vdisk_source *crash_run_source(const struct crash_run *run);
/* Notes the sentence and ends the process. */
_Noreturn void crash_fail(const struct crash_run *run, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* --- crash_cut.c --- */
/* Cuts the power here, on copies. */
void crash_cut(struct crash_run *run);

#endif
