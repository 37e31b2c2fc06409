/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared pages (sim_pages.h): an arena of reference-counted pages, the counts apart from the
 * contents so that copying a disk stays in the cache; and tables of two levels whose lower
 * nodes are shared as well.
 */
#include "sim_pages.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_PAGES 256u

struct sim_node {
    uint32_t references;
    sim_page pages[SIM_NODE_PAGES];
};

struct arena {
    uint8_t **chunks;
    uint32_t *references;
    sim_page *free_pages; /* a stack */
    size_t chunk_count, free_count;
};

/* Shared by all disks of the process, so that a page can be. */
static struct arena arena;

static void *must(void *memory)
{
    if (!memory)
        abort(); /* a test cannot go on */
    return memory;
}

/* ---- pages ---- */

static void grow_arena(void)
{
    size_t first = arena.chunk_count * CHUNK_PAGES;
    size_t count = first + CHUNK_PAGES;

    arena.chunks = must(realloc(arena.chunks, (arena.chunk_count + 1) * sizeof(*arena.chunks)));
    arena.chunks[arena.chunk_count] =
        must(aligned_alloc(SIM_PAGE_BYTES, (size_t)CHUNK_PAGES * SIM_PAGE_BYTES));
    arena.references = must(realloc(arena.references, count * sizeof(*arena.references)));
    arena.free_pages = must(realloc(arena.free_pages, count * sizeof(*arena.free_pages)));
    memset(arena.references + first, 0, CHUNK_PAGES * sizeof(*arena.references));
    arena.chunk_count++;
    for (size_t page = count; page-- > first;) {
        if (page > SIM_ZEROS)
            arena.free_pages[arena.free_count++] = (sim_page)page;
    }
    if (first == 0) /* the hole and the zeros */
        memset(arena.chunks[0], 0, 2 * SIM_PAGE_BYTES);
}

static uint8_t *page_data(sim_page page)
{
    return arena.chunks[page / CHUNK_PAGES] + (size_t)(page % CHUNK_PAGES) * SIM_PAGE_BYTES;
}

static sim_page page_take_free(void)
{
    sim_page page;

    if (arena.free_count == 0)
        grow_arena();
    page = arena.free_pages[--arena.free_count];
    arena.references[page] = 1;
    return page;
}

sim_page sim_page_new(const void *data)
{
    sim_page page = page_take_free();

    memcpy(page_data(page), data, SIM_PAGE_BYTES);
    return page;
}

sim_page sim_page_mix(sim_page under, sim_page over, unsigned mask)
{
    sim_page page = page_take_free();

    for (unsigned i = 0; i < SIM_SECTORS; i++) {
        const uint8_t *source = page_data(mask >> i & 1 ? over : under);

        memcpy(page_data(page) + i * SIM_SECTOR_BYTES, source + i * SIM_SECTOR_BYTES,
               SIM_SECTOR_BYTES);
    }
    return page;
}

void sim_page_take(sim_page page)
{
    if (page > SIM_ZEROS)
        arena.references[page]++;
}

void sim_page_drop(sim_page page)
{
    if (page <= SIM_ZEROS)
        return;
    assert(arena.references[page] > 0);
    if (--arena.references[page] == 0)
        arena.free_pages[arena.free_count++] = page;
}

size_t sim_pages_live(void)
{
    return arena.chunk_count ? arena.chunk_count * CHUNK_PAGES - 2 - arena.free_count : 0;
}

const uint8_t *sim_page_data(sim_page page)
{
    if (arena.chunk_count == 0)
        grow_arena();
    return page_data(page);
}

/* ---- tables ---- */

static void node_drop(struct sim_node *node)
{
    if (!node || --node->references > 0)
        return;
    for (unsigned i = 0; i < SIM_NODE_PAGES; i++)
        sim_page_drop(node->pages[i]);
    free(node);
}

/* The node of a page, made and made ours alone if need be. */
static struct sim_node *node_own(struct sim_pages *pages, uint64_t index)
{
    size_t number = index / SIM_NODE_PAGES;
    struct sim_node *node, *copy;

    if (number >= pages->node_count) {
        size_t count = number + 1;

        pages->nodes = must(realloc(pages->nodes, count * sizeof(struct sim_node *)));
        memset(pages->nodes + pages->node_count, 0,
               (count - pages->node_count) * sizeof(struct sim_node *));
        pages->node_count = count;
    }
    node = pages->nodes[number];
    if (node && node->references == 1)
        return node;
    copy = must(calloc(1, sizeof(*copy)));
    if (node) {
        memcpy(copy, node, sizeof(*copy));
        for (unsigned i = 0; i < SIM_NODE_PAGES; i++)
            sim_page_take(copy->pages[i]);
        node_drop(node);
    }
    copy->references = 1;
    pages->nodes[number] = copy;
    return copy;
}

void sim_pages_release(struct sim_pages *pages)
{
    for (size_t i = 0; i < pages->node_count; i++)
        node_drop(pages->nodes[i]);
    free(pages->nodes);
    *pages = (struct sim_pages){0};
}

void sim_pages_copy(struct sim_pages *copy, const struct sim_pages *pages)
{
    *copy = *pages;
    if (!pages->node_count)
        return;
    copy->nodes = must(malloc(pages->node_count * sizeof(struct sim_node *)));
    memcpy(copy->nodes, pages->nodes, pages->node_count * sizeof(struct sim_node *));
    for (size_t i = 0; i < copy->node_count; i++) {
        if (copy->nodes[i])
            copy->nodes[i]->references++;
    }
}

sim_page sim_pages_get(const struct sim_pages *pages, uint64_t index)
{
    struct sim_node *node;

    if (index / SIM_NODE_PAGES >= pages->node_count)
        return SIM_HOLE;
    node = pages->nodes[index / SIM_NODE_PAGES];
    return node ? node->pages[index % SIM_NODE_PAGES] : SIM_HOLE;
}

void sim_pages_set(struct sim_pages *pages, uint64_t index, sim_page page)
{
    sim_page old = sim_pages_get(pages, index);
    struct sim_node *node;

    if (old == page)
        return;
    node = node_own(pages, index);
    sim_page_take(page);
    node->pages[index % SIM_NODE_PAGES] = page;
    pages->allocated += (page != SIM_HOLE);
    pages->allocated -= (old != SIM_HOLE);
    sim_page_drop(old);
}

void sim_pages_clear(struct sim_pages *pages, uint64_t first, uint64_t count)
{
    uint64_t end = pages->node_count * SIM_NODE_PAGES;

    end = first < end && count < end - first ? first + count : end;
    for (; first < end; first++)
        sim_pages_set(pages, first, SIM_HOLE);
}

void sim_pages_read(const struct sim_pages *pages, uint64_t offset, void *data, uint64_t length)
{
    uint8_t *bytes = data;

    while (length > 0) {
        uint64_t skip = offset % SIM_PAGE_BYTES;
        uint64_t count = SIM_PAGE_BYTES - skip < length ? SIM_PAGE_BYTES - skip : length;

        memcpy(bytes, sim_page_data(sim_pages_get(pages, offset / SIM_PAGE_BYTES)) + skip, count);
        bytes += count;
        offset += count;
        length -= count;
    }
}

void sim_pages_write(struct sim_pages *pages, uint64_t offset, const void *data, uint64_t length)
{
    const uint8_t *bytes = data;

    if (pages->bytes < offset + length)
        pages->bytes = offset + length;
    while (length > 0) {
        uint64_t skip = offset % SIM_PAGE_BYTES;
        uint64_t count = SIM_PAGE_BYTES - skip < length ? SIM_PAGE_BYTES - skip : length;
        uint8_t content[SIM_PAGE_BYTES];
        sim_page page;

        memcpy(content, sim_page_data(sim_pages_get(pages, offset / SIM_PAGE_BYTES)),
               sizeof(content));
        memcpy(content + skip, bytes, count);
        page = sim_page_new(content);
        sim_pages_set(pages, offset / SIM_PAGE_BYTES, page);
        sim_page_drop(page);
        bytes += count;
        offset += count;
        length -= count;
    }
}

void sim_pages_truncate(struct sim_pages *pages, uint64_t bytes)
{
    uint64_t tail = bytes % SIM_PAGE_BYTES;
    uint64_t first = bytes / SIM_PAGE_BYTES + (tail > 0);

    if (bytes < pages->bytes) {
        sim_pages_clear(pages, first, UINT64_MAX);
        if (tail && sim_pages_get(pages, first - 1) > SIM_ZEROS) {
            static const uint8_t zeros[SIM_PAGE_BYTES];

            sim_pages_write(pages, bytes, zeros, SIM_PAGE_BYTES - tail);
        }
    }
    pages->bytes = bytes;
}
