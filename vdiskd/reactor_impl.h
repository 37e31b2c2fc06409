/* SPDX-License-Identifier: Apache-2.0 */
/* What a reactor and its two backends share (reactor.h). */
#ifndef VDISKD_REACTOR_IMPL_H
#define VDISKD_REACTOR_IMPL_H

#include "reactor.h"
#include "reactor_memory.h"

#include <pthread.h>
#include <stdatomic.h>

/* A list of operations, through next and previous. Zero-initialised is empty. */
struct reactor_list {
    struct reactor_op *head, *tail;
};

struct reactor_backend {
    const char *name;
    /* Takes the operation, or completes it with an error. */
    void (*submit)(struct reactor *reactor, struct reactor_op *op);
    void (*cancel)(struct reactor *reactor, struct reactor_op *op);
    /* Completes what has ended; with `wait`, sleeps until something has. */
    void (*collect)(struct reactor *reactor, bool wait);
    /* Whether collect() would find anything, without a system call. NULL: it cannot tell. */
    bool (*peek)(struct reactor *reactor);
    void (*close)(struct reactor *reactor);
};

struct reactor {
    const struct reactor_backend *backend;
    void *state; /* the backend's */
    struct reactor_list completed;
    struct reactor_hook *hooks, **hooks_tail;
    struct reactor_watch *watches;
    unsigned in_flight;
    struct reactor_memory memory;
    int64_t poll_max, poll_window; /* nanoseconds */
    bool (*is_crowded)(void *opaque);
    void *opaque;

    int wake_fd; /* an eventfd: posts, stop */
    struct reactor_op wake_op;
    bool wake_armed;
    atomic_bool stop;
    pthread_mutex_t mutex; /* of the posted messages */
    struct reactor_message *posted, **posted_tail;
    atomic_bool any_posted;
};

void reactor_list_add(struct reactor_list *list, struct reactor_op *op);
void reactor_list_remove(struct reactor_list *list, struct reactor_op *op);

/* The operation has ended; done() is called later, by reactor_step(). */
void reactor_complete(struct reactor *reactor, struct reactor_op *op, int result);

/* Nothing to do but what the backend may yet find. */
bool reactor_is_idle(const struct reactor *reactor);

/* reactor_rest.c */
void reactor_look(struct reactor *reactor);
/* Of an idle reactor: waits until there is something to do. */
void reactor_rest(struct reactor *reactor);

/* 0 or -errno: -ENOSYS, -EPERM or -ENOMEM where the system has no io_uring for us. */
int reactor_uring_open(struct reactor *reactor, unsigned entries);
int reactor_threads_open(struct reactor *reactor);

#endif
