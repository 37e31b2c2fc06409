/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is counted for each export: written by the thread that owns it, read by any.
 */
#ifndef VDISKD_STATS_H
#define VDISKD_STATS_H

#include <stdatomic.h>
#include <stdint.h>

enum stats_op {
    STATS_READ,
    STATS_WRITE,
    STATS_FLUSH,
    STATS_DISCARD,
    STATS_ZERO,
    STATS_OPS,
};

/* Bucket b holds latencies up to 2^b microseconds (1 us to 33 s); the last all that are longer. */
#define STATS_BUCKETS 27u

struct stats_counter {
    atomic_uint_fast64_t count, bytes, errors;
    atomic_uint_fast64_t nanoseconds; /* in all */
    atomic_uint_fast64_t bucket[STATS_BUCKETS];
};

struct stats {
    struct stats_counter op[STATS_OPS];
    atomic_uint_fast64_t throttled;         /* requests that had to wait for a limit */
    atomic_uint_fast64_t waiting_for_space; /* times that requests waited for a full disk */
    atomic_uint_fast64_t reopened;          /* times that the image was, after a failure */
    atomic_uint_fast64_t integrity_errors;  /* results VDISK_E_NOT_AUTHENTIC, _MALFORMED */
    atomic_uint_fast64_t filled_bytes;      /* copied from the image's source */
    atomic_uint_fast64_t filled_to;         /* how far that has come in the drive, bytes */
    atomic_uint_fast64_t in_flight;
    atomic_uint_fast64_t delayed; /* of them, those that have waited for a full or failing disk */
    atomic_uint_fast64_t sessions_total;
};

/* One request that took so long. */
void stats_add(struct stats *stats, enum stats_op op, uint64_t bytes, int64_t nanoseconds,
               int result);

#endif
