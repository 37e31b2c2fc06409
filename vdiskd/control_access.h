/* SPDX-License-Identifier: Apache-2.0 */
/* Who may use a management socket, and the socket itself. */
#ifndef VDISKD_CONTROL_ACCESS_H
#define VDISKD_CONTROL_ACCESS_H

#include "vdisk/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

#define CONTROL_PEERS_MAX 16u

enum control_role {
    CONTROL_NOBODY,
    CONTROL_VIEWER,
    CONTROL_OPERATOR,
};

struct control_peers {
    unsigned count;
    struct {
        enum control_role role;
        bool is_group;
        unsigned id;
    } peer[CONTROL_PEERS_MAX];
};

/* Adds "user", "1000", or "@group", "@100". VDISK_E_NOT_FOUND; VDISK_E_LIMIT. */
int control_add_peer(struct control_peers *peers, enum control_role role, const char *text);
/* The most that the lists give to the peer, whose user is `uid` and whose groups are these; root
 * and `self` (the daemon's own user) are operators. */
enum control_role control_role_of(const struct control_peers *peers, uid_t self, uid_t uid,
                                  const gid_t *groups, size_t count);
/* The same of who is connected, with all groups that its process had then. -errno. */
int control_role_at(const struct control_peers *peers, int fd, const struct ucred *peer,
                    enum control_role *out);

/*
 * Listens at `path`, of which the folder is made (mode 0750, of the user that the daemon will be)
 * if missing, and refused if others than its owner may write to it, or if it belongs to neither
 * root nor us nor that user. What is left of an earlier daemon's socket is replaced; VDISK_E_IN_USE
 * when one still listens. Before there are threads. A descriptor or an error.
 */
int control_listen(const char *path, uid_t uid, gid_t gid, struct vdisk_error *error);

#endif
