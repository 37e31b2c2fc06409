/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop of one thread: operations on files, sockets and time that end later, by io_uring,
 * or, where that is not permitted, by epoll and a few threads (reactor_uring.c,
 * reactor_threads.c).
 *
 * Everything but reactor_post() and reactor_stop() belongs to the thread that runs the loop (before
 * reactor_run(), to the one that made it). A completion never runs inside reactor_submit().
 */
#ifndef VDISKD_REACTOR_H
#define VDISKD_REACTOR_H

#include "vdisk/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

struct reactor;

struct reactor_time { /* as the kernel's */
    int64_t seconds;
    long long nanoseconds;
};

enum reactor_kind {
    REACTOR_READ,     /* preadv: bytes, may be short */
    REACTOR_WRITE,    /* pwritev: bytes, may be short */
    REACTOR_SYNC,     /* fdatasync */
    REACTOR_ALLOCATE, /* fallocate */
    REACTOR_RECEIVE,  /* recvmsg: bytes, 0 at the end */
    REACTOR_SEND,     /* sendmsg with MSG_NOSIGNAL: bytes, may be short */
    REACTOR_ACCEPT,   /* a connection, non-blocking and close-on-exec */
    REACTOR_POLL,     /* once: the events that came */
    REACTOR_SLEEP,    /* 0 when it is `deadline` */
};

/* The submitter's, untouched by it from reactor_submit() until done() is called. */
struct reactor_op {
    enum reactor_kind kind;
    int fd;
    union {
        struct { /* READ, WRITE */
            const struct iovec *vectors;
            unsigned count;
            uint64_t offset;
        };
        struct { /* ALLOCATE */
            int mode;
            uint64_t from, length;
        };
        struct msghdr *message; /* RECEIVE, SEND */
        unsigned events;        /* POLL: POLLIN, POLLOUT, ... */
        int64_t deadline;       /* SLEEP: as reactor_now() */
    };
    int result; /* see above, or a negated errno; -ECANCELED after reactor_cancel() */
    void (*done)(struct reactor_op *op);
    void *owner;
    /* The reactor's while in flight. */
    struct reactor_op *next, *previous;
    void *backend;
    struct reactor_time timeout;
};

struct reactor_options {
    bool no_uring;    /* the fall-back at once */
    bool no_memory;   /* none is kept for reactor_take(), which then takes any */
    unsigned entries; /* of the ring; 0: 512 */
    int64_t poll;     /* nanoseconds to look around before it sleeps, at most (reactor_rest.c) */
    /* Whether other threads want the processor that looking around takes. NULL: never. */
    bool (*is_crowded)(void *opaque);
    void *opaque;
};

/* -errno. */
int reactor_new(const struct reactor_options *options, struct reactor **out);
/* Nothing may be in flight. NULL is allowed. */
void reactor_free(struct reactor *reactor);
/* "io_uring" or "threads". */
const char *reactor_backend(const struct reactor *reactor);

/* Runs until reactor_stop(). */
void reactor_run(struct reactor *reactor);
/* One round: what is ready, and with `wait` sleeps until there is something. May be nested in a
 * completion, for the few places that must wait on the spot (opening an image). */
void reactor_step(struct reactor *reactor, bool wait);
/* From any thread, or a signal handler's. */
void reactor_stop(struct reactor *reactor);

/* Nanoseconds of CLOCK_MONOTONIC. */
int64_t reactor_now(void);

void reactor_submit(struct reactor *reactor, struct reactor_op *op);
/* Asks for its early end; done() comes in any case, soon and with whatever result. */
void reactor_cancel(struct reactor *reactor, struct reactor_op *op);

/*
 * Memory for data, 4096-aligned: reads and writes of it, in one piece, cost the kernel less than
 * those of any other memory, as long as there is enough. NULL without memory. It goes back with the
 * size it was taken with; NULL is allowed.
 */
void *reactor_take(struct reactor *reactor, size_t bytes);
void reactor_give(struct reactor *reactor, void *memory, size_t bytes);

/* Work for the next round, on this thread: run() is called once for each kick that found it idle.
 */
struct reactor_hook {
    void (*run)(struct reactor_hook *hook);
    struct reactor_hook *next;
    bool queued;
};
void reactor_kick(struct reactor *reactor, struct reactor_hook *hook);
/* Takes it back, if it is queued. */
void reactor_unkick(struct reactor *reactor, struct reactor_hook *hook);

/*
 * Memory that others write: looked at in each round, so that they need not wake the thread while it
 * is awake. Neither function may begin or end a watch.
 */
struct reactor_watch {
    void (*look)(struct reactor_watch *watch); /* kicks a hook if there is something to do */
    /* The thread is about to sleep, and the watch has ended: asks to be woken, and looks again. */
    void (*sleep)(struct reactor_watch *watch);
    struct reactor_watch *next, **place; /* place: NULL while it is not watched */
};
void reactor_watch_begin(struct reactor *reactor, struct reactor_watch *watch);
void reactor_watch_end(struct reactor_watch *watch); /* also of one that has not begun */

/* Work from another thread. The message is the reactor's until run() is called. */
struct reactor_message {
    void (*run)(struct reactor_message *message);
    struct reactor_message *next;
};
void reactor_post(struct reactor *reactor, struct reactor_message *message);

#endif
