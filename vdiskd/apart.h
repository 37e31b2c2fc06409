/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work that blocks or takes a second (reading files, deriving keys), asked for by a task.
 */
#ifndef VDISKD_APART_H
#define VDISKD_APART_H

/* By a task: waits while a thread of its own calls fn(arg). The result of fn, or -errno when there
 * is no thread to be had. */
int apart_call(int (*fn)(void *arg), void *arg);

#endif
