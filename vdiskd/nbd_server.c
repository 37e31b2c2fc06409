/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NBD server's sockets, and the lives of its connections: see nbd_server.h.
 *
 * A connection is in the list from accept() until its socket is about to be closed, so that
 * nbd_server_stop() may shut the sockets down from its own thread; `count` covers it until the last
 * access to the server.
 */
#include "listen.h"
#include "nbd_conn.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PAUSE_NS INT64_C(100000000) /* after an accept() that failed */
#define WAIT_NS  INT64_C(2000000)

struct listener {
    struct nbd_server *server;
    struct listen_socket socket;
    struct reactor_op accept;
    bool waits;
};

struct nbd_server {
    struct reactor *reactor;
    struct exports *exports;
    struct nbd_options options;
    struct tls *tls;
    char *default_export;
    struct listener listener[NBD_LISTEN_MAX];
    unsigned listeners;
    unsigned accepting; /* tasks, on the server's thread */
    atomic_bool stopping;
    pthread_mutex_t lock;
    struct nbd_conn *first; /* under the lock */
    unsigned count;
};

struct exports *nbd_server_exports(struct nbd_server *server)
{
    return server->exports;
}

const struct nbd_options *nbd_server_options(struct nbd_server *server)
{
    return &server->options;
}

struct tls *nbd_server_tls(struct nbd_server *server)
{
    return server->tls;
}

__attribute__((format(printf, 3, 4))) static int fail(struct vdisk_error *error, int code,
                                                      const char *format, ...)
{
    va_list arguments;

    error->code = code;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof(error->text), format, arguments);
    va_end(arguments);
    return code;
}

/* --- a connection --------------------------------------------------------------------------- */

void nbd_conn_event(struct nbd_conn *conn, enum nbd_event_kind kind, const char *reason)
{
    const struct nbd_options *options = &conn->server->options;

    conn->event.kind = kind;
    conn->event.reason = reason;
    if (options->event)
        options->event(options->opaque, &conn->event);
}

static void who_is_it(struct nbd_event *event, int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof(address), size;
    char host[64], port[16];
    struct ucred credentials;
    int on = 1;

    (void)getpeername(fd, (struct sockaddr *)&address, &length);
    if (address.ss_family == AF_UNIX) {
        (void)snprintf(event->peer, sizeof(event->peer), "unix");
        size = sizeof(credentials);
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0) {
            event->has_credentials = true;
            event->pid = credentials.pid;
            event->uid = credentials.uid;
            event->gid = credentials.gid;
        }
        return;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    if (getnameinfo((struct sockaddr *)&address, length, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        (void)snprintf(event->peer, sizeof(event->peer), "%s port %s", host, port);
}

static void unlist(struct nbd_conn *conn)
{
    struct nbd_server *server = conn->server;

    pthread_mutex_lock(&server->lock);
    if (conn->previous)
        conn->previous->next = conn->next;
    else
        server->first = conn->next;
    if (conn->next)
        conn->next->previous = conn->previous;
    pthread_mutex_unlock(&server->lock);
}

static void stop_lingering(struct nbd_conn *conn)
{
    if (conn->lingers)
        reactor_cancel(task_reactor(task_current()), &conn->linger);
    while (conn->lingers)
        task_park(&conn->reader);
}

static void conn_run(void *arg)
{
    struct nbd_conn *conn = arg;
    struct nbd_server *server = conn->server;

    if (nbd_negotiate(conn) == 0) {
        nbd_conn_event(conn, NBD_EVENT_OPENED, NULL);
        nbd_transmit(conn);
        nbd_conn_event(conn, NBD_EVENT_CLOSED, NULL);
    }
    nbd_contexts_clear(conn);
    export_detach(conn->session);
    stop_lingering(conn);
    if (conn->export)
        export_put(conn->export);
    unlist(conn);
    stream_close(&conn->stream);
    free(conn);
    pthread_mutex_lock(&server->lock);
    server->count--;
    pthread_mutex_unlock(&server->lock);
}

/* --- accepting ------------------------------------------------------------------------------ */

static void welcome(struct nbd_server *server, int fd)
{
    struct nbd_conn *conn = calloc(1, sizeof(*conn));
    bool is_full;

    if (!conn) {
        close(fd);
        return;
    }
    conn->server = server;
    conn->stream.fd = fd;
    who_is_it(&conn->event, fd);
    pthread_mutex_lock(&server->lock);
    is_full = server->count >= server->options.connections_max;
    if (!is_full) {
        server->count++;
        conn->next = server->first;
        if (conn->next)
            conn->next->previous = conn;
        server->first = conn;
    }
    pthread_mutex_unlock(&server->lock);
    if (is_full) {
        nbd_conn_event(conn, NBD_EVENT_DENIED, "too many connections");
    } else if (task_spawn(server->reactor, conn_run, conn) == 0) {
        return;
    } else {
        unlist(conn);
        pthread_mutex_lock(&server->lock);
        server->count--;
        pthread_mutex_unlock(&server->lock);
    }
    close(fd);
    free(conn);
}

static void accept_run(void *arg)
{
    struct listener *listener = arg;
    struct nbd_server *server = listener->server;

    while (!atomic_load(&server->stopping)) {
        int fd;

        listener->accept = (struct reactor_op){.kind = REACTOR_ACCEPT, .fd = listener->socket.fd};
        listener->waits = true;
        fd = task_do(&listener->accept, TASK_FOREVER);
        listener->waits = false;

        if (fd >= 0)
            welcome(server, fd);
        else if (!atomic_load(&server->stopping))
            task_sleep(PAUSE_NS); /* no descriptors, say */
    }
    server->accepting--;
}

/* --- listening ------------------------------------------------------------------------------ */

static int listen_one(struct nbd_server *server, const char *address)
{
    struct listen_socket sockets[NBD_LISTEN_MAX];
    int count = listen_open(address, false, sockets, NBD_LISTEN_MAX - server->listeners);

    for (int i = 0; i < count; i++) {
        struct listener *listener = &server->listener[server->listeners++];

        listener->server = server;
        listener->socket = sockets[i];
    }
    return count < 0 ? count : 0;
}

/* --- start and stop ------------------------------------------------------------------------- */

static void server_free(struct nbd_server *server)
{
    for (unsigned i = 0; i < server->listeners; i++)
        listen_close(&server->listener[i].socket);
    tls_free(server->tls);
    free(server->default_export);
    pthread_mutex_destroy(&server->lock);
    free(server);
}

static int set_up(struct nbd_server *server, const struct nbd_options *options,
                  struct vdisk_error *error)
{
    int result = 0;

    if (options->default_export) {
        server->default_export = strdup(options->default_export);
        if (!server->default_export)
            return fail(error, -ENOMEM, "there is no memory");
        server->options.default_export = server->default_export;
    }
    if (!server->options.connections_max)
        server->options.connections_max = NBD_CONNECTIONS_DEFAULT_MAX;
    if (options->tls_required && !options->tls)
        return fail(error, -EINVAL, "TLS is required, and there are no keys for it");
    if (options->tls)
        result = tls_new(options->tls, &server->tls, error);
    for (unsigned i = 0; result == 0 && i < options->address_count; i++) {
        result = listen_one(server, options->addresses[i]);
        if (result)
            fail(error, result, "cannot listen at %s: %s", options->addresses[i],
                 vdisk_strerror(result));
    }
    return result;
}

int nbd_server_start(struct reactor *reactor, struct exports *exports,
                     const struct nbd_options *options, struct nbd_server **out,
                     struct vdisk_error *error)
{
    struct nbd_server *server = calloc(1, sizeof(*server));
    int result;

    if (!server)
        return fail(error, -ENOMEM, "there is no memory");
    pthread_mutex_init(&server->lock, NULL);
    server->reactor = reactor;
    server->exports = exports;
    server->options = *options;
    server->options.addresses = NULL; /* the caller's */
    server->options.tls = NULL;
    result = set_up(server, options, error);
    for (unsigned i = 0; result == 0 && i < server->listeners; i++) {
        result = task_spawn(reactor, accept_run, &server->listener[i]);
        if (result == 0)
            server->accepting++;
        else
            fail(error, result, "there is no memory");
    }
    /* With a task there already, memory that is short now must not free what it uses. */
    if (result && server->accepting == 0) {
        server_free(server);
        return result;
    }
    *out = server;
    return 0;
}

static void shut_down(struct nbd_server *server, int how)
{
    pthread_mutex_lock(&server->lock);
    for (struct nbd_conn *conn = server->first; conn; conn = conn->next) {
        atomic_store(&conn->ending, true);
        (void)shutdown(conn->stream.fd, how);
    }
    pthread_mutex_unlock(&server->lock);
}

void nbd_server_stop(struct nbd_server *server)
{
    int64_t deadline = reactor_now() + NBD_LINGER_NS;
    bool is_forced = false;
    unsigned left = 1;

    atomic_store(&server->stopping, true);
    for (unsigned i = 0; i < server->listeners; i++) {
        if (server->listener[i].waits)
            reactor_cancel(server->reactor, &server->listener[i].accept);
    }
    shut_down(server, SHUT_RD);
    while (left > 0) {
        pthread_mutex_lock(&server->lock);
        left = server->count + server->accepting;
        pthread_mutex_unlock(&server->lock);
        if (left > 0 && !is_forced && reactor_now() > deadline) {
            shut_down(server, SHUT_RDWR);
            is_forced = true;
        }
        if (left > 0)
            task_sleep(WAIT_NS);
    }
    server_free(server);
}
