/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of a reactor for the data of its clients (reactor_take() in reactor.h): an arena that the
 * io_uring backend registers, so that the kernel need not look its pages up for each operation.
 *
 * The arena is cut into chunks, each for one size of power of two while any of it is in use. What
 * is larger than a chunk, or finds no room, comes from malloc. Belongs to one thread.
 */
#ifndef VDISKD_REACTOR_MEMORY_H
#define VDISKD_REACTOR_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REACTOR_MEMORY_UNIT   4096u
#define REACTOR_MEMORY_CHUNK  ((size_t)1 << 20)
#define REACTOR_MEMORY_CHUNKS 16u

struct reactor_chunk {
    size_t piece_bytes;
    unsigned taken;
    uint64_t is_taken[REACTOR_MEMORY_CHUNK / REACTOR_MEMORY_UNIT / 64];
};

struct reactor_memory {
    uint8_t *base; /* NULL: there is no arena */
    size_t bytes;
    struct reactor_chunk chunk[REACTOR_MEMORY_CHUNKS];
};

/* Zero-initialised memory. Without an arena it works as well. */
void reactor_memory_open(struct reactor_memory *memory);
void reactor_memory_close(struct reactor_memory *memory);
void *reactor_memory_take(struct reactor_memory *memory, size_t bytes);
void reactor_memory_give(struct reactor_memory *memory, void *at, size_t bytes);
bool reactor_memory_holds(const struct reactor_memory *memory, const void *at, size_t bytes);

#endif
