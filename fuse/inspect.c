/* SPDX-License-Identifier: Apache-2.0 */
/* See inspect.h. */
#include "inspect.h"

#include "ctl_client.h"
#include "report.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STAT_BYTES   1024u
#define START_FIELD  22   /* of /proc/PID/stat, see proc(5) */
#define DELETE_TRIES 100u /* the daemon notices a little later that a client has gone */
#define DELETE_STEP  50   /* ms */

/* When the process began, in ticks since the machine did; 0: there is none, it has ended, or it
 * hides. */
static unsigned long long began(long pid)
{
    char path[32], text[STAT_BYTES], *at;
    unsigned long long ticks = 0;
    FILE *file;
    size_t length;

    (void)snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
    file = fopen(path, "re");
    if (!file)
        return 0;
    length = fread(text, 1, sizeof(text) - 1, file);
    (void)fclose(file);
    text[length] = 0;
    at = strrchr(text, ')'); /* its name may have anything in it */
    if (at && strlen(at) > 2 && (at[2] == 'Z' || at[2] == 'X'))
        return 0;
    for (unsigned field = 2; at && field < START_FIELD; field++)
        at = strchr(at + 1, ' ');
    if (at)
        ticks = strtoull(at + 1, NULL, 10);
    return ticks;
}

static bool is_ours(const char *name)
{
    return strncmp(name, INSPECT_PREFIX, strlen(INSPECT_PREFIX)) == 0;
}

/* Whether whoever made the snapshot of that name is there. */
static bool is_alive(const char *name)
{
    char *end;
    long pid = strtol(name + strlen(INSPECT_PREFIX), &end, 10);

    if (pid <= 0 || *end != '-')
        return true; /* not a name that we make */
    return began(pid) == strtoull(end + 1, NULL, 10);
}

static json_t *request(const struct inspect *inspect, const char *command)
{
    return json_pack("{s:s, s:s}", "command", command, "export", inspect->export);
}

static int change_snapshot(const struct inspect *inspect, const char *command, const char *name,
                           struct vdisk_error *error)
{
    return ctl_ask(inspect->socket,
                   json_pack("{s:s, s:s, s:s}", "command", command, "export", inspect->export,
                             "snapshot", name),
                   NULL, error);
}

static int find_export(struct inspect *inspect, struct vdisk_error *error)
{
    json_t *list = NULL, *entry;
    size_t i;
    int rc = ctl_ask(inspect->socket, json_pack("{s:s}", "command", "export-list"), &list, error);

    json_array_foreach(list, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));

        if (name && strcmp(name, inspect->export) == 0)
            inspect->about = json_incref(entry);
    }
    json_decref(list);
    if (rc == 0 && !inspect->about)
        rc = error_set(error, VDISK_E_NOT_FOUND,
                       "vdiskd has no export `%s`; `vdisk ctl export-list` shows them",
                       inspect->export);
    return rc;
}

static int find_server(struct inspect *inspect, struct vdisk_error *error)
{
    static const char scheme[] = "unix:";
    json_t *list = NULL;
    const char *first;
    int rc = ctl_ask(inspect->socket, json_pack("{s:s}", "command", "nbd-list"), &list, error);

    first = json_string_value(json_array_get(list, 0));
    if (rc == 0 && (!first || strncmp(first, scheme, strlen(scheme)) != 0 ||
                    strlen(first) - strlen(scheme) >= sizeof(inspect->address.socket)))
        rc = error_set(error, VDISK_E_NOT_FOUND,
                       "vdiskd serves NBD at no Unix socket; its option is --nbd unix:PATH");
    if (rc == 0)
        (void)snprintf(inspect->address.socket, sizeof(inspect->address.socket), "%s",
                       first + strlen(scheme)); /* NOLINT: it is there */
    json_decref(list);
    return rc;
}

/* All snapshots but those for mounts, of which those are removed that nobody is there for. */
static int list_snapshots(struct inspect *inspect, struct vdisk_error *error)
{
    json_t *list = NULL, *entry;
    size_t i;
    int rc = ctl_ask(inspect->socket, request(inspect, "snapshot-list"), &list, error);

    inspect->snapshots = json_array();
    json_array_foreach(list, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));

        if (!name)
            continue;
        if (!is_ours(name))
            json_array_append(inspect->snapshots, entry);
        else if (!is_alive(name))
            (void)change_snapshot(inspect, "snapshot-delete", name, NULL);
    }
    json_decref(list);
    return rc;
}

static bool is_listed(const struct inspect *inspect)
{
    const json_t *entry;
    size_t i;

    json_array_foreach(inspect->snapshots, i, entry)
    {
        if (strcmp(json_string_value(json_object_get(entry, "name")), inspect->snapshot) == 0)
            return true;
    }
    return false;
}

int inspect_begin(struct inspect *inspect, const char *socket, const char *export,
                  const char *snapshot, struct vdisk_error *error)
{
    int rc;

    *inspect = (struct inspect){.socket = strdup(socket), .export = strdup(export)};
    if (!inspect->socket || !inspect->export)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    rc = find_export(inspect, error);
    if (rc == 0)
        rc = find_server(inspect, error);
    if (rc == 0)
        rc = list_snapshots(inspect, error);
    if (rc)
        return rc;
    if (snapshot) {
        (void)snprintf(inspect->snapshot, sizeof(inspect->snapshot), "%s", snapshot);
        return is_listed(inspect)
                   ? 0
                   : error_set(error, VDISK_E_NOT_FOUND, "there is no snapshot `%s`", snapshot);
    }
    (void)snprintf(inspect->snapshot, sizeof(inspect->snapshot), INSPECT_PREFIX "%ld-%llu",
                   (long)getpid(), began(getpid()));
    rc = change_snapshot(inspect, "snapshot-create", inspect->snapshot, error);
    inspect->made = rc == 0;
    return rc;
}

int inspect_end(struct inspect *inspect, struct vdisk_error *error)
{
    int rc = 0;

    for (unsigned i = 0; inspect->made && i < DELETE_TRIES; i++) {
        rc = change_snapshot(inspect, "snapshot-delete", inspect->snapshot, error);
        if (rc != VDISK_E_IN_USE)
            break;
        (void)poll(NULL, 0, DELETE_STEP);
    }
    if (rc == VDISK_E_NOT_FOUND) /* somebody else did */
        rc = 0;
    json_decref(inspect->about);
    json_decref(inspect->snapshots);
    free(inspect->socket);
    free(inspect->export);
    *inspect = (struct inspect){.made = false};
    return rc;
}
