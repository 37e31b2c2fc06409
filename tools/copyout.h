/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copying a range of a drive out of an image to a sink, on all processors.
 */
#ifndef TOOLS_COPYOUT_H
#define TOOLS_COPYOUT_H

#include "progress.h"
#include "session.h"
#include "sink.h"

#include <stdbool.h>
#include <stdint.h>

struct copyout {
    struct session *session;
    struct sink *sink;
    uint64_t offset, length;
    bool use_map; /* holes and zeros of the map go to the sink as zeros, unread */
    bool quiet;
    const char *verb; /* of the progress bar */
};

/* Returns an exit status, having reported. */
int copyout_run(const struct copyout *copy);

#endif
