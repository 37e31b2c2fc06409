/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Something that a network device waits for: events of a descriptor, or a time. One at once, and
 * asking again while it waits is allowed. Belongs to the reactor's thread.
 */
#ifndef VMM_NET_WAIT_H
#define VMM_NET_WAIT_H

#include "reactor.h"

#include <stdbool.h>
#include <stdint.h>

struct net_wait {
    struct reactor *reactor;
    void (*ended)(void *opaque, int result); /* in a round of the reactor */
    void *opaque;
    bool in_flight, stopped;
    struct reactor_op op;
};

void net_wait_init(struct net_wait *wait, struct reactor *reactor,
                   void (*ended)(void *opaque, int result), void *opaque);
/* Waits for events; nothing when it waits. */
void net_wait_events(struct net_wait *wait, int fd, unsigned events);
/* Waits until `deadline`. When it waits for a much later time already, that ends early: who asks
 * then asks again. */
void net_wait_until(struct net_wait *wait, int64_t deadline);
/* From now on it neither begins nor calls ended(). */
void net_wait_stop(struct net_wait *wait);
/* Of one that was stopped: runs the reactor until nothing is in flight. All others whose ended()
 * is not to be called any more are stopped before. */
void net_wait_finish(struct net_wait *wait);

#endif
