/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sockets that listen: unix:PATH, tcp:HOST:PORT, or fd:N, one that listens already.
 */
#ifndef VDISKD_LISTEN_H
#define VDISKD_LISTEN_H

#include <stdbool.h>

#define LISTEN_PATH_BYTES 108u

struct listen_socket {
    int fd;                       /* non-blocking, close-on-exec */
    char path[LISTEN_PATH_BYTES]; /* of a Unix socket that we made, with mode 0600; "" */
};

/*
 * A host name may stand for several sockets: how many were made, or -errno, -EINVAL, -E2BIG; then
 * none is left. A Unix socket nobody listens at is replaced. With `only_local` whatever can be
 * reached from another host is refused: -EPERM.
 */
int listen_open(const char *address, bool only_local, struct listen_socket *sockets, unsigned room);

/*
 * What a killed process had in its io_uring, sockets and locked files, the kernel gives back only
 * some time after the process is gone; whoever starts in its place finds them in use. So all that
 * may be in use is tried up to LISTEN_TRIES times, so far apart (listen_open() does that itself;
 * for images export_add()).
 */
#define LISTEN_TRIES          150u
#define LISTEN_TRY_AGAIN_MSEC 20
/* Also removes the socket's file. */
void listen_close(struct listen_socket *socket);

/* Whether a socket is reached from this host alone: Unix, loopback. */
bool listen_is_local(int fd);
/* The whole path of a Unix socket, to be freed; NULL: it has none, or no memory. */
char *listen_path(int fd);

#endif
