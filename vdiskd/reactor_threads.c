/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The backend of a reactor where io_uring is not permitted: sockets and events by epoll, files by
 * a few threads that block.
 *
 * An operation is in one place: a file operation on `queue`, in a thread's hands or on `ended`
 * (under the mutex); one on a descriptor that is not ready on the list of its descriptor; one that
 * sleeps on `sleepers`. op->backend says which, for cancelling: a list of a descriptor or
 * `sleepers`; NULL while a thread has it, which cannot be hurried.
 */
#include "reactor_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define THREADS     8u
#define EVENTS      64
#define ENDED_TOKEN UINT64_MAX /* epoll's data for ended_fd */

/* Who waits for a descriptor. */
struct watch {
    struct reactor_list in, out;
};

struct threads {
    int epoll, ended_fd;
    struct watch **watches; /* by descriptor */
    unsigned watch_count;
    struct reactor_list sleepers; /* in no order */

    pthread_mutex_t mutex;
    pthread_cond_t cond;
    struct reactor_list queue, ended;
    bool stop;
    unsigned thread_count;
    pthread_t thread[THREADS];
};

static struct threads *threads_of(struct reactor *reactor)
{
    return reactor->state;
}

/* ---- files, on a thread ---- */

static int transfer(const struct reactor_op *op)
{
    ssize_t count;

    do {
        count = op->kind == REACTOR_READ
                    ? preadv(op->fd, op->vectors, (int)op->count, (off_t)op->offset)
                    : pwritev(op->fd, op->vectors, (int)op->count, (off_t)op->offset);
    } while (count < 0 && errno == EINTR);
    return count < 0 ? -errno : (int)count;
}

static int run_file_op(const struct reactor_op *op)
{
    int result;

    if (op->kind == REACTOR_READ || op->kind == REACTOR_WRITE)
        return transfer(op);
    do {
        result = op->kind == REACTOR_SYNC
                     ? fdatasync(op->fd)
                     : fallocate(op->fd, op->mode, (off_t)op->from, (off_t)op->length);
    } while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : 0;
}

static void *thread(void *arg)
{
    struct threads *threads = arg;

    pthread_mutex_lock(&threads->mutex);
    while (!threads->stop) {
        struct reactor_op *op = threads->queue.head;

        if (!op) {
            pthread_cond_wait(&threads->cond, &threads->mutex);
            continue;
        }
        reactor_list_remove(&threads->queue, op);
        pthread_mutex_unlock(&threads->mutex);
        op->result = run_file_op(op);
        pthread_mutex_lock(&threads->mutex);
        if (!threads->ended.head)
            (void)eventfd_write(threads->ended_fd, 1);
        reactor_list_add(&threads->ended, op);
    }
    pthread_mutex_unlock(&threads->mutex);
    return NULL;
}

static void collect_files(struct reactor *reactor)
{
    struct threads *threads = threads_of(reactor);
    struct reactor_list ended;
    eventfd_t ignored;

    pthread_mutex_lock(&threads->mutex);
    (void)eventfd_read(threads->ended_fd, &ignored);
    ended = threads->ended;
    threads->ended = (struct reactor_list){0};
    pthread_mutex_unlock(&threads->mutex);
    while (ended.head) {
        struct reactor_op *op = ended.head;

        reactor_list_remove(&ended, op);
        reactor_complete(reactor, op, op->result);
    }
}

/* ---- descriptors that may not be ready ---- */

static struct watch *watch_of(struct threads *threads, int fd)
{
    unsigned index = (unsigned)fd;

    if (index >= threads->watch_count) {
        unsigned count = index + 64;
        struct watch **grown = realloc(threads->watches, count * sizeof(struct watch *));

        if (!grown)
            return NULL;
        for (unsigned i = threads->watch_count; i < count; i++)
            grown[i] = NULL;
        threads->watches = grown;
        threads->watch_count = count;
    }
    if (!threads->watches[index])
        threads->watches[index] = calloc(1, sizeof(struct watch));
    return threads->watches[index];
}

static uint32_t wanted_events(const struct watch *watch)
{
    uint32_t events = 0;

    for (const struct reactor_op *op = watch->in.head; op; op = op->next)
        events |= op->kind == REACTOR_POLL ? op->events : (uint32_t)EPOLLIN;
    if (watch->out.head)
        events |= EPOLLOUT;
    return events;
}

/* 0 or -errno. A number that was closed and given anew is not known to epoll any more. */
static int arm(struct threads *threads, int fd, struct watch *watch)
{
    struct epoll_event event = {.events = wanted_events(watch) | EPOLLONESHOT,
                                .data.u64 = (uint64_t)fd};

    if (!wanted_events(watch))
        return 0;
    if (epoll_ctl(threads->epoll, EPOLL_CTL_MOD, fd, &event) == 0)
        return 0;
    if (errno == ENOENT && epoll_ctl(threads->epoll, EPOLL_CTL_ADD, fd, &event) == 0)
        return 0;
    return -errno;
}

/* -EAGAIN: not yet. */
static int attempt(struct reactor_op *op)
{
    struct pollfd ready = {.fd = op->fd, .events = (short)op->events};
    ssize_t count;

    do {
        switch (op->kind) {
        case REACTOR_RECEIVE:
            count = recvmsg(op->fd, op->message, MSG_DONTWAIT);
            break;
        case REACTOR_SEND:
            count = sendmsg(op->fd, op->message, MSG_DONTWAIT | MSG_NOSIGNAL);
            break;
        case REACTOR_ACCEPT:
            // cppcheck-suppress nullPointer ; nobody asks for the address
            count = accept4(op->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
            break;
        default:
            count = poll(&ready, 1, 0);
            if (count == 0)
                return -EAGAIN;
            if (count > 0)
                count = ready.revents;
            break;
        }
    } while (count < 0 && errno == EINTR);
    return count < 0 ? -errno : (int)count;
}

static void submit_event(struct reactor *reactor, struct reactor_op *op)
{
    struct threads *threads = threads_of(reactor);
    struct watch *watch;
    struct reactor_list *list;
    int result;

    if (op->kind == REACTOR_ACCEPT) /* one that has gone away again must not make us wait */
        (void)fcntl(op->fd, F_SETFL, fcntl(op->fd, F_GETFL) | O_NONBLOCK);
    result = attempt(op);
    if (result != -EAGAIN) {
        reactor_complete(reactor, op, result);
        return;
    }
    watch = watch_of(threads, op->fd);
    if (!watch) {
        reactor_complete(reactor, op, -ENOMEM);
        return;
    }
    list = op->kind == REACTOR_SEND ? &watch->out : &watch->in;
    reactor_list_add(list, op);
    op->backend = list;
    result = arm(threads, op->fd, watch);
    if (result) {
        reactor_list_remove(list, op);
        reactor_complete(reactor, op, result);
    }
}

static void try_list(struct reactor *reactor, struct reactor_list *list)
{
    struct reactor_op *next;

    for (struct reactor_op *op = list->head; op; op = next) {
        int result = attempt(op);

        next = op->next;
        if (result == -EAGAIN)
            continue;
        reactor_list_remove(list, op);
        reactor_complete(reactor, op, result);
    }
}

static void fd_ready(struct reactor *reactor, int fd)
{
    struct threads *threads = threads_of(reactor);
    struct watch *watch = threads->watches[fd];

    try_list(reactor, &watch->in);
    try_list(reactor, &watch->out);
    (void)arm(threads, fd, watch);
}

/* ---- time ---- */

static void submit_sleep(struct reactor *reactor, struct reactor_op *op)
{
    reactor_list_add(&threads_of(reactor)->sleepers, op);
    op->backend = &threads_of(reactor)->sleepers;
}

/* Completes those whose time has come; how long until the next, or -1. */
static int64_t wake_sleepers(struct reactor *reactor)
{
    struct threads *threads = threads_of(reactor);
    struct reactor_op *next;
    int64_t now = threads->sleepers.head ? reactor_now() : 0, soonest = -1;

    for (struct reactor_op *op = threads->sleepers.head; op; op = next) {
        next = op->next;
        if (op->deadline <= now) {
            reactor_list_remove(&threads->sleepers, op);
            reactor_complete(reactor, op, 0);
        } else if (soonest < 0 || op->deadline - now < soonest) {
            soonest = op->deadline - now;
        }
    }
    return soonest;
}

/* ---- the backend ---- */

static void threads_submit(struct reactor *reactor, struct reactor_op *op)
{
    struct threads *threads = threads_of(reactor);

    if (op->kind == REACTOR_SLEEP) {
        submit_sleep(reactor, op);
    } else if (op->kind > REACTOR_ALLOCATE) {
        submit_event(reactor, op);
    } else {
        pthread_mutex_lock(&threads->mutex);
        reactor_list_add(&threads->queue, op);
        pthread_mutex_unlock(&threads->mutex);
        pthread_cond_signal(&threads->cond);
    }
}

static void threads_cancel(struct reactor *reactor, struct reactor_op *op)
{
    if (!op->backend)
        return;
    reactor_list_remove(op->backend, op);
    reactor_complete(reactor, op, -ECANCELED);
}

static void threads_collect(struct reactor *reactor, bool wait)
{
    struct threads *threads = threads_of(reactor);
    struct epoll_event events[EVENTS];
    int64_t sleep = wake_sleepers(reactor);
    struct timespec timeout = {0};
    int count;

    wait = wait && !reactor->completed.head;
    if (wait && sleep > 0)
        timeout = (struct timespec){sleep / 1000000000, sleep % 1000000000};
    count = epoll_pwait2(threads->epoll, events, EVENTS, wait && sleep < 0 ? NULL : &timeout, NULL);
    for (int i = 0; i < count; i++) {
        if (events[i].data.u64 == ENDED_TOKEN)
            collect_files(reactor);
        else
            fd_ready(reactor, (int)events[i].data.u64);
    }
    if (wait)
        (void)wake_sleepers(reactor);
}

static void stop_threads(struct threads *threads)
{
    pthread_mutex_lock(&threads->mutex);
    threads->stop = true;
    pthread_cond_broadcast(&threads->cond);
    pthread_mutex_unlock(&threads->mutex);
    while (threads->thread_count > 0)
        pthread_join(threads->thread[--threads->thread_count], NULL);
}

static void release(struct threads *threads)
{
    stop_threads(threads);
    if (threads->epoll >= 0)
        close(threads->epoll);
    if (threads->ended_fd >= 0)
        close(threads->ended_fd);
    for (unsigned i = 0; i < threads->watch_count; i++)
        free(threads->watches[i]);
    free(threads->watches);
    pthread_cond_destroy(&threads->cond);
    pthread_mutex_destroy(&threads->mutex);
    free(threads);
}

static void threads_close(struct reactor *reactor)
{
    release(threads_of(reactor));
}

static const struct reactor_backend threads_backend = {
    .name = "threads",
    .submit = threads_submit,
    .cancel = threads_cancel,
    .collect = threads_collect,
    .close = threads_close,
};

static int start_threads(struct threads *threads)
{
    sigset_t all, before;
    int result = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (threads->thread_count < THREADS && result == 0) {
        result = pthread_create(&threads->thread[threads->thread_count], NULL, thread, threads);
        threads->thread_count += result == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return threads->thread_count ? 0 : -result;
}

int reactor_threads_open(struct reactor *reactor)
{
    struct threads *threads = calloc(1, sizeof(*threads));
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = ENDED_TOKEN};
    int result;

    if (!threads)
        return -ENOMEM;
    pthread_mutex_init(&threads->mutex, NULL);
    pthread_cond_init(&threads->cond, NULL);
    threads->epoll = epoll_create1(EPOLL_CLOEXEC);
    threads->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (threads->epoll < 0 || threads->ended_fd < 0 ||
        epoll_ctl(threads->epoll, EPOLL_CTL_ADD, threads->ended_fd, &event) < 0)
        result = -errno;
    else
        result = start_threads(threads);
    if (result) {
        release(threads);
        return result;
    }
    reactor->backend = &threads_backend;
    reactor->state = threads;
    return 0;
}
