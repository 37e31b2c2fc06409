/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rate limits: token buckets for operations and bytes, read and written, sustained rate and burst.
 *
 * A bucket holds `burst` tokens, is refilled at `rate` a second, and lets a request pass when it is
 * not in debt; a request may put it into debt by its whole cost, so that a request larger than
 * the burst passes too, and the rate is exact whatever the sizes. There is no cool-down.
 *
 * A limiter is used by one thread, and by the requests that wait in it, in order; a group's buckets
 * are shared by limiters of several threads, without locks.
 */
#ifndef VDISKD_LIMIT_H
#define VDISKD_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

enum limit_kind {
    LIMIT_READ_OPS,
    LIMIT_WRITE_OPS,
    LIMIT_READ_BYTES,
    LIMIT_WRITE_BYTES,
    LIMIT_KINDS,
};

struct limit_setting {
    uint64_t rate;  /* tokens a second; 0: no limit */
    uint64_t burst; /* tokens; 0: as many as come in 100 ms, at least 1 */
};

struct limit_settings {
    struct limit_setting kind[LIMIT_KINDS];
};

struct limit_group; /* buckets that several limiters share */

/* Full buckets. NULL without memory. */
struct limit_group *limit_group_new(const struct limit_settings *settings);
void limit_group_free(struct limit_group *group);
/* From any thread, while in use: what is in the buckets stays, but for what no longer fits. */
void limit_group_set(struct limit_group *group, const struct limit_settings *settings);
/* The same at a time of the caller's (nanoseconds of CLOCK_MONOTONIC). */
void limit_group_set_at(struct limit_group *group, const struct limit_settings *settings,
                        int64_t now);
void limit_group_get(const struct limit_group *group, struct limit_settings *settings);

/*
 * May a request of these costs pass at `now` (nanoseconds of CLOCK_MONOTONIC)? Then the tokens are
 * taken and 0 is returned; else nothing is taken and the return is when to ask again, in
 * nanoseconds from `now`. `waited` says that the request is the first of a queue and has asked
 * before: then the time between when it could have passed and now is not lost, so that a late timer
 * costs no rate; that holds for the requests behind it, too, which need not say so. Both groups
 * may be NULL. With a shared group, `own` is also who asks: limiters that wait for one group are
 * served alike. From any thread.
 */
int64_t limit_take(struct limit_group *own, struct limit_group *shared, bool is_write,
                   uint64_t bytes, int64_t now, bool waited);

#endif
