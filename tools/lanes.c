/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lanes; see lanes.h.
 *
 * The main thread cuts the drive into pieces and puts them into a queue, from which the lanes take
 * them. One mutex guards the queue and the counts. After the first failure, which is the one that
 * is reported, or a signal, nothing more is taken.
 */
#include "lanes.h"

#include "interrupt.h"
#include "ranges.h"
#include "report.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#define LANES_MAX 8u
#define QUEUE     32u
#define PIECE_BYTES                                                                                \
    (UINT64_C(1) << 20) /* fits in a processor's own cache, and makes large folios */
#define ALIGNMENT 4096u
#define LOOK_NS   100000000 /* for a signal, and for the progress bar */

struct lanes;

struct lane {
    struct lanes *lanes;
    pthread_t thread;
    struct vdisk_image *image;
    struct vdisk_snapshot *snapshot;
    struct sink sink; /* a copy, for its error */
    uint8_t *buffer;
};

struct lanes {
    const struct copyout *copy;
    struct vdisk_unlocked *unlocked;
    struct ranges ranges; /* the main thread's, as is the progress */
    struct progress progress;
    pthread_mutex_t mutex;
    pthread_cond_t work_cond;  /* there is a piece, or the end */
    pthread_cond_t moved_cond; /* the queue runs low, or a lane has ended */
    struct range queue[QUEUE];
    unsigned head, tail;
    bool all_queued, stop;
    unsigned running;
    uint64_t copied; /* bytes */
    int result;      /* of the first that failed */
    const char *subject;
    struct vdisk_error error;
    unsigned count;
    struct lane lane[LANES_MAX];
};

/* --- a lane ------------------------------------------------------------------------------- */

/* Waits for a piece; false at the end. With the mutex. */
static bool take(struct lanes *lanes, struct range *piece)
{
    while (!lanes->stop && lanes->head == lanes->tail && !lanes->all_queued)
        pthread_cond_wait(&lanes->work_cond, &lanes->mutex);
    if (lanes->stop || lanes->head == lanes->tail)
        return false;
    *piece = lanes->queue[lanes->tail++ % QUEUE];
    if (lanes->head - lanes->tail == QUEUE / 2)
        pthread_cond_signal(&lanes->moved_cond);
    return true;
}

static void fail(struct lanes *lanes, const char *subject, int result,
                 const struct vdisk_error *error)
{
    pthread_mutex_lock(&lanes->mutex);
    lanes->stop = true;
    if (lanes->result == 0) {
        lanes->result = result;
        lanes->subject = subject;
        lanes->error = *error;
    }
    pthread_cond_broadcast(&lanes->work_cond);
    pthread_mutex_unlock(&lanes->mutex);
}

static void carry(struct lane *lane, const struct range *piece)
{
    struct lanes *lanes = lane->lanes;
    struct sink *sink = &lane->sink;
    int result;

    if (piece->is_zero) {
        result = sink->ops->zeros(sink, piece->offset, piece->length);
    } else {
        result =
            lane->snapshot
                ? vdisk_snapshot_read(lane->snapshot, piece->offset, lane->buffer, piece->length)
                : vdisk_read(lane->image, piece->offset, lane->buffer, piece->length);
        if (result) {
            fail(lanes, lanes->copy->session->spec.text, result, vdisk_last_error(lane->image));
            return;
        }
        result = sink->ops->data(sink, piece->offset, lane->buffer, piece->length);
    }
    if (result)
        fail(lanes, sink->name, result, &sink->error);
}

static void work(struct lane *lane)
{
    struct lanes *lanes = lane->lanes;
    struct range piece;

    pthread_mutex_lock(&lanes->mutex);
    while (take(lanes, &piece)) {
        pthread_mutex_unlock(&lanes->mutex);
        carry(lane, &piece);
        pthread_mutex_lock(&lanes->mutex);
        lanes->copied += piece.length;
    }
    pthread_mutex_unlock(&lanes->mutex);
}

static void *run_lane(void *arg)
{
    struct lane *lane = arg;
    struct lanes *lanes = lane->lanes;

    lane->buffer = aligned_alloc(ALIGNMENT, PIECE_BYTES);
    if (lane->buffer && session_open_again(lanes->copy->session, lanes->unlocked, &lane->image,
                                           &lane->snapshot) == 0) {
        work(lane);
        vdisk_snapshot_close(lane->snapshot);
        vdisk_close(lane->image, NULL); /* only read */
    }
    free(lane->buffer);
    pthread_mutex_lock(&lanes->mutex);
    lanes->running--;
    pthread_cond_signal(&lanes->moved_cond);
    pthread_mutex_unlock(&lanes->mutex);
    return NULL;
}

/* --- the main thread ---------------------------------------------------------------------- */

static void start(struct lanes *lanes)
{
    struct vdisk_workers *workers = lanes->copy->session->workers;
    unsigned wanted = workers ? workers->ops->count(workers) : 1;
    sigset_t all, before;

    wanted = wanted < LANES_MAX ? wanted : LANES_MAX;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_mutex_lock(&lanes->mutex);
    while (lanes->count < wanted) {
        struct lane *lane = &lanes->lane[lanes->count];

        lane->lanes = lanes;
        lane->sink = *lanes->copy->sink;
        if (pthread_create(&lane->thread, NULL, run_lane, lane))
            break;
        lanes->count++;
        lanes->running++;
    }
    pthread_mutex_unlock(&lanes->mutex);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* As many pieces as the queue takes. With the mutex, which is given up meanwhile: looking at the
 * map may read. */
static void fill(struct lanes *lanes)
{
    while (!lanes->stop && !lanes->all_queued && lanes->head - lanes->tail < QUEUE) {
        struct session *session = lanes->copy->session;
        struct range piece;
        int result;

        pthread_mutex_unlock(&lanes->mutex);
        result = ranges_next(&lanes->ranges, &piece);
        if (result)
            fail(lanes, session->spec.text, result, vdisk_last_error(session->image));
        pthread_mutex_lock(&lanes->mutex);
        if (result == 0 && piece.length > 0) {
            lanes->queue[lanes->head++ % QUEUE] = piece;
            pthread_cond_signal(&lanes->work_cond);
        } else {
            lanes->all_queued = true;
            pthread_cond_broadcast(&lanes->work_cond);
        }
    }
}

static void wait_a_little(struct lanes *lanes)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += LOOK_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&lanes->moved_cond, &lanes->mutex, &until);
}

/* Until no lane runs any more. */
static void feed(struct lanes *lanes)
{
    pthread_mutex_lock(&lanes->mutex);
    while (lanes->running > 0) {
        uint64_t copied;

        fill(lanes);
        if (lanes->running > 0)
            wait_a_little(lanes);
        if (interrupt_pending()) {
            lanes->stop = true;
            pthread_cond_broadcast(&lanes->work_cond);
        }
        copied = lanes->copied;
        pthread_mutex_unlock(&lanes->mutex);
        progress_update(&lanes->progress, copied, lanes->copy->length);
        pthread_mutex_lock(&lanes->mutex);
    }
    pthread_mutex_unlock(&lanes->mutex);
    for (unsigned i = 0; i < lanes->count; i++)
        pthread_join(lanes->lane[i].thread, NULL);
}

static bool run(struct lanes *lanes, int *status)
{
    const struct copyout *copy = lanes->copy;

    ranges_begin(&lanes->ranges, copy->session, copy->offset, copy->length, copy->use_map,
                 PIECE_BYTES);
    progress_begin(&lanes->progress, copy->verb, copy->quiet);
    start(lanes);
    feed(lanes);
    progress_clear(&lanes->progress);
    if (lanes->result)
        *status = report(lanes->subject, lanes->result, &lanes->error);
    else if (interrupt_pending())
        *status = report(copy->session->spec.text, -ECANCELED, NULL);
    else if (lanes->copied == copy->length)
        *status = STATUS_DONE;
    else
        return false;
    return true;
}

bool lanes_run(const struct copyout *copy, int *status)
{
    struct lanes *lanes = calloc(1, sizeof(*lanes));
    pthread_condattr_t monotonic;
    bool ran = false;

    if (!lanes)
        return false;
    lanes->copy = copy;
    pthread_mutex_init(&lanes->mutex, NULL); /* none of these can fail on Linux */
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&lanes->work_cond, NULL);
    pthread_cond_init(&lanes->moved_cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
    lanes->unlocked = vdisk_unlocked_of(copy->session->image);
    if (lanes->unlocked)
        ran = run(lanes, status);
    vdisk_unlocked_free(lanes->unlocked);
    pthread_cond_destroy(&lanes->moved_cond);
    pthread_cond_destroy(&lanes->work_cond);
    pthread_mutex_destroy(&lanes->mutex);
    free(lanes);
    return ran;
}
