/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a small image, of every kind of operation once or twice, in which anything may fail;
 * and what the image must hold afterwards.
 *
 * The drive is a row of cells that are written whole. For each cell the contents are known that it
 * may have: the last one that is known durable, and all that were written since.
 */
#ifndef FAULT_SCENARIO_H
#define FAULT_SCENARIO_H

#include "sim_io.h"
#include "vdisk/vdisk.h"

#define FAULT_CELLS      32u
#define FAULT_STRIDE     (UINT64_C(256) << 10) /* a cell in each */
#define FAULT_CELL_BYTES 40960u
#define FAULT_VERSIONS   24u

/* Where the image lives. NULL from io(): there is no door (a failure to be expected). */
struct fault_place {
    const char *path;
    struct vdisk_io *(*io)(void *arg);
    /* Around each call of the library: failures are to be made only in between. NULL allowed. */
    void (*arm)(void *arg, bool on);
    void *arg;
};

struct fault_cell {
    unsigned count;
    unsigned content[FAULT_VERSIONS]; /* oldest first: 0 is zeros, else a generation */
    bool sure[FAULT_VERSIONS];        /* it was completed, and not lost since */
};

enum fault_there {
    FAULT_ABSENT,
    FAULT_PRESENT,
    FAULT_MAYBE
};

struct fault_state {
    enum fault_there there;
    uint64_t size[2]; /* one or the other */
    struct fault_cell cell[FAULT_CELLS];
};

struct fault_scenario {
    struct fault_place place;
    struct vdisk_image *image;
    struct fault_state live, snapshot[2]; /* "one" and "two" */
    unsigned generation;
    unsigned failures; /* operations that failed */
    bool created;      /* vdisk_create succeeded */
    bool given_up;     /* it cannot be opened any more, for now */
    unsigned flags;
    enum fault_there extra_key;
};

enum {
    FAULT_MAY_BE_SHUT = 1,      /* an open may fail for good: faults are permanent */
    FAULT_STOP_WHEN_FAILED = 2, /* an image that failed is abandoned: the machine goes down */
};

/* Runs the whole life. Failures must be clean; what is ambiguous after them is noted. The image is
 * closed at the end, or abandoned. */
void fault_live(struct fault_scenario *s, const struct fault_place *place, unsigned flags);
/* With no more faults: opens, compares, checks, uses, closes and compares again. `place` may be
 * another one, with a copy of the image. */
void fault_verify(struct fault_scenario *s, const struct fault_place *place);
/* In the life of an image whose machine stops now: what is not known durable may be lost. */
void fault_forget(struct fault_scenario *s);

/* A result must be 0 or an error with a sentence. */
void fault_expect_sentence(int result, const struct vdisk_error *error);

extern const struct vdisk_key fault_key, fault_extra_key;

#endif
