/* SPDX-License-Identifier: Apache-2.0 */
/* Counting; see stats.h. */
#include "stats.h"

#include "vdisk/error.h"

static void add(atomic_uint_fast64_t *counter, uint64_t value)
{
    atomic_fetch_add_explicit(counter, value, memory_order_relaxed);
}

void stats_add(struct stats *stats, enum stats_op op, uint64_t bytes, int64_t nanoseconds,
               int result)
{
    struct stats_counter *counter = &stats->op[op];
    uint64_t microseconds = nanoseconds > 0 ? ((uint64_t)nanoseconds + 999) / 1000 : 0;
    unsigned bucket = 0;

    while (bucket + 1 < STATS_BUCKETS && (UINT64_C(1) << bucket) < microseconds)
        bucket++;
    add(&counter->count, 1);
    add(&counter->nanoseconds, nanoseconds > 0 ? (uint64_t)nanoseconds : 0);
    add(&counter->bucket[bucket], 1);
    if (result)
        add(&counter->errors, 1);
    else
        add(&counter->bytes, bytes);
    if (result == VDISK_E_NOT_AUTHENTIC || result == VDISK_E_MALFORMED)
        add(&stats->integrity_errors, 1);
}
