/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shorthands for tests that talk to a simulated disk directly. They assert.
 */
#ifndef SIM_KIT_H
#define SIM_KIT_H

#include "sim_io.h"
#include "sim_pages.h"

#define PAGE   SIM_PAGE_BYTES
#define SECTOR SIM_SECTOR_BYTES

extern uint8_t sim_data[64 * PAGE]; /* to write from */
extern uint8_t sim_back[64 * PAGE]; /* to read into */
extern int sim_done_count;          /* completions */

/* A teardown: fails when a disk was not freed. */
int sim_check_leaks(void **state);

/* Fills the request and submits it; offset and length in blocks. */
void sim_queue(struct sim *sim, struct vdisk_io_request *request, enum vdisk_io_op op,
               uint64_t page, void *bytes, uint64_t pages);
/* Polls until nothing is in flight. */
void sim_drain(struct sim *sim);
/* Both, and the result. */
int sim_run(struct sim *sim, enum vdisk_io_op op, uint64_t page, void *bytes, uint64_t pages);
/* Writes `pages` blocks of this byte, by way of sim_data. */
int sim_put(struct sim *sim, uint64_t page, uint8_t byte, uint64_t pages);
int sim_sync(struct sim *sim);
/* The first byte of a block, as a read sees it; as it is after a crash that keeps only what is
 * durable; as it is after a crash in that mode. */
int sim_seen(struct sim *sim, uint64_t page);
int sim_kept(const struct sim *sim, uint64_t page);
int sim_kept_after(const struct sim *sim, enum sim_crash_mode mode, uint64_t page);

#endif
