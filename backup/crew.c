/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that work through tasks; see crew.h. */
#include "crew.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

struct list {
    struct vb_task *first, **end;
};

struct vb_crew {
    const struct vb_crew_ops *ops;
    void *opaque;
    pthread_mutex_t mutex;
    pthread_cond_t work_cond; /* there is a task, or the end */
    pthread_cond_t done_cond; /* a task is done, or a thread has begun */
    struct list waiting, done;
    bool stop;
    unsigned begun;
    int result; /* of begin() */
    unsigned count;
    pthread_t thread[VB_CREW_MAX];
};

static void append(struct list *list, struct vb_task *task)
{
    task->next = NULL;
    *list->end = task;
    list->end = &task->next;
}

static struct vb_task *take_first(struct list *list)
{
    struct vb_task *task = list->first;

    if (!task)
        return NULL;
    list->first = task->next;
    if (!list->first)
        list->end = &list->first;
    return task;
}

static void work(struct vb_crew *crew, void *state)
{
    pthread_mutex_lock(&crew->mutex);
    while (!crew->stop) {
        struct vb_task *task = take_first(&crew->waiting);

        if (!task) {
            pthread_cond_wait(&crew->work_cond, &crew->mutex);
            continue;
        }
        pthread_mutex_unlock(&crew->mutex);
        crew->ops->work(crew->opaque, state, task);
        pthread_mutex_lock(&crew->mutex);
        append(&crew->done, task);
        pthread_cond_signal(&crew->done_cond);
    }
    pthread_mutex_unlock(&crew->mutex);
}

static void *run(void *arg)
{
    struct vb_crew *crew = arg;
    void *state = NULL;
    int result = crew->ops->begin(crew->opaque, &state);

    pthread_mutex_lock(&crew->mutex);
    crew->begun++;
    if (result && crew->result == 0)
        crew->result = result;
    pthread_cond_signal(&crew->done_cond);
    pthread_mutex_unlock(&crew->mutex);
    if (result == 0) {
        work(crew, state);
        crew->ops->end(crew->opaque, state);
    }
    return NULL;
}

static unsigned processors(void)
{
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

    return count < 1 ? 1 : (unsigned)count;
}

static void start(struct vb_crew *crew, unsigned threads)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (crew->count < threads) {
        if (pthread_create(&crew->thread[crew->count], NULL, run, crew))
            break;
        crew->count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int vb_crew_start(unsigned threads, const struct vb_crew_ops *ops, void *opaque,
                  struct vb_crew **out)
{
    struct vb_crew *crew = calloc(1, sizeof(*crew));
    pthread_condattr_t monotonic;
    int result;

    if (!crew)
        return -ENOMEM;
    crew->ops = ops;
    crew->opaque = opaque;
    crew->waiting.end = &crew->waiting.first;
    crew->done.end = &crew->done.first;
    pthread_mutex_init(&crew->mutex, NULL); /* none of these can fail on Linux */
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&crew->work_cond, NULL);
    pthread_cond_init(&crew->done_cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
    threads = threads ? threads : processors();
    start(crew, threads < VB_CREW_MAX ? threads : VB_CREW_MAX);
    pthread_mutex_lock(&crew->mutex);
    while (crew->begun < crew->count)
        pthread_cond_wait(&crew->done_cond, &crew->mutex);
    result = crew->count == 0 ? -EAGAIN : crew->result;
    pthread_mutex_unlock(&crew->mutex);
    if (result) {
        vb_crew_close(crew);
        return result;
    }
    *out = crew;
    return 0;
}

void vb_crew_submit(struct vb_crew *crew, struct vb_task *task)
{
    pthread_mutex_lock(&crew->mutex);
    append(&crew->waiting, task);
    pthread_cond_signal(&crew->work_cond);
    pthread_mutex_unlock(&crew->mutex);
}

struct vb_task *vb_crew_take(struct vb_crew *crew, unsigned wait_ms)
{
    struct timespec until;
    struct vb_task *task;
    int waited = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
    until.tv_sec += wait_ms / 1000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&crew->mutex);
    while (!(task = take_first(&crew->done)) && waited == 0)
        waited = pthread_cond_timedwait(&crew->done_cond, &crew->mutex, &until);
    pthread_mutex_unlock(&crew->mutex);
    return task;
}

void vb_crew_close(struct vb_crew *crew)
{
    if (!crew)
        return;
    pthread_mutex_lock(&crew->mutex);
    crew->stop = true;
    pthread_cond_broadcast(&crew->work_cond);
    pthread_mutex_unlock(&crew->mutex);
    for (unsigned i = 0; i < crew->count; i++)
        pthread_join(crew->thread[i], NULL);
    pthread_cond_destroy(&crew->work_cond);
    pthread_cond_destroy(&crew->done_cond);
    pthread_mutex_destroy(&crew->mutex);
    free(crew);
}
