/* SPDX-License-Identifier: Apache-2.0 */
/* The arena; see reactor_memory.h. */
#include "reactor_memory.h"

#include <stdlib.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define ARENA 0 /* a sanitizer sees stale uses only of what is really freed */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA 0
#endif
#endif
#ifndef ARENA
#define ARENA 1
#endif

void reactor_memory_open(struct reactor_memory *memory)
{
    size_t bytes = REACTOR_MEMORY_CHUNKS * REACTOR_MEMORY_CHUNK;
    void *base;

    if (!ARENA)
        return;
    base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return;
    memory->base = base;
    memory->bytes = bytes;
}

void reactor_memory_close(struct reactor_memory *memory)
{
    if (memory->base)
        (void)munmap(memory->base, memory->bytes);
    memory->base = NULL;
    memory->bytes = 0;
}

/* Powers of two from a unit to a chunk; 0: larger. */
static size_t piece_for(size_t bytes)
{
    size_t piece = REACTOR_MEMORY_UNIT;

    while (piece < bytes && piece < REACTOR_MEMORY_CHUNK)
        piece *= 2;
    return piece < bytes ? 0 : piece;
}

/* The chunk to take from: one of that size with room, or an unused one. */
static struct reactor_chunk *chunk_for(struct reactor_memory *memory, size_t piece)
{
    struct reactor_chunk *unused = NULL;

    for (unsigned i = 0; memory->base && i < REACTOR_MEMORY_CHUNKS; i++) {
        struct reactor_chunk *chunk = &memory->chunk[i];

        if (chunk->taken == 0)
            unused = unused ? unused : chunk;
        else if (chunk->piece_bytes == piece && chunk->taken < REACTOR_MEMORY_CHUNK / piece)
            return chunk;
    }
    if (unused)
        unused->piece_bytes = piece;
    return unused;
}

static unsigned take_bit(struct reactor_chunk *chunk)
{
    unsigned word = 0, bit;

    while (chunk->is_taken[word] == UINT64_MAX)
        word++;
    bit = (unsigned)__builtin_ctzll(~chunk->is_taken[word]);
    chunk->is_taken[word] |= UINT64_C(1) << bit;
    chunk->taken++;
    return word * 64 + bit;
}

void *reactor_memory_take(struct reactor_memory *memory, size_t bytes)
{
    size_t piece = piece_for(bytes);
    struct reactor_chunk *chunk = piece ? chunk_for(memory, piece) : NULL;

    if (chunk)
        return memory->base + (size_t)(chunk - memory->chunk) * REACTOR_MEMORY_CHUNK +
               take_bit(chunk) * piece;
    bytes = (bytes + REACTOR_MEMORY_UNIT - 1) / REACTOR_MEMORY_UNIT * REACTOR_MEMORY_UNIT;
    return aligned_alloc(REACTOR_MEMORY_UNIT, bytes);
}

void reactor_memory_give(struct reactor_memory *memory, void *at, size_t bytes)
{
    struct reactor_chunk *chunk;
    size_t offset;
    unsigned bit;

    if (!reactor_memory_holds(memory, at, bytes)) {
        free(at);
        return;
    }
    offset = (size_t)((uint8_t *)at - memory->base);
    chunk = &memory->chunk[offset / REACTOR_MEMORY_CHUNK];
    bit = (unsigned)(offset % REACTOR_MEMORY_CHUNK / chunk->piece_bytes);
    chunk->is_taken[bit / 64] &= ~(UINT64_C(1) << bit % 64);
    chunk->taken--;
}

bool reactor_memory_holds(const struct reactor_memory *memory, const void *at, size_t bytes)
{
    uintptr_t from = (uintptr_t)at, base = (uintptr_t)memory->base;

    return base && from >= base && bytes <= memory->bytes && from - base <= memory->bytes - bytes;
}
