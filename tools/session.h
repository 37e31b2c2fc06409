/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What most commands do first and last: find the image of an operand, take the key, open, and
 * close with every error reported.
 */
#ifndef TOOLS_SESSION_H
#define TOOLS_SESSION_H

#include "imagespec.h"
#include "keyopt.h"

#include "vdisk/vdisk.h"

#include <stdbool.h>

struct session_options {
    struct keyopt key;
    const char *base; /* where the base is now; NULL: as recorded */
};

/* The options that every command which opens an image has. */
#define SESSION_OPTIONS(options)                                                                   \
    KEYOPT_OPEN_OPTIONS(&(options)->key, ""),                                                      \
    {                                                                                              \
        "base", OPTION_TEXT, &(options)->base, "IMAGE",                                            \
            "where the base of this overlay is, if it has moved"                                   \
    }
#define SESSION_OPTIONS_NONE                                                                       \
    {                                                                                              \
        .key = {.prefix = "" }                                                                     \
    }

enum {
    SESSION_WRITE = 1 << 0,
    SESSION_SNAPSHOT = 1 << 1, /* the operand may name a snapshot (not with WRITE) */
    SESSION_UNFILLED = 1 << 3, /* an image that is being filled will do: its data is not read */
    SESSION_WORKERS = 1 << 2,  /* the command moves much data: a thread for each processor */
};

struct session {
    struct imagespec spec;
    const char *base; /* as in the options */
    struct vdisk_workers *workers;
    struct vdisk_image *image;
    struct vdisk_snapshot *snapshot; /* NULL: the live state */
};

/* Returns an exit status, having reported. After success session_close() is due. */
int session_open(struct session *session, const char *command, const char *operand,
                 const struct session_options *options, int flags);

/* Closes, making everything durable. Returns `status`, or that of a failing close if `status` was
 * STATUS_DONE; only then is the latter reported. */
int session_close(struct session *session, int status);

/* Opens image and snapshot once more, for another thread and without workers. Reports nothing. 0,
 * or an error. */
int session_open_again(const struct session *session, const struct vdisk_unlocked *unlocked,
                       struct vdisk_image **image, struct vdisk_snapshot **snapshot);

/* Reports the image's last error, under the operand's name. */
int session_fail(struct session *session, int code);

/* Bytes of the drive, or of the snapshot. */
uint64_t session_size(const struct session *session);

/* A pool with a thread for each processor that we may use; NULL when there is none to be had,
 * which the library takes as well. */
struct vdisk_workers *session_workers(void);

/* Frees `workers`; NULL is allowed. */
void session_workers_close(struct vdisk_workers *workers);

#endif
