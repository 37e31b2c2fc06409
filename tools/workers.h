/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Worker threads for the library's jobs: the pool that programs hand in.
 */
#ifndef VD_WORKERS_H
#define VD_WORKERS_H

#include "vdisk/io.h"

#include <stdbool.h>

#define VD_WORKERS_MAX 64u

/* Starts `threads` threads, at most VD_WORKERS_MAX; 0 means one for each processor this process
 * may use. They take no signals. 0, -EINVAL, -ENOMEM or -EAGAIN. The table's functions belong to
 * the thread that owns the images; close() wants no job in flight. */
int vd_workers_open(unsigned threads, struct vdisk_workers **out);
/* An eventfd that gets readable when a job has ended and the list of ended jobs was empty: whoever
 * waits for other things too reads it and calls poll(). From the first call on; it belongs to the
 * pool. -errno. */
int vd_workers_fd(struct vdisk_workers *workers);
/* The owner does not sleep and looks itself (vd_workers_have_ended): the descriptor tells nothing.
 * Or it is about to sleep, and the descriptor tells again: returns whether jobs have ended already,
 * of which it may not. */
bool vd_workers_tell(struct vdisk_workers *workers, bool tell);
/* Whether poll() would find something. A hint, without a lock. */
bool vd_workers_have_ended(const struct vdisk_workers *workers);
/* Whether as many threads of all pools are awake as there are processors: then one that only looks
 * around takes its time from them. A hint, for any thread. */
bool vd_workers_are_crowded(const struct vdisk_workers *workers);

#endif
