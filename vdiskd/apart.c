/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread for one call; see apart.h.
 */
#include "apart.h"

#include "task.h"

#include <pthread.h>

struct work {
    struct reactor_message message;
    struct reactor *reactor;
    struct task *place;
    int (*fn)(void *arg);
    void *arg;
    int result;
    bool is_done;
};

static void tell(struct reactor_message *message)
{
    struct work *work = (struct work *)message;

    work->is_done = true;
    task_wake(&work->place);
}

static void *run(void *arg)
{
    struct work *work = arg;

    work->result = work->fn(work->arg);
    reactor_post(work->reactor, &work->message);
    return NULL;
}

int apart_call(int (*fn)(void *arg), void *arg)
{
    struct work work = {
        .message = {.run = tell},
        .reactor = task_reactor(task_current()),
        .fn = fn,
        .arg = arg,
    };
    pthread_t thread;
    int rc = -pthread_create(&thread, NULL, run, &work);

    if (rc)
        return rc;
    while (!work.is_done)
        task_park(&work.place);
    pthread_join(thread, NULL);
    return work.result;
}
