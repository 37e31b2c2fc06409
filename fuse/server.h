/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Serves a mount to the kernel, by so many threads, each with an access of its own.
 *
 * What cannot change is kept in the kernel's page cache. A drive that may be written is not: it is
 * seen at two places, as a whole and as partitions, and the kernel does not know that they are one.
 */
#ifndef FUSE_SERVER_H
#define FUSE_SERVER_H

#include "backing.h"

struct server;

struct server_options {
    struct backing *backing;  /* must outlive it */
    int device;               /* of a mount (mountpoint.h); taken over */
    void (*up)(void *opaque); /* the kernel has been answered: by one of the threads, once */
    void *opaque;
    bool files; /* those within file systems, too */
};

/* -ENOMEM, -EIO. The device is then closed. */
int server_new(const struct server_options *options, struct server **out);
/*
 * Starts the threads and waits until it is unmounted, or for SIGTERM, SIGINT or SIGHUP, which the
 * caller catches (interrupt.h). Requests under way are answered; then every access is closed. 0 or
 * -errno.
 */
int server_run(struct server *server);
/* Closes the device: what is mounted still is dead. NULL is allowed. */
void server_free(struct server *server);

#endif
