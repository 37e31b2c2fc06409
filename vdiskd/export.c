/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The requests and sessions of an export (export.h), on the thread of its lane.
 *
 * A request goes: limits (waits in `limited`), room to keep it (`crowded`, export_keep.c), image,
 * and, when the disk is full or fails and the policy says so, `waiting`, from where it is tried
 * again (export_policy.c). So each is in one of these places, and done() is called exactly once.
 */
#include "export_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_AGAIN_NS INT64_C(50000000)

/* ---- the image ---- */

static bool is_damage(int result)
{
    return result == VDISK_E_NOT_AUTHENTIC || result == VDISK_E_MALFORMED;
}

/* Work that is no request of a client has met it. */
static void tell_damage(struct export *export, int result)
{
    atomic_fetch_add_explicit(&export->stats.integrity_errors, 1, memory_order_relaxed);
    export_tell_failure(export, EXPORT_NO_OFFSET, result);
}

/* A checkpoint that the image made by itself has no other way to tell. */
static void look_for_damage(struct export *export)
{
    int failure = vdisk_failed(export->image);

    if (!is_damage(failure) || export->failure_told)
        return;
    export->failure_told = true;
    tell_damage(export, failure);
}

void export_pump(struct reactor_hook *hook)
{
    struct export *export = (struct export *)((char *)hook - offsetof(struct export, ready));

    if (!export->image) /* it is being opened, or closed */
        return;
    (void)vdisk_poll(export->image, false);
    export_watch_workers(export);
    look_for_damage(export);
    if (vdisk_ready(export->image))
        reactor_kick(export->lane->reactor, &export->ready);
}

void export_left(struct export *export)
{
    if (--export->busy == 0)
        task_wake(&export->reopener);
    export_keep_make_room(export);
}

struct call {
    struct export *export;
    struct vdisk_image *image;
    int (*fn)(struct vdisk_image *image, void *arg);
    void *arg;
    int result;
    struct vdisk_error error;
    struct task *caller;
};

static void call_entry(void *opaque)
{
    struct call *call = opaque;
    uint64_t size = vdisk_size(call->image);

    call->result = call->fn(call->image, call->arg);
    if (call->result)
        call->error = *vdisk_last_error(call->image);
    if (is_damage(call->result)) {
        call->export->failure_told |= vdisk_failed(call->image) == call->result;
        tell_damage(call->export, call->result);
    }
    if (vdisk_size(call->image) < size)
        export_keep_cut(call->export, vdisk_size(call->image));
    export_left(call->export);
    task_wake(&call->caller);
}

/* While it is opened anew. Afterwards there is none if the export is being removed. */
static void wait_for_image(const struct export *export)
{
    while (export->reopening)
        task_sleep(LOOK_AGAIN_NS);
}

int export_call(struct export *export, int (*fn)(struct vdisk_image *image, void *arg), void *arg,
                struct vdisk_error *error)
{
    struct reactor *here = task_reactor(task_current());
    struct call call = {.export = export, .fn = fn, .arg = arg};
    int result;

    task_move(export->lane->reactor);
    wait_for_image(export);
    call.image = export->image;
    result = call.image ? vdisk_spawn(call.image, call_entry, &call) : VDISK_E_NOT_FOUND;
    if (result == 0) {
        export->busy++;
        reactor_kick(export->lane->reactor, &export->ready);
        task_park(&call.caller);
        result = call.result;
    }
    task_move(here);
    if (result && error) {
        *error = call.error;
        if (!error->text[0])
            (void)snprintf(error->text, sizeof(error->text), "%s", vdisk_strerror(result));
        error->code = result;
    }
    return result;
}

/* ---- queues ---- */

void export_push(struct export_queue *queue, struct export_request *request)
{
    if (!queue->head)
        queue->tail = &queue->head;
    request->next = NULL;
    *queue->tail = request;
    queue->tail = &request->next;
}

struct export_request *export_pop(struct export_queue *queue)
{
    struct export_request *request = queue->head;

    if (request)
        queue->head = request->next;
    return request;
}

void export_arm(struct export *export, struct reactor_op *timer, bool *armed, int64_t delay)
{
    if (*armed)
        return;
    *armed = true;
    timer->kind = REACTOR_SLEEP;
    timer->deadline = reactor_now() + delay;
    timer->owner = export;
    reactor_submit(export->lane->reactor, timer);
}

void export_note_waits(struct export *export)
{
    budget_group_waits(&export->lane->budget, &export->memory,
                       export->limited.head || export->waiting.head || export->reopening);
}

/* ---- the end of a request ---- */

static enum stats_op counted_as(enum vdisk_request_op op)
{
    switch (op) {
    case VDISK_READ:
        return STATS_READ;
    case VDISK_WRITE:
        return STATS_WRITE;
    case VDISK_FLUSH:
        return STATS_FLUSH;
    case VDISK_DISCARD:
        return STATS_DISCARD;
    case VDISK_ZERO:
        break;
    }
    return STATS_ZERO;
}

void export_finish(struct export_request *request)
{
    struct export *export = request->session->export;
    int result = request->request.result;

    atomic_fetch_sub_explicit(&export->stats.in_flight, 1, memory_order_relaxed);
    stats_add(&export->stats, counted_as(request->request.op), request->request.length,
              reactor_now() - request->began, result);
    if (is_damage(result))
        export_tell_failure(export, request->request.offset, result);
    if (request->delayed)
        export_delay_over(request);
    if (export->memory.waits)
        export_note_waits(export);
    request->done(request);
}

static void image_done(struct vdisk_request *vdisk_request)
{
    struct export_request *request = vdisk_request->owner;
    struct export *export = request->session->export;

    export_keep_end(request);
    export_over(request);
    export_left(export);
}

void export_start(struct export_request *request)
{
    struct export_session *session = request->session;
    struct export *export = session->export;

    if (export->reopening) {
        export_delay(request, VDISK_E_FAILED);
        export_push(&export->waiting, request);
        export_note_waits(export);
        return;
    }
    if (!export->image || session->lost) { /* it ends, but not within export_submit() */
        export_wait(request, 0);
        return;
    }
    if (export->crowded.head || !export_keep_begin(request)) {
        export_keep_crowded(request);
        return;
    }
    request->request.done = image_done;
    request->request.owner = request;
    request->request.snapshot = session->snapshot;
    export->busy++;
    vdisk_submit(export->image, &request->request);
    reactor_kick(export->lane->reactor, &export->ready);
}

/* ---- limits ---- */

static void limit_over(struct reactor_op *timer);

/* 0: it may start; else when to ask again. */
static int64_t ask_limits(struct export *export, const struct export_request *request, bool waited)
{
    const struct vdisk_request *r = &request->request;

    if (r->op == VDISK_FLUSH)
        return 0;
    /* What is not transferred costs an operation and no bytes. */
    return limit_take(export->limits, export->group, r->op != VDISK_READ,
                      r->op <= VDISK_WRITE ? r->length : 0, reactor_now(), waited);
}

static void wait_for_limit(struct export *export, int64_t delay)
{
    export->limit_timer.done = limit_over;
    export_arm(export, &export->limit_timer, &export->limit_armed, delay);
}

static void limit_over(struct reactor_op *timer)
{
    struct export *export = timer->owner;

    export->limit_armed = false;
    while (export->limited.head) {
        int64_t delay = ask_limits(export, export->limited.head, true);

        if (delay > 0) {
            wait_for_limit(export, delay);
            return;
        }
        export_start(export_pop(&export->limited));
    }
    export_note_waits(export);
}

void export_submit(struct export_session *session, struct export_request *request)
{
    struct export *export = session->export;
    int64_t delay = 0;

    request->session = session;
    request->began = reactor_now();
    request->delayed = false;
    atomic_fetch_add_explicit(&export->stats.in_flight, 1, memory_order_relaxed);
    if (!export->limited.head)
        delay = ask_limits(export, request, false);
    if (!export->limited.head && delay == 0) {
        export_start(request);
        return;
    }
    atomic_fetch_add_explicit(&export->stats.throttled, 1, memory_order_relaxed);
    export_push(&export->limited, request);
    export_note_waits(export);
    wait_for_limit(export, delay);
}

/* ---- sessions ---- */

static void enter(struct export_session *session)
{
    struct export *export = session->export;

    session->next = export->sessions;
    export->sessions = session;
    if (!session->events)
        return;
    pthread_mutex_lock(&export->mutex);
    export->info.sessions++;
    pthread_mutex_unlock(&export->mutex);
    atomic_fetch_add_explicit(&export->stats.sessions_total, 1, memory_order_relaxed);
}

/* In the image: it stays until the session is known, and its snapshot with it. */
static int enter_with_snapshot(struct vdisk_image *image, void *arg)
{
    struct export_session *session = arg;
    struct vdisk_snapshot_info info;
    int result = vdisk_snapshot_open(image, session->snapshot_name, &session->snapshot);

    if (result)
        return result;
    if (session->export->closing) { /* it went away while we waited */
        vdisk_snapshot_close(session->snapshot);
        return VDISK_E_NOT_FOUND;
    }
    vdisk_snapshot_get_info(session->snapshot, &info);
    session->snapshot_size = info.size;
    enter(session);
    return 0;
}

int export_attach(struct export *export, const char *snapshot,
                  const struct export_session_events *events, void *opaque,
                  struct export_session **out, struct vdisk_error *error)
{
    struct export_session *session = calloc(1, sizeof(*session));
    char *name = snapshot ? strdup(snapshot) : NULL;
    int result = session && (name || !snapshot) ? 0 : -ENOMEM;

    if (result == 0) {
        *session = (struct export_session){
            .export = export, .snapshot_name = name, .events = events, .opaque = opaque};
        wait_for_image(export);
        if (snapshot)
            result = export_call(export, enter_with_snapshot, session, error);
        else if (export->closing || !export->image)
            result = VDISK_E_NOT_FOUND;
        else
            enter(session);
    }
    if (result) {
        free(name);
        free(session);
        return result;
    }
    *out = session;
    return 0;
}

void export_detach(struct export_session *session)
{
    struct export *export;
    struct export_session **place;
    bool is_counted;

    if (!session)
        return;
    export = session->export;
    is_counted = session->events;
    place = &export->sessions;
    while (*place != session)
        place = &(*place)->next;
    *place = session->next;
    vdisk_snapshot_close(session->snapshot);
    free(session->snapshot_name);
    free(session);
    pthread_mutex_lock(&export->mutex);
    export->info.sessions -= is_counted;
    pthread_mutex_unlock(&export->mutex);
    if (!export->sessions)
        task_wake(&export->remover);
}

struct export *export_session_export(struct export_session *session)
{
    return session->export;
}

uint64_t export_session_size(const struct export_session *session)
{
    const struct export *export = session->export;

    if (session->snapshot_name)
        return session->snapshot_size;
    return export->image ? vdisk_size(export->image) : export->info.size;
}

bool export_session_read_only(const struct export_session *session)
{
    return session->snapshot_name || session->export->info.read_only;
}

int export_session_snapshot(const struct export_session *session, struct vdisk_snapshot **out)
{
    if (session->lost)
        return VDISK_E_NOT_FOUND;
    *out = session->snapshot;
    return 0;
}

/* ---- what others may know ---- */

void export_refresh(struct export *export)
{
    if (!export->image) /* it is opened anew, and looked at then */
        return;
    pthread_mutex_lock(&export->mutex);
    export->info.size = vdisk_size(export->image);
    pthread_mutex_unlock(&export->mutex);
}

void export_get_info(struct export *export, struct export_info *info)
{
    pthread_mutex_lock(&export->mutex);
    *info = export->info;
    pthread_mutex_unlock(&export->mutex);
}

void export_get_figures(struct export *export, struct vdisk_figures *figures)
{
    struct reactor *here = task_reactor(task_current());

    task_move(export->lane->reactor);
    *figures = (struct vdisk_figures){0};
    if (export->image)
        vdisk_get_figures(export->image, figures);
    task_move(here);
}

void export_resized(struct export *export)
{
    struct reactor *here = task_reactor(task_current());

    task_move(export->lane->reactor);
    export_refresh(export);
    for (struct export_session *session = export->sessions; session; session = session->next) {
        if (session->events && session->events->resized)
            session->events->resized(session->opaque);
    }
    task_move(here);
}

struct reactor *export_reactor(const struct export *export)
{
    return export->lane->reactor;
}

void export_budget_enter(struct export *export, struct budget_share *share)
{
    budget_enter(&export->lane->budget, &export->memory, share);
}

struct stats *export_stats(struct export *export)
{
    return &export->stats;
}

struct limit_group *export_limits(struct export *export)
{
    return export->limits;
}
