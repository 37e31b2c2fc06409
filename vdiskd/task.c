/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tasks; see task.h.
 *
 * Invariants:
 * - A task that waits has an operation in flight, is parked, or is on its reactor's list of hooks.
 * It is resumed by its hook alone, so never from within another task.
 * - Whatever becomes of a task after it has yielded is done by who resumed it: nobody frees, or
 * hands to another thread, the stack they stand on.
 * - Each task has a pool of stacks of its own, since it may end on another thread than it began.
 *   Thread-local variables, errno among them, are not to be relied on across task_move().
 */
#include "task.h"

#include "vdisk/co.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct task {
    struct reactor_hook hook;       /* first */
    struct reactor_message message; /* while it moves */
    struct reactor *reactor;
    struct vdisk_co_pool *pool;
    struct vdisk_co *co;
    void (*entry)(void *arg);
    void *arg;
    bool moving, ended;
};

static _Thread_local struct task *current;

__attribute__((noinline)) struct task *task_current(void)
{
    return current;
}

struct reactor *task_reactor(const struct task *task)
{
    return task->reactor;
}

/* ---- running ---- */

static void arrive(struct reactor_message *message)
{
    struct task *task = (struct task *)((char *)message - offsetof(struct task, message));

    reactor_kick(task->reactor, &task->hook);
}

static void resume(struct reactor_hook *hook)
{
    struct task *task = (struct task *)hook;
    struct task *outer = current; /* of a nested step */

    current = task;
    vdisk_co_resume(task->co);
    current = outer;
    if (task->ended) {
        vdisk_co_pool_free(task->pool);
        free(task);
    } else if (task->moving) {
        task->moving = false;
        task->message.run = arrive;
        reactor_post(task->reactor, &task->message);
    }
}

static void begin(void *arg)
{
    struct task *task = arg;

    task->entry(task->arg);
    task->ended = true;
}

int task_spawn(struct reactor *reactor, void (*entry)(void *arg), void *arg)
{
    struct task *task = calloc(1, sizeof(*task));

    if (!task)
        return -ENOMEM;
    *task = (struct task){
        .hook = {.run = resume},
        .reactor = reactor,
        .pool = vdisk_co_pool_new(1),
        .entry = entry,
        .arg = arg,
    };
    if (task->pool)
        task->co = vdisk_co_new(task->pool, begin, task);
    if (!task->co) {
        if (task->pool)
            vdisk_co_pool_free(task->pool);
        free(task);
        return -ENOMEM;
    }
    reactor_kick(reactor, &task->hook);
    return 0;
}

/* ---- waiting ---- */

void task_pause(void)
{
    struct task *task = task_current();

    reactor_kick(task->reactor, &task->hook);
    vdisk_co_yield(task->co);
}

void task_park(struct task **place)
{
    struct task *task = task_current();

    *place = task;
    vdisk_co_yield(task->co);
}

void task_wake(struct task **place)
{
    struct task *task = *place;

    if (!task)
        return;
    *place = NULL;
    reactor_kick(task->reactor, &task->hook);
}

void task_move(struct reactor *reactor)
{
    struct task *task = task_current();

    if (task->reactor == reactor)
        return;
    task->reactor = reactor;
    task->moving = true;
    vdisk_co_yield(task->co);
}

/* ---- operations ---- */

struct waiting {
    struct reactor_op timer;
    struct reactor_op *op;
    struct reactor *reactor;
    struct task *place;
    unsigned pending; /* the operation, and the timer if there is one */
    bool timed_out;
};

static void op_done(struct reactor_op *op)
{
    struct waiting *waiting = op->owner;

    if (--waiting->pending > 0)
        reactor_cancel(waiting->reactor, &waiting->timer);
    else
        task_wake(&waiting->place);
    waiting->op = NULL;
}

static void timer_done(struct reactor_op *timer)
{
    struct waiting *waiting = timer->owner;

    if (--waiting->pending > 0) {
        waiting->timed_out = timer->result == 0;
        if (waiting->timed_out)
            reactor_cancel(waiting->reactor, waiting->op);
    } else {
        task_wake(&waiting->place);
    }
}

int task_do(struct reactor_op *op, int64_t deadline)
{
    struct waiting waiting = {
        .op = op,
        .reactor = task_current()->reactor,
        .pending = 1,
    };

    op->done = op_done;
    op->owner = &waiting;
    reactor_submit(waiting.reactor, op);
    if (deadline != TASK_FOREVER) {
        waiting.pending = 2;
        waiting.timer = (struct reactor_op){
            .kind = REACTOR_SLEEP,
            .deadline = deadline,
            .done = timer_done,
            .owner = &waiting,
        };
        reactor_submit(waiting.reactor, &waiting.timer);
    }
    task_park(&waiting.place);
    return op->result == -ECANCELED && waiting.timed_out ? -ETIMEDOUT : op->result;
}

int task_receive(int fd, void *data, size_t length, int64_t deadline)
{
    struct iovec vector = {data, length};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    struct reactor_op op = {.kind = REACTOR_RECEIVE, .fd = fd, .message = &message};

    return task_do(&op, deadline);
}

int task_send(int fd, struct iovec *vectors, unsigned count, int64_t deadline)
{
    while (count > 0) {
        struct msghdr message = {.msg_iov = vectors, .msg_iovlen = count < 1024 ? count : 1024};
        struct reactor_op op = {.kind = REACTOR_SEND, .fd = fd, .message = &message};
        int sent = task_do(&op, deadline);

        if (sent < 0)
            return sent;
        for (; count > 0 && (size_t)sent >= vectors->iov_len; vectors++, count--)
            sent -= (int)vectors->iov_len;
        if (sent > 0) {
            vectors->iov_base = (char *)vectors->iov_base + sent;
            vectors->iov_len -= (size_t)sent;
        }
    }
    return 0;
}

int task_accept(int fd, int64_t deadline)
{
    struct reactor_op op = {.kind = REACTOR_ACCEPT, .fd = fd};

    return task_do(&op, deadline);
}

int task_poll(int fd, unsigned events, int64_t deadline)
{
    struct reactor_op op = {.kind = REACTOR_POLL, .fd = fd, .events = events};

    return task_do(&op, deadline);
}

void task_sleep(int64_t nanoseconds)
{
    struct reactor_op op = {.kind = REACTOR_SLEEP, .deadline = reactor_now() + nanoseconds};

    (void)task_do(&op, TASK_FOREVER);
}
