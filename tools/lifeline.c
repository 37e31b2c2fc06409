/* SPDX-License-Identifier: Apache-2.0 */
/* See lifeline.h. */
#include "lifeline.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

int lifeline_make(struct lifeline *line)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC))
        return -errno;
    *line = (struct lifeline){.watched = ends[0], .held = ends[1]};
    return 0;
}

void lifeline_close(struct lifeline *line)
{
    if (line->watched >= 0)
        close(line->watched);
    if (line->held >= 0)
        close(line->held);
    *line = (struct lifeline)LIFELINE_NONE;
}

int lifeline_watch(const struct lifeline *line)
{
    if (fcntl(line->watched, F_SETOWN, getpid()) || fcntl(line->watched, F_SETSIG, SIGTERM) ||
        fcntl(line->watched, F_SETFL, O_ASYNC) || fcntl(line->watched, F_SETFD, 0))
        return -errno;
    return 0;
}

int lifeline_hold(const struct lifeline *line)
{
    return fcntl(line->held, F_SETFD, 0) ? -errno : 0;
}
