/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits of a guest's processors and memory, by cgroup v2: a group of its own beside ours (root:
 * /sys/fs/cgroup/vdisk/NAME; others: where their session may make groups).
 */
#ifndef TOOLS_CGROUP_H
#define TOOLS_CGROUP_H

#include "vdisk/error.h"

#include <stdbool.h>
#include <stdint.h>

#define CGROUP_PATH_BYTES  512u
#define CGROUP_WEIGHT_MAX  10000u
#define CGROUP_PERCENT_MAX 1000000u

struct cgroup_limits {    /* 0: none */
    unsigned cpu_percent; /* of one processor, sustained */
    unsigned cpu_burst;   /* what may be saved up for later: percent of a processor's 100 ms */
    unsigned weight;      /* among groups that want more than there is; 100 is usual */
    uint64_t memory;      /* bytes; what is beyond is swapped out, or the guest ended */
};

static inline bool cgroup_is_wanted(const struct cgroup_limits *limits)
{
    return limits->cpu_percent || limits->weight || limits->memory;
}

/* Makes the group, in `path`. -errno, with a sentence that says what the system does not give; then
 * there is none. */
int cgroup_make(const char *name, const struct cgroup_limits *limits, char path[CGROUP_PATH_BYTES],
                struct vdisk_error *error);
/* The calling process, which may have been forked off with the path, moves into it. -errno. */
int cgroup_enter(const char *path);
/* When nobody is in it any more. */
void cgroup_remove(const char *path);

#endif
