/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random operations on an image and, at the same time, on a model of its drive: both must agree.
 * A failure ends the test, with seed and step.
 */
#ifndef DRIVE_RUN_H
#define DRIVE_RUN_H

#include "drive_check.h"
#include "sim_io.h"

#define DRIVE_FLIGHTS   24u
#define DRIVE_SNAPSHOTS 5u
#define DRIVE_WRITE_MAX (UINT64_C(3) << 20)

struct drive_config {
    uint64_t cluster_bytes;
    bool compress;
    int level;
    unsigned threads;
    size_t cache_bytes;
    uint32_t journal_log2;
    uint64_t split_bytes;
    bool files;
    unsigned steps;
};

/* Whole blocks as they were before a change that is in flight. */
struct drive_before {
    uint64_t offset, length;
    uint8_t *bytes; /* NULL: none, or too many to keep */
};

struct drive_flight {
    struct vdisk_request request;
    struct drive_run *run;
    bool busy;
    uint8_t *data;
    uint8_t *expected; /* of a read */
    struct drive_before before;
};

struct drive_saved {
    char name[24];
    struct drive_state *state;
};

struct drive_run {
    const struct drive_config *config;
    uint64_t seed;
    unsigned step;
    struct sim_rng rng;
    struct sim *sim;
    char path[200];
    struct vdisk_workers *workers;
    struct vdisk_image *image;
    bool read_only;
    struct drive_state *live;
    const struct drive_state *below;
    uint32_t change;
    bool compacted;
    struct drive_saved snapshot[DRIVE_SNAPSHOTS];
    unsigned snapshots, names;
    struct vdisk_snapshot *held; /* an open handle, of snapshot[held_index] */
    unsigned held_index;
    struct drive_flight flight[DRIVE_FLIGHTS];
    unsigned flying;
    char failure[DRIVE_FAILURE_BYTES];
};

extern const struct vdisk_key drive_key;

/* --- the life of a run --- */

void drive_begin(struct drive_run *run, const struct drive_config *config, uint64_t seed);
/* At run->path, or on run->sim; base_path NULL: none, else run->below is what it shows. */
void drive_create(struct drive_run *run, const char *base_path, const char *base_snapshot);
/* As many random steps as the configuration says, and a comparison of everything. */
void drive_steps(struct drive_run *run);
/* Closes the handle of a snapshot, after all requests. */
void drive_release_held(struct drive_run *run);
void drive_end(struct drive_run *run);

/* --- what steps are made of --- */

uint64_t drive_random(struct drive_run *run, uint64_t bound);
bool drive_chance(struct drive_run *run, unsigned part, unsigned whole);
void drive_must(struct drive_run *run, int result, const char *what);
/* `ok`, or run->failure. */
void drive_holds(struct drive_run *run, bool ok);
/* malloced; zeros, repetitions, noise or all of them. */
uint8_t *drive_make_data(struct drive_run *run, uint64_t length);
void drive_choose_range(struct drive_run *run, uint64_t max, uint64_t *offset, uint64_t *length);
uint64_t drive_choose_size(struct drive_run *run);
/* Submits a request and changes the model; takes `data` (NULL for all but writes). */
void drive_launch(struct drive_run *run, enum vdisk_request_op op, uint64_t offset, uint64_t length,
                  uint8_t *data);
/* Waits for all requests in flight. */
void drive_drain(struct drive_run *run);
void drive_open_again(struct drive_run *run, bool read_only);
/* Closes it, or flushes and abandons it. */
void drive_shut(struct drive_run *run);

#endif
