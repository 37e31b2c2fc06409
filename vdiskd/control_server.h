/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests and replies in JSON, one a line, over a Unix socket (docs/control.md): the connections
 * and who they are; what the requests mean is its user's.
 */
#ifndef VDISKD_CONTROL_SERVER_H
#define VDISKD_CONTROL_SERVER_H

#include "control_access.h"

#include <jansson.h>

#define CONTROL_LINE_MAX        65536u /* bytes of a request with its newline */
#define CONTROL_CONNECTIONS_MAX 32u

struct reactor;
struct control_server;

struct control_peer {
    struct ucred ids;
    enum control_role role;
};

struct control_server_options {
    struct reactor *reactor; /* serves the socket */
    struct control_peers peers;
    /* Does what a line asks for, in the connection's task, and records it. `fd` is -1 or a
     * descriptor that came along, and stays the caller's. `*result`: a new reference to what goes
     * into the reply, or NULL. `*is_last`: after the reply last() is called. */
    int (*serve)(void *opaque, const struct control_peer *peer, const char *line, size_t length,
                 int fd, json_t **result, bool *is_last, struct vdisk_error *error);
    /* Somebody who may do nothing has connected. */
    void (*refused)(void *opaque, const struct control_peer *peer, const struct vdisk_error *error);
    void (*last)(void *opaque);
    void *opaque;
};

/* Serves on `listener`, which it takes over. By the reactor's thread, or before it runs. */
int control_server_start(const struct control_server_options *options, int listener,
                         struct control_server **out);
/* By a task of the reactor, but not from last(): ends the connections, waits for requests under
 * way, and frees it. NULL is allowed. */
void control_server_stop(struct control_server *server);

#endif
