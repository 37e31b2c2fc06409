/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vhost-user-blk back end: an export as a virtio drive, for the front end (QEMU, say) that
 * connects to a Unix socket (QEMU's docs/interop/vhost-user.rst; VIRTIO 1.2, 5.2).
 *
 * One front end at a time; when it has gone, or the daemon was killed, it may connect again and
 * goes on where it was, given that it keeps the in-flight memory. Bounds: at most 1,024 requests
 * and 64 MiB of their data of a front end are in memory; the rest waits in its rings.
 */
#ifndef VDISKD_VHOST_SERVER_H
#define VDISKD_VHOST_SERVER_H

#include "export.h"

#include <sys/types.h>

#define VHOST_QUEUES_DEFAULT_MAX 16u
#define VHOST_QUEUES_MAX         64u

struct vhost_server;

enum vhost_event_kind {
    VHOST_EVENT_OPENED, /* a front end has the export */
    VHOST_EVENT_DENIED, /* no export, or another front end has it */
    VHOST_EVENT_FAILED, /* after OPENED: a message or a queue broke the rules */
    VHOST_EVENT_CLOSED, /* after OPENED */
};

struct vhost_event {
    enum vhost_event_kind kind;
    bool has_credentials;
    pid_t pid; /* of the peer */
    uid_t uid;
    gid_t gid;
    char export_name[600];
    char reason[256]; /* DENIED, FAILED: one line */
};

struct vhost_options {
    const char *address; /* the path of a socket, or fd:N, one that listens and is taken over */
    const char *export_name;
    const char *snapshot; /* NULL: live */
    bool read_only;
    unsigned queues_max; /* 0: VHOST_QUEUES_DEFAULT_MAX */
    /* By a task or outside of one, on the thread of the export. */
    void (*event)(void *opaque, const struct vhost_event *event);
    void *opaque;
};

/*
 * By a task of any reactor. Options are copied; the export exists. Serves on the export's reactor;
 * while the export is removed, front ends are refused. A Unix socket nobody listens at is replaced.
 * Errors with a sentence: -EINVAL, -EADDRINUSE, VDISK_E_NOT_FOUND, -errno.
 */
int vhost_server_start(struct exports *exports, const struct vhost_options *options,
                       struct vhost_server **out, struct vdisk_error *error);
/* By a task of any reactor: no new front ends; the one there is gets answers to the requests that
 * were taken, and is disconnected. Waits for it, and frees. NULL is allowed. */
void vhost_server_stop(struct vhost_server *server);

#endif
