/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The locks with which coroutines of one loop keep out of each other's way: see loop.h.
 *
 * Both hand over: whoever unlocks marks the next holders as such before they wake, so nobody
 * who comes between the wake-up and the run can slip in, and arrival order is kept.
 */
#include "loop.h"

#include <assert.h>

/* On the stack of the waiting coroutine. */
struct vd_rwlock_waiter {
    bool exclusive;
    struct vd_waitqueue queue;
    struct vd_rwlock_waiter *next;
};

/* Returns when it has been handed the lock. */
static void rwlock_wait(struct vd_loop *loop, struct vd_rwlock *lock, bool exclusive)
{
    struct vd_rwlock_waiter waiter = {.exclusive = exclusive};

    if (lock->tail)
        lock->tail->next = &waiter;
    else
        lock->head = &waiter;
    lock->tail = &waiter;
    vd_wait(loop, &waiter.queue);
}

/* Hands the lock to the first waiter: alone if it is exclusive, else with all the shared ones
 * up to the next exclusive one. */
static void rwlock_hand_over(struct vd_loop *loop, struct vd_rwlock *lock)
{
    while (lock->head && !lock->exclusive) {
        struct vd_rwlock_waiter *waiter = lock->head;

        if (waiter->exclusive && lock->shared)
            return;
        if (waiter->exclusive)
            lock->exclusive = true;
        else
            lock->shared++;
        lock->head = waiter->next;
        if (!lock->head)
            lock->tail = NULL;
        vd_wake_one(loop, &waiter->queue);
    }
}

void vd_lock_shared(struct vd_loop *loop, struct vd_rwlock *lock)
{
    if (lock->exclusive || lock->head)
        rwlock_wait(loop, lock, false);
    else
        lock->shared++;
}

void vd_unlock_shared(struct vd_loop *loop, struct vd_rwlock *lock)
{
    assert(lock->shared > 0 && !lock->exclusive);
    lock->shared--;
    rwlock_hand_over(loop, lock);
}

void vd_lock_exclusive(struct vd_loop *loop, struct vd_rwlock *lock)
{
    /* Nobody waits for a lock that is free: it was handed over. */
    if (lock->exclusive || lock->shared)
        rwlock_wait(loop, lock, true);
    else
        lock->exclusive = true;
}

void vd_unlock_exclusive(struct vd_loop *loop, struct vd_rwlock *lock)
{
    assert(lock->exclusive && !lock->shared);
    lock->exclusive = false;
    rwlock_hand_over(loop, lock);
}

static bool overlap(const struct vd_range *a, const struct vd_range *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* The rule of the range lock: a range is held exactly when this is false. It waits for those
 * before it in the list whether they hold or wait themselves, hence only ever for earlier
 * ones: there is no cycle, and nobody is overtaken. */
static bool must_wait(const struct vd_range *range)
{
    for (const struct vd_range *r = range->prev; r; r = r->prev)
        if (overlap(r, range) && (r->exclusive || range->exclusive))
            return true;
    return false;
}

void vd_range_lock(struct vd_loop *loop, struct vd_range_lock *lock, struct vd_range *range,
                   uint64_t first, uint64_t last, bool exclusive)
{
    assert(first <= last);
    *range =
        (struct vd_range){.first = first, .last = last, .exclusive = exclusive, .prev = lock->tail};
    if (lock->tail)
        lock->tail->next = range;
    else
        lock->head = range;
    lock->tail = range;

    range->granted = !must_wait(range);
    if (!range->granted)
        vd_wait(loop, &range->waiter);
    assert(range->granted);
}

void vd_range_unlock(struct vd_loop *loop, struct vd_range_lock *lock, struct vd_range *range)
{
    assert(range->granted);
    if (range->prev)
        range->prev->next = range->next;
    else
        lock->head = range->next;
    if (range->next)
        range->next->prev = range->prev;
    else
        lock->tail = range->prev;
    range->granted = false;

    /* Only a later one that overlaps can have waited for this one. */
    for (struct vd_range *r = range->next; r; r = r->next) {
        if (r->granted || !overlap(r, range) || must_wait(r))
            continue;
        r->granted = true;
        vd_wake_one(loop, &r->waiter);
    }
}
