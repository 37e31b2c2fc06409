/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Worker threads for the library's jobs: the pool that programs hand in.
 */
#ifndef VD_WORKERS_H
#define VD_WORKERS_H

#include "vdisk/io.h"

#define VD_WORKERS_MAX 64u

/* Starts `threads` threads, at most VD_WORKERS_MAX; 0 means one for each processor this process
 * may use. They take no signals. 0, -EINVAL, -ENOMEM or -EAGAIN. The table's functions belong to
 * the thread that owns the images; close() wants no job in flight. */
int vd_workers_open(unsigned threads, struct vdisk_workers **out);
/* An eventfd that gets readable when a job has ended and the list of ended jobs was empty: whoever
 * waits for other things too reads it and calls poll(). From the first call on; it belongs to the
 * pool. -errno. */
int vd_workers_fd(struct vdisk_workers *workers);

#endif
