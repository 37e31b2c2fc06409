/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Token buckets without locks; see limit.h.
 *
 * A bucket is one number: when it will be full again, in 1/16 ns. What is missing from it is the
 * time until then, times the rate; it is not in debt from `burst` before then on. Taking tokens is
 * an addition to that number. A request that several buckets limit asks all, then takes from all:
 * another thread may have taken in between, which makes a debt that is paid off like any other.
 *
 * Late timers: a request that was told to wait is charged at the time when it could have passed,
 * and so are those behind it in its queue (the requests of the millisecond after it), but no more
 * than LATE_MAX back, so that a process that was stopped does not make up for hours.
 *
 * Fairness: who shares a group counts, in a slot of the group, the bucket time it was served. A
 * limiter that is ahead of one that waits by more than QUANTUM leaves it the tokens; one that does
 * not come for them soon is no longer counted as waiting.
 */
#include "limit.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define UNITS           16 /* of time in a nanosecond: the host may run 18 years */
#define SECOND_UNITS    (UNITS * 1e9)
#define MILLI_UNITS     ((int64_t)UNITS * 1000000)
#define COST_MAX        (INT64_C(1) << 58) /* 208 days: no sum of a time and two of these overflows */
#define NOW_MAX         (INT64_C(1) << 61)
#define DEFAULT_BURST   (100 * MILLI_UNITS)
#define LATE_MAX        (100 * MILLI_UNITS)
#define DRAIN_UNITS     MILLI_UNITS
#define QUANTUM         (2 * MILLI_UNITS)
#define GRACE_UNITS     (20 * MILLI_UNITS)
#define SLOTS           64u /* limiters of a group that share one by chance count as one */
#define DIRECTIONS      2u
#define BUCKETS_AT_ONCE 4u

struct bucket {
    atomic_uint_fast64_t rate, burst; /* as set */
    _Atomic int64_t full_at;
};

struct slot {
    _Atomic int64_t served, waiting_until;
};

struct limit_group {
    struct bucket bucket[LIMIT_KINDS];
    unsigned number;                    /* picks the slot in a shared group */
    _Atomic int64_t waited[DIRECTIONS]; /* when a request that had waited last passed */
    _Atomic int64_t virtual_time[DIRECTIONS];
    struct slot slot[DIRECTIONS][SLOTS];
};

/* A bucket that limits the request at hand. */
struct claim {
    struct bucket *bucket;
    int64_t cost, ready; /* units; when the bucket is out of debt */
    bool is_shared;
};

struct claims {
    struct claim claim[BUCKETS_AT_ONCE];
    unsigned count;
};

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How long `tokens` take to come. */
static int64_t units_of(double tokens, uint64_t rate)
{
    double units = tokens * SECOND_UNITS / (double)rate + 0.5;

    return units >= (double)COST_MAX ? COST_MAX : (int64_t)units;
}

static int64_t burst_units(uint64_t burst, uint64_t rate)
{
    if (burst == 0)
        return larger(DEFAULT_BURST, units_of(1, rate));
    return units_of((double)burst, rate);
}

static int64_t clamp_now(int64_t nanoseconds)
{
    return nanoseconds < 0 ? 0 : smaller(nanoseconds, NOW_MAX / UNITS) * UNITS;
}

struct limit_group *limit_group_new(const struct limit_settings *settings)
{
    static atomic_uint numbers;
    struct limit_group *group = calloc(1, sizeof(*group));

    if (!group)
        return NULL;
    group->number = atomic_fetch_add(&numbers, 1);
    for (unsigned d = 0; d < DIRECTIONS; d++)
        atomic_init(&group->waited[d], INT64_MIN / 2);
    limit_group_set_at(group, settings, 0);
    return group;
}

void limit_group_free(struct limit_group *group)
{
    free(group);
}

/* The new full_at: the same tokens, or debt, at another rate, within another burst. */
static int64_t refit(int64_t full_at, int64_t now, const struct limit_setting *old,
                     const struct limit_setting *new)
{
    if (new->rate == 0 || old->rate == 0)
        return now;
    double missing = (double)larger(full_at - now, 0) * (double)old->rate / SECOND_UNITS;
    double burst = (double)burst_units(old->burst, old->rate) * (double)old->rate / SECOND_UNITS;
    double room = (double)burst_units(new->burst, new->rate) * (double)new->rate / SECOND_UNITS;
    double kept = burst - missing;

    return kept >= room ? now : now + units_of(room - kept, new->rate);
}

void limit_group_set_at(struct limit_group *group, const struct limit_settings *settings,
                        int64_t now)
{
    int64_t at = clamp_now(now);

    for (unsigned kind = 0; kind < LIMIT_KINDS; kind++) {
        struct bucket *bucket = &group->bucket[kind];
        const struct limit_setting *new = &settings->kind[kind];
        struct limit_setting old = {
            .rate = atomic_exchange(&bucket->rate, new->rate),
            .burst = atomic_exchange(&bucket->burst, new->burst),
        };
        int64_t full_at = atomic_load(&bucket->full_at);

        if (old.rate == new->rate && old.burst == new->burst)
            continue;
        while (!atomic_compare_exchange_weak(&bucket->full_at, &full_at,
                                             refit(full_at, at, &old, new)))
            ;
    }
}

void limit_group_set(struct limit_group *group, const struct limit_settings *settings)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    limit_group_set_at(group, settings, (int64_t)now.tv_sec * 1000000000 + now.tv_nsec);
}

void limit_group_get(const struct limit_group *group, struct limit_settings *settings)
{
    for (unsigned kind = 0; kind < LIMIT_KINDS; kind++) {
        settings->kind[kind].rate = atomic_load(&group->bucket[kind].rate);
        settings->kind[kind].burst = atomic_load(&group->bucket[kind].burst);
    }
}

/* The bucket's part in the request, unless it has none. */
static void claim(struct claims *claims, struct limit_group *group, enum limit_kind kind,
                  uint64_t tokens, bool is_shared)
{
    struct bucket *bucket = &group->bucket[kind];
    uint64_t rate = atomic_load_explicit(&bucket->rate, memory_order_relaxed);
    uint64_t burst = atomic_load_explicit(&bucket->burst, memory_order_relaxed);

    if (rate == 0 || tokens == 0)
        return;
    claims->claim[claims->count++] = (struct claim){
        .bucket = bucket,
        .cost = units_of((double)tokens, rate),
        .ready = atomic_load(&bucket->full_at) - burst_units(burst, rate),
        .is_shared = is_shared,
    };
}

static void claim_all(struct claims *claims, struct limit_group *group, bool is_write,
                      uint64_t bytes, bool is_shared)
{
    if (!group)
        return;
    claim(claims, group, is_write ? LIMIT_WRITE_OPS : LIMIT_READ_OPS, 1, is_shared);
    claim(claims, group, is_write ? LIMIT_WRITE_BYTES : LIMIT_READ_BYTES, bytes, is_shared);
}

/* Whether another limiter of the group waits that has been served less than this one. */
static bool must_yield(struct limit_group *shared, unsigned own, bool is_write, int64_t now)
{
    const struct slot *slots = shared->slot[is_write];
    int64_t served = atomic_load(&slots[own].served);

    for (unsigned i = 0; i < SLOTS; i++) {
        if (i != own &&
            atomic_load_explicit(&slots[i].waiting_until, memory_order_relaxed) >= now &&
            atomic_load_explicit(&slots[i].served, memory_order_relaxed) + QUANTUM < served)
            return true;
    }
    return false;
}

/* The limiter comes (again): what it was not served while it wanted nothing is not made up for. */
static void catch_up(struct limit_group *shared, struct slot *slot, bool is_write, int64_t now)
{
    int64_t least = atomic_load(&shared->virtual_time[is_write]) - 2 * QUANTUM;
    int64_t served = atomic_load(&slot->served);

    if (atomic_load(&slot->waiting_until) < now && served < least)
        atomic_compare_exchange_strong(&slot->served, &served, least);
}

/* After a pass that took `cost` of the group's time. */
static void count_served(struct limit_group *shared, struct slot *slot, bool is_write, int64_t cost)
{
    int64_t start = atomic_fetch_add(&slot->served, cost);
    int64_t latest = atomic_load(&shared->virtual_time[is_write]);

    atomic_store(&slot->waiting_until, INT64_MIN);
    while (latest < start &&
           !atomic_compare_exchange_weak(&shared->virtual_time[is_write], &latest, start))
        ;
}

static void charge(const struct claims *claims, int64_t at)
{
    for (unsigned i = 0; i < claims->count; i++) {
        _Atomic int64_t *full_at = &claims->claim[i].bucket->full_at;
        int64_t old = atomic_load(full_at);

        while (!atomic_compare_exchange_weak(
            full_at, &old, smaller(larger(old, at) + claims->claim[i].cost, INT64_MAX - COST_MAX)))
            ;
    }
}

int64_t limit_take(struct limit_group *own, struct limit_group *shared, bool is_write,
                   uint64_t bytes, int64_t now, bool waited)
{
    struct limit_group *queue = own ? own : shared; /* where the lateness is noted */
    unsigned index = own ? own->number % SLOTS : 0;
    struct slot *slot = shared && own ? &shared->slot[is_write][index] : NULL;
    struct claims claims = {.count = 0};
    int64_t at = clamp_now(now), ready = INT64_MIN / 2, own_ready = INT64_MIN / 2;
    int64_t shared_cost = 0;

    claim_all(&claims, own, is_write, bytes, false);
    claim_all(&claims, shared, is_write, bytes, true);
    if (claims.count == 0)
        return 0;
    for (unsigned i = 0; i < claims.count; i++) {
        const struct claim *claim = &claims.claim[i];

        ready = larger(ready, claim->ready);
        if (claim->is_shared)
            shared_cost = larger(shared_cost, claim->cost);
        else
            own_ready = larger(own_ready, claim->ready);
    }
    if (shared_cost == 0)
        slot = NULL;
    if (slot)
        catch_up(shared, slot, is_write, at);
    if (ready <= at && slot && must_yield(shared, index, is_write, at))
        ready = at + QUANTUM / 2;
    if (ready > at) {
        /* Nobody has to yield to who only waits for limits of its own. */
        if (slot)
            atomic_store(&slot->waiting_until, own_ready > at ? INT64_MIN : ready + GRACE_UNITS);
        return (ready - at + UNITS - 1) / UNITS;
    }
    if (waited)
        atomic_store(&queue->waited[is_write], at);
    else
        waited = at - atomic_load(&queue->waited[is_write]) <= DRAIN_UNITS;
    charge(&claims, waited ? larger(ready, at - LATE_MAX) : at);
    if (slot)
        count_served(shared, slot, is_write, shared_cost);
    return 0;
}
