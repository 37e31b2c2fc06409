/* SPDX-License-Identifier: Apache-2.0 */
/* A program that goes into the background when it works, and until then is in the foreground. */
#ifndef FUSE_BACKGROUND_H
#define FUSE_BACKGROUND_H

struct background {
    int told; /* who waits reads the other end; -1: nobody waits */
    int null;
};

#define BACKGROUND_NONE                                                                            \
    {                                                                                              \
        .told = -1                                                                                 \
    }

/*
 * Goes on in a child, before threads and locked memory, which do not pass a fork. In the child
 * OPTIONS_GO_ON; in the parent, when the child is up or has ended, the exit status.
 */
int background_begin(struct background *background);

/* The child asks no more: lets go of the terminal. Does nothing in the foreground. */
void background_apart(const struct background *background);

/* The child is up: lets go of the shell; standard error becomes `log`, or nothing (-1). By
 * any thread. Does nothing in the foreground. */
void background_up(struct background *background, int log);

#endif
