/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counting requests; see stats.h. One thread writes, so plain relaxed additions do.
 */
#include "stats.h"

#include "vdisk/error.h"

/* The least b with nanoseconds <= 2^b microseconds. */
static unsigned bucket_of(int64_t nanoseconds)
{
    unsigned b = 0;

    while (b < STATS_BUCKETS - 1 && nanoseconds > (INT64_C(1000) << b))
        b++;
    return b;
}

static void add(atomic_uint_fast64_t *counter, uint64_t value)
{
    atomic_fetch_add_explicit(counter, value, memory_order_relaxed);
}

void stats_add(struct stats *stats, enum stats_op op, uint64_t bytes, int64_t nanoseconds,
               int result)
{
    struct stats_counter *counter = &stats->op[op];

    if (nanoseconds < 0)
        nanoseconds = 0;
    add(&counter->count, 1);
    add(&counter->nanoseconds, (uint64_t)nanoseconds);
    add(&counter->bucket[bucket_of(nanoseconds)], 1);
    if (result)
        add(&counter->errors, 1);
    else
        add(&counter->bytes, bytes);
    if (result == VDISK_E_NOT_AUTHENTIC || result == VDISK_E_MALFORMED)
        add(&stats->integrity_errors, 1);
}
