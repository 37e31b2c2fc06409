/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop; see reactor.h. The backends do the operations.
 *
 * Invariants:
 * - A completed operation is on `completed` until its done() is called. What is taken from a list
 * is taken one at a time, so that a nested step finds the rest.
 * - wake_op polls the eventfd from the first step on. A write to it is lost on nobody: the
 *   flags it stands for are looked at in each round, after it was read.
 */
#include "reactor_impl.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_ENTRIES 512u

/* ---- lists ---- */

void reactor_list_add(struct reactor_list *list, struct reactor_op *op)
{
    op->next = NULL;
    op->previous = list->tail;
    if (list->tail)
        list->tail->next = op;
    else
        list->head = op;
    list->tail = op;
}

void reactor_list_remove(struct reactor_list *list, struct reactor_op *op)
{
    if (op->previous)
        op->previous->next = op->next;
    else
        list->head = op->next;
    if (op->next)
        op->next->previous = op->previous;
    else
        list->tail = op->previous;
}

/* ---- making one ---- */

int reactor_new(const struct reactor_options *options, struct reactor **out)
{
    static const struct reactor_options defaults;
    struct reactor *reactor = calloc(1, sizeof(*reactor));
    int result = -ENOSYS;

    if (!reactor)
        return -ENOMEM;
    options = options ? options : &defaults;
    reactor->hooks_tail = &reactor->hooks;
    reactor->posted_tail = &reactor->posted;
    reactor->poll_max = options->poll;
    reactor->is_crowded = options->is_crowded;
    reactor->opaque = options->opaque;
    pthread_mutex_init(&reactor->mutex, NULL);
    reactor->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (reactor->wake_fd < 0) {
        result = -errno;
        goto fail;
    }
    if (!options->no_memory)
        reactor_memory_open(&reactor->memory);
    if (!options->no_uring)
        result = reactor_uring_open(reactor, options->entries ? options->entries : DEFAULT_ENTRIES);
    if (result)
        result = reactor_threads_open(reactor);
    if (result)
        goto fail;
    *out = reactor;
    return 0;

fail:
    reactor_memory_close(&reactor->memory);
    if (reactor->wake_fd >= 0)
        close(reactor->wake_fd);
    pthread_mutex_destroy(&reactor->mutex);
    free(reactor);
    return result;
}

const char *reactor_backend(const struct reactor *reactor)
{
    return reactor->backend->name;
}

int64_t reactor_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* ---- operations ---- */

void reactor_submit(struct reactor *reactor, struct reactor_op *op)
{
    reactor->in_flight++;
    op->backend = NULL;
    reactor->backend->submit(reactor, op);
}

void reactor_cancel(struct reactor *reactor, struct reactor_op *op)
{
    reactor->backend->cancel(reactor, op);
}

void reactor_complete(struct reactor *reactor, struct reactor_op *op, int result)
{
    op->result = result;
    op->backend = NULL; /* it is in no list of theirs: a cancel comes too late */
    reactor_list_add(&reactor->completed, op);
}

/* ---- memory ---- */

void *reactor_take(struct reactor *reactor, size_t bytes)
{
    return reactor_memory_take(&reactor->memory, bytes);
}

void reactor_give(struct reactor *reactor, void *memory, size_t bytes)
{
    if (memory)
        reactor_memory_give(&reactor->memory, memory, bytes);
}

/* ---- work for the next round, and from other threads ---- */

void reactor_kick(struct reactor *reactor, struct reactor_hook *hook)
{
    if (hook->queued)
        return;
    hook->queued = true;
    hook->next = NULL;
    *reactor->hooks_tail = hook;
    reactor->hooks_tail = &hook->next;
}

void reactor_unkick(struct reactor *reactor, struct reactor_hook *hook)
{
    struct reactor_hook **place = &reactor->hooks;

    if (!hook->queued)
        return;
    while (*place != hook)
        place = &(*place)->next;
    *place = hook->next;
    if (!*place)
        reactor->hooks_tail = place;
    hook->queued = false;
}

static void wake(struct reactor *reactor)
{
    (void)eventfd_write(reactor->wake_fd, 1); /* fails only when it is awake anyway */
}

void reactor_post(struct reactor *reactor, struct reactor_message *message)
{
    message->next = NULL;
    pthread_mutex_lock(&reactor->mutex);
    *reactor->posted_tail = message;
    reactor->posted_tail = &message->next;
    atomic_store(&reactor->any_posted, true);
    pthread_mutex_unlock(&reactor->mutex);
    wake(reactor);
}

void reactor_stop(struct reactor *reactor)
{
    atomic_store(&reactor->stop, true);
    wake(reactor);
}

static void run_posted(struct reactor *reactor)
{
    while (atomic_load(&reactor->any_posted)) {
        struct reactor_message *message;

        pthread_mutex_lock(&reactor->mutex);
        message = reactor->posted;
        reactor->posted = message->next;
        if (!reactor->posted) {
            reactor->posted_tail = &reactor->posted;
            atomic_store(&reactor->any_posted, false);
        }
        pthread_mutex_unlock(&reactor->mutex);
        message->run(message);
    }
}

/* At most as many as were there: what is kicked meanwhile gets its turn in the next round. */
static void run_hooks(struct reactor *reactor)
{
    unsigned count = 0;

    for (const struct reactor_hook *hook = reactor->hooks; hook; hook = hook->next)
        count++;
    for (; count > 0 && reactor->hooks; count--) {
        struct reactor_hook *hook = reactor->hooks;

        reactor_unkick(reactor, hook);
        hook->run(hook);
    }
}

/* ---- the loop ---- */

static void woken(struct reactor_op *op)
{
    struct reactor *reactor = op->owner;
    eventfd_t ignored;

    reactor->wake_armed = false;
    (void)eventfd_read(reactor->wake_fd, &ignored);
}

static void arm_wake(struct reactor *reactor)
{
    if (reactor->wake_armed)
        return;
    reactor->wake_armed = true;
    reactor->wake_op = (struct reactor_op){
        .kind = REACTOR_POLL,
        .fd = reactor->wake_fd,
        .events = POLLIN,
        .done = woken,
        .owner = reactor,
    };
    reactor_submit(reactor, &reactor->wake_op);
}

/* At most as many as were there: what ends meanwhile, as a poll of what is always ready may, gets
 * its turn in the next round. */
static void deliver(struct reactor *reactor)
{
    unsigned count = 0;

    for (const struct reactor_op *op = reactor->completed.head; op; op = op->next)
        count++;
    for (; count > 0 && reactor->completed.head; count--) {
        struct reactor_op *op = reactor->completed.head;

        reactor_list_remove(&reactor->completed, op);
        reactor->in_flight--;
        op->done(op);
    }
}

/* Returns whether anything ran before the wait. */
static bool run_ready(struct reactor *reactor)
{
    bool any;

    reactor_look(reactor);
    any = reactor->hooks || atomic_load(&reactor->any_posted);

    run_posted(reactor);
    run_hooks(reactor);
    return any;
}

bool reactor_is_idle(const struct reactor *reactor)
{
    return !reactor->hooks && !reactor->completed.head && !atomic_load(&reactor->any_posted) &&
           !atomic_load(&reactor->stop);
}

static void round_of(struct reactor *reactor, bool wait)
{
    if (wait && reactor_is_idle(reactor))
        reactor_rest(reactor);
    else
        reactor->backend->collect(reactor, false);
    deliver(reactor);
}

static void disarm_wake(struct reactor *reactor)
{
    if (reactor->wake_armed)
        reactor_cancel(reactor, &reactor->wake_op);
    while (reactor->wake_armed) {
        reactor->backend->collect(reactor, true);
        deliver(reactor);
    }
}

void reactor_step(struct reactor *reactor, bool wait)
{
    if (wait)
        arm_wake(reactor);
    wait = !run_ready(reactor) && wait; /* what ran may be what the caller waits for */
    round_of(reactor, wait);
}

void reactor_run(struct reactor *reactor)
{
    while (!atomic_load(&reactor->stop)) {
        arm_wake(reactor);
        (void)run_ready(reactor);
        round_of(reactor, true);
    }
    atomic_store(&reactor->stop, false);
    disarm_wake(reactor); /* a ring takes nothing from another thread than its own */
}

void reactor_free(struct reactor *reactor)
{
    if (!reactor)
        return;
    disarm_wake(reactor);
    assert(!reactor->in_flight && !reactor->completed.head);
    reactor->backend->close(reactor);
    reactor_memory_close(&reactor->memory);
    close(reactor->wake_fd);
    pthread_mutex_destroy(&reactor->mutex);
    free(reactor);
}
