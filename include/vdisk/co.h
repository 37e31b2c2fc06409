/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stackful coroutines: how the engine writes down what has to wait.
 *
 * A coroutine runs on the thread that resumed it until it yields or ends. There is no
 * scheduler here: whoever holds the handle resumes it (loop.c does). Stacks are mmapped
 * with a guard page and come from a pool that the caller owns.
 */
#ifndef VDISK_CO_H
#define VDISK_CO_H

#include <stddef.h>

struct vdisk_co;
struct vdisk_co_pool;

#define VDISK_CO_STACK_BYTES (256u * 1024)

/* NULL without memory. At most `max_idle` finished coroutines are kept for reuse. */
struct vdisk_co_pool *vdisk_co_pool_new(unsigned max_idle);
/* All coroutines must have ended. NULL is allowed. */
void vdisk_co_pool_free(struct vdisk_co_pool *pool);

/* A coroutine that has not started; NULL without memory. It frees itself when entry returns. */
struct vdisk_co *vdisk_co_new(struct vdisk_co_pool *pool, void (*entry)(void *arg), void *arg);
/* Runs it until it yields or ends; may be called from within another coroutine (nesting). */
void vdisk_co_resume(struct vdisk_co *co);
/* Back to whoever resumed the running coroutine. */
void vdisk_co_yield(struct vdisk_co *co);

#endif
