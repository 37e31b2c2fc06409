/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data of clients that a thread may hold in memory, over all its connections.
 *
 * A connection has a share. It takes bytes before their memory, and gives them back after. What is
 * always its to take is an even part of one half (so whatever others hold, for a disk that is full,
 * a limit, or a client that sleeps, it goes on); beyond that it gets what is free, in turn, but to
 * itself never more than it leaves. More than that half is given to one request at a time: so no
 * more is held than the budget, that half again, and the longest request.
 *
 * The shares of one export are a group. What a group holds while it waits for something of its own
 * -- a limit, a disk that is full or fails -- is set aside: it is not counted, so others have the
 * whole budget meanwhile; and beyond their parts its shares get, all of them, an even part of the
 * other half, or one request. A group of whose bytes none have come back for seconds, while another
 * waits for them, is taken to wait as well: its disk hangs. At most as much as the budget is aside.
 *
 * While one waits for a second and more, clients that hold memory and do not do their part are
 * watched: who owes bytes (of a payload that it began, of replies that it does not take) has 10
 * seconds, and one for each MiB of them; then it is sent away.
 *
 * All of a budget belongs to one thread.
 */
#ifndef VDISKD_BUDGET_H
#define VDISKD_BUDGET_H

#include "task.h"

struct budget_waiter;

struct budget {
    struct reactor *reactor;
    uint64_t bytes, used;
    uint64_t aside; /* held and not in `used` */
    uint64_t part;  /* what each share may always take */
    unsigned shares;
    struct budget_share *first;
    struct budget_group *groups;
    unsigned group_count;
    struct budget_waiter *head, **tail;
    struct reactor_op timer;
    bool armed;
};

/* What a client is to send, or to take. */
struct budget_debt {
    uint64_t bytes; /* 0: none */
    unsigned serial;
    unsigned seen, seconds; /* since when it is the same */
};

/* All zero before its first share; without any, nothing is in it. */
struct budget_group {
    struct budget_group *next, *previous;
    unsigned shares;
    uint64_t held, aside;
    bool waits;             /* so says its owner */
    bool hangs;             /* until what is aside has come back */
    unsigned given;         /* times that bytes came back */
    unsigned seen, seconds; /* since when it is the same */
};

struct budget_share {
    struct budget *budget;
    struct budget_group *group;
    struct budget_share *next, *previous;
    uint64_t held;
    bool ended;
    struct budget_debt to_send, to_take;
    void (*send_away)(struct budget_share *share); /* NULL: is never */
};

void budget_open(struct budget *budget, struct reactor *reactor, uint64_t bytes);
/* Without shares; takes steps of the reactor. */
void budget_close(struct budget *budget);

void budget_enter(struct budget *budget, struct budget_group *group, struct budget_share *share);
/* Nothing is held. */
void budget_leave(struct budget_share *share);

/* By a task: waits for its turn. False: the share has ended. */
bool budget_take(struct budget_share *share, uint64_t bytes);
/* Without waiting, and even if there is no room; to be asked before. */
bool budget_has_room(const struct budget_share *share);
void budget_seize(struct budget_share *share, uint64_t bytes);
void budget_give(struct budget_share *share, uint64_t bytes);
/* Whether requests of the group wait for something of its own. Costs little when that is known. */
void budget_group_waits(struct budget *budget, struct budget_group *group, bool waits);
/* Who waits for it, now and later, does not get anything. */
void budget_end(struct budget_share *share);

static inline void budget_owe(struct budget_debt *debt, uint64_t bytes)
{
    debt->bytes = bytes;
    debt->serial++;
}

#endif
