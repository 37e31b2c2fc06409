/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pipe by which a program learns that those it works for are gone, however they went: when the
 * last process that holds the one end has closed it or ended, the kernel sends SIGTERM, with
 * si_code POLL_IN, to the one that watches the other. Unlike prctl(PR_SET_PDEATHSIG) it tells of
 * more than a parent, and outlives a change of user.
 */
#ifndef TOOLS_LIFELINE_H
#define TOOLS_LIFELINE_H

struct lifeline {
    int watched, held; /* descriptors, closed by exec; -1: none */
};

#define LIFELINE_NONE                                                                              \
    {                                                                                              \
        .watched = -1, .held = -1                                                                  \
    }

/* The caller holds it. 0 or -errno. */
int lifeline_make(struct lifeline *line);
void lifeline_close(struct lifeline *line);

/* In a child, before exec. The one that watched before, which shares our end, does no longer.
 * 0 or -errno. */
int lifeline_watch(const struct lifeline *line);
/* In a child, before exec: it holds the line as well, as long as it lives. 0 or -errno. */
int lifeline_hold(const struct lifeline *line);

#endif
