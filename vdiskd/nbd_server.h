/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NBD server: exports over Unix sockets and TCP (fixed newstyle; doc/proto.md of the NBD
 * project). Snapshots of an export are served read-only as NAME@SNAPSHOT.
 *
 * Bounds: a handshake takes 10 seconds at most, a connection has at most 128 requests and 64 MiB
 * of their data, read and written, in memory; then nothing more is read from it. All together have
 * a share of the daemon's memory (budget.h).
 */
#ifndef VDISKD_NBD_SERVER_H
#define VDISKD_NBD_SERVER_H

#include "export.h"
#include "tls.h"

#include <sys/types.h>

#define NBD_LISTEN_MAX              8u
#define NBD_CONNECTIONS_DEFAULT_MAX 256u

struct nbd_server;

enum nbd_event_kind {
    NBD_EVENT_OPENED,      /* the client has an export */
    NBD_EVENT_DENIED,      /* no export, no TLS, too many connections */
    NBD_EVENT_AUTH_FAILED, /* TLS */
    NBD_EVENT_CLOSED,      /* after OPENED */
};

struct nbd_event {
    enum nbd_event_kind kind;
    char peer[128]; /* address and port, or "unix" */
    bool has_credentials;
    pid_t pid; /* of a Unix peer */
    uid_t uid;
    gid_t gid;
    char subject[256]; /* by TLS; "" */
    char export_name[600];
    const char *reason; /* DENIED, AUTH_FAILED; static */
};

struct nbd_options {
    const char *const *addresses; /* unix:PATH, tcp:HOST:PORT, or fd:N, a socket that listens */
    unsigned address_count;
    const struct tls_settings *tls; /* NULL: none */
    bool tls_required;
    unsigned connections_max;   /* 0: NBD_CONNECTIONS_DEFAULT_MAX */
    const char *default_export; /* what "" stands for, may be NAME@SNAPSHOT; NULL: "" */
    /* On the thread of the connection, by a task. */
    void (*event)(void *opaque, const struct nbd_event *event);
    void *opaque;
};

/* On the reactor's thread, or before it runs. Options are copied. A Unix socket nobody listens at
 * is replaced. Errors with a sentence: -EINVAL, -EADDRINUSE, -errno. */
int nbd_server_start(struct reactor *reactor, struct exports *exports,
                     const struct nbd_options *options, struct nbd_server **out,
                     struct vdisk_error *error);
/* By a task of that reactor: no new connections; those there are take no more requests, answer what
 * they have, and are closed, after 5 seconds in any case. Waits for it, and frees. */
void nbd_server_stop(struct nbd_server *server);

#endif
