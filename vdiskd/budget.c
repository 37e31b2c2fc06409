/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for clients' data; see budget.h.
 *
 * A waiter holds nothing for what it waits for. One whose share has more than its part already has
 * no turn: it gets what happens to be free, and keeps nobody behind it from that; so one whose
 * requests do not end does not stop the queue.
 */
#include "budget.h"

#include <assert.h>

#define SECOND        INT64_C(1000000000)
#define PATIENCE      10u /* seconds */
#define A_SECOND_MORE (UINT64_C(1) << 20)
#define HANGS_AFTER   2u /* seconds */

struct budget_waiter {
    struct budget_waiter *next;
    struct budget_share *share;
    uint64_t bytes;
    struct task *place;
    unsigned seconds;
    bool is_over, has_it;
};

void budget_open(struct budget *budget, struct reactor *reactor, uint64_t bytes)
{
    *budget = (struct budget){.reactor = reactor, .bytes = bytes, .part = bytes / 2};
    budget->tail = &budget->head;
}

void budget_close(struct budget *budget)
{
    assert(!budget->first && !budget->head);
    if (budget->armed)
        reactor_cancel(budget->reactor, &budget->timer);
    while (budget->armed)
        reactor_step(budget->reactor, false);
}

/* ---- who may have what ---- */

static bool is_in_part(const struct budget_share *share, uint64_t bytes)
{
    return share->held + bytes <= share->budget->part;
}

/* A group that waits for something else leaves memory to others. */
static bool group_may(const struct budget_share *share, uint64_t bytes)
{
    const struct budget *budget = share->budget;
    const struct budget_group *group = share->group;
    uint64_t counted = group->held - group->aside;

    return !(group->waits || group->hangs) || counted == 0 ||
           counted + bytes <= budget->bytes / 2 / budget->group_count;
}

static bool is_free(const struct budget_share *share, uint64_t bytes)
{
    const struct budget *budget = share->budget;
    uint64_t left = budget->bytes > budget->used ? budget->bytes - budget->used : 0;
    uint64_t needed = bytes < budget->bytes / 2 ? bytes : budget->bytes / 2;

    if (share->held > budget->part)
        return share->held + bytes <= left;
    return needed <= left;
}

/* What is free is its, before who came later. */
static bool has_turn(const struct budget_waiter *waiter)
{
    return waiter->share->held <= waiter->share->budget->part &&
           group_may(waiter->share, waiter->bytes);
}

static bool is_anyones_turn(const struct budget *budget)
{
    const struct budget_waiter *waiter = budget->head;

    while (waiter && !has_turn(waiter))
        waiter = waiter->next;
    return waiter;
}

/* At once. */
static bool may_have(const struct budget_share *share, uint64_t bytes)
{
    return is_in_part(share, bytes) ||
           (group_may(share, bytes) && is_free(share, bytes) && !is_anyones_turn(share->budget));
}

static void end_wait(struct budget *budget, struct budget_waiter **place, bool has_it)
{
    struct budget_waiter *waiter = *place;

    *place = waiter->next;
    if (!*place)
        budget->tail = place;
    waiter->is_over = true;
    waiter->has_it = has_it;
    if (has_it)
        budget_seize(waiter->share, waiter->bytes);
    task_wake(&waiter->place);
}

static void let_in(struct budget *budget)
{
    struct budget_waiter **place = &budget->head;
    bool is_taken = false; /* what is free, by one who waits longer */

    while (*place) {
        const struct budget_waiter *waiter = *place;
        const struct budget_share *share = waiter->share;

        if (share->ended) {
            end_wait(budget, place, false);
        } else if (is_in_part(share, waiter->bytes) ||
                   (!is_taken && group_may(share, waiter->bytes) &&
                    is_free(share, waiter->bytes))) {
            end_wait(budget, place, true);
        } else {
            is_taken = is_taken || has_turn(waiter);
            place = &(*place)->next;
        }
    }
}

/* ---- shares ---- */

static void count(struct budget *budget, int more)
{
    budget->shares += (unsigned)more;
    budget->part = budget->bytes / 2 / (budget->shares ? budget->shares : 1);
    let_in(budget);
}

static void enter_group(struct budget *budget, struct budget_group *group)
{
    if (group->shares++ > 0)
        return;
    group->previous = NULL;
    group->next = budget->groups;
    if (group->next)
        group->next->previous = group;
    budget->groups = group;
    budget->group_count++;
}

static void leave_group(struct budget *budget, struct budget_group *group)
{
    if (--group->shares > 0)
        return;
    if (group->previous)
        group->previous->next = group->next;
    else
        budget->groups = group->next;
    if (group->next)
        group->next->previous = group->previous;
    budget->group_count--;
}

void budget_enter(struct budget *budget, struct budget_group *group, struct budget_share *share)
{
    enter_group(budget, group);
    share->budget = budget;
    share->group = group;
    share->previous = NULL;
    share->next = budget->first;
    if (share->next)
        share->next->previous = share;
    budget->first = share;
    count(budget, 1);
}

void budget_leave(struct budget_share *share)
{
    struct budget *budget = share->budget;

    assert(share->held == 0);
    if (share->previous)
        share->previous->next = share->next;
    else
        budget->first = share->next;
    if (share->next)
        share->next->previous = share->previous;
    share->budget = NULL;
    leave_group(budget, share->group);
    count(budget, -1);
}

void budget_end(struct budget_share *share)
{
    share->ended = true;
    if (share->budget)
        let_in(share->budget);
}

/* ---- groups that wait ---- */

static void set_aside(struct budget *budget, struct budget_group *group)
{
    uint64_t room = budget->bytes - budget->aside, bytes = group->held - group->aside;

    bytes = bytes < room ? bytes : room;
    group->aside += bytes;
    budget->aside += bytes;
    budget->used -= bytes;
}

static void count_again(struct budget *budget, struct budget_group *group)
{
    budget->used += group->aside;
    budget->aside -= group->aside;
    group->aside = 0;
}

void budget_group_waits(struct budget *budget, struct budget_group *group, bool waits)
{
    if (group->waits == waits)
        return;
    group->waits = waits;
    if (waits)
        set_aside(budget, group);
    else if (!group->hangs)
        count_again(budget, group);
    if (budget->head)
        let_in(budget);
}

static bool is_in_others_way(const struct budget *budget, const struct budget_group *group)
{
    const struct budget_waiter *waiter = budget->head;

    while (waiter && (waiter->share->group == group || waiter->seconds == 0))
        waiter = waiter->next;
    return waiter;
}

static void watch(struct budget *budget, struct budget_group *group)
{
    if (group->held == group->aside || group->seen != group->given ||
        !is_in_others_way(budget, group))
        group->seconds = 0;
    else
        group->seconds++;
    group->seen = group->given;
    if (group->seconds < HANGS_AFTER)
        return;
    group->hangs = true;
    set_aside(budget, group);
}

/* ---- clients that do not do their part ---- */

static bool is_overdue(struct budget_debt *debt)
{
    if (debt->bytes == 0 || debt->seen != debt->serial)
        debt->seconds = 0;
    else
        debt->seconds++;
    debt->seen = debt->serial;
    return debt->seconds > PATIENCE + debt->bytes / A_SECOND_MORE;
}

/* Whether somebody waits for what others hold, and has for a second. */
static bool is_pressing(struct budget *budget)
{
    bool is = false;

    for (struct budget_waiter *waiter = budget->head; waiter; waiter = waiter->next) {
        if (waiter->share->held <= budget->part)
            is = waiter->seconds++ > 0 || is;
    }
    return is;
}

static void each_second(struct reactor_op *timer);

static void arm(struct budget *budget)
{
    if (budget->armed)
        return;
    budget->armed = true;
    budget->timer = (struct reactor_op){
        .kind = REACTOR_SLEEP,
        .deadline = reactor_now() + SECOND,
        .done = each_second,
        .owner = budget,
    };
    reactor_submit(budget->reactor, &budget->timer);
}

static void each_second(struct reactor_op *timer)
{
    struct budget *budget = timer->owner;

    budget->armed = false;
    if (is_pressing(budget)) {
        for (struct budget_group *group = budget->groups; group; group = group->next)
            watch(budget, group);
        for (struct budget_share *share = budget->first; share; share = share->next) {
            bool sends_late = is_overdue(&share->to_send), takes_late = is_overdue(&share->to_take);

            if ((sends_late || takes_late) && share->send_away && !share->ended)
                share->send_away(share);
        }
    }
    let_in(budget);
    if (budget->head)
        arm(budget);
}

/* ---- taking, giving ---- */

bool budget_take(struct budget_share *share, uint64_t bytes)
{
    struct budget *budget = share->budget;
    struct budget_waiter waiter = {.share = share, .bytes = bytes};

    if (bytes == 0 || may_have(share, bytes)) {
        budget_seize(share, bytes);
        return true;
    }
    *budget->tail = &waiter;
    budget->tail = &waiter.next;
    let_in(budget);
    arm(budget);
    while (!waiter.is_over)
        task_park(&waiter.place);
    return waiter.has_it;
}

bool budget_has_room(const struct budget_share *share)
{
    return may_have(share, 1);
}

void budget_seize(struct budget_share *share, uint64_t bytes)
{
    share->held += bytes;
    share->group->held += bytes;
    share->budget->used += bytes;
}

void budget_give(struct budget_share *share, uint64_t bytes)
{
    struct budget *budget = share->budget;
    struct budget_group *group = share->group;
    uint64_t aside = bytes < group->aside ? bytes : group->aside;

    share->held -= bytes;
    group->held -= bytes;
    group->given++;
    group->aside -= aside;
    budget->aside -= aside;
    budget->used -= bytes - aside;
    group->hangs = group->hangs && group->aside > 0;
    if (budget->head)
        let_in(budget);
}
