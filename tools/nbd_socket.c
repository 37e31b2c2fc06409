/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NBD client's connection: whole messages in and out of a socket that does not block, so that
 * a signal or a silent server cannot hold us.
 */
#include "interrupt.h"
#include "nbd_internal.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_MS 10000
#define REFUSED_TRIES      50 /* of 20 ms */
#define REFUSED_STEP_NS    20000000
#define SKIP_BYTES         4096u

static int broken(struct nbd_client *client, int code)
{
    client->is_broken = true;
    if (code == -ETIMEDOUT)
        return error_set(&client->error, code, "the server does not answer");
    if (code == -ECONNRESET || code == -EPIPE)
        return error_set(&client->error, code, "the server ended the connection");
    return error_set(&client->error, code, "the connection failed: %s", vdisk_strerror(code));
}

int nbd_socket_violation(struct nbd_client *client, const char *what)
{
    client->is_broken = true;
    return error_set(&client->error, -EPROTO, "the server does not keep to the protocol: %s", what);
}

int nbd_socket_send(struct nbd_client *client, const void *data, size_t length)
{
    const uint8_t *at = data;

    while (length > 0) {
        ssize_t put = send(client->fd, at, length, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (put >= 0) {
            at += put;
            length -= (size_t)put;
        } else if (errno == EAGAIN) {
            int result = interrupt_wait_fd(client->fd, POLLOUT, client->timeout_ms);

            if (result)
                return broken(client, result);
        } else if (errno != EINTR) {
            return broken(client, -errno);
        }
    }
    return 0;
}

int nbd_socket_receive(struct nbd_client *client, void *data, size_t length)
{
    uint8_t *at = data;

    while (length > 0) {
        ssize_t got = recv(client->fd, at, length, MSG_DONTWAIT);

        if (got > 0) {
            at += got;
            length -= (size_t)got;
        } else if (got == 0) {
            return broken(client, -ECONNRESET);
        } else if (errno == EAGAIN) {
            int result = interrupt_wait_fd(client->fd, POLLIN, client->timeout_ms);

            if (result)
                return broken(client, result);
        } else if (errno != EINTR) {
            return broken(client, -errno);
        }
    }
    return 0;
}

int nbd_socket_skip(struct nbd_client *client, uint64_t length)
{
    uint8_t nothing[SKIP_BYTES];

    while (length > 0) {
        size_t piece = length < sizeof(nothing) ? (size_t)length : sizeof(nothing);
        int result = nbd_socket_receive(client, nothing, piece);

        if (result)
            return result;
        length -= piece;
    }
    return 0;
}

/* --- connecting --------------------------------------------------------------------------- */

static int connect_to(const struct sockaddr *address, socklen_t length, int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int result = 0;

    if (fd < 0)
        return -errno;
    if (connect(fd, address, length) < 0) {
        socklen_t size = sizeof(result);

        result = errno == EINPROGRESS ? interrupt_wait_fd(fd, POLLOUT, CONNECT_TIMEOUT_MS) : -errno;
        if (result == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &result, &size) == 0)
            result = -result;
    }
    if (result) {
        close(fd);
        return result;
    }
    return fd;
}

static int connect_unix(struct nbd_client *client, const char *path)
{
    const struct timespec step = {.tv_nsec = REFUSED_STEP_NS};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = -ECONNREFUSED;

    memcpy(address.sun_path, path, strlen(path) + 1);
    /* A server that has just started has its socket a moment before it listens. */
    for (int i = 0; i < REFUSED_TRIES && fd == -ECONNREFUSED; i++) {
        if (i > 0)
            nanosleep(&step, NULL);
        fd = connect_to((const struct sockaddr *)&address, sizeof(address), AF_UNIX);
    }
    if (fd < 0)
        return error_set(&client->error, fd, "no connection to the socket: %s", vdisk_strerror(fd));
    client->fd = fd;
    return 0;
}

static int connect_tcp(struct nbd_client *client, const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *found = NULL;
    int code = getaddrinfo(host, port, &hints, &found);
    int fd = -EHOSTUNREACH;
    int on = 1;

    if (code)
        return error_set(&client->error, -EHOSTUNREACH, "the host is not found: %s",
                         gai_strerror(code));
    for (const struct addrinfo *one = found; one && fd < 0 && fd != -ECANCELED; one = one->ai_next)
        fd = connect_to(one->ai_addr, one->ai_addrlen, one->ai_family);
    freeaddrinfo(found);
    if (fd < 0)
        return error_set(&client->error, fd, "no connection: %s", vdisk_strerror(fd));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)); /* a dead peer is noticed */
    client->fd = fd;
    return 0;
}

int nbd_socket_connect(struct nbd_client *client, const struct nbd_address *address)
{
    if (address->socket[0])
        return connect_unix(client, address->socket);
    return connect_tcp(client, address->host, address->port);
}
