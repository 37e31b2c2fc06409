/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a queue: see vhost_conn.h.
 *
 * Invariants:
 * - Only the hook touches the ring while it runs: it gives back first, then fetches; so all that
 *   ended since the last round is published together, with one call.
 * - Kicks are off from the first fetch on until the thread goes to sleep; meanwhile a ring that was
 *   found empty is watched. A queue that stopped for any other reason has somebody who kicks its
 *   hook: the round itself (its share is used up), or who makes room (starving).
 * - Only a started ring that is in memory is watched.
 */
#include "vhost_conn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SHARE       64u /* requests of a queue in a round */
#define F_PROTOCOL  30
#define BIT(number) (UINT64_C(1) << (number))

static void kick_hook(struct vhost_queue *queue)
{
    reactor_kick(queue->conn->reactor, &queue->hook);
}

static void signal_event(int fd)
{
    if (fd >= 0)
        (void)eventfd_write(fd, 1); /* what is not read counts once */
}

void vhost_queue_give_up(struct vhost_queue *queue, const char *reason)
{
    if (queue->given_up)
        return;
    queue->given_up = true;
    reactor_watch_end(&queue->watch);
    signal_event(queue->err);
    /* Then the memory is the reason, whatever was found wrong for the lack of it. */
    if (queue->conn->memory.lost)
        vhost_session_lost(queue->conn);
    else
        vhost_conn_event(queue->conn, VHOST_EVENT_FAILED, reason);
}

static bool has_lost(const struct vhost_queue *queue)
{
    return queue->started && !queue->given_up && !queue->conn->ending &&
           queue->lost_at < queue->lost_count;
}

static bool is_enabled(const struct vhost_queue *queue)
{
    return queue->enabled || !(queue->conn->features & BIT(F_PROTOCOL));
}

/* ---- giving back ---- */

void vhost_queue_finished(struct vhost_op *op)
{
    struct vhost_queue *queue = op->queue;

    op->next = NULL;
    *queue->finished_tail = op;
    queue->finished_tail = &op->next;
    kick_hook(queue);
}

static struct vhost_op *pop_finished(struct vhost_queue *queue)
{
    struct vhost_op *op = queue->finished;

    if (op) {
        queue->finished = op->next;
        if (!queue->finished)
            queue->finished_tail = &queue->finished;
    }
    return op;
}

static void feed_the_starving(struct vhost_conn *conn)
{
    if (!conn->starving)
        return;
    conn->starving = false;
    for (unsigned i = 0; i < conn->queues; i++)
        if (conn->queue[i].started)
            kick_hook(&conn->queue[i]);
}

/* What cannot be answered, because the ring or the request is not in memory any more, stays in
 * flight for the driver: the queue needs a reset. */
static unsigned give_back_some(struct vhost_queue *queue)
{
    struct vhost_memory *memory = &queue->conn->memory;
    struct vhost_inflight_used used[SHARE];
    struct vhost_op *op;
    unsigned count = 0;

    while (count < SHARE && (op = pop_finished(queue))) {
        struct vhost_inflight_used *next = &used[count];

        *next = (struct vhost_inflight_used){
            .head = op->chain.head, .slots = op->chain.slots, .entry = op->chain.entry};
        if (queue->resolved) {
            if (vhost_blk_answer(memory, &op->chain, op->status, &next->written) == 0)
                count++;
            else
                vhost_queue_give_up(queue, "a request is not in memory any more");
        }
        vhost_op_release(op);
        queue->in_flight--;
    }
    if (count > 0)
        vhost_inflight_put(&queue->inflight, &queue->ring, memory, used, count);
    return count;
}

static void give_back(struct vhost_queue *queue)
{
    unsigned total = 0;

    if (!queue->finished)
        return;
    while (queue->finished)
        total += give_back_some(queue);
    if (total > 0 && vring_should_call(&queue->ring))
        signal_event(queue->call);
    feed_the_starving(queue->conn);
}

/* ---- fetching ---- */

/* Into op->chain: 1, or 0: there is none, or -EPROTO. */
static int next_request(struct vhost_queue *queue, struct vhost_op *op)
{
    const struct vhost_memory *memory = &queue->conn->memory;
    int result;

    if (queue->lost_at < queue->lost_count) {
        const struct vhost_inflight_lost *lost = &queue->lost[queue->lost_at++];

        result = vhost_inflight_refetch(&queue->inflight, &queue->ring, memory, lost, &op->chain);
        return result ? result : vhost_op_parse(op) ? -EPROTO : 1;
    }
    if (queue->draining)
        return 0;
    result = vring_fetch(&queue->ring, memory, &op->chain);
    if (result <= 0)
        return result;
    return vhost_op_parse(op) || vhost_inflight_taken(&queue->inflight, &op->chain) ? -EPROTO : 1;
}

static void fetch(struct vhost_queue *queue)
{
    struct vhost_memory *memory = &queue->conn->memory;

    vring_no_kicks(&queue->ring, memory);
    for (unsigned i = 0; i < SHARE;) {
        struct vhost_op *op = vhost_op_take(queue);

        if (!op && queue->conn->ops > 0)
            queue->conn->starving = true;
        else if (!op)
            vhost_queue_give_up(queue, "there is no memory");
        if (!op)
            return;
        int result = next_request(queue, op);

        if (result > 0) {
            queue->in_flight++;
            i++;
            vhost_op_start(op);
            continue;
        }
        vhost_op_release(op);
        if (result < 0)
            vhost_queue_give_up(queue, "a descriptor chain breaks the rules");
        else if (!queue->draining)
            reactor_watch_begin(queue->conn->reactor, &queue->watch);
        return;
    }
    kick_hook(queue);
}

static struct vhost_queue *watched(struct reactor_watch *watch)
{
    return (struct vhost_queue *)((char *)watch - offsetof(struct vhost_queue, watch));
}

static void look(struct reactor_watch *watch)
{
    struct vhost_queue *queue = watched(watch);

    if (vring_has_more(&queue->ring))
        kick_hook(queue);
}

static void fall_asleep(struct reactor_watch *watch)
{
    struct vhost_queue *queue = watched(watch);

    if (vring_want_kicks(&queue->ring, &queue->conn->memory))
        kick_hook(queue);
}

static void run(struct reactor_hook *hook)
{
    struct vhost_queue *queue =
        (struct vhost_queue *)((char *)hook - offsetof(struct vhost_queue, hook));
    bool goes_on = queue->started && !queue->given_up && !queue->conn->ending;

    reactor_watch_end(&queue->watch);
    give_back(queue);
    if (goes_on && !queue->given_up && (queue->draining ? has_lost(queue) : is_enabled(queue)))
        fetch(queue);
    if (queue->conn->memory.lost)
        vhost_session_lost(queue->conn);
    if (queue->draining)
        task_wake(&queue->conn->reader);
}

/* ---- kicks ---- */

static void arm(struct vhost_queue *queue);

static void kicked(struct reactor_op *op)
{
    struct vhost_queue *queue = op->owner;
    eventfd_t count;

    queue->polling = false;
    if (!queue->wants_kicks) {
        task_wake(&queue->conn->reader);
        return;
    }
    if (op->result < 0 || (eventfd_read(queue->kick, &count) && errno != EAGAIN)) {
        vhost_queue_give_up(queue, "the kicks of a queue cannot be read");
        return;
    }
    kick_hook(queue);
    arm(queue);
}

static void arm(struct vhost_queue *queue)
{
    queue->poll = (struct reactor_op){
        .kind = REACTOR_POLL,
        .fd = queue->kick,
        .events = POLLIN,
        .done = kicked,
        .owner = queue,
    };
    queue->polling = queue->wants_kicks = true;
    reactor_submit(queue->conn->reactor, &queue->poll);
}

static void drop_kick(struct vhost_queue *queue)
{
    queue->wants_kicks = false;
    if (queue->polling)
        reactor_cancel(queue->conn->reactor, &queue->poll);
    while (queue->polling)
        task_park(&queue->conn->reader);
    if (queue->kick >= 0)
        close(queue->kick);
    queue->kick = -1;
}

/* Neither reading nor writing an event may hold the thread up. */
static void do_not_block(int fd)
{
    if (fd >= 0)
        (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void replace(int *place, int fd)
{
    if (*place >= 0)
        close(*place);
    do_not_block(fd);
    *place = fd;
}

void vhost_queue_set_kick(struct vhost_queue *queue, int fd)
{
    drop_kick(queue);
    do_not_block(fd);
    queue->kick = fd;
    if (queue->started)
        arm(queue);
    vhost_queue_go(queue);
}

void vhost_queue_set_call(struct vhost_queue *queue, int fd)
{
    replace(&queue->call, fd);
    /* What ended between the two is told again; a call too many does no harm. */
    if (queue->started)
        signal_event(queue->call);
}

void vhost_queue_set_err(struct vhost_queue *queue, int fd)
{
    replace(&queue->err, fd);
}

/* ---- start and stop ---- */

void vhost_queue_init(struct vhost_queue *queue, struct vhost_conn *conn)
{
    queue->conn = conn;
    queue->kick = queue->call = queue->err = -1;
    queue->hook.run = run;
    queue->watch.look = look;
    queue->watch.sleep = fall_asleep;
    queue->finished_tail = &queue->finished;
}

void vhost_queue_resolve(struct vhost_queue *queue)
{
    if (!queue->started) {
        vhost_queue_go(queue);
        return;
    }
    queue->resolved = vring_resolve(&queue->ring, &queue->conn->memory) == 0;
    if (!queue->resolved)
        vhost_queue_give_up(queue, "a ring is not in memory");
}

/* The place of this queue in the in-flight memory, and what was lost. -ENOMEM, -EPROTO. */
static int open_inflight(struct vhost_queue *queue)
{
    const struct vhost_conn *conn = queue->conn;
    size_t index = (size_t)(queue - conn->queue);
    uint64_t bytes = vhost_inflight_bytes(conn->inflight.queue_size);

    if (!conn->inflight.at || index >= conn->inflight.queues)
        return 0;
    queue->lost = calloc(VRING_SIZE_MAX, sizeof(*queue->lost));
    if (!queue->lost)
        return -ENOMEM;
    return vhost_inflight_open(&queue->inflight, conn->inflight.at + index * bytes,
                               conn->inflight.queue_size, &queue->ring, queue->lost,
                               &queue->lost_count);
}

static void start(struct vhost_queue *queue)
{
    const uint64_t features = queue->conn->features;
    struct vring_config *config = &queue->ring.config;

    config->packed = features & BIT(VIRTIO_F_RING_PACKED);
    config->event_index = features & BIT(VIRTIO_RING_F_EVENT_IDX);
    config->indirect = features & BIT(VIRTIO_RING_F_INDIRECT_DESC);
    queue->started = true;
    vhost_queue_resolve(queue);
    if (queue->given_up)
        return;
    vring_start(&queue->ring, queue->base);
    if (open_inflight(queue))
        vhost_queue_give_up(queue, "the in-flight memory holds nonsense");
    else
        arm(queue);
}

void vhost_queue_go(struct vhost_queue *queue)
{
    const struct vhost_conn *conn = queue->conn;

    if (!is_enabled(queue) || conn->ending)
        return;
    if (!queue->started && queue->kick >= 0 && queue->has_address && queue->ring.config.size > 0 &&
        conn->memory.count > 0)
        start(queue);
    /* Whatever is there already, a kick may have come and gone. */
    if (queue->started)
        kick_hook(queue);
}

void vhost_queue_stop(struct vhost_queue *queue)
{
    queue->draining = true;
    kick_hook(queue);
    while (queue->in_flight > 0 || has_lost(queue))
        task_park(&queue->conn->reader);
    drop_kick(queue);
    reactor_unkick(queue->conn->reactor, &queue->hook);
    reactor_watch_end(&queue->watch);
    replace(&queue->call, -1);
    if (queue->started && queue->resolved)
        queue->base = vring_base(&queue->ring);
    free(queue->lost);
    queue->lost = NULL;
    queue->lost_at = queue->lost_count = 0;
    queue->inflight = (struct vhost_inflight){0};
    queue->started = queue->resolved = queue->given_up = queue->draining = false;
}
