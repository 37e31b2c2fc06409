/* SPDX-License-Identifier: Apache-2.0 */
/* An export from inside: the table (exports.c), its requests (export.c). */
#ifndef VDISKD_EXPORT_IMPL_H
#define VDISKD_EXPORT_IMPL_H

#include "export.h"
#include "task.h"

#include <pthread.h>

/* A thread that serves: a reactor, its workers, and what it owns. */
struct lane {
    struct exports *exports;
    struct reactor *reactor;
    struct vdisk_workers *workers;
    struct reactor_op workers_op; /* polls their descriptor */
    bool workers_armed, closing;
    struct export *owned;
    unsigned count; /* of exports; under the table's mutex */
    pthread_t thread;
    bool started;
};

/* Requests that wait for a limit or for space, in order. */
struct export_queue {
    struct export_request *head, **tail;
};

struct export
{
    struct exports *exports;
    struct export *next; /* in the table, by name */
    unsigned references; /* under the table's mutex */
    bool removing;       /* under the table's mutex */

    /* The lane's. */
    struct lane *lane;
    struct export *next_owned;
    struct vdisk_opener opener;
    struct vdisk_image *image;
    struct reactor_hook ready; /* the image has something to do */
    struct export_session *sessions;
    struct task *remover; /* waits for the last session to go */
    bool closing;         /* no new sessions */
    struct export_queue limited, full;
    struct reactor_op limit_timer, full_timer;
    bool limit_armed, full_armed;
    enum export_policy when_full, when_failing;
    struct limit_group *limits, *group;
    struct stats stats;

    pthread_mutex_t mutex; /* of info */
    struct export_info info;
};

struct export_session {
    struct export *export;
    struct export_session *next;
    struct vdisk_snapshot *snapshot;
    const struct export_session_events *events;
    void *opaque;
};

/* Hook: runs the image. */
void export_pump(struct reactor_hook *hook);
/* Ends every request that waits. By the lane's thread. */
void export_fail_waiting(struct export *export, int result);
/* Copies the image's size into info. */
void export_refresh(struct export *export);

#endif
