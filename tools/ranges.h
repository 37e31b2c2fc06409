/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A range of a drive, cut into pieces that are data or zeros, in order.
 */
#ifndef TOOLS_RANGES_H
#define TOOLS_RANGES_H

#include "session.h"

#include <stdbool.h>
#include <stdint.h>

#define RANGES_WINDOW 1024u

struct range {
    uint64_t offset, length; /* bytes */
    bool is_zero;
};

/* Memory is bounded: the map is looked at a window of ranges at a time. */
struct ranges {
    struct session *session;
    uint64_t at, end; /* not handed out yet */
    uint64_t piece;   /* longest piece of data, a power of two */
    bool use_map;
    struct range window[RANGES_WINDOW];
    unsigned next, count;
};

void ranges_begin(struct ranges *ranges, struct session *session, uint64_t offset, uint64_t length,
                  bool use_map, uint64_t piece);

/* The next piece; length 0 at the end. 0 or an error of vdisk_map(). Pieces of data end at
 * multiples of `piece`, zeros come whole. */
int ranges_next(struct ranges *ranges, struct range *range);

#endif
