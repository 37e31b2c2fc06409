/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that work through tasks, each with a state of its own (an image opened once more, a
 * sealer, buffers). One thread submits tasks and takes them back when they are done, in any order.
 */
#ifndef BACKUP_CREW_H
#define BACKUP_CREW_H

#include <stdbool.h>

#define VB_CREW_MAX 8u

/* Embedded in what there is to do. */
struct vb_task {
    struct vb_task *next;
};

struct vb_crew_ops {
    /* On the thread, before the first task. An error ends the crew. */
    int (*begin)(void *opaque, void **state);
    /* A result, also an error, is left in the task. */
    void (*work)(void *opaque, void *state, struct vb_task *task);
    void (*end)(void *opaque, void *state);
};

struct vb_crew;

/* `threads` 0: one for each processor that we may use, at most VB_CREW_MAX. Returns when all have
 * begun: 0, or the error of begin(), -ENOMEM, -EAGAIN. The threads take no signals. */
int vb_crew_start(unsigned threads, const struct vb_crew_ops *ops, void *opaque,
                  struct vb_crew **out);
void vb_crew_submit(struct vb_crew *crew, struct vb_task *task);
/* One that is done; NULL when none is within `wait_ms`. */
struct vb_task *vb_crew_take(struct vb_crew *crew, unsigned wait_ms);
/* Drops tasks that nobody has begun, waits for those at work. NULL is allowed. */
void vb_crew_close(struct vb_crew *crew);

#endif
