/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tasks: coroutines of a reactor, so that a connection is written down from top to bottom. A task
 * runs until it waits; between two waits nothing else runs on its thread.
 */
#ifndef VDISKD_TASK_H
#define VDISKD_TASK_H

#include "reactor.h"

#include <stddef.h>

struct task;

#define TASK_FOREVER INT64_MAX

/* First runs in the next round. -ENOMEM. */
int task_spawn(struct reactor *reactor, void (*entry)(void *arg), void *arg);
/* The task that runs now on this thread, or NULL. */
struct task *task_current(void);
struct reactor *task_reactor(const struct task *task);

/* Everything below is called by a task. */

/* Submits and waits; returns op->result. After `deadline` (as reactor_now(), or TASK_FOREVER) the
 * operation is cancelled: -ETIMEDOUT, unless it ended after all. */
int task_do(struct reactor_op *op, int64_t deadline);

/* Waits until task_wake(); at most one task parks at a place. */
void task_park(struct task **place);
/* By anybody on that thread: makes the parked task run in the next round; nothing when none is. */
void task_wake(struct task **place);
/* Lets others run. */
void task_pause(void);

/* Up to `length` bytes: how many, 0 at the end, -errno, -ETIMEDOUT. */
int task_receive(int fd, void *data, size_t length, int64_t deadline);
/* All of it: 0 or -errno. The vectors are used up. */
int task_send(int fd, struct iovec *vectors, unsigned count, int64_t deadline);
/* A connection or -errno. */
int task_accept(int fd, int64_t deadline);
/* The events that came, or -errno. */
int task_poll(int fd, unsigned events, int64_t deadline);
void task_sleep(int64_t nanoseconds);

/* Goes on, on the thread of another reactor. */
void task_move(struct reactor *reactor);

#endif
