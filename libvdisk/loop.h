/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop of one image: ready coroutines, I/O completions, worker completions; and the
 * primitives with which coroutines wait for each other. Nothing here is thread-safe: one
 * thread owns a loop.
 */
#ifndef VD_LOOP_H
#define VD_LOOP_H

#include "vdisk/co.h"
#include "vdisk/io.h"

#include <stdbool.h>
#include <stdint.h>

/* A FIFO of coroutines that wait for something. Zero-initialised is empty. */
struct vd_waiter {
    struct vdisk_co *co;
    struct vd_waiter *next;
};
struct vd_waitqueue {
    struct vd_waiter *head, *tail;
};

/* A loop, or a view of one: the images of a chain share a loop, each with an io of its own. */
struct vd_loop {
    struct vd_loop *root;  /* itself, or the loop that this is a view of */
    struct vd_loop *views; /* of the root: the next view */
    struct vdisk_io *io;
    struct vdisk_workers *workers; /* NULL: jobs run inline, their done() from the loop */
    struct vdisk_co_pool *pool;
    struct vdisk_co *current; /* the coroutine that runs now, NULL outside */
    struct vd_waitqueue ready;
    struct vdisk_job *inline_jobs_head, *inline_jobs_tail;
    unsigned io_in_flight, jobs_in_flight, coroutines;
};

int vd_loop_init(struct vd_loop *loop, struct vdisk_io *io, struct vdisk_workers *workers);
/* A view of `root` with another io. It is released before the root. */
void vd_loop_init_view(struct vd_loop *view, struct vd_loop *root, struct vdisk_io *io);
void vd_loop_release(struct vd_loop *loop);

/* Starts a coroutine; it first runs from the next vd_loop_step. -ENOMEM. */
int vd_loop_spawn(struct vd_loop *loop, void (*entry)(void *arg), void *arg);
/* Runs what is ready and polls; with `wait` blocks until something happened if anything is in
 * flight. Returns false when nothing ran and nothing is in flight. */
bool vd_loop_step(struct vd_loop *loop, bool wait);

/* Everything below is called from inside a coroutine of the loop. */

/* Lets everything run that is ready, and what completes meanwhile. */
void vd_yield(struct vd_loop *loop);
/* Waits on `queue` until woken. */
void vd_wait(struct vd_loop *loop, struct vd_waitqueue *queue);
/* Moves the first waiter, or all, to the ready list; also callable outside coroutines. */
void vd_wake_one(struct vd_loop *loop, struct vd_waitqueue *queue);
void vd_wake_all(struct vd_loop *loop, struct vd_waitqueue *queue);

/* Submits one request and waits for its end. Returns its result. */
int vd_io(struct vd_loop *loop, enum vdisk_io_op op, uint64_t offset, void *data, uint64_t length);

/* A group of requests and jobs in flight that one coroutine waits for together. After the wait
 * it may be filled again; `result` stays until the next vd_group_init. */
struct vd_group {
    struct vd_loop *loop;
    unsigned pending;
    int result; /* of the I/O requests, the first error to arrive */
    struct vd_waitqueue waiter;
};
/* The members `done` and `owner` of the request are set here; it must live until
 * vd_group_wait returns. */
void vd_group_init(struct vd_group *group, struct vd_loop *loop);
void vd_group_io(struct vd_group *group, struct vdisk_io_request *request);

/* A job that belongs to a group; embed it first and set run. */
struct vd_group_job {
    struct vdisk_job job;
    struct vd_group *group;
};
void vd_group_job(struct vd_group *group, struct vd_group_job *job);
/* Waits until all are done; returns the first I/O error or 0. */
int vd_group_wait(struct vd_group *group);

/* Fair readers-writer lock: a waiting exclusive holder keeps new shared ones out.
 * Zero-initialised is free. Not recursive. */
struct vd_rwlock {
    unsigned shared;
    bool exclusive;
    struct vd_rwlock_waiter *head, *tail;
};
void vd_lock_shared(struct vd_loop *loop, struct vd_rwlock *lock);
void vd_unlock_shared(struct vd_loop *loop, struct vd_rwlock *lock);
void vd_lock_exclusive(struct vd_loop *loop, struct vd_rwlock *lock);
void vd_unlock_exclusive(struct vd_loop *loop, struct vd_rwlock *lock);

/* Locks on ranges [first, last] of an axis; overlapping shared holders coexist. Granted in the
 * order of arrival among those that overlap. Zero-initialised is empty. */
struct vd_range {
    uint64_t first, last;
    bool exclusive;
    bool granted;
    struct vd_waitqueue waiter;
    struct vd_range *next, *prev;
};
struct vd_range_lock {
    struct vd_range *head, *tail; /* arrival order: held and waiting */
};
/* `range` is the caller's and lives until the unlock. */
void vd_range_lock(struct vd_loop *loop, struct vd_range_lock *lock, struct vd_range *range,
                   uint64_t first, uint64_t last, bool exclusive);
void vd_range_unlock(struct vd_loop *loop, struct vd_range_lock *lock, struct vd_range *range);

#endif
