/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A drive that a vdiskd serves: a snapshot of it (inspect.h), read by NBD. Each thread has
 * connections of its own, one for each state it was asked for; one that breaks is made anew for the
 * next request.
 */
#include "backing.h"

#include "inspect.h"
#include "nbd_client.h"
#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAP_STEP (UINT64_C(1) << 30)

struct served {
    struct backing backing;
    struct inspect inspect;
    struct nbd_client *first; /* so that the snapshot is in use */
    char *info;
};

struct served_access {
    struct access access;
    struct served *of;
    struct nbd_client **client; /* by state */
};

static int connect_to(const struct served *of, const char *snapshot, struct nbd_client **out,
                      struct vdisk_error *error)
{
    static const char *const context[NBD_CONTEXTS_MAX] = {NBD_CONTEXT_ALLOCATION};
    struct nbd_address address;
    int result = served_address(&of->inspect.of, snapshot, &address, error);

    if (result)
        return result;
    return nbd_client_open(&address, context, out, error);
}

/* ---- an access ---- */

/* Whatever is wrong with the connection, whoever reads a file has an I/O error. */
static int find(struct served_access *access, unsigned state, struct nbd_client **out)
{
    int result = 0;

    if (!access->client[state])
        result = connect_to(access->of, access->of->backing.state[state].name,
                            &access->client[state], &access->access.error);
    *out = access->client[state];
    access->access.error.code = -EIO;
    return result ? -EIO : 0;
}

/* The connection is broken. */
static int lose(struct served_access *access, unsigned state)
{
    access->access.error = *nbd_client_error(access->client[state]);
    access->access.error.code = -EIO;
    nbd_client_close(access->client[state]);
    access->client[state] = NULL;
    return -EIO;
}

static int read_once(struct served_access *access, unsigned state, struct nbd_read *read)
{
    struct nbd_client *client;
    int result = find(access, state, &client);

    if (result)
        return result;
    result = nbd_client_read(client, read);
    while (result == 0 && !read->is_done)
        result = nbd_client_wait(client);
    if (result)
        return lose(access, state);
    if (read->result)
        return error_set(&access->access.error, read->result, "the server says: %s",
                         vdisk_strerror(read->result));
    return 0;
}

static int served_read(struct access *base, unsigned state, uint64_t offset, void *data,
                       uint64_t length)
{
    struct served_access *access = (struct served_access *)base;
    uint8_t *to = data;

    while (length > 0) {
        uint32_t step = length < NBD_CLIENT_REQUEST_MAX ? (uint32_t)length : NBD_CLIENT_REQUEST_MAX;
        struct nbd_read read = {.offset = offset, .length = step, .data = to};
        bool was_open = access->client[state] != NULL;
        int result = read_once(access, state, &read);

        if (result && was_open && !access->client[state]) /* the daemon may be another one */
            result = read_once(access, state, &read);
        if (result)
            return result;
        to += step;
        offset += step;
        length -= step;
    }
    return 0;
}

struct mapping {
    access_range *each;
    void *opaque;
    uint64_t end, reached;
};

static bool take_state(void *opaque, uint64_t offset, uint64_t length, uint32_t state)
{
    struct mapping *mapping = opaque;

    if (offset >= mapping->end)
        return false;
    if (length > mapping->end - offset)
        length = mapping->end - offset;
    mapping->reached = offset + length;
    return mapping->each(mapping->opaque, offset, length, state & NBD_STATE_ZERO);
}

static int map_once(struct served_access *access, unsigned state, uint64_t offset,
                    struct mapping *mapping)
{
    struct nbd_client *client;
    int result = find(access, state, &client);

    if (result == 0 && nbd_client_has_context(client, 0) &&
        nbd_client_state(client, 0, offset, (uint32_t)(mapping->end - offset), take_state, mapping))
        result = lose(access, state);
    return result;
}

static int served_map(struct access *base, unsigned state, uint64_t offset, uint64_t length,
                      access_range *each, void *opaque, uint64_t *reached)
{
    struct served_access *access = (struct served_access *)base;
    struct mapping mapping = {.each = each, .opaque = opaque, .reached = offset};
    bool was_open = access->client[state] != NULL;
    int result;

    length = length < MAP_STEP ? length : MAP_STEP;
    mapping.end = offset + length;
    result = map_once(access, state, offset, &mapping);
    if (result && was_open && mapping.reached == offset) /* the daemon may be another one */
        result = map_once(access, state, offset, &mapping);
    if (result)
        return result;
    if (mapping.reached == offset) { /* it does not tell: data */
        (void)each(opaque, offset, length, false);
        mapping.reached = mapping.end;
    }
    *reached = mapping.reached;
    return 0;
}

static int served_info(struct access *base, char **text)
{
    const struct served_access *access = (struct served_access *)base;

    *text = strdup(access->of->info);
    return *text ? 0 : -ENOMEM;
}

static void close_access(struct access *base)
{
    struct served_access *access = (struct served_access *)base;

    for (unsigned i = 0; i < access->of->backing.count; i++)
        nbd_client_close(access->client[i]);
    free(access->client);
    free(access);
}

static int open_access(struct backing *backing, struct access **out, struct vdisk_error *error)
{
    static const struct access_ops ops = {
        .read = served_read,
        .map = served_map,
        .info = served_info,
        .close = close_access,
    };
    struct served_access *access = calloc(1, sizeof(*access));

    if (access)
        access->client = calloc(backing->count, sizeof(struct nbd_client *));
    if (!access || !access->client) {
        free(access);
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    }
    access->access.ops = &ops;
    access->of = (struct served *)backing;
    *out = &access->access;
    return 0;
}

/* ---- the backing ---- */

static int close_backing(struct backing *backing, struct vdisk_error *error)
{
    struct served *of = (struct served *)backing;
    int result;

    nbd_client_close(of->first);
    result = inspect_end(&of->inspect, error);
    free(of->info);
    free(backing->state);
    free(of);
    return result;
}

static int find_states(struct served *of)
{
    const json_t *entry;
    size_t i;
    int result = backing_add(&of->backing, of->inspect.snapshot, nbd_client_size(of->first), 0);

    json_array_foreach(of->inspect.snapshots, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));
        json_int_t size = json_integer_value(json_object_get(entry, "size_bytes"));
        json_int_t created = json_integer_value(json_object_get(entry, "created"));

        if (result == 0)
            result = backing_add(&of->backing, name, (uint64_t)size, created * 1000000000);
    }
    return result;
}

/* What management says of the export, with the snapshot that is shown. */
static int describe(struct served *of)
{
    char *text;

    (void)json_object_set_new(of->inspect.of.about, "snapshot", json_string(of->inspect.snapshot));
    text = json_dumps(of->inspect.of.about, JSON_INDENT(2));
    if (!text || asprintf(&of->info, "%s\n", text) < 0)
        of->info = NULL;
    free(text);
    return of->info ? 0 : -ENOMEM;
}

int backing_open_served(const char *name, const struct backing_served_options *options,
                        struct backing **out, struct vdisk_error *error)
{
    static const struct backing_ops ops = {.open = open_access, .close = close_backing};
    struct served *of = calloc(1, sizeof(*of));
    int result;

    if (!of)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    of->backing = (struct backing){
        .ops = &ops,
        .name = name,
        .threads = backing_reading_threads(),
    };
    result =
        inspect_begin(&of->inspect, options->socket, options->export, options->snapshot, error);
    if (result == 0)
        result = connect_to(of, of->inspect.snapshot, &of->first, error);
    if (result == 0) {
        result = find_states(of);
        if (result == 0)
            result = describe(of);
        if (result)
            (void)error_set(error, result, "%s", vdisk_strerror(result));
    }
    if (result) {
        (void)close_backing(&of->backing, NULL);
        return result;
    }
    *out = &of->backing;
    return 0;
}
