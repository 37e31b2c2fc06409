/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which backups of a drive are kept: rules on times, nothing else. Pure: no clock, no files.
 *
 * Someone who can make backups, and no more, must not be able to make good ones go. A backup whose
 * time is in the future, or before that of an earlier one of its drive, is kept and takes nobody's
 * place in any rule; `within` counts from now; the newest of a drive always stays.
 */
#ifndef BACKUP_RETENTION_H
#define BACKUP_RETENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define VB_REASON_BYTES 160u

struct vb_retention {
    /* Of so many periods, the last that have backups, the newest one each. 0: no such rule. */
    uint64_t last, hourly, daily, weekly, monthly, yearly;
    uint64_t within;         /* seconds; 0: no such rule */
    const char *const *tags; /* backups with one of these */
    unsigned tag_count;
};

struct vb_retention_item {
    int64_t time; /* seconds since 1970 */
    uint64_t immutable_until;
    const char (*tags)[64];
    unsigned tag_count;
};

struct vb_retention_verdict {
    bool keep;
    bool suspect;                 /* by its time */
    char reason[VB_REASON_BYTES]; /* "daily, tag release"; of one to go: why none keeps it */
};

/* localtime_r, or gmtime_r. */
typedef struct tm *vb_retention_calendar(const time_t *seconds, struct tm *out);

bool vb_retention_is_empty(const struct vb_retention *rules);
/* The backups of one drive, by sequence. Fills in as many verdicts. */
void vb_retention_judge(const struct vb_retention *rules, const struct vb_retention_item *items,
                        size_t count, int64_t now, vb_retention_calendar *calendar,
                        struct vb_retention_verdict *verdicts);
/* How many of a drive's backups one prune takes away unless it is told to. */
size_t vb_retention_limit(size_t count);

#endif
