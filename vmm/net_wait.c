/* SPDX-License-Identifier: Apache-2.0 */
/* See net_wait.h. */
#include "net_wait.h"

#define EARLIER 1000000 /* ns; a deadline that is nearer by less is as good */

static void done(struct reactor_op *op)
{
    struct net_wait *wait = op->owner;

    wait->in_flight = false;
    if (!wait->stopped)
        wait->ended(wait->opaque, op->result);
}

void net_wait_init(struct net_wait *wait, struct reactor *reactor,
                   void (*ended)(void *opaque, int result), void *opaque)
{
    *wait = (struct net_wait){.reactor = reactor, .ended = ended, .opaque = opaque};
}

static void begin(struct net_wait *wait, struct reactor_op op)
{
    wait->op = op;
    wait->op.done = done;
    wait->op.owner = wait;
    wait->in_flight = true;
    reactor_submit(wait->reactor, &wait->op);
}

void net_wait_events(struct net_wait *wait, int fd, unsigned events)
{
    if (!wait->in_flight && !wait->stopped)
        begin(wait, (struct reactor_op){.kind = REACTOR_POLL, .fd = fd, .events = events});
}

void net_wait_until(struct net_wait *wait, int64_t deadline)
{
    if (wait->stopped)
        return;
    if (!wait->in_flight)
        begin(wait, (struct reactor_op){.kind = REACTOR_SLEEP, .deadline = deadline});
    else if (wait->op.deadline - deadline > EARLIER)
        reactor_cancel(wait->reactor, &wait->op);
}

void net_wait_stop(struct net_wait *wait)
{
    wait->stopped = true;
    if (wait->in_flight)
        reactor_cancel(wait->reactor, &wait->op);
}

void net_wait_finish(struct net_wait *wait)
{
    while (wait->in_flight)
        reactor_step(wait->reactor, true);
}
