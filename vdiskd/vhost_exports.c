/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See vhost_exports.h. An entry is in the table from before its server starts, so that who removes
 * it meanwhile waits for that; it leaves the table before its server is stopped.
 */
#include "vhost_exports.h"

#include "apart.h"
#include "report.h"
#include "task.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct entry {
    struct entry *next;
    char export[256];
    char snapshot[VDISK_NAME_MAX + 1]; /* "": the live state */
    struct listen_socket socket;       /* the descriptor is the server's */
    struct vhost_server *server;
    bool is_starting;
    struct task *stopper; /* who waits for `server` to be stopped */
};

struct vhost_exports {
    struct exports *exports;
    void (*event)(void *opaque, const struct vhost_event *event);
    void *opaque;
    struct entry *first;
};

int vhost_exports_new(struct exports *exports,
                      void (*event)(void *opaque, const struct vhost_event *event), void *opaque,
                      struct vhost_exports **out)
{
    struct vhost_exports *table = malloc(sizeof(*table));

    if (!table)
        return -ENOMEM;
    *table = (struct vhost_exports){.exports = exports, .event = event, .opaque = opaque};
    *out = table;
    return 0;
}

void vhost_exports_free(struct vhost_exports *table)
{
    free(table);
}

static struct entry **find(struct vhost_exports *table, const char *export)
{
    struct entry **place = &table->first;

    while (*place && strcmp((*place)->export, export) != 0)
        place = &(*place)->next;
    return place;
}

static void take_out(struct vhost_exports *table, const struct entry *entry)
{
    struct entry **place = &table->first;

    while (*place != entry)
        place = &(*place)->next;
    *place = entry->next;
}

static void close_socket(const struct listen_socket *socket)
{
    struct listen_socket copy = *socket;

    listen_close(&copy);
}

static int start(struct vhost_exports *table, struct entry *entry, const char *snapshot,
                 struct vdisk_error *error)
{
    char address[16];
    const struct vhost_options options = {
        .address = address,
        .export_name = entry->export,
        .snapshot = snapshot,
        .event = table->event,
        .opaque = table->opaque,
    };
    int rc;

    snprintf(address, sizeof(address), "fd:%d", entry->socket.fd);
    entry->is_starting = true;
    rc = vhost_server_start(table->exports, &options, &entry->server, error);
    entry->is_starting = false;
    return rc;
}

static int add(struct vhost_exports *table, const char *export, const char *snapshot,
               const struct listen_socket *socket, struct vdisk_error *error)
{
    struct entry *entry = calloc(1, sizeof(*entry));
    int rc;

    if (!entry) {
        close_socket(socket);
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    }
    (void)snprintf(entry->export, sizeof(entry->export), "%s", export);
    (void)snprintf(entry->snapshot, sizeof(entry->snapshot), "%s", snapshot ? snapshot : "");
    entry->socket = *socket;
    entry->next = table->first;
    table->first = entry;
    rc = start(table, entry, snapshot, error);
    if (rc) {
        take_out(table, entry);
        if (entry->socket.path[0])
            (void)unlink(entry->socket.path);
        free(entry);
    }
    return rc;
}

int vhost_exports_open(struct vhost_exports *table, const struct export_options *options,
                       const char *snapshot, const struct listen_socket *socket,
                       struct vdisk_error *error)
{
    struct vdisk_error second;
    int rc = export_add(table->exports, options, error);

    if (socket->fd < 0)
        return rc;
    if (rc) {
        close_socket(socket);
        return rc;
    }
    rc = add(table, options->name, snapshot, socket, error);
    if (rc)
        (void)export_remove(table->exports, options->name, &second);
    return rc;
}

/* ---- sockets ---- */

static int take_listener(const char *address, struct listen_socket *socket,
                         struct vdisk_error *error)
{
    socklen_t length = sizeof(int);
    int listens = 0, rc = listen_open(address, true, socket, 1);

    if (rc < 0 || getsockopt(socket->fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) || !listens)
        return error_set(error, -EINVAL, "%s is not a socket of this host that listens", address);
    return 0;
}

int vhost_exports_socket(const char *address, struct listen_socket *socket,
                         struct vdisk_error *error)
{
    char text[LISTEN_PATH_BYTES + 8];
    int rc;

    if (strncmp(address, "fd:", 3) == 0)
        return take_listener(address, socket, error);
    (void)snprintf(text, sizeof(text), "unix:%s", address);
    rc = strlen(address) < LISTEN_PATH_BYTES ? listen_open(text, true, socket, 1) : -ENAMETOOLONG;
    if (rc == -EACCES)
        return error_set(error, rc,
                         "cannot listen at %s: %s; sockets may be made in the folders that the "
                         "daemon was given (--socket-dir)",
                         address, vdisk_strerror(rc));
    return rc < 0 ? error_set(error, rc, "cannot listen at %s: %s", address, vdisk_strerror(rc))
                  : 0;
}

struct making {
    const char *address;
    struct listen_socket *socket;
    struct vdisk_error *error;
};

static int make(void *arg)
{
    struct making *making = arg;

    return vhost_exports_socket(making->address, making->socket, making->error);
}

int vhost_exports_make(const char *address, struct listen_socket *socket, struct vdisk_error *error)
{
    struct making making = {.address = address, .socket = socket, .error = error};

    return apart_call(make, &making);
}

/* ---- ends ---- */

/* Out of the table, or NULL. */
static struct entry *take_out_named(struct vhost_exports *table, const char *export)
{
    struct entry *entry;

    while ((entry = *find(table, export)) != NULL && entry->is_starting)
        task_pause();
    if (entry)
        take_out(table, entry);
    return entry;
}

static void stop(void *arg)
{
    struct entry *entry = arg;

    vhost_server_stop(entry->server);
    entry->server = NULL;
    task_wake(&entry->stopper);
}

/* A front end's requests that wait for space end with the export's removal alone, and no new front
 * end may come meanwhile: so both are done at once. */
int vhost_exports_close(struct vhost_exports *table, const char *export, struct vdisk_error *error)
{
    struct entry *entry = take_out_named(table, export);
    int rc;

    if (entry && entry->socket.path[0])
        (void)unlink(entry->socket.path);
    bool is_parallel = entry && task_spawn(task_reactor(task_current()), stop, entry) == 0;
    rc = export_remove(table->exports, export, error);
    while (is_parallel && entry->server)
        task_park(&entry->stopper);
    if (entry && !is_parallel)
        vhost_server_stop(entry->server);
    free(entry);
    return rc;
}

const char *vhost_exports_address(const struct vhost_exports *table, const char *export)
{
    for (const struct entry *entry = table->first; entry; entry = entry->next) {
        if (strcmp(entry->export, export) == 0)
            return entry->socket.path[0] ? entry->socket.path : "fd";
    }
    return NULL;
}

const char *vhost_exports_snapshot(const struct vhost_exports *table, const char *export)
{
    for (const struct entry *entry = table->first; entry; entry = entry->next) {
        if (strcmp(entry->export, export) == 0)
            return entry->snapshot[0] ? entry->snapshot : NULL;
    }
    return NULL;
}
