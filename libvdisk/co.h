/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stackful coroutines: how the engine writes down what has to wait.
 *
 * A coroutine runs on the thread that resumed it until it yields or ends. There is no
 * scheduler here: whoever holds the handle resumes it (loop.c does). Stacks are mmapped
 * with a guard page and come from a pool that the caller owns.
 */
#ifndef VD_CO_H
#define VD_CO_H

#include <stddef.h>

struct vd_co;
struct vd_co_pool;

#define VD_CO_STACK_BYTES (256u * 1024)

/* NULL without memory. At most `max_idle` finished coroutines are kept for reuse. */
struct vd_co_pool *vd_co_pool_new(unsigned max_idle);
/* All coroutines must have ended. NULL is allowed. */
void vd_co_pool_free(struct vd_co_pool *pool);

/* A coroutine that has not started; NULL without memory. It frees itself when entry returns. */
struct vd_co *vd_co_new(struct vd_co_pool *pool, void (*entry)(void *arg), void *arg);
/* Runs it until it yields or ends; may be called from within another coroutine (nesting). */
void vd_co_resume(struct vd_co *co);
/* Back to whoever resumed the running coroutine. */
void vd_co_yield(struct vd_co *co);

#endif
