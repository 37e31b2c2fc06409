/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a reactor does that has nothing to do.
 *
 * A processor that sleeps wakes late: in a virtual machine 10 to 50 us after the event, as long as
 * a disk takes for a small request. So while what it waits for mostly comes soon, the thread looks
 * around a little before it sleeps: `poll_window`, the whole of `poll_max` after a wait that ended
 * within it, and half of what it was after a longer one. So an idle reactor sleeps at once, and at
 * worst the time spent looking is about that spent waiting in vain. And it does not look around
 * where that would take the processor from threads that compute.
 *
 * Watched memory is looked at in any case, once in each round; who writes there is asked to wake us
 * only when we do sleep.
 */
#include "reactor_impl.h"

#include "relax.h"

#include <stddef.h>

#define WINDOW_MIN     INT64_C(4000) /* nanoseconds: less does not pay */
#define LOOKS_TO_CLOCK 16u

void reactor_watch_begin(struct reactor *reactor, struct reactor_watch *watch)
{
    if (watch->place)
        return;
    watch->next = reactor->watches;
    watch->place = &reactor->watches;
    if (watch->next)
        watch->next->place = &watch->next;
    reactor->watches = watch;
}

void reactor_watch_end(struct reactor_watch *watch)
{
    if (!watch->place)
        return;
    *watch->place = watch->next;
    if (watch->next)
        watch->next->place = watch->place;
    watch->place = NULL;
}

void reactor_look(struct reactor *reactor)
{
    for (struct reactor_watch *watch = reactor->watches; watch; watch = watch->next)
        watch->look(watch);
}

static bool is_crowded(const struct reactor *reactor)
{
    return reactor->is_crowded && reactor->is_crowded(reactor->opaque);
}

static void poll_until(struct reactor *reactor, int64_t end)
{
    const struct reactor_backend *backend = reactor->backend;

    backend->collect(reactor, false); /* what was submitted begins */
    for (unsigned looks = 1; reactor_is_idle(reactor); looks++) {
        if (backend->peek(reactor))
            backend->collect(reactor, false);
        reactor_look(reactor);
        if (looks % LOOKS_TO_CLOCK == 0 && (is_crowded(reactor) || reactor_now() >= end))
            return;
        relax();
    }
}

static void end_watches(struct reactor *reactor)
{
    while (reactor->watches) {
        struct reactor_watch *watch = reactor->watches;

        reactor_watch_end(watch);
        watch->sleep(watch);
    }
}

static void judge(struct reactor *reactor, int64_t waited)
{
    if (waited <= reactor->poll_max)
        reactor->poll_window = reactor->poll_max;
    else if (reactor->poll_window / 2 >= WINDOW_MIN)
        reactor->poll_window /= 2;
    else
        reactor->poll_window = 0;
}

void reactor_rest(struct reactor *reactor)
{
    bool may_poll = reactor->poll_max > 0 && reactor->backend->peek;
    int64_t began = may_poll ? reactor_now() : 0;

    if (may_poll && reactor->poll_window > 0)
        poll_until(reactor, began + reactor->poll_window);
    if (reactor_is_idle(reactor)) {
        end_watches(reactor);
        reactor->backend->collect(reactor, reactor_is_idle(reactor));
    }
    if (may_poll)
        judge(reactor, reactor_now() - began);
}
