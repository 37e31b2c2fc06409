/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool of threads that run jobs (workers.h).
 *
 * One mutex guards two lists: jobs that wait and jobs that have ended. Jobs last 20 to 200
 * microseconds, so it is rarely contended; what costs is waking a sleeping thread, 50
 * microseconds in a virtual machine. Both sides therefore look for work a little while before
 * they sleep, but only while a processor would otherwise be idle: where the threads outnumber
 * the processors, looking takes the time from those that work. So the threads of all pools that
 * are awake are counted together.
 *
 * Jobs that wait for storage (vdisk_job.blocks) have threads of their own: where that is away for
 * minutes, those that compute go on.
 *
 * Invariant: a job is in exactly one place: the waiting list, a thread's hands, the ended
 * list, or (after done() began) its owner's. done() runs only in poll(), without the mutex.
 */
#include "workers.h"

#include "relax.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* For jobs that block: made when the first of them come. */
#define SLOW_THREADS_MAX 4u

struct job_list {
    struct vdisk_job *head, **tail;
    atomic_uint count; /* changed under the mutex, peeked at without */
};

struct pool {
    struct vdisk_workers workers;
    pthread_mutex_t mutex;
    pthread_cond_t work_cond;  /* there is a job, or the end */
    pthread_cond_t ended_cond; /* a job has ended */
    struct job_list waiting, ended;
    struct job_list slow;     /* jobs that may wait for long, for threads of their own */
    pthread_cond_t slow_cond; /* there is one, or the end */
    unsigned slow_sleepers, slow_count;
    pthread_t slow_threads[SLOW_THREADS_MAX];
    unsigned sleepers; /* threads in work_cond */
    bool owner_sleeps; /* in ended_cond */
    bool stop;
    int fd;     /* -1: nobody asked for one */
    bool quiet; /* the owner is awake: nothing is written to it */
    unsigned processors;
    unsigned in_flight; /* the owner's: submitted, done() not begun */
    unsigned thread_count;
    pthread_t threads[VD_WORKERS_MAX];
};

/* Threads of any pool that run a job or look for one. */
static atomic_uint awake;

/* Looks at a count, together about as long as a wake-up takes. */
#define SPINS 2000u

static void list_init(struct job_list *list)
{
    list->head = NULL;
    list->tail = &list->head;
    atomic_init(&list->count, 0);
}

static void list_add(struct job_list *list, struct vdisk_job *job)
{
    job->next = NULL;
    *list->tail = job;
    list->tail = &job->next;
    atomic_fetch_add_explicit(&list->count, 1, memory_order_relaxed);
}

static struct vdisk_job *list_take_first(struct job_list *list)
{
    struct vdisk_job *job = list->head;

    if (!job)
        return NULL;
    list->head = job->next;
    if (!list->head)
        list->tail = &list->head;
    atomic_fetch_sub_explicit(&list->count, 1, memory_order_relaxed);
    return job;
}

static struct vdisk_job *list_take_all(struct job_list *list)
{
    struct vdisk_job *head = list->head;

    list->head = NULL;
    list->tail = &list->head;
    atomic_store_explicit(&list->count, 0, memory_order_relaxed);
    return head;
}

/* Only a hint: whoever returns from here looks again under the mutex. */
static void spin_for(struct job_list *list)
{
    for (unsigned i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&list->count, memory_order_relaxed) > 0)
            return;
        relax();
    }
}

/* Gives up the mutex for a while when there is a processor left beside the owner's. */
static void look_for_work(struct pool *pool)
{
    if (vd_workers_are_crowded(&pool->workers))
        return;
    pthread_mutex_unlock(&pool->mutex);
    spin_for(&pool->waiting);
    pthread_mutex_lock(&pool->mutex);
}

/* With the mutex. */
static void end_job(struct pool *pool, struct vdisk_job *job)
{
    bool is_first = !pool->ended.head;

    list_add(&pool->ended, job);
    if (pool->fd >= 0 && is_first &&
        !pool->quiet) /* after the count, which is peeked at when it is read */
        eventfd_write(pool->fd, 1);
    if (pool->owner_sleeps)
        pthread_cond_signal(&pool->ended_cond);
}

/* It waits for storage more than it computes: it does not count as awake. */
static void *slow_worker(void *arg)
{
    struct pool *pool = arg;

    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        struct vdisk_job *job = list_take_first(&pool->slow);

        if (job) {
            pthread_mutex_unlock(&pool->mutex);
            job->run(job);
            pthread_mutex_lock(&pool->mutex);
            end_job(pool, job);
        } else if (pool->stop) {
            break;
        } else {
            pool->slow_sleepers++;
            pthread_cond_wait(&pool->slow_cond, &pool->mutex);
            pool->slow_sleepers--;
        }
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

static int start_thread(pthread_t *thread, void *(*entry)(void *arg), struct pool *pool)
{
    sigset_t all, before;
    int result;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    result = pthread_create(thread, NULL, entry, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

static void *worker(void *arg)
{
    struct pool *pool = arg;

    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add_explicit(&awake, 1, memory_order_relaxed);
    for (;;) {
        struct vdisk_job *job = list_take_first(&pool->waiting);

        if (job) {
            pthread_mutex_unlock(&pool->mutex);
            job->run(job);
            pthread_mutex_lock(&pool->mutex);
            end_job(pool, job);
            if (!pool->waiting.head && !pool->stop)
                look_for_work(pool);
        } else if (pool->stop) {
            break;
        } else {
            atomic_fetch_sub_explicit(&awake, 1, memory_order_relaxed);
            pool->sleepers++;
            pthread_cond_wait(&pool->work_cond, &pool->mutex);
            pool->sleepers--;
            atomic_fetch_add_explicit(&awake, 1, memory_order_relaxed);
        }
    }
    atomic_fetch_sub_explicit(&awake, 1, memory_order_relaxed);
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

/* False where there is no such thread. */
static bool submit_slow(struct pool *pool, struct vdisk_job *job)
{
    bool wake;

    pthread_mutex_lock(&pool->mutex);
    wake = pool->slow_sleepers > atomic_load_explicit(&pool->slow.count, memory_order_relaxed);
    pthread_mutex_unlock(&pool->mutex);
    if (!wake && pool->slow_count < SLOW_THREADS_MAX &&
        start_thread(&pool->slow_threads[pool->slow_count], slow_worker, pool) == 0)
        pool->slow_count++;
    if (pool->slow_count == 0)
        return false;
    pthread_mutex_lock(&pool->mutex);
    list_add(&pool->slow, job);
    pthread_mutex_unlock(&pool->mutex);
    pthread_cond_signal(&pool->slow_cond);
    return true;
}

static void pool_submit(struct vdisk_workers *workers, struct vdisk_job *job)
{
    struct pool *pool = (struct pool *)workers;
    bool wake;

    pool->in_flight++;
    if (job->blocks && submit_slow(pool, job))
        return;
    pthread_mutex_lock(&pool->mutex);
    list_add(&pool->waiting, job);
    wake = pool->sleepers > 0;
    pthread_mutex_unlock(&pool->mutex);
    if (wake)
        pthread_cond_signal(&pool->work_cond);
}

static int pool_poll(struct vdisk_workers *workers, bool wait)
{
    struct pool *pool = (struct pool *)workers;
    struct vdisk_job *head;
    int count = 0;

    if (pool->in_flight == 0)
        return 0;
    if (wait && !vd_workers_are_crowded(workers))
        spin_for(&pool->ended);
    else if (!wait && !vd_workers_have_ended(workers))
        return 0; /* this is asked often */
    pthread_mutex_lock(&pool->mutex);
    while (wait && !pool->ended.head) {
        pool->owner_sleeps = true;
        pthread_cond_wait(&pool->ended_cond, &pool->mutex);
        pool->owner_sleeps = false;
    }
    head = list_take_all(&pool->ended);
    pthread_mutex_unlock(&pool->mutex);
    while (head) {
        struct vdisk_job *job = head;

        head = job->next;
        pool->in_flight--;
        job->done(job); /* may submit, and may free it */
        count++;
    }
    return count;
}

static unsigned pool_count(struct vdisk_workers *workers)
{
    return ((struct pool *)workers)->thread_count;
}

static void pool_close(struct vdisk_workers *workers)
{
    struct pool *pool = (struct pool *)workers;

    assert(pool->in_flight == 0);
    pthread_mutex_lock(&pool->mutex);
    pool->stop = true;
    pthread_cond_broadcast(&pool->work_cond);
    pthread_cond_broadcast(&pool->slow_cond);
    pthread_mutex_unlock(&pool->mutex);
    for (unsigned i = 0; i < pool->slow_count; i++)
        pthread_join(pool->slow_threads[i], NULL);
    pthread_cond_destroy(&pool->slow_cond);
    for (unsigned i = 0; i < pool->thread_count; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->ended_cond);
    pthread_cond_destroy(&pool->work_cond);
    pthread_mutex_destroy(&pool->mutex);
    if (pool->fd >= 0)
        close(pool->fd);
    free(pool);
}

static const struct vdisk_workers_ops pool_ops = {
    .submit = pool_submit,
    .poll = pool_poll,
    .count = pool_count,
    .close = pool_close,
};

int vd_workers_fd(struct vdisk_workers *workers)
{
    struct pool *pool = (struct pool *)workers;
    int fd = 0;

    pthread_mutex_lock(&pool->mutex);
    if (pool->fd < 0) {
        fd = eventfd(pool->ended.head != NULL, EFD_CLOEXEC | EFD_NONBLOCK);
        pool->fd = fd;
    }
    fd = fd < 0 ? -errno : pool->fd;
    pthread_mutex_unlock(&pool->mutex);
    return fd;
}

bool vd_workers_tell(struct vdisk_workers *workers, bool tell)
{
    struct pool *pool = (struct pool *)workers;
    bool ended;

    pthread_mutex_lock(&pool->mutex);
    pool->quiet = !tell;
    ended = pool->ended.head != NULL;
    pthread_mutex_unlock(&pool->mutex);
    return ended;
}

bool vd_workers_have_ended(const struct vdisk_workers *workers)
{
    const struct pool *pool = (const struct pool *)workers;

    return atomic_load_explicit(&pool->ended.count, memory_order_relaxed) > 0;
}

bool vd_workers_are_crowded(const struct vdisk_workers *workers)
{
    const struct pool *pool = (const struct pool *)workers;

    return atomic_load_explicit(&awake, memory_order_relaxed) >= pool->processors;
}

static unsigned processors(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) < 0)
        return 1;
    return (unsigned)CPU_COUNT(&set);
}

int vd_workers_open(unsigned threads, struct vdisk_workers **out)
{
    struct pool *pool;
    int result = 0;

    if (threads == 0)
        threads = processors() < VD_WORKERS_MAX ? processors() : VD_WORKERS_MAX;
    if (threads > VD_WORKERS_MAX)
        return -EINVAL;
    pool = calloc(1, sizeof(*pool));
    if (!pool)
        return -ENOMEM;
    pool->workers.ops = &pool_ops;
    pool->fd = -1;
    pool->processors = processors();
    list_init(&pool->waiting);
    list_init(&pool->ended);
    list_init(&pool->slow);
    pthread_cond_init(&pool->slow_cond, NULL);
    pthread_mutex_init(&pool->mutex, NULL); /* without attributes these cannot fail on Linux */
    pthread_cond_init(&pool->work_cond, NULL);
    pthread_cond_init(&pool->ended_cond, NULL);

    while (pool->thread_count < threads && result == 0) {
        result = start_thread(&pool->threads[pool->thread_count], worker, pool);
        pool->thread_count += result == 0;
    }
    if (result) {
        pool_close(&pool->workers);
        return -result;
    }
    *out = &pool->workers;
    return 0;
}
