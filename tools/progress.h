/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bar of long work, with rate and time left: on standard error, if that is a terminal.
 *
 * It must be cleared (progress_clear) before another line is written there, and ended before a
 * report. It draws again by itself at the next update.
 */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *verb; /* "import" */
    bool enabled, drawn;
    int64_t started_ns, drawn_ns;
};

void progress_begin(struct progress *progress, const char *verb, bool quiet);
void progress_update(struct progress *progress, uint64_t done_bytes, uint64_t total_bytes);
void progress_clear(struct progress *progress);

/* A vdisk_progress whose opaque is a struct progress: also ends the work after a signal. */
bool progress_callback(void *opaque, uint64_t done_bytes, uint64_t total_bytes);

#endif
