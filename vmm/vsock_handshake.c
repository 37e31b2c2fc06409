/* SPDX-License-Identifier: Apache-2.0 */
/* See vsock_handshake.h. */
#include "vsock_handshake.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#define VERB "CONNECT "

bool vsock_handshake_parse(const char *line, size_t length, uint32_t *port)
{
    size_t at = strlen(VERB);
    uint64_t value = 0;

    if (length > 0 && line[length - 1] == '\r')
        length--;
    if (length <= at || length > at + strlen("4294967295") || strncasecmp(line, VERB, at) != 0)
        return false;
    for (; at < length; at++) {
        if (line[at] < '0' || line[at] > '9')
            return false;
        value = value * 10 + (uint64_t)(line[at] - '0');
    }
    if (value > UINT32_MAX)
        return false;
    *port = (uint32_t)value;
    return true;
}

static void ask_guest(struct vsock_conn *conn)
{
    uint32_t port;

    if (!vsock_handshake_parse(conn->line, conn->line_length, &port)) {
        vsock_conn_break(conn);
        return;
    }
    vsock_conn_set_ports(conn, vsock_conns_free_port(conn->conns, port), port);
    conn->state = VSOCK_REQUESTED;
    conn->owes_request = true;
    conn->deadline = reactor_now() + conn->conns->options.answer_timeout;
}

/* What follows the line is for the guest, and stays in the socket: first a look, then the taking.
 */
void vsock_handshake_read(struct vsock_conn *conn)
{
    char *place = conn->line + conn->line_length, *newline;
    size_t room = VSOCK_LINE_MAX - conn->line_length;
    ssize_t got = recv(conn->fd, place, room, MSG_DONTWAIT | MSG_PEEK);

    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        vsock_conn_break(conn);
        return;
    }
    newline = memchr(place, '\n', (size_t)got);
    if (newline)
        got = newline + 1 - place;
    if (recv(conn->fd, place, (size_t)got, MSG_DONTWAIT) != got) {
        vsock_conn_break(conn);
        return;
    }
    conn->line_length += (unsigned)got - (newline ? 1 : 0);
    if (newline)
        ask_guest(conn);
    else if (conn->line_length == VSOCK_LINE_MAX)
        vsock_conn_break(conn);
}
