/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What becomes of requests when the disk under an image is full or fails: they are reported, or
 * wait in `waiting` and are tried again, and if need be the image is opened anew (export.h).
 *
 * The image is opened anew by a task: it waits until nothing is in the old one, closes the
 * snapshots of sessions and the image, and opens them again until that works. All the while there
 * is `reopening`, and what comes waits.
 */
#include "export_impl.h"
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TRY_AGAIN_NS INT64_C(1000000000)

static bool is_full(int result)
{
    return result == -ENOSPC || result == -EDQUOT;
}

static bool is_failing(int result)
{
    return result == -EIO || result == -ENXIO || result == -ENODEV || result == -ESTALE ||
           result == VDISK_E_FAILED;
}

/* For what is in an image that fails, its first failure counts. */
static bool is_to_wait(const struct export *export, int result)
{
    int cause = result;

    if (export->closing || (!is_full(result) && !is_failing(result)))
        return false;
    if (export->reopening)
        return true;
    if (result == VDISK_E_FAILED)
        cause = vdisk_failed(export->image);
    if (is_full(cause))
        return export->when_full == EXPORT_WAIT;
    return (is_failing(cause) || cause == -ENOMEM) && export->when_failing == EXPORT_WAIT;
}

/* ---- opening anew ---- */

/* Nothing is in the image. */
static void shut(struct export *export)
{
    struct vdisk_image *image = export->image;

    export->image = NULL;
    export->failure_told = false;
    for (struct export_session *session = export->sessions; session; session = session->next) {
        vdisk_snapshot_close(session->snapshot);
        session->snapshot = NULL;
    }
    vdisk_abandon(image);
}

static struct export_session *next_without_snapshot(struct export *export)
{
    struct export_session *session = export->sessions;

    while (session && (!session->snapshot_name || session->snapshot || session->lost))
        session = session->next;
    return session;
}

/* A session may be detached while we wait; none is attached. */
static int open_snapshots(struct export *export, struct vdisk_image *image)
{
    struct export_session *session, *same;
    int result = 0;

    while (result == 0 && (session = next_without_snapshot(export))) {
        char name[VDISK_NAME_MAX + 1];
        struct vdisk_snapshot *snapshot = NULL;

        memcpy(name, session->snapshot_name, strlen(session->snapshot_name) + 1);
        result = vdisk_snapshot_open(image, name, &snapshot);
        for (same = export->sessions; same && same != session;)
            same = same->next;
        if (!same) {
            vdisk_snapshot_close(snapshot);
            result = result == VDISK_E_NOT_FOUND ? 0 : result;
        } else if (result == VDISK_E_NOT_FOUND) {
            session->lost = true;
            result = 0;
        } else {
            session->snapshot = snapshot;
        }
    }
    return result;
}

static void send_lost_away(struct export *export)
{
    for (struct export_session *session = export->sessions, *next; session; session = next) {
        next = session->next;
        if (session->lost && session->events && session->events->gone)
            session->events->gone(session->opaque);
    }
}

static void tell(const struct export *export, enum log_level level, const char *event, int code)
{
    log_event(level, event, "export", export->info.name, "image", export->info.path, "error",
              code ? vdisk_strerror(code) : NULL, NULL);
}

static int open_again(struct export *export)
{
    struct vdisk_image *image;
    struct vdisk_error error;
    int result = export_open_image(export, &image, &error);

    if (result)
        return result;
    result = open_snapshots(export, image);
    if (result == 0)
        result = export_keep_replay(export, image);
    export->image = image;
    if (result)
        shut(export);
    return result;
}

static void reopen(void *arg)
{
    struct export *export = arg;
    int result, told = 0;

    while (export->busy > 0)
        task_park(&export->reopener);
    tell(export, LOG_ERROR, "image-failed", vdisk_failed(export->image));
    shut(export);
    while (!export->closing && (result = open_again(export))) {
        if (result != told) /* not each second */
            tell(export, LOG_ERROR, "image-reopen", result);
        told = result;
        task_sleep(TRY_AGAIN_NS);
    }
    export->reopening = false;
    export_note_waits(export);
    task_wake(&export->remover);
    if (!export->image)
        return; /* it is being removed; that looks after what waits */
    tell(export, LOG_WARNING, "image-reopened", 0);
    export_share_memory(export->lane);
    atomic_fetch_add_explicit(&export->stats.reopened, 1, memory_order_relaxed);
    reactor_kick(export->lane->reactor, &export->ready);
    send_lost_away(export);
    export_restart(export);
}

static void begin_reopening(struct export *export)
{
    export->reopening = task_spawn(export->lane->reactor, reopen, export) == 0;
}

/* ---- waiting ---- */

static void try_again(struct reactor_op *timer)
{
    struct export *export = timer->owner;

    export->retry_armed = false;
    if (!export->image && export->closing)
        export_fail_waiting(export, -ESHUTDOWN);
    else
        export_restart(export);
}

void export_wait(struct export_request *request, int64_t delay)
{
    struct export *export = request->session->export;

    export_push(&export->waiting, request);
    export_note_waits(export);
    export->retry_timer.done = try_again;
    export_arm(export, &export->retry_timer, &export->retry_armed, delay);
}

void export_delay(struct export_request *request, int why)
{
    struct export *export = request->session->export;

    if (request->delayed)
        return;
    request->delayed = true;
    if (atomic_fetch_add_explicit(&export->stats.delayed, 1, memory_order_relaxed) == 0)
        tell(export, LOG_ERROR, "requests-wait", why);
}

void export_delay_over(struct export_request *request)
{
    struct export *export = request->session->export;

    request->delayed = false;
    if (atomic_fetch_sub_explicit(&export->stats.delayed, 1, memory_order_relaxed) == 1)
        tell(export, LOG_WARNING, "requests-wait-over", request->request.result);
}

void export_restart(struct export *export)
{
    struct export_queue again = export->waiting;
    struct export_request *request;

    export->waiting.head = NULL;
    while ((request = export_pop(&again))) {
        if (request->session->lost) {
            request->request.result = -ESHUTDOWN;
            export_finish(request);
        } else {
            export_start(request);
        }
    }
}

void export_over(struct export_request *request)
{
    struct export *export = request->session->export;
    int result = request->request.result;

    if (!is_to_wait(export, result)) {
        export_finish(request);
        return;
    }
    export_delay(request, result);
    if (is_full(result))
        atomic_fetch_add_explicit(&export->stats.waiting_for_space, 1, memory_order_relaxed);
    if (!export->reopening && vdisk_failed(export->image))
        begin_reopening(export); /* without memory for it, the next try does */
    export_wait(request, TRY_AGAIN_NS);
}

void export_fail_waiting(struct export *export, int result)
{
    struct export_request *request;

    while ((request = export_pop(&export->limited)) || (request = export_pop(&export->waiting)) ||
           (request = export_pop(&export->crowded))) {
        request->request.result = result;
        export_finish(request);
    }
}
