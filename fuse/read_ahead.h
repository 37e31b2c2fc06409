/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading ahead of who reads in order, where the kernel keeps nothing and so does not do it.
 *
 * Whoever has read RUN_MIN in a row has as much again read for it in the background, up to a limit.
 * What was read so is forgotten when it is changed, when it has been handed out, or when it failed:
 * then who asks for it reads it by itself, and is told.
 *
 * Used by any thread.
 */
#ifndef FUSE_READ_AHEAD_H
#define FUSE_READ_AHEAD_H

#include <stdbool.h>
#include <stdint.h>

#define READ_AHEAD_STREAMS 4u         /* that are followed */
#define READ_AHEAD_PIECES  16u        /* that there may be, an even share for each of them */
#define READ_AHEAD_BYTES   (1u << 20) /* of a piece */

struct read_ahead;

/* Begins to read the piece of that number, under the lock: read_ahead_over() is called once, later,
 * by any thread.
 */
typedef void read_ahead_begin(void *opaque, unsigned number, uint64_t offset, void *data,
                              uint64_t length);

/* Of so many bytes. NULL without memory. */
struct read_ahead *read_ahead_new(uint64_t size, read_ahead_begin *begin, void *opaque);
/* Waits for what was begun. NULL is allowed. */
void read_ahead_free(struct read_ahead *ahead);

void read_ahead_over(struct read_ahead *ahead, unsigned number, bool failed);

/* How much of a range, from its beginning, there was. Waits for what is under way of it. */
uint64_t read_ahead_take(struct read_ahead *ahead, uint64_t offset, void *data, uint64_t length);

/* Makes a change known: calls post(), which gives it its place among what is begun, and forgets the
 * range at the same moment. */
void read_ahead_change(struct read_ahead *ahead, uint64_t offset, uint64_t length,
                       void (*post)(void *opaque), void *opaque);

#endif
