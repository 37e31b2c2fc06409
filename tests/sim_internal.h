/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated disk from inside, shared by sim_io.c (requests) and sim_crash.c (copies,
 * crash images, files).
 */
#ifndef SIM_INTERNAL_H
#define SIM_INTERNAL_H

#include "sim_io.h"
#include "sim_pages.h"

#define SIM_FAULTS_MAX 16u

/* One request, and after its completion what it did. */
struct sim_op {
    enum vdisk_io_op op;
    uint64_t first, count; /* pages; TRUNCATE: first is the length in bytes */
    sim_page *pages;       /* WRITE: the content at submission */
    struct vdisk_io_request *request;
    int error;         /* decided at submission: it will fail like this */
    bool drop;         /* SYNC: see struct sim_fault */
    bool late;         /* see sim_set_late */
    uint64_t sequence; /* SYNC: of the first operation it does not cover;
                          in the log: ascending in the order of completion */
};

struct sim_op_list {
    struct sim_op **ops;
    size_t count, room;
};

struct sim {
    struct vdisk_io io;
    struct sim_rng rng;
    struct sim_pages durable; /* after a crash that keeps nothing */
    struct sim_pages view;    /* what reads see: durable, then the log in order */
    struct sim_op_list log;   /* completed and not durable */
    struct sim_op_list in_flight;
    /* after the crash: requests that no longer reach the disk */
    struct vdisk_io_request *dead, **dead_tail;
    uint64_t next_sequence;
    uint64_t op_count, crash_at, capacity, ticks, fired;
    enum sim_crash_kind crash_kind;
    bool crashed, ordered;
    unsigned late_part, late_whole; /* of so many, so many are late */
    struct sim_fault faults[SIM_FAULTS_MAX];
    unsigned fault_count;
    sim_trace *trace;
    void *trace_arg;
};

void *sim_must(void *memory);
void sim_ops_add(struct sim_op_list *list, struct sim_op *op);
void sim_op_free(struct sim_op *op);
/* Does to `pages` what a WRITE, PUNCH, ALLOCATE or TRUNCATE does. */
void sim_op_apply(struct sim_pages *pages, const struct sim_op *op);
/* The same, but only a part of it arrives. */
void sim_op_apply_torn(struct sim_pages *pages, const struct sim_op *op, struct sim_rng *rng);

#endif
