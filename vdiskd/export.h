/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An export: an image that is served under a name, by the one reactor that owns it.
 *
 * Lives: made by export_add() (management, or the command line), found by name by any thread,
 * attached to by clients (sessions), removed by export_remove(), which tells every session to go
 * and closes the image when the last one has. A session's requests pass the limits of its export
 * and its group, are counted, and, when the host's disk is full or fails, end or wait by policy.
 *
 * Waiting (EXPORT_WAIT): a request that failed is tried again, each second. Where the failure is
 * one after which the image takes no more changes (of the journal, a checkpoint, a sync), the image
 * is closed and opened anew, each second until that works; sessions and their snapshots live on.
 * Changes that were answered and not flushed yet would be lost by that, so copies of them are kept
 * (an even share of the daemon's memory; then new ones wait for a flush that the export makes) and
 * made again, in their order, before anything else: a client sees nothing but a wait. Reads that
 * fail wait as well. What does not go away (a wrong tag, a bad request) is reported always.
 * Removing the export ends the wait: what waits fails.
 *
 * Reporting (EXPORT_REPORT): what failed is reported, and after a failure of the second kind so is
 * every change, until the export is removed and added; what was flushed is safe.
 */
#ifndef VDISKD_EXPORT_H
#define VDISKD_EXPORT_H

#include "limit.h"
#include "reactor.h"
#include "stats.h"
#include "vdisk/vdisk.h"

struct budget_share;
struct export;
struct export_session;
struct exports; /* the table of them, and the threads that serve them */

/* What becomes of a request when the host's disk is full, or an operation on it fails. */
enum export_policy {
    EXPORT_REPORT, /* the client gets ENOSPC or EIO */
    EXPORT_WAIT,   /* it is tried again, each second, by a new image if need be */
};

struct export_options {
    const char *name; /* what clients ask for; "" is the default export */
    const char *path;
    bool read_only;
    enum export_policy when_full, when_failing;
    size_t cache_bytes;           /* 0: a share of the daemon's memory */
    struct limit_settings limits; /* of this export; zeros: none */
    const char *group;            /* NULL: none; shares the limits of the group */
    const struct vdisk_unlocked *unlocked;
    struct vdisk_source *source; /* NULL: none; what the image is filled from, beside its clients */
    /* Not needed any more: by a thread that may wait. The source is taken over, also on failure. */
    void (*release_source)(struct vdisk_source *source);
    uint64_t fill_rate; /* bytes a second; 0: as it comes */
};

struct export_info {
    char name[256];
    char path[VDISK_PATH_MAX + 1];
    uint8_t image_id[VDISK_ID_BYTES];
    uint8_t root_tag[VDISK_TAG_BYTES]; /* when it was opened; nothing changes a read-only one */
    uint64_t size;                     /* bytes */
    uint64_t cluster_bytes;
    bool compress;
    int compress_level;
    bool read_only;
    bool has_base;
    bool is_filling; /* it still has a source */
    unsigned sessions;
};

#define EXPORT_NO_OFFSET UINT64_MAX

/* Data of an image was not authentic, or made no sense behind its seal. */
struct export_failure {
    const char *export, *image;
    uint64_t offset; /* of the request; EXPORT_NO_OFFSET: it was other work */
    int result;
    uint64_t count; /* of this export, with this one */
};

/* An image was filled from its source (result 0), or that does not go on for now. */
struct export_fill_event {
    const char *export, *image;
    int result;
    const char *error; /* NULL: none */
    uint64_t bytes;    /* copied by this process in the background */
};

struct exports_options {
    unsigned reactors;   /* threads that serve; 0: one */
    unsigned workers;    /* threads that compute, for each of them; 0: one for each processor */
    size_t memory_bytes; /* for all exports together; 0: 256 MiB */
    bool no_uring;
    int64_t poll; /* as that of a reactor */
    /* By any of the threads, outside of tasks. NULL: nobody wants to know. */
    void (*integrity)(void *opaque, const struct export_failure *failure);
    void (*filled)(void *opaque, const struct export_fill_event *event);
    void *opaque;
};

/* Starts the threads, but for the first reactor, which is the caller's to run. */
int exports_new(const struct exports_options *options, struct exports **out,
                struct vdisk_error *error);
struct reactor *exports_main(struct exports *exports);
/* Every export is removed by then. NULL is allowed. */
void exports_free(struct exports *exports);
/* The group of that name, made without limits where there is none; from any thread; it lives as
 * long as the exports. NULL without memory. */
struct limit_group *exports_group(struct exports *exports, const char *name);

/* NULL: none of that name; from any thread. */
struct limit_group *exports_find_group(struct exports *exports, const char *name);
/* From any thread; under a lock: no waiting. */
void exports_each_group(struct exports *exports,
                        void (*each)(void *opaque, const char *name, struct limit_group *group),
                        void *opaque);

/* ---- by a task ---- */

/* Opens the image on one of the reactors. Waits. VDISK_E_EXISTS: the name is taken; and the errors
 * of vdisk_open(); VDISK_E_IN_USE at once, but not in the first seconds of the exports. */
int export_add(struct exports *exports, const struct export_options *options,
               struct vdisk_error *error);
/* No new sessions, those there are told; waits until the image is closed. VDISK_E_NOT_FOUND. */
int export_remove(struct exports *exports, const char *name, struct vdisk_error *error);

/* Holds the export until export_put(); from any thread. NULL: none of that name. */
struct export *export_get(struct exports *exports, const char *name);
void export_put(struct export *export);
/* In the order of names; each() returns false to stop. From any thread; under a lock: no waiting.
 */
void export_each(struct exports *exports, bool (*each)(void *opaque, struct export *export),
                 void *opaque);
/* From any thread. */
void export_get_info(struct export *export, struct export_info *info);
/* The image's; zeros while it is opened anew. By a task of any reactor. */
void export_get_figures(struct export *export, struct vdisk_figures *figures);
struct reactor *export_reactor(const struct export *export);
/* On that thread: a share of what its clients may make it hold. */
void export_budget_enter(struct export *export, struct budget_share *share);
struct stats *export_stats(struct export *export);
struct limit_group *export_limits(struct export *export);

/* Runs fn(image, arg) in a coroutine of the image, where the waiting functions of vdisk.h let
 * requests go on, and waits for its result. By a task of any reactor. */
int export_call(struct export *export, int (*fn)(struct vdisk_image *image, void *arg), void *arg,
                struct vdisk_error *error);
/* After a resize by export_call(): tells the sessions. By a task of any reactor. */
void export_resized(struct export *export);

/* ---- sessions: by a task of the export's reactor ---- */

struct export_session_events {
    void (*gone)(void *opaque);    /* the export is being removed: end soon */
    void (*resized)(void *opaque); /* export_session_size() has changed */
};

/* `snapshot` NULL: the live state. May wait. VDISK_E_NOT_FOUND. The events come on this thread,
 * outside of tasks. Without events the session is not counted: another one tells its owner. */
int export_attach(struct export *export, const char *snapshot,
                  const struct export_session_events *events, void *opaque,
                  struct export_session **out, struct vdisk_error *error);
/* No request may be in flight. NULL is allowed. */
void export_detach(struct export_session *session);
struct export *export_session_export(struct export_session *session);
uint64_t export_session_size(const struct export_session *session);
bool export_session_read_only(const struct export_session *session);
/* NULL: the live state. Only to be used within export_call(). VDISK_E_NOT_FOUND: it is no more. */
int export_session_snapshot(const struct export_session *session, struct vdisk_snapshot **out);

/* The client's, untouched by it until done(), which runs outside of tasks. It fills in op, fua,
 * offset, length and data of `request`; request.result is the result, a vdisk error code. */
struct export_request {
    struct vdisk_request request;
    void (*done)(struct export_request *request);
    void *owner;
    /* The export's. */
    struct export_session *session;
    struct export_request *next;
    bool delayed; /* has waited for the disk */
    int64_t began;
    struct export_kept *kept;
    uint64_t mark;
};
void export_submit(struct export_session *session, struct export_request *request);

#endif
