/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An export from inside: the table (exports.c), its requests (export.c), what becomes of them when
 * the disk is full or fails (export_policy.c), and changes that may have to be made again
 * (export_keep.c), and what fills an image (export_fill.c).
 */
#ifndef VDISKD_EXPORT_IMPL_H
#define VDISKD_EXPORT_IMPL_H

#include "budget.h"
#include "export.h"
#include "task.h"

#include <pthread.h>

/* A thread that serves: a reactor, its workers, and what it owns. */
struct lane {
    struct exports *exports;
    struct reactor *reactor;
    struct vdisk_workers *workers;
    struct budget budget;               /* of clients' data */
    struct reactor_watch workers_watch; /* while it is awake */
    struct reactor_op workers_op;       /* polls their descriptor: they wake it */
    bool workers_armed, closing;
    struct export *owned;
    unsigned owned_count;
    unsigned count; /* of exports; under the table's mutex */
    pthread_t thread;
    bool started;
};

/* Requests that wait, in order. */
struct export_queue {
    struct export_request *head, **tail;
};

/* A change that was answered and may not be durable yet. */
struct export_kept {
    struct export_kept *next;
    uint64_t number;
    enum vdisk_request_op op;
    uint64_t offset, length;
    size_t bytes;   /* of memory */
    uint8_t data[]; /* WRITE */
};

struct export_keeper {
    bool on;
    struct export_kept *head, **tail;
    size_t bytes; /* with those of changes under way */
    size_t limit;
    uint64_t number;            /* of the last answered change */
    struct vdisk_request flush; /* makes room */
    uint64_t flush_mark;
    bool flushing, is_over; /* over: beyond the limit, and not flushed for that yet */
};

/* Filling an image from its source (export_fill.c). The lane's. */
struct export_filling {
    struct vdisk_source *source; /* NULL: none, or not any more */
    void (*release)(struct vdisk_source *source);
    uint64_t rate;   /* bytes a second; 0: none */
    uint64_t cursor; /* in the drive, bytes */
    unsigned tasks;
    bool stop, failing;
    int64_t next;      /* not before that, by the rate */
    uint64_t requests; /* of clients, when it was looked last */
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
    /* For a limit; for the next try; for room among what is kept. */
    struct export_queue limited, waiting, crowded;
    struct reactor_op limit_timer, retry_timer;
    bool limit_armed, retry_armed;
    enum export_policy when_full, when_failing;
    struct export_keeper keeper;
    unsigned busy;                   /* requests and calls in the image */
    bool failure_told;               /* of the image, for damage */
    bool reopening;                  /* there may be no image; everything waits */
    struct task *reopener;           /* waits for what is in the image */
    struct vdisk_unlocked *unlocked; /* to open it anew */
    size_t cache_bytes;              /* 0: an even share */
    struct limit_group *limits, *group;
    struct budget_group memory; /* of clients' data */
    struct export_filling filling;
    struct stats stats;

    pthread_mutex_t mutex; /* of info */
    struct export_info info;
};

struct export_session {
    struct export *export;
    struct export_session *next;
    /* Of a snapshot; `snapshot` is NULL while the image is opened anew, and for good once it is
     * not to be found any more. */
    char *snapshot_name;
    struct vdisk_snapshot *snapshot;
    uint64_t snapshot_size;
    bool lost;
    const struct export_session_events *events;
    void *opaque;
};

/* ---- exports.c: on the lane ---- */

int export_open_image(struct export *export, struct vdisk_image **out, struct vdisk_error *error);
/* Among the images that the lane has now. */
void export_share_memory(struct lane *lane);

/* ---- export.c ---- */

/* For whom exports_options.integrity names. */
void export_tell_failure(struct export *export, uint64_t offset, int result);
/* Likewise for exports_options.filled. */
void export_tell_filled(const struct export *export, const struct export_fill_event *event);
/* Hook: runs the image. */
void export_pump(struct reactor_hook *hook);
/* As long as its thread is awake, it looks for ended jobs itself. */
void export_watch_workers(struct export *export);
void export_push(struct export_queue *queue, struct export_request *request);
struct export_request *export_pop(struct export_queue *queue);
/* Does nothing when it is armed. */
void export_arm(struct export *export, struct reactor_op *timer, bool *armed, int64_t delay);
/* Hands the request to the image, or lets it wait for that. */
void export_start(struct export_request *request);
/* What clients have in memory for it is not counted while it waits (budget.h); after a change of
 * that. */
void export_note_waits(struct export *export);
/* The request has its result. */
void export_finish(struct export_request *request);
/* A request or call has left the image. */
void export_left(struct export *export);
/* Copies the image's size into info. */
void export_refresh(struct export *export);

/* ---- export_policy.c ---- */

/* The image has ended it: finishes it, or lets it wait by policy. */
void export_over(struct export_request *request);
/* It waits for the disk, which is full or fails (`why`), until it has ended: is counted, and told
 * of the first one. */
void export_delay(struct export_request *request, int why);
/* The end of that. */
void export_delay_over(struct export_request *request);
/* Lets it wait for the next try. */
void export_wait(struct export_request *request, int64_t delay);
/* Starts everything that waits for a try. */
void export_restart(struct export *export);
/* Ends every request that waits. By the lane's thread. */
void export_fail_waiting(struct export *export, int result);

/* ---- export_fill.c ---- */

/* When the image is open, by a task of the lane: begins, or lets go of a source that is not needed.
 */
void export_fill_begin(struct export *export);
/* By the task that removes the export: returns when nothing of it is under way. */
void export_fill_end(struct export *export);

/* ---- export_keep.c ---- */

/* Before the image gets the request. False: there is no room for it, or no memory. */
bool export_keep_begin(struct export_request *request);
/* When it has its result from the image. */
void export_keep_end(struct export_request *request);
/* Lets a request wait for room. */
void export_keep_crowded(struct export_request *request);
/* After something has left the image: sees to it that requests that wait for room get it. */
void export_keep_make_room(struct export *export);
/* Of memory, from now on; what is more is flushed soon. */
void export_keep_limit(struct export *export, size_t bytes);
/* The drive was made smaller: what lay beyond its end is not to come back. */
void export_keep_cut(struct export *export, uint64_t size);
/* Makes every kept change again; waits on the spot. */
int export_keep_replay(struct export *export, struct vdisk_image *image);
void export_keep_clear(struct export *export);

#endif
