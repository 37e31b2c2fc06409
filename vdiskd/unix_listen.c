/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets that listen at a path. */
#include "unix_listen.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 128

/* Whether the socket's file was left behind by a server that is no more. */
static bool is_stale(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool is;

    if (fd < 0)
        return false;
    is = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
         errno == ECONNREFUSED;
    close(fd);
    return is;
}

int unix_listen(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd, result;

    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    /* bind() makes the file with the socket's mode: chmod() of a path could be led elsewhere. */
    result = fchmod(fd, S_IRUSR | S_IWUSR);
    if (result == 0)
        result = bind(fd, (struct sockaddr *)&address, sizeof(address));
    if (result < 0 && errno == EADDRINUSE && is_stale(&address)) {
        (void)unlink(path);
        result = bind(fd, (struct sockaddr *)&address, sizeof(address));
    }
    if (result < 0 || listen(fd, BACKLOG) < 0) {
        result = -errno;
        close(fd);
        return result;
    }
    return fd;
}
