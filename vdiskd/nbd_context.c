/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of exports and metadata contexts of an NBD connection. A dirty bitmap is the difference
 * between a snapshot and the state that is served, taken when the context is negotiated.
 */
#include "nbd_conn.h"

#include <errno.h>
#include <stdio.h>

#define DIRTY_PREFIX "qemu:dirty-bitmap:"

struct look {
    const struct nbd_target *target;
    const char *since;
    struct nbd_dirty *dirty;
    uint64_t size;
    char *names;
    size_t room, length;
    int result;
};

/* --- names ---------------------------------------------------------------------------------- */

static int look_at_size(struct vdisk_image *image, void *arg)
{
    struct look *look = arg;
    struct vdisk_snapshot_info info;
    struct vdisk_snapshot *snapshot = NULL;
    int result = vdisk_snapshot_open(image, look->target->snapshot, &snapshot);

    if (result)
        return result;
    vdisk_snapshot_get_info(snapshot, &info);
    look->size = info.size;
    vdisk_snapshot_close(snapshot);
    return 0;
}

/* The empty name before a snapshot's is that of the default export, too. */
static struct export *find(struct nbd_conn *conn, const char *name)
{
    const char *other = nbd_server_options(conn->server)->default_export;
    struct export *export = export_get(nbd_server_exports(conn->server), name);

    if (!export && !*name && other)
        export = export_get(nbd_server_exports(conn->server), other);
    return export;
}

int nbd_resolve(struct nbd_conn *conn, const struct nbd_string *name, struct nbd_target *target)
{
    const char *other = nbd_server_options(conn->server)->default_export;
    struct look look = {.target = target};
    struct export_info info;
    struct vdisk_error error;
    char text[NBD_STRING_MAX + 1], *at;
    int result = 0;

    *target = (struct nbd_target){0};
    if (!nbd_string_copy(name, text, sizeof(text)))
        return VDISK_E_NOT_FOUND;
    if (!text[0] && other && strlen(other) < sizeof(text))
        memcpy(text, other, strlen(other) + 1);
    target->export = find(conn, text);
    at = strrchr(text, '@');
    if (!target->export && at && strlen(at + 1) <= VDISK_NAME_MAX) {
        *at = 0;
        target->export = find(conn, text);
        target->has_snapshot = true;
        memcpy(target->snapshot, at + 1, strlen(at + 1) + 1);
    }
    if (!target->export)
        return VDISK_E_NOT_FOUND;
    export_get_info(target->export, &info);
    target->size = info.size;
    target->read_only = info.read_only || target->has_snapshot;
    if (target->has_snapshot) {
        result = export_call(target->export, look_at_size, &look, &error);
        target->size = look.size;
    }
    if (result) {
        export_put(target->export);
        target->export = NULL;
    }
    return result;
}

static bool each_name(void *opaque, const struct vdisk_snapshot_info *info)
{
    struct look *look = opaque;
    size_t length = strlen(info->name) + 1;

    if (length > look->room - look->length)
        return false;
    memcpy(look->names + look->length, info->name, length);
    look->length += length;
    return true;
}

static int look_at_names(struct vdisk_image *image, void *arg)
{
    return vdisk_snapshot_list(image, each_name, arg);
}

int nbd_snapshot_names(const struct nbd_target *target, char *out, size_t room, size_t *length)
{
    struct look look = {.target = target, .room = room};
    struct vdisk_error error;
    int result;

    look.names = out;
    result = export_call(target->export, look_at_names, &look, &error);
    *length = look.length;
    return result;
}

/* --- contexts ------------------------------------------------------------------------------- */

static bool each_change(void *opaque, const struct vdisk_extent *extent)
{
    struct look *look = opaque;

    look->result = nbd_dirty_add(look->dirty, extent->offset, extent->length);
    return look->result == 0;
}

static int look_at_changes(struct vdisk_image *image, void *arg)
{
    struct look *look = arg;
    struct vdisk_snapshot *since = NULL, *until = NULL;
    int result = vdisk_snapshot_open(image, look->since, &since);

    if (result == 0 && look->target->has_snapshot)
        result = vdisk_snapshot_open(image, look->target->snapshot, &until);
    if (result == 0)
        result = vdisk_diff(image, since, until, each_change, look);
    if (result == 0)
        result = look->result;
    if (until)
        vdisk_snapshot_close(until);
    if (since)
        vdisk_snapshot_close(since);
    return result;
}

void nbd_contexts_clear(struct nbd_conn *conn)
{
    for (unsigned i = 0; i < conn->context_count; i++)
        nbd_dirty_free(&conn->context[i].dirty);
    conn->context_count = 0;
    conn->context_name[0] = 0;
}

int nbd_context_add(struct nbd_conn *conn, const struct nbd_target *target, const char *name)
{
    struct nbd_context *context = &conn->context[conn->context_count];
    struct look look = {.target = target, .dirty = &context->dirty};
    struct vdisk_error error;
    int64_t began = reactor_now();
    int result = 0;

    if (conn->context_count == NBD_CONTEXTS_MAX)
        return VDISK_E_LIMIT;
    *context = (struct nbd_context){0};
    if (strcmp(name, "base:allocation") == 0) {
        context->kind = NBD_CONTEXT_ALLOCATION;
    } else if (strcmp(name, "qemu:allocation-depth") == 0) {
        context->kind = NBD_CONTEXT_DEPTH;
    } else if (strncmp(name, DIRTY_PREFIX, strlen(DIRTY_PREFIX)) == 0) {
        context->kind = NBD_CONTEXT_DIRTY;
        look.since = name + strlen(DIRTY_PREFIX);
        nbd_dirty_begin(&context->dirty, NBD_DIRTY_MAX);
        result = export_call(target->export, look_at_changes, &look, &error);
        conn->deadline += reactor_now() - began; /* our time, not the client's */
    } else {
        return VDISK_E_NOT_FOUND;
    }
    if (result) {
        nbd_dirty_free(&context->dirty);
        return result;
    }
    conn->context_count++;
    return 0;
}
