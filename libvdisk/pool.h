/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Buffers of the data path, kept for reuse: fresh memory from the system costs more, in page
 * faults, than all that is done with it. Power-of-two sizes; a bounded amount stays idle.
 */
#ifndef VD_POOL_H
#define VD_POOL_H

#include <stddef.h>

#define VD_POOL_CLASSES    11u                /* 4 KiB to 4 MiB */
#define VD_POOL_IDLE_BYTES ((size_t)32 << 20) /* at most this much is kept */

struct vd_pool {
    void *idle[VD_POOL_CLASSES];
    size_t idle_bytes;
};

/* 4096-aligned; NULL without memory. */
void *vd_pool_take(struct vd_pool *pool, size_t bytes);
/* With the size it was taken with. NULL is allowed. */
void vd_pool_give(struct vd_pool *pool, void *buffer, size_t bytes);
void vd_pool_release(struct vd_pool *pool);

#endif
