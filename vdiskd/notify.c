/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service manager's two protocols; see notify.h.
 */
#include "notify.h"

#include "sizes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int notify_fd = -1;

int notify_open(void)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = path ? strlen(path) : 0;
    int fd, rc = 0;

    if (length == 0)
        return 0;
    if ((path[0] != '/' && path[0] != '@') || length >= sizeof(address.sun_path))
        return -EINVAL;
    memcpy(address.sun_path, path, length);
    if (path[0] == '@')
        address.sun_path[0] = 0; /* of the abstract name space */
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&address,
                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length))) {
        rc = -errno;
        close(fd);
        return rc;
    }
    notify_close();
    notify_fd = fd;
    return 0;
}

void notify_send(const char *state)
{
    if (notify_fd >= 0)
        (void)send(notify_fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void notify_reloading(void)
{
    struct timespec now;
    char state[64];

    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%lld",
             (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    notify_send(state);
}

void notify_close(void)
{
    if (notify_fd >= 0)
        close(notify_fd);
    notify_fd = -1;
}

/* ---- sockets ---- */

static void forget(void)
{
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
}

/* The names are separated by colons; those that are missing are "unknown". */
static void set_names(struct notify_sockets *sockets, const char *names)
{
    for (unsigned i = 0; i < sockets->count; i++) {
        size_t length = names ? strcspn(names, ":") : 0;

        if (length == 0 || length > NOTIFY_NAME_MAX) {
            strcpy(sockets->name[i], "unknown");
        } else {
            memcpy(sockets->name[i], names, length);
            sockets->name[i][length] = 0;
        }
        names = names && names[length] ? names + length + 1 : NULL;
    }
}

static int take_descriptor(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    struct stat status;

    if (flags < 0 || fstat(fd, &status) || !S_ISSOCK(status.st_mode))
        return -EINVAL;
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
        return -errno;
    return 0;
}

int notify_take_sockets(struct notify_sockets *sockets)
{
    const char *pid_text = getenv("LISTEN_PID"), *count_text = getenv("LISTEN_FDS");
    uint64_t pid, count;
    int rc = 0;

    sockets->count = 0;
    if (!pid_text || !count_text)
        return 0;
    if (!sizes_parse_number(pid_text, &pid) || !sizes_parse_number(count_text, &count))
        rc = -EINVAL;
    else if (pid != (uint64_t)getpid())
        count = 0; /* meant for another process */
    else if (count > NOTIFY_SOCKETS_MAX)
        rc = -E2BIG;
    for (unsigned i = 0; rc == 0 && i < count; i++) {
        sockets->fd[i] = NOTIFY_FIRST_SOCKET + (int)i;
        rc = take_descriptor(sockets->fd[i]);
    }
    if (rc == 0) {
        sockets->count = (unsigned)count;
        set_names(sockets, getenv("LISTEN_FDNAMES"));
    }
    forget();
    return rc;
}
