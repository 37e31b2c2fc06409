/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The management socket: requests and replies in JSON, one a line (docs/control.md).
 *
 * Who connects is known by SO_PEERCRED and SO_PEERGROUPS and must be on a list: operators may do
 * everything, viewers may look. Every request is audited. Keys come as descriptors or as files,
 * never as text.
 */
#ifndef VDISKD_CONTROL_H
#define VDISKD_CONTROL_H

#include "control_access.h"
#include "limit.h"

#include "vdisk/vdisk.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct audit;
struct exports;
struct reactor;
struct vhost_exports;

/* ---- requests (control_request.c) ---- */

enum control_field {
    CONTROL_EXPORT = 1 << 0,
    CONTROL_IMAGE = 1 << 1,
    CONTROL_SNAPSHOT = 1 << 2,
    CONTROL_SIZE = 1 << 3,
    CONTROL_SHRINK = 1 << 4,
    CONTROL_READ_ONLY = 1 << 5,
    CONTROL_GROUP = 1 << 6,
    CONTROL_LIMITS = 1 << 7,
    CONTROL_KEY = 1 << 8, /* key_file, or a descriptor; key_kind */
    CONTROL_SLOT = 1 << 9,
    CONTROL_WAIT = 1 << 10,
    CONTROL_VHOST = 1 << 11,
};

enum control_verb {
    CONTROL_EXPORT_LIST,
    CONTROL_EXPORT_ADD,
    CONTROL_EXPORT_REMOVE,
    CONTROL_STATS,
    CONTROL_SNAPSHOT_LIST,
    CONTROL_SNAPSHOT_CREATE,
    CONTROL_SNAPSHOT_DELETE,
    CONTROL_RESIZE,
    CONTROL_COMPACT,
    CONTROL_CHECKPOINT,
    CONTROL_LIMITS_GET,
    CONTROL_LIMITS_SET,
    CONTROL_GROUP_LIST,
    CONTROL_GROUP_LIMITS_GET,
    CONTROL_GROUP_LIMITS_SET,
    CONTROL_KEY_LIST,
    CONTROL_KEY_ADD,
    CONTROL_KEY_REMOVE,
    CONTROL_NBD_LIST,
    CONTROL_RELOAD,
    CONTROL_SHUTDOWN,
    CONTROL_VERBS,
};

struct control_command {
    const char *name;
    enum control_verb verb;
    enum control_role role;     /* the least that may do it */
    unsigned required, allowed; /* fields; what is required is allowed */
};

struct control_request {
    const struct control_command *command; /* NULL: there is none of that name */
    unsigned fields;                       /* that were given */
    char export[256];
    char image[VDISK_PATH_MAX + 1];
    char snapshot[VDISK_NAME_MAX + 1];
    char group[256];
    char key_file[VDISK_PATH_MAX + 1]; /* "": the descriptor that came with the request */
    enum vdisk_key_kind key_kind;
    uint64_t size;
    unsigned slot;
    char vhost_user[108]; /* the path of a socket */
    char vhost_snapshot[VDISK_NAME_MAX + 1];
    bool shrink, read_only, wait_when_full, wait_when_failing;
    struct limit_settings limits;
};

/* Reads a line (without its newline). Everything in it is bounded and of its type, and belongs to
 * the command. -EINVAL, with what is wrong; then `command` may be set all the same. */
int control_parse(const char *line, size_t length, struct control_request *request,
                  struct vdisk_error *error);

/* ---- serving (control.c, control_commands.c) ---- */

struct control_options {
    struct reactor *reactor; /* serves the socket */
    struct exports *exports;
    struct vhost_exports *vhost; /* of the same thread; NULL: not supported */
    struct audit *audit;         /* may be NULL */
    struct control_peers peers;
    json_t *nbd; /* where clients of this host find NBD: a list; stays the caller's; NULL: empty */
    /* Called by a task. NULL: not supported. */
    int (*reload)(void *opaque, struct vdisk_error *error);
    void (*shut_down)(void *opaque);
    void *opaque;
};

struct control;

/* Serves on `listener`, which it takes over. By the reactor's thread, or before it runs. */
int control_start(const struct control_options *options, int listener, struct control **out);
/* By a task of the reactor, but not from shut_down(): ends the connections, waits for requests
 * under way, and frees it. NULL is allowed. */
void control_stop(struct control *control);

/*
 * Does what the request says, by a task; `key_fd` is -1 or a descriptor that stays the caller's.
 * `*result` is a new reference to what goes into the reply, or NULL.
 */
int control_run(const struct control_options *options, const struct control_request *request,
                int key_fd, json_t **result, struct vdisk_error *error);

#endif
