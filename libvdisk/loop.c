/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop of one image: see loop.h; the locks are in locks.c.
 *
 * Invariants:
 * - A coroutine is run by vd_loop_step and by nothing else. Waking one, completing a request
 *   or ending a job only moves it to the ready list, so none of these runs foreign code.
 * - Each suspended coroutine is on exactly one list, through a vd_waiter on its own stack (or,
 *   before its first run, in its struct spawn).
 * - A step runs what was ready when it began. What becomes ready meanwhile waits for the next
 *   step, so that coroutines that wake each other cannot keep completions from being seen.
 */
#include "loop.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* Finished stacks to keep. Only the pages that were touched cost memory. */
#define MAX_IDLE_COROUTINES 64

struct spawn {
    struct vd_waiter waiter;
    struct vd_loop *loop;
    void (*entry)(void *arg);
    void *arg;
};

static void push(struct vd_waitqueue *queue, struct vd_waiter *waiter)
{
    waiter->next = NULL;
    if (queue->tail)
        queue->tail->next = waiter;
    else
        queue->head = waiter;
    queue->tail = waiter;
}

/* NULL when empty. */
static struct vd_waiter *pop(struct vd_waitqueue *queue)
{
    struct vd_waiter *waiter = queue->head;
    if (!waiter)
        return NULL;
    queue->head = waiter->next;
    if (!queue->head)
        queue->tail = NULL;
    return waiter;
}

int vd_loop_init(struct vd_loop *loop, struct vdisk_io *io, struct vdisk_workers *workers)
{
    struct vdisk_co_pool *pool = vdisk_co_pool_new(MAX_IDLE_COROUTINES);
    if (!pool)
        return -ENOMEM;
    *loop = (struct vd_loop){.root = loop, .io = io, .workers = workers, .pool = pool};
    return 0;
}

void vd_loop_init_view(struct vd_loop *view, struct vd_loop *root, struct vdisk_io *io)
{
    root = root->root;
    *view =
        (struct vd_loop){.root = root, .views = root->views, .io = io, .workers = root->workers};
    root->views = view;
}

void vd_loop_release(struct vd_loop *loop)
{
    assert(!loop->io_in_flight);
    if (loop->root != loop) {
        struct vd_loop **p = &loop->root->views;
        while (*p != loop)
            p = &(*p)->views;
        *p = loop->views;
        return;
    }
    assert(!loop->current && !loop->coroutines && !loop->jobs_in_flight && !loop->views);
    vdisk_co_pool_free(loop->pool);
    loop->pool = NULL;
}

static void spawned(void *arg)
{
    struct spawn spawn = *(struct spawn *)arg;
    free(arg);
    spawn.entry(spawn.arg);
    spawn.loop->coroutines--;
}

int vd_loop_spawn(struct vd_loop *loop, void (*entry)(void *arg), void *arg)
{
    loop = loop->root;
    struct spawn *spawn = malloc(sizeof *spawn);
    if (!spawn)
        return -ENOMEM;
    *spawn = (struct spawn){.loop = loop, .entry = entry, .arg = arg};
    spawn->waiter.co = vdisk_co_new(loop->pool, spawned, spawn);
    if (!spawn->waiter.co) {
        free(spawn);
        return -ENOMEM;
    }
    loop->coroutines++;
    push(&loop->ready, &spawn->waiter);
    return 0;
}

static bool run_ready(struct vd_loop *loop)
{
    struct vd_waitqueue batch = loop->ready;
    struct vd_waiter *waiter;
    bool ran = false;

    loop->ready = (struct vd_waitqueue){0};
    while ((waiter = pop(&batch))) {
        /* The waiter is gone once its coroutine runs. */
        loop->current = waiter->co;
        vdisk_co_resume(waiter->co);
        loop->current = NULL;
        ran = true;
    }
    return ran;
}

static bool run_inline_jobs(struct vd_loop *loop)
{
    struct vdisk_job *job = loop->inline_jobs_head;
    bool ran = job != NULL;

    loop->inline_jobs_head = loop->inline_jobs_tail = NULL;
    while (job) {
        struct vdisk_job *next = job->next;
        job->run(job);
        job->done(job);
        job = next;
    }
    return ran;
}

/* With `wait`, blocks on the first io that has something in flight. */
static bool poll_io(struct vd_loop *loop, bool wait)
{
    bool ran = false;
    for (struct vd_loop *view = loop; view && !(wait && ran);
         view = view == loop ? loop->views : view->views)
        ran |= view->io_in_flight && view->io->ops->poll(view->io, wait) > 0;
    return ran;
}

static bool io_in_flight(const struct vd_loop *loop)
{
    bool any = loop->io_in_flight;
    for (const struct vd_loop *view = loop->views; view && !any; view = view->views)
        any = view->io_in_flight;
    return any;
}

static bool poll_workers(struct vd_loop *loop, bool wait)
{
    return loop->workers && loop->jobs_in_flight &&
           loop->workers->ops->poll(loop->workers, wait) > 0;
}

bool vd_loop_step(struct vd_loop *loop, bool wait)
{
    loop = loop->root;
    assert(!loop->current);

    bool ran = run_ready(loop);
    ran |= run_inline_jobs(loop);
    ran |= poll_workers(loop, false);
    ran |= poll_io(loop, false);
    if (ran)
        return true;

    /* Only one of the two can be slept on. A job that ends meanwhile is seen after the next
     * completion; no request depends on a job, so this delays but cannot hang. */
    if (wait && io_in_flight(loop))
        ran = poll_io(loop, true);
    else if (wait)
        ran = poll_workers(loop, true);
    return ran || io_in_flight(loop) || loop->jobs_in_flight;
}

void vd_wait(struct vd_loop *loop, struct vd_waitqueue *queue)
{
    loop = loop->root;
    assert(loop->current);
    struct vd_waiter waiter = {.co = loop->current};
    push(queue, &waiter);
    vdisk_co_yield(waiter.co);
}

void vd_yield(struct vd_loop *loop)
{
    vd_wait(loop, &loop->root->ready);
}

void vd_wake_one(struct vd_loop *loop, struct vd_waitqueue *queue)
{
    struct vd_waiter *waiter = pop(queue);
    if (waiter)
        push(&loop->root->ready, waiter);
}

void vd_wake_all(struct vd_loop *loop, struct vd_waitqueue *queue)
{
    while (queue->head)
        vd_wake_one(loop, queue);
}

int vd_io(struct vd_loop *loop, enum vdisk_io_op op, uint64_t offset, void *data, uint64_t length)
{
    struct vdisk_io_request request = {.op = op, .offset = offset, .data = data, .length = length};
    struct vd_group group;

    vd_group_init(&group, loop);
    vd_group_io(&group, &request);
    return vd_group_wait(&group);
}

void vd_group_init(struct vd_group *group, struct vd_loop *loop)
{
    *group = (struct vd_group){.loop = loop};
}

/* Nothing of the group's requests and jobs may be touched after the last of these. */
static void member_done(struct vd_group *group)
{
    assert(group->pending > 0);
    if (--group->pending == 0)
        vd_wake_all(group->loop, &group->waiter);
}

static void request_done(struct vdisk_io_request *request)
{
    struct vd_group *group = request->owner;

    assert(group->loop->io_in_flight > 0);
    group->loop->io_in_flight--;
    if (request->result < 0 && !group->result)
        group->result = request->result;
    member_done(group);
}

void vd_group_io(struct vd_group *group, struct vdisk_io_request *request)
{
    struct vd_loop *loop = group->loop;

    request->done = request_done;
    request->owner = group;
    request->next = NULL;
    request->result = 0;
    group->pending++;
    loop->io_in_flight++;
    loop->io->ops->submit(loop->io, request);
}

static void job_done(struct vdisk_job *job)
{
    struct vd_group *group = ((struct vd_group_job *)job)->group;
    struct vd_loop *loop = group->loop->root;

    assert(loop->jobs_in_flight > 0);
    loop->jobs_in_flight--;
    member_done(group);
}

void vd_group_job(struct vd_group *group, struct vd_group_job *job)
{
    struct vd_loop *loop = group->loop->root;

    job->group = group;
    job->job.done = job_done;
    job->job.next = NULL;
    group->pending++;
    loop->jobs_in_flight++;
    if (loop->workers) {
        loop->workers->ops->submit(loop->workers, &job->job);
        return;
    }
    if (loop->inline_jobs_tail)
        loop->inline_jobs_tail->next = &job->job;
    else
        loop->inline_jobs_head = &job->job;
    loop->inline_jobs_tail = &job->job;
}

int vd_group_wait(struct vd_group *group)
{
    while (group->pending)
        vd_wait(group->loop, &group->waiter);
    return group->result;
}
