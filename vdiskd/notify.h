/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service manager: readiness by NOTIFY_SOCKET, and sockets that it opened (LISTEN_FDS).
 *
 * Both are environment variables of systemd's, spoken without its library; without them every
 * function does nothing.
 */
#ifndef VDISKD_NOTIFY_H
#define VDISKD_NOTIFY_H

#include <stddef.h>

/* Opens the notification socket; before confinement, which may take its path away. 0 also when
 * there is none to notify; -errno. */
int notify_open(void);
/* "READY=1", "STOPPING=1", "STATUS=3 exports". From any thread; what fails is not worth a word. */
void notify_send(const char *state);
/* "RELOADING=1", with the time that it wants; READY=1 ends it. */
void notify_reloading(void);
void notify_close(void);

#define NOTIFY_SOCKETS_MAX  32u
#define NOTIFY_NAME_MAX     255u
#define NOTIFY_FIRST_SOCKET 3

struct notify_sockets {
    unsigned count;
    int fd[NOTIFY_SOCKETS_MAX];
    char name[NOTIFY_SOCKETS_MAX][NOTIFY_NAME_MAX + 1]; /* "unknown" without a name */
};

/*
 * Takes the sockets that were handed over to this process, makes them close-on-exec and
 * non-blocking, and removes the variables, so that it gives them once. -EINVAL when the variables
 * make no sense or a descriptor is no socket; -E2BIG.
 */
int notify_take_sockets(struct notify_sockets *sockets);

#endif
