/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See listen.h.
 */
#include "listen.h"

#include "unix_listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG    128
#define HOST_BYTES 256u

static bool is_local_address(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)address;

        return ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    }
    if (address->sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(
            &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
    return address->sa_family == AF_UNIX;
}

bool listen_is_local(int fd)
{
    struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
    socklen_t length = sizeof(address);

    return getsockname(fd, (struct sockaddr *)&address, &length) == 0 &&
           is_local_address((const struct sockaddr *)&address);
}

static int open_unix(const char *path, struct listen_socket *made)
{
    int fd = unix_listen(path);

    if (fd < 0)
        return fd;
    made->fd = fd;
    (void)snprintf(made->path, sizeof(made->path), "%s", path);
    return 1;
}

static int open_info(const struct addrinfo *info, struct listen_socket *made)
{
    int on = 1, result;
    int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (info->ai_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    if (bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
        result = -errno;
        close(fd);
        return result;
    }
    *made = (struct listen_socket){.fd = fd};
    return 0;
}

static int open_tcp(const char *address, bool only_local, struct listen_socket *sockets,
                    unsigned room)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    const char *colon = strrchr(address, ':');
    size_t length = colon ? (size_t)(colon - address) : 0;
    char host[HOST_BYTES];
    unsigned count = 0;
    int result = 0;

    if (!colon || length >= sizeof(host))
        return -EINVAL;
    if (length >= 2 && address[0] == '[' && colon[-1] == ']') {
        address++;
        length -= 2;
    }
    memcpy(host, address, length);
    host[length] = 0;
    if (getaddrinfo(length ? host : NULL, colon + 1, &hints, &found))
        return -EADDRNOTAVAIL;
    for (const struct addrinfo *info = found; info && result == 0; info = info->ai_next) {
        if (only_local && !is_local_address(info->ai_addr))
            result = -EPERM;
        else
            result = count == room ? -E2BIG : open_info(info, &sockets[count]);
        count += result == 0;
    }
    freeaddrinfo(found);
    while (result && count > 0)
        listen_close(&sockets[--count]);
    return result ? result : (int)count;
}

static int open_once(const char *address, bool only_local, struct listen_socket *sockets,
                     unsigned room)
{
    if (room == 0)
        return -E2BIG;
    if (strncmp(address, "unix:", 5) == 0)
        return open_unix(address + 5, &sockets[0]);
    if (strncmp(address, "tcp:", 4) == 0)
        return open_tcp(address + 4, only_local, sockets, room);
    if (strncmp(address, "fd:", 3) == 0) {
        char *end;
        long fd = strtol(address + 3, &end, 10);

        if (*end || end == address + 3 || fd < 0)
            return -EINVAL;
        if (only_local && !listen_is_local((int)fd))
            return -EPERM;
        sockets[0] = (struct listen_socket){.fd = (int)fd};
        return 1;
    }
    return -EINVAL;
}

int listen_open(const char *address, bool only_local, struct listen_socket *sockets, unsigned room)
{
    int result = open_once(address, only_local, sockets, room);

    for (unsigned tries = 1; result == -EADDRINUSE && tries < LISTEN_TRIES; tries++) {
        (void)poll(NULL, 0, LISTEN_TRY_AGAIN_MSEC);
        result = open_once(address, only_local, sockets, room);
    }
    return result;
}

void listen_close(struct listen_socket *socket)
{
    close(socket->fd);
    if (socket->path[0])
        (void)unlink(socket->path);
}

char *listen_path(int fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNSPEC};
    socklen_t length = sizeof(address) - 1;

    if (getsockname(fd, (struct sockaddr *)&address, &length) || address.sun_family != AF_UNIX ||
        !address.sun_path[0])
        return NULL;
    return realpath(address.sun_path, NULL);
}
