/* SPDX-License-Identifier: Apache-2.0 */
/* See inspect.h. */
#include "inspect.h"

#include "report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STAT_BYTES  1024u
#define START_FIELD 22 /* of /proc/PID/stat, see proc(5) */

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

/* All snapshots but those for mounts, of which those are removed that nobody is there for. */
static int list_snapshots(struct inspect *inspect, struct vdisk_error *error)
{
    json_t *list = NULL, *entry;
    size_t i;
    int rc = served_list(&inspect->of, &list, error);

    inspect->snapshots = json_array();
    json_array_foreach(list, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));

        if (!name)
            continue;
        if (!is_ours(name))
            json_array_append(inspect->snapshots, entry);
        else if (!is_alive(name))
            (void)served_delete(&inspect->of, name, 0, NULL);
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

    *inspect = (struct inspect){.made = false};
    rc = served_find(&inspect->of, socket, export, error);
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
    rc = served_create(&inspect->of, inspect->snapshot, error);
    inspect->made = rc == 0;
    return rc;
}

int inspect_end(struct inspect *inspect, struct vdisk_error *error)
{
    int rc = inspect->made
                 ? served_delete(&inspect->of, inspect->snapshot, SERVED_PATIENCE_MS, error)
                 : 0;

    if (rc == VDISK_E_NOT_FOUND) /* somebody else did */
        rc = 0;
    json_decref(inspect->snapshots);
    served_release(&inspect->of);
    *inspect = (struct inspect){.made = false};
    return rc;
}
