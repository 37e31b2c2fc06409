/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon as a whole: what it holds, and the order of its life.
 *
 *     main()           settings
 *     daemon_prepare() the service manager's sockets, keys, audit log, sockets of our own
 *     daemon_confine() core dumps, user, privileges, files, system calls (confine.h)
 *     daemon_run()     threads; then, by the first task, exports, servers, READY=1; waits for a
 *                      signal or `shutdown`; servers, exports, threads again in reverse
 *
 * What has to be had by rights that the daemon gives up is had before daemon_confine(); no thread
 * is there before it. Only the main reactor's thread looks at a struct daemon.
 */
#ifndef VDISKD_DAEMON_H
#define VDISKD_DAEMON_H

#include "control.h"
#include "listen.h"
#include "nbd_server.h"
#include "settings.h"
#include "vhost_exports.h"

#include <signal.h>

struct audit;
struct metrics;

struct daemon_sockets {
    struct listen_socket socket[NBD_LISTEN_MAX];
    unsigned count;
};

struct daemon {
    const struct settings_start *start;
    struct settings *settings;
    struct vdisk_unlocked **unlocked;    /* of settings->exports */
    struct vdisk_source **sources;       /* likewise, until they are given to their exports */
    struct listen_socket *vhost_sockets; /* likewise, until they are served */
    uid_t uid;                           /* whom it will be */
    gid_t gid;
    struct control_peers peers;
    struct audit *audit;
    /* Of clients on this host, and, with TLS if there are keys for it, of any. */
    struct daemon_sockets local, network;
    struct listen_socket control_socket, metrics_socket; /* fd -1: none */
    int signal_fd;

    struct exports *exports;
    struct vhost_exports *vhost;
    struct nbd_server *local_server, *network_server;
    struct control *control;
    json_t *nbd; /* the paths of local sockets, for management */
    struct metrics *metrics;

    struct reactor_op signal_op;
    bool signal_armed;
    struct task *place; /* of the first task */
    bool servers_stopped;
    bool is_ending, wants_reload, is_reloading;
    int status; /* exit status */
};

/* Each returns an exit status, having reported; daemon_free() is due after any. */
int daemon_prepare(struct daemon *daemon);
int daemon_confine(struct daemon *daemon);
int daemon_run(struct daemon *daemon);
void daemon_free(struct daemon *daemon);

/* ---- by the first task (daemon_serve.c) ---- */

/* Starts all servers but those of vhost-user, which come with their exports. An exit status, having
 * reported. */
int daemon_start_servers(struct daemon *daemon);
/* No new clients; those there have their answers, within some seconds. What waits for a full disk
 * ends with its export only: daemon_await_servers() comes after that. */
void daemon_stop_servers(struct daemon *daemon);
void daemon_await_servers(struct daemon *daemon);
/* What a front end of vhost-user does, for log and audit. From any thread. */
void daemon_vhost_event(void *opaque, const struct vhost_event *event);
/* Damaged data was met: likewise. */
void daemon_integrity_event(void *opaque, const struct export_failure *failure);

/* An image has been filled from its source, or that does not go on. */
void daemon_filled_event(void *opaque, const struct export_fill_event *event);

/* ---- exports of the settings (daemon_exports.c), by a task ---- */

/* Adds it, with what its key has opened, its source (NULL: none) and the socket of its virtual
 * machine (fd -1: none), both of which it takes over. An error has the image's name as its subject.
 */
int daemon_add_export(struct daemon *daemon, const struct settings_export *export,
                      const struct vdisk_unlocked *unlocked, struct vdisk_source *source,
                      const struct listen_socket *socket, struct vdisk_error *error);
/* Sets the limits of every group that is named. */
void daemon_set_groups(struct daemon *daemon, const struct settings *settings);
/* Reads the configuration file again: exports that are new, gone or changed; limits. The first
 * error; what can be done is done. */
int daemon_reload(struct daemon *daemon, struct vdisk_error *error);
void daemon_remove_exports(struct daemon *daemon);

#endif
