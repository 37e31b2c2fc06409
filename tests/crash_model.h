/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an image may hold after a power cut: a model of the drive and its snapshots.
 *
 * A block (4 KiB) of a state has the content that is known to be durable, and in order every
 * newer one that was written and not flushed, of requests in flight as well as of completed
 * ones. Each of these, and no mixture of two, may be there after a cut.
 */
#ifndef CRASH_MODEL_H
#define CRASH_MODEL_H

#include "sim_random.h"
#include "vdisk/vdisk.h"

#define CRASH_BLOCK         4096u
#define CRASH_CLUSTER       16384u
#define CRASH_SIZE_MAX      (UINT64_C(12) << 20)
#define CRASH_CELLS         ((unsigned)(CRASH_SIZE_MAX / CRASH_BLOCK))
#define CRASH_SNAPSHOTS_MAX 4u
#define CRASH_NAME_BYTES    16u

/* One block's bytes, shared. NULL stands for zeros. */
struct crash_content {
    uint32_t references;
    uint8_t bytes[CRASH_BLOCK];
};

struct crash_version {
    struct crash_version *next;
    struct crash_content *content;
    uint64_t request;
    uint64_t acked; /* when it completed; 0: in flight */
    bool outlives;  /* and the end of the process does not undo it */
};

struct crash_cell {
    struct crash_content *base;
    struct crash_version *newer; /* oldest first */
    uint64_t settled;            /* the world's clock when its base was last changed */
};

struct crash_cells {
    uint32_t references;
    bool exact; /* a snapshot's, seen: shared by worlds */
    struct crash_cell cell[CRASH_CELLS];
};

struct crash_state {
    char name[CRASH_NAME_BYTES]; /* empty: the live state */
    uint64_t size;
    struct crash_cells *cells;
};

struct crash_world {
    uint64_t clock; /* counts completions */
    unsigned keys;  /* slots in use: crash_key's, and perhaps crash_second_key's */
    struct crash_state live;
    unsigned snapshots;
    struct crash_state snapshot[CRASH_SNAPSHOTS_MAX]; /* in order of creation */
    bool touched[CRASH_CELLS];                        /* ever written in any state */
};

struct crash_world *crash_world_new(uint64_t size);
struct crash_world *crash_world_copy(const struct crash_world *from);
void crash_world_free(struct crash_world *world);
/* Contents that were not freed. */
size_t crash_contents_live(void);

/* --- what requests do; `request` names them until they are acked --- */

/* data NULL: zeros. */
void crash_world_write(struct crash_world *world, uint64_t request, uint64_t offset,
                       const uint8_t *data, uint64_t length);
void crash_world_ack(struct crash_world *world, uint64_t request, uint64_t offset, uint64_t length);
/* What this request wrote, or anything newer, is durable. */
void crash_world_fua(struct crash_world *world, uint64_t request, uint64_t offset, uint64_t length);
/* All that was acked by then is durable; UINT64_MAX: everything is. */
void crash_world_flushed(struct crash_world *world, uint64_t when);
/* What this request wrote, or anything newer, is there after a kill. */
void crash_world_outlives(struct crash_world *world, uint64_t request, uint64_t offset,
                          uint64_t length);
/* A kill: so it is for all these. What a power cut may leave does not change. */
void crash_world_killed(struct crash_world *world);
/* The bytes of the live state that a read submitted now returns. */
void crash_world_read(const struct crash_world *world, uint64_t offset, uint8_t *data,
                      uint64_t length);
/* A version that a recovery has shown: as if it had been written again and acked. */
void crash_world_show(struct crash_world *world, const struct crash_world *shown);

/* --- what changes states; on success all that was acked before is durable --- */

void crash_world_create(struct crash_world *world, const char *name);
void crash_world_delete(struct crash_world *world, unsigned snapshot);
void crash_world_rollback(struct crash_world *world, unsigned snapshot);
void crash_world_resize(struct crash_world *world, uint64_t size);

/* --- comparing --- */

struct crash_look {
    struct vdisk_image *image;
    struct sim_rng *rng;
    bool everything; /* all blocks, else all that may have changed and a sample of the others */
    bool pin;        /* what is seen becomes the only allowed version */
    char *failure;   /* 256 bytes */
};
/* Compares an open image with the world. Not reentrant. */
bool crash_world_matches(struct crash_world *world, const struct crash_look *look);
/* The same for one snapshot. */
bool crash_snapshot_matches(struct crash_world *world, unsigned snapshot,
                            const struct crash_look *look);

#endif
