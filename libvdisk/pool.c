/* SPDX-License-Identifier: Apache-2.0 */
/* Reuse of buffers; see pool.h. */
#include "pool.h"

#include <stdlib.h>
#include <string.h>

#define UNIT 4096u

#if defined(__SANITIZE_ADDRESS__)
#define KEEP 0 /* a sanitizer sees stale uses only of what is really freed */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KEEP 0
#endif
#endif
#ifndef KEEP
#define KEEP 1
#endif

static unsigned class_of(size_t bytes)
{
    unsigned c = 0;
    while (c < VD_POOL_CLASSES && ((size_t)UNIT << c) < bytes)
        c++;
    return c;
}

void *vd_pool_take(struct vd_pool *pool, size_t bytes)
{
    unsigned c = class_of(bytes);
    void *buffer = NULL;
    if (c < VD_POOL_CLASSES && pool->idle[c]) {
        buffer = pool->idle[c];
        memcpy(&pool->idle[c], buffer, sizeof(void *));
        pool->idle_bytes -= (size_t)UNIT << c;
        return buffer;
    }
    if (c < VD_POOL_CLASSES)
        bytes = (size_t)UNIT << c;
    return posix_memalign(&buffer, UNIT, bytes) ? NULL : buffer;
}

void vd_pool_give(struct vd_pool *pool, void *buffer, size_t bytes)
{
    unsigned c = class_of(bytes);
    size_t size = (size_t)UNIT << c;
    if (!buffer)
        return;
    if (!KEEP || c >= VD_POOL_CLASSES || pool->idle_bytes + size > VD_POOL_IDLE_BYTES) {
        free(buffer);
        return;
    }
    memcpy(buffer, &pool->idle[c], sizeof(void *));
    pool->idle[c] = buffer;
    pool->idle_bytes += size;
}

void vd_pool_release(struct vd_pool *pool)
{
    for (unsigned c = 0; c < VD_POOL_CLASSES; c++) {
        while (pool->idle[c]) {
            void *buffer = pool->idle[c];
            memcpy(&pool->idle[c], buffer, sizeof(void *));
            free(buffer);
        }
    }
    pool->idle_bytes = 0;
}
