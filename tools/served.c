/* SPDX-License-Identifier: Apache-2.0 */
/* See served.h. */
#include "served.h"

#include "ctl_client.h"
#include "report.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX         "vdiskd:"
#define DELETE_STEP_MS 50u

const char *served_name(const char *operand)
{
    return strncmp(operand, PREFIX, strlen(PREFIX)) == 0 ? operand + strlen(PREFIX) : NULL;
}

int served_socket(const char *socket, const char *vm, char room[static SERVED_SOCKET_BYTES],
                  const char **path, struct vdisk_error *error)
{
    char folder[RUNDIR_BYTES];
    int rc;

    *path = socket ? socket : CTL_DEFAULT_SOCKET;
    if (!vm)
        return 0;
    rc = rundir_find(vm, folder, error);
    if (rc)
        return rc;
    (void)snprintf(room, SERVED_SOCKET_BYTES, "%s/disks/socket", folder);
    *path = room;
    return 0;
}

/* --- finding ------------------------------------------------------------------------------ */

static int find_export(struct served_export *of, struct vdisk_error *error)
{
    json_t *list = NULL, *entry;
    size_t i;
    int rc = ctl_ask(of->socket, json_pack("{s:s}", "command", "export-list"), &list, error);

    json_array_foreach(list, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));

        if (name && strcmp(name, of->export) == 0 && !of->about)
            of->about = json_incref(entry);
    }
    json_decref(list);
    if (rc == 0 && !of->about)
        rc = error_set(error, VDISK_E_NOT_FOUND,
                       "vdiskd has no export `%s`; `vdisk ctl export-list` shows them", of->export);
    return rc;
}

static int find_server(struct served_export *of, struct vdisk_error *error)
{
    static const char scheme[] = "unix:";
    json_t *list = NULL;
    const char *first;
    int rc = ctl_ask(of->socket, json_pack("{s:s}", "command", "nbd-list"), &list, error);

    first = json_string_value(json_array_get(list, 0));
    if (rc == 0 && (!first || strncmp(first, scheme, strlen(scheme)) != 0 ||
                    strlen(first) - strlen(scheme) >= sizeof(of->address.socket)))
        rc = error_set(error, VDISK_E_NOT_FOUND,
                       "vdiskd serves NBD at no Unix socket; its option is --nbd unix:PATH");
    if (rc == 0)
        (void)snprintf(of->address.socket, sizeof(of->address.socket), "%s",
                       first + strlen(scheme)); /* NOLINT: it is there */
    json_decref(list);
    return rc;
}

int served_find(struct served_export *of, const char *socket, const char *export,
                struct vdisk_error *error)
{
    int rc;

    *of = (struct served_export){.socket = strdup(socket), .export = strdup(export)};
    if (!of->socket || !of->export)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    rc = find_export(of, error);
    return rc ? rc : find_server(of, error);
}

void served_release(struct served_export *of)
{
    json_decref(of->about);
    free(of->socket);
    free(of->export);
    *of = (struct served_export){.socket = NULL};
}

/* --- snapshots ---------------------------------------------------------------------------- */

int served_list(const struct served_export *of, json_t **snapshots, struct vdisk_error *error)
{
    return ctl_ask(of->socket,
                   json_pack("{s:s, s:s}", "command", "snapshot-list", "export", of->export),
                   snapshots, error);
}

static int change(const struct served_export *of, const char *command, const char *snapshot,
                  struct vdisk_error *error)
{
    return ctl_ask(of->socket,
                   json_pack("{s:s, s:s, s:s}", "command", command, "export", of->export,
                             "snapshot", snapshot),
                   NULL, error);
}

int served_create(const struct served_export *of, const char *snapshot, struct vdisk_error *error)
{
    return change(of, "snapshot-create", snapshot, error);
}

int served_delete(const struct served_export *of, const char *snapshot, unsigned patience_ms,
                  struct vdisk_error *error)
{
    int rc = change(of, "snapshot-delete", snapshot, error);

    for (unsigned ms = 0; rc == VDISK_E_IN_USE && ms < patience_ms; ms += DELETE_STEP_MS) {
        (void)poll(NULL, 0, DELETE_STEP_MS);
        rc = change(of, "snapshot-delete", snapshot, error);
    }
    return rc;
}

int served_address(const struct served_export *of, const char *snapshot,
                   struct nbd_address *address, struct vdisk_error *error)
{
    int length;

    *address = of->address;
    length = snprintf(address->name, sizeof(address->name), "%s@%s", of->export, snapshot);
    if (length < 0 || (size_t)length >= sizeof(address->name))
        return error_set(error, -ENAMETOOLONG, "%s", vdisk_strerror(-ENAMETOOLONG));
    return 0;
}
