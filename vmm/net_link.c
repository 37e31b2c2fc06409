/* SPDX-License-Identifier: Apache-2.0 */
/* What the kinds of links have in common. */
#include "net_link.h"

#include <poll.h>
#include <unistd.h>

/* A wait that ended since the link went down says nothing. */
static void in_ended(void *opaque, int result)
{
    struct net_link *link = opaque;

    (void)result;
    if (link->is_up)
        link->readable(link->opaque);
}

static void out_ended(void *opaque, int result)
{
    struct net_link *link = opaque;

    (void)result;
    if (!link->is_up)
        return;
    if (net_link_flush(link))
        net_link_await_out(link);
    else
        link->writable(link->opaque);
}

void net_link_init(struct net_link *link, const struct net_link_ops *ops, struct reactor *reactor)
{
    link->ops = ops;
    link->fd = -1;
    net_wait_init(&link->in, reactor, in_ended, link);
    net_wait_init(&link->out, reactor, out_ended, link);
}

void net_link_end(struct net_link *link)
{
    net_wait_finish(&link->in);
    net_wait_finish(&link->out);
    if (link->fd >= 0)
        close(link->fd);
    link->fd = -1;
}

void net_link_free(struct net_link *link)
{
    if (!link)
        return;
    net_wait_stop(&link->in);
    net_wait_stop(&link->out);
    link->ops->free(link);
}

void net_link_await_in(struct net_link *link)
{
    if (link->is_up)
        net_wait_events(&link->in, link->fd, POLLIN);
}

void net_link_await_out(struct net_link *link)
{
    if (link->is_up)
        net_wait_events(&link->out, link->fd, POLLOUT);
}
