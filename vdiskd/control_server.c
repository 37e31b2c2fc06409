/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connections of a management socket; see control_server.h. One task accepts, one serves each
 * connection: it reads a line, has it done, replies.
 *
 * A descriptor that comes with a request belongs to the line that it came with; more than one, or
 * one with nothing to use it, is closed.
 */
#include "control_server.h"

#include "control_json.h"
#include "report.h"
#include "task.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECOND       INT64_C(1000000000)
#define IDLE_TIMEOUT (60 * SECOND)
#define LINE_TIMEOUT (10 * SECOND) /* from a request's first byte to its last, and for a reply */

struct control_server {
    struct control_server_options options;
    int listener;
    bool is_stopping;
    unsigned tasks; /* that run, with the one that accepts */
    struct task *stopper;
    struct connection *connections;
};

struct connection {
    struct control_server *server;
    struct connection *next;
    int fd, key_fd;
    struct control_peer peer;
    size_t have; /* bytes in `line` */
    char line[CONTROL_LINE_MAX];
};

/* ---- requests ---- */

/* Keeps the first descriptor that comes and closes the others. */
static void take_descriptors(struct connection *connection, struct msghdr *message)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        for (size_t i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
            if (connection->key_fd < 0)
                connection->key_fd = fd;
            else
                close(fd);
        }
    }
}

static void drop_key(struct connection *connection)
{
    if (connection->key_fd >= 0)
        close(connection->key_fd);
    connection->key_fd = -1;
}

/* More of the line: how many bytes, 0 at the end, -errno. */
static int receive_more(struct connection *connection, int64_t deadline)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))] = {0};
    struct iovec vector = {connection->line + connection->have,
                           CONTROL_LINE_MAX - connection->have};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof(control)};
    struct reactor_op op = {.kind = REACTOR_RECEIVE, .fd = connection->fd, .message = &message};
    int got = task_do(&op, deadline);

    if (got >= 0)
        take_descriptors(connection, &message);
    return got;
}

/* Length of the next line, without its newline; -errno, or -ECONNRESET at the end. */
static ssize_t next_line(struct connection *connection)
{
    int64_t deadline = reactor_now() + (connection->have ? LINE_TIMEOUT : IDLE_TIMEOUT);

    for (;;) {
        char *newline = memchr(connection->line, '\n', connection->have);
        bool was_empty = connection->have == 0;

        if (newline)
            return newline - connection->line;
        if (connection->have == CONTROL_LINE_MAX)
            return -EMSGSIZE;
        int got = receive_more(connection, deadline);
        if (got <= 0)
            return got ? got : -ECONNRESET;
        connection->have += (size_t)got;
        if (was_empty)
            deadline = reactor_now() + LINE_TIMEOUT;
    }
}

static int reply(struct connection *connection, int rc, const struct vdisk_error *error,
                 json_t *result)
{
    json_t *root =
        rc ? json_pack("{s:b, s:s, s:s}", "ok", 0, "code", control_code(rc), "error",
                       error->code == rc && error->text[0] ? error->text : vdisk_strerror(rc))
           : json_pack("{s:b}", "ok", 1);

    if (rc && !root) /* a sentence that is no UTF-8 */
        root = json_pack("{s:b, s:s, s:s}", "ok", 0, "code", control_code(rc), "error",
                         vdisk_strerror(rc));
    if (rc == 0 && result)
        json_object_set(root, "result", result);
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    char newline = '\n';
    struct iovec vectors[] = {{text, text ? strlen(text) : 0}, {&newline, 1}};
    int sent = text ? task_send(connection->fd, vectors, 2, reactor_now() + LINE_TIMEOUT) : -ENOMEM;

    free(text);
    json_decref(root);
    return sent;
}

/* Returns false when the connection ends. */
static bool serve_line(struct connection *connection, size_t length)
{
    const struct control_server_options *options = &connection->server->options;
    struct vdisk_error error = {.code = 0};
    json_t *result = NULL;
    bool is_last = false;
    int rc = options->serve(options->opaque, &connection->peer, connection->line, length,
                            connection->key_fd, &result, &is_last, &error);

    drop_key(connection);
    bool goes_on = reply(connection, rc, &error, result) == 0;
    json_decref(result);
    if (is_last)
        options->last(options->opaque);
    return goes_on && !is_last;
}

static void end_task(struct control_server *server)
{
    server->tasks--;
    task_wake(&server->stopper);
}

static void unlink_connection(struct connection *connection)
{
    struct connection **place = &connection->server->connections;

    while (*place != connection)
        place = &(*place)->next;
    *place = connection->next;
}

static void refuse(struct connection *connection)
{
    const struct control_server_options *options = &connection->server->options;
    struct vdisk_error error;
    int rc = error_set(&error, -EPERM, "this user may not use the control socket");

    options->refused(options->opaque, &connection->peer, &error);
    (void)reply(connection, rc, &error, NULL);
}

static void serve_connection(void *arg)
{
    struct connection *connection = arg;
    struct control_server *server = connection->server;
    ssize_t length = 0;
    bool goes_on = connection->peer.role != CONTROL_NOBODY;

    if (!goes_on)
        refuse(connection);
    while (goes_on && !server->is_stopping) {
        length = next_line(connection);
        if (length < 0)
            break;
        goes_on = serve_line(connection, (size_t)length);
        connection->have -= (size_t)length + 1;
        memmove(connection->line, connection->line + length + 1, connection->have);
    }
    if (length == -EMSGSIZE) {
        struct vdisk_error error;
        int rc = error_set(&error, -EINVAL, "a request has at most %u bytes", CONTROL_LINE_MAX);

        (void)reply(connection, rc, &error, NULL);
    }
    drop_key(connection);
    unlink_connection(connection);
    close(connection->fd);
    free(connection);
    end_task(server);
}

/* ---- connections ---- */

static void start_connection(struct control_server *server, int fd)
{
    struct connection *connection = NULL;
    socklen_t length = sizeof(connection->peer.ids);

    if (server->tasks > CONTROL_CONNECTIONS_MAX)
        goto refuse;
    connection = malloc(sizeof(*connection));
    if (!connection)
        goto refuse;
    connection->server = server;
    connection->fd = fd;
    connection->key_fd = -1;
    connection->have = 0;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &connection->peer.ids, &length) ||
        control_role_at(&server->options.peers, fd, &connection->peer.ids, &connection->peer.role))
        goto refuse;
    if (task_spawn(server->options.reactor, serve_connection, connection))
        goto refuse;
    connection->next = server->connections;
    server->connections = connection;
    server->tasks++;
    return;
refuse:
    free(connection);
    close(fd);
}

static void accept_connections(void *arg)
{
    struct control_server *server = arg;

    while (!server->is_stopping) {
        int fd = task_accept(server->listener, reactor_now() + SECOND / 4);

        if (fd >= 0)
            start_connection(server, fd);
        else if (fd != -ETIMEDOUT && fd != -EINTR && fd != -ECONNABORTED)
            task_sleep(SECOND / 10); /* out of descriptors, perhaps */
    }
    end_task(server);
}

int control_server_start(const struct control_server_options *options, int listener,
                         struct control_server **out)
{
    struct control_server *server = malloc(sizeof(*server));
    int rc = server ? 0 : -ENOMEM;

    if (rc == 0) {
        *server = (struct control_server){.options = *options, .listener = listener, .tasks = 1};
        rc = task_spawn(options->reactor, accept_connections, server);
    }
    if (rc) {
        close(listener);
        free(server);
        return rc;
    }
    *out = server;
    return 0;
}

void control_server_stop(struct control_server *server)
{
    if (!server)
        return;
    server->is_stopping = true;
    /* Whoever waits for a request gets its end instead. */
    for (struct connection *each = server->connections; each; each = each->next)
        (void)shutdown(each->fd, SHUT_RD);
    while (server->tasks)
        task_park(&server->stopper);
    close(server->listener);
    free(server);
}
