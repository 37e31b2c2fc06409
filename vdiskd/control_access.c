/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may use the management socket, and where it lies; see control.h.
 */
#include "control.h"

#include "report.h"
#include "sizes.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 16

int control_add_peer(struct control_peers *peers, enum control_role role, const char *text)
{
    bool is_group = text[0] == '@';
    const char *name = text + is_group;
    const struct passwd *user = is_group ? NULL : getpwnam(name);
    const struct group *group = is_group ? getgrnam(name) : NULL;
    uint64_t number;

    if (peers->count == CONTROL_PEERS_MAX)
        return VDISK_E_LIMIT;
    if (user)
        number = user->pw_uid;
    else if (group)
        number = group->gr_gid;
    else if (!sizes_parse_number(name, &number) || number >= UINT32_MAX)
        return VDISK_E_NOT_FOUND;
    peers->peer[peers->count].role = role;
    peers->peer[peers->count].is_group = is_group;
    peers->peer[peers->count++].id = (unsigned)number;
    return 0;
}

static bool has_id(const struct control_peers *peers, unsigned i, uid_t uid, const gid_t *groups,
                   size_t count)
{
    bool found = !peers->peer[i].is_group && peers->peer[i].id == uid;

    for (size_t g = 0; g < count && peers->peer[i].is_group && !found; g++)
        found = peers->peer[i].id == groups[g];
    return found;
}

enum control_role control_role_of(const struct control_peers *peers, uid_t self, uid_t uid,
                                  const gid_t *groups, size_t count)
{
    enum control_role role = uid == 0 || uid == self ? CONTROL_OPERATOR : CONTROL_NOBODY;

    for (unsigned i = 0; i < peers->count; i++) {
        if (peers->peer[i].role > role && has_id(peers, i, uid, groups, count))
            role = peers->peer[i].role;
    }
    return role;
}

int control_role_at(const struct control_peers *peers, int fd, const struct ucred *peer,
                    enum control_role *out)
{
    socklen_t length = 0;
    gid_t *groups, none;
    int rc;

    /* How many there are is told by the error. */
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, &none, &length) && errno != ERANGE)
        return -errno;
    groups = malloc(length + sizeof(*groups));
    if (!groups)
        return -ENOMEM;
    if (length > 0 && getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &length)) {
        rc = -errno;
        free(groups);
        return rc;
    }
    groups[length / sizeof(*groups)] = peer->gid; /* which need not be among them */
    *out = control_role_of(peers, geteuid(), peer->uid, groups, length / sizeof(*groups) + 1);
    free(groups);
    return 0;
}

/* A folder that we made, for the user that the daemon will be. */
static int give_folder(const char *folder, uid_t uid, gid_t gid, struct vdisk_error *error)
{
    if (uid == geteuid() || lchown(folder, uid, gid) == 0)
        return 0;
    return error_set(error, -errno, "the folder %s cannot be given to the daemon's user: %s",
                     folder, vdisk_strerror(-errno));
}

/* The folder is ours, or root's, and nobody else's to write to. */
static int check_folder(const char *path, uid_t uid, gid_t gid, struct vdisk_error *error)
{
    char folder[sizeof(((struct sockaddr_un *)0)->sun_path)];
    const char *slash = strrchr(path, '/');
    struct stat status;

    if (path[0] != '/' || slash == path || !slash[1])
        return error_set(error, -EINVAL,
                         "%s: the control socket is a file with its whole path, in a folder of "
                         "its own",
                         path);
    snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path), path);
    if (mkdir(folder, 0750) == 0)
        return give_folder(folder, uid, gid, error);
    if (errno != EEXIST)
        return error_set(error, -errno, "the folder %s cannot be made: %s", folder,
                         vdisk_strerror(-errno));
    if (lstat(folder, &status))
        return error_set(error, -errno, "%s: %s", folder, vdisk_strerror(-errno));
    if (!S_ISDIR(status.st_mode) || (status.st_mode & 022) ||
        (status.st_uid != geteuid() && status.st_uid != 0 && status.st_uid != uid))
        return error_set(error, -EPERM,
                         "the folder %s is not safe for a control socket: it must be the "
                         "daemon's or root's, with mode 0700 or 0750",
                         folder);
    return 0;
}

/* Whether somebody listens there. */
static bool is_alive(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool alive = fd >= 0 && (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ||
                             errno == EAGAIN);

    if (fd >= 0)
        close(fd);
    return alive;
}

/* Who may connect is decided by the folder, and by who the peer is. The file gets its mode when it
 * is made: chmod() could be led elsewhere by the owner of the folder. */
static int bind_for_all(int fd, const struct sockaddr_un *address)
{
    mode_t before = umask(0111);
    int rc = bind(fd, (const struct sockaddr *)address, sizeof(*address)) ? -errno : 0;

    umask(before);
    return rc;
}

int control_listen(const char *path, uid_t uid, gid_t gid, struct vdisk_error *error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat status;
    int fd, rc;

    if (strlen(path) >= sizeof(address.sun_path))
        return error_set(error, -ENAMETOOLONG, "%s: longer than the name of a socket may be", path);
    rc = check_folder(path, uid, gid, error);
    if (rc)
        return rc;
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (lstat(path, &status) == 0) {
        if (!S_ISSOCK(status.st_mode))
            return error_set(error, VDISK_E_EXISTS, "%s is not a socket", path);
        if (is_alive(&address))
            return error_set(error, VDISK_E_IN_USE, "another daemon listens at %s", path);
        unlink(path);
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set(error, -errno, "%s: %s", path, vdisk_strerror(-errno));
    rc = bind_for_all(fd, &address);
    if (rc == 0 && listen(fd, BACKLOG))
        rc = -errno;
    if (rc) {
        (void)error_set(error, rc, "the control socket %s cannot be made: %s", path,
                        vdisk_strerror(rc));
        close(fd);
        return rc;
    }
    return fd;
}
