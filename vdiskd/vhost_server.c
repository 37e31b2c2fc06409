/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The socket of a vhost-user-blk back end, and who is connected to it: see vhost_server.h.
 *
 * The acceptor and the front end's task are on the thread of the export. An export that was removed
 * and added again may be on another; the acceptor moves there when it has a front end for it, and
 * there is none then whose task could stay behind.
 */
#include "unix_listen.h"
#include "vhost_conn.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define PAUSE_NS INT64_C(100000000) /* after an accept() that failed */

struct vhost_server {
    struct exports *exports;
    struct vhost_options options;
    char *export_name, *snapshot;
    int fd;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* of a socket we made */
    _Atomic(struct reactor *) reactor;

    /* The reactor's. */
    bool accepting, waits, stopping;
    struct reactor_op accept;
    struct vhost_conn *conn;
    struct task *acceptor, *stopper; /* where they park */
};

const struct vhost_options *vhost_server_options(const struct vhost_server *server)
{
    return &server->options;
}

void vhost_conn_event(struct vhost_conn *conn, enum vhost_event_kind kind, const char *reason)
{
    const struct vhost_options *options = &conn->server->options;

    conn->event.kind = kind;
    (void)snprintf(conn->event.reason, sizeof(conn->event.reason), "%s", reason ? reason : "");
    if (options->event)
        options->event(options->opaque, &conn->event);
}

/* ---- front ends ---- */

static struct vhost_conn *conn_new(struct vhost_server *server, int fd)
{
    struct vhost_conn *conn = calloc(1, sizeof(*conn));
    struct ucred credentials;
    socklen_t length = sizeof(credentials);

    if (!conn)
        return NULL;
    conn->server = server;
    conn->fd = fd;
    conn->backend = -1;
    (void)snprintf(conn->event.export_name, sizeof(conn->event.export_name), "%s%s%s",
                   server->export_name, server->snapshot ? "@" : "",
                   server->snapshot ? server->snapshot : "");
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0) {
        conn->event.has_credentials = true;
        conn->event.pid = credentials.pid;
        conn->event.uid = credentials.uid;
        conn->event.gid = credentials.gid;
    }
    return conn;
}

static void deny(struct vhost_conn *conn, const char *reason)
{
    vhost_conn_event(conn, VHOST_EVENT_DENIED, reason);
    close(conn->fd);
    free(conn);
}

/* It may have closed its socket, and its task does not know yet. */
static bool has_gone(const struct vhost_conn *conn)
{
    struct pollfd socket = {.fd = conn->fd, .events = POLLRDHUP};

    return conn->ending || poll(&socket, 1, 0) > 0;
}

void vhost_server_gone(struct vhost_server *server, struct vhost_conn *conn)
{
    server->conn = NULL;
    close(conn->fd);
    free(conn);
    task_wake(&server->acceptor);
    task_wake(&server->stopper);
}

/* Where the export is now. False: it is no more. */
static bool follow_export(struct vhost_server *server, struct vhost_conn *conn)
{
    conn->export = export_get(server->exports, server->export_name);
    if (!conn->export)
        return false;
    conn->reactor = export_reactor(conn->export);
    atomic_store(&server->reactor, conn->reactor);
    task_move(conn->reactor);
    return true;
}

static void welcome(struct vhost_server *server, int fd)
{
    struct vhost_conn *conn = conn_new(server, fd);

    if (!conn) {
        close(fd);
        return;
    }
    if (server->conn && !has_gone(server->conn)) {
        deny(conn, "another front end is connected");
        return;
    }
    while (server->conn)
        task_park(&server->acceptor);
    if (server->stopping || !follow_export(server, conn)) {
        deny(conn, server->stopping ? "the server is being stopped" : "there is no such export");
        return;
    }
    server->conn = conn;
    if (server->stopping || task_spawn(conn->reactor, vhost_session, conn)) {
        server->conn = NULL;
        export_put(conn->export);
        deny(conn, server->stopping ? "the server is being stopped" : "there is no memory");
    }
}

static void accept_run(void *arg)
{
    struct vhost_server *server = arg;

    while (!server->stopping) {
        server->accept = (struct reactor_op){.kind = REACTOR_ACCEPT, .fd = server->fd};
        server->waits = true;
        int fd = task_do(&server->accept, TASK_FOREVER);

        server->waits = false;
        if (fd >= 0)
            welcome(server, fd);
        else if (!server->stopping)
            task_sleep(PAUSE_NS); /* no descriptors, say */
    }
    server->accepting = false;
    task_wake(&server->stopper);
}

/* ---- start and stop ---- */

static void server_free(struct vhost_server *server)
{
    if (server->fd >= 0)
        close(server->fd);
    if (server->path[0])
        (void)unlink(server->path);
    free(server->export_name);
    free(server->snapshot);
    free(server);
}

static int listen_at(struct vhost_server *server, const char *address)
{
    if (strncmp(address, "fd:", 3) == 0) {
        char *end;
        long fd = strtol(address + 3, &end, 10);

        if (*end || end == address + 3 || fd < 0 || fd > INT32_MAX)
            return -EINVAL;
        server->fd = (int)fd;
        return 0;
    }
    server->fd = unix_listen(address);
    if (server->fd < 0)
        return server->fd;
    (void)snprintf(server->path, sizeof(server->path), "%s", address);
    return 0;
}

static int set_up(struct vhost_server *server, const struct vhost_options *options,
                  struct vdisk_error *error)
{
    int result = listen_at(server, options->address);
    struct export *export;

    if (result)
        return vhost_fail(error, result, "cannot listen at %s: %s", options->address,
                          vdisk_strerror(result));
    export = export_get(server->exports, options->export_name);
    if (!export)
        return vhost_fail(error, VDISK_E_NOT_FOUND, "there is no export %s", options->export_name);
    atomic_store(&server->reactor, export_reactor(export));
    export_put(export);
    server->options = *options;
    server->options.address = NULL; /* the caller's */
    server->export_name = strdup(options->export_name);
    server->snapshot = options->snapshot ? strdup(options->snapshot) : NULL;
    server->options.export_name = server->export_name;
    server->options.snapshot = server->snapshot;
    if (!server->export_name || (options->snapshot && !server->snapshot))
        return vhost_fail(error, -ENOMEM, "there is no memory");
    if (!options->queues_max)
        server->options.queues_max = VHOST_QUEUES_DEFAULT_MAX;
    if (server->options.queues_max > VHOST_QUEUES_MAX)
        return vhost_fail(error, -EINVAL, "more than %u queues", VHOST_QUEUES_MAX);
    return 0;
}

int vhost_server_start(struct exports *exports, const struct vhost_options *options,
                       struct vhost_server **out, struct vdisk_error *error)
{
    struct reactor *here = task_reactor(task_current());
    struct vhost_server *server = calloc(1, sizeof(*server));
    int result;

    if (!server)
        return vhost_fail(error, -ENOMEM, "there is no memory");
    server->exports = exports;
    server->fd = -1;
    result = set_up(server, options, error);
    if (result == 0) {
        task_move(atomic_load(&server->reactor));
        result = task_spawn(atomic_load(&server->reactor), accept_run, server);
        server->accepting = result == 0;
        task_move(here);
        if (result)
            vhost_fail(error, result, "there is no memory");
    }
    if (result) {
        server_free(server);
        return result;
    }
    *out = server;
    return 0;
}

void vhost_server_stop(struct vhost_server *server)
{
    struct reactor *here = task_reactor(task_current());

    if (!server)
        return;
    /* Until the acceptor and we are on the same thread, where it cannot move any more. */
    do {
        task_move(atomic_load(&server->reactor));
    } while (task_reactor(task_current()) != atomic_load(&server->reactor));
    server->stopping = true;
    if (server->waits)
        reactor_cancel(atomic_load(&server->reactor), &server->accept);
    if (server->conn)
        vhost_session_end(server->conn);
    while (server->conn || server->accepting)
        task_park(&server->stopper);
    server_free(server);
    task_move(here);
}
