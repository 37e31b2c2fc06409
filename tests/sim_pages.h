/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sparse byte arrays made of shared 4 KiB pages, cheap to copy: what the simulated disk
 * keeps its contents in.
 *
 * Page contents never change once another holder shares them. Page 0 stands for a hole,
 * page 1 for an allocated page of zeros. Pages live in one arena of the process; a run is
 * single-threaded.
 */
#ifndef SIM_PAGES_H
#define SIM_PAGES_H

#include <stddef.h>
#include <stdint.h>

#define SIM_PAGE_BYTES   4096u
#define SIM_SECTOR_BYTES 512u
#define SIM_SECTORS      (SIM_PAGE_BYTES / SIM_SECTOR_BYTES)

/* Index of a page in the arena. */
typedef uint32_t sim_page;

#define SIM_HOLE  ((sim_page)0)
#define SIM_ZEROS ((sim_page)1)

/* A page that holds a copy of `data`; the caller owns one reference. */
sim_page sim_page_new(const void *data);
/* A page with the sectors of `over` whose bit is set in `mask`, the others from `under`. */
sim_page sim_page_mix(sim_page under, sim_page over, unsigned mask);
void sim_page_take(sim_page page);
void sim_page_drop(sim_page page);
/* Pages in use in the whole process, to find leaks. */
size_t sim_pages_live(void);
const uint8_t *sim_page_data(sim_page page);

/* Pages under one node: the unit in which tables are shared. */
#define SIM_NODE_PAGES 64u

struct sim_node;

/* Zero-initialised is empty. */
struct sim_pages {
    struct sim_node **nodes;
    size_t node_count;
    uint64_t allocated; /* pages that are no holes */
    uint64_t bytes;     /* length of the file */
};

void sim_pages_release(struct sim_pages *pages);
/* `copy` is uninitialised before. */
void sim_pages_copy(struct sim_pages *copy, const struct sim_pages *pages);
/* The page at `index`, without a reference. */
sim_page sim_pages_get(const struct sim_pages *pages, uint64_t index);
/* Takes a reference of its own. */
void sim_pages_set(struct sim_pages *pages, uint64_t index, sim_page page);
/* Makes holes of `count` pages; costs what there is of them. */
void sim_pages_clear(struct sim_pages *pages, uint64_t first, uint64_t count);
/* Bytes past the end read as zeros; any alignment. */
void sim_pages_read(const struct sim_pages *pages, uint64_t offset, void *data, uint64_t length);
/* Any alignment; extends the file. */
void sim_pages_write(struct sim_pages *pages, uint64_t offset, const void *data, uint64_t length);
/* Shrinking frees what lies behind. */
void sim_pages_truncate(struct sim_pages *pages, uint64_t bytes);

#endif
