/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of exports and metadata contexts of an NBD connection. A dirty bitmap is the difference
 * between a snapshot, which the connection holds, and the state that is served; it is looked up
 * when it is asked for.
 */
#include "nbd_conn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define DIRTY_PREFIX "qemu:dirty-bitmap:"

struct look {
    const struct nbd_target *target;
    uint64_t size;
    char *names;
    size_t room, length;
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

static int look_at_since(struct vdisk_image *image, void *arg)
{
    struct nbd_context *context = arg;
    struct vdisk_snapshot_info info;
    struct vdisk_snapshot *since;
    int result = vdisk_snapshot_open(image, context->since_name, &since);

    if (result)
        return result;
    vdisk_snapshot_get_info(since, &info);
    context->since_id = info.id;
    vdisk_snapshot_close(since);
    return 0;
}

static void clear(struct nbd_context *context)
{
    export_detach(context->since);
    free(context->since_name);
}

void nbd_contexts_clear(struct nbd_conn *conn)
{
    for (unsigned i = 0; i < conn->context_count; i++)
        clear(&conn->context[i]);
    conn->context_count = 0;
    conn->context_name[0] = 0;
}

int nbd_context_add(struct nbd_conn *conn, const struct nbd_target *target, const char *name)
{
    struct nbd_context *context = &conn->context[conn->context_count];
    struct vdisk_error error;
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
        context->since_name = strdup(name + strlen(DIRTY_PREFIX));
        result = context->since_name ? export_call(target->export, look_at_since, context, &error)
                                     : -ENOMEM;
    } else {
        return VDISK_E_NOT_FOUND;
    }
    if (result) {
        free(context->since_name);
        return result;
    }
    conn->context_count++;
    return 0;
}

static int look_at_id(struct vdisk_image *image, void *arg)
{
    const struct nbd_context *context = arg;
    struct vdisk_snapshot_info info;
    struct vdisk_snapshot *since;
    int result = export_session_snapshot(context->since, &since);

    (void)image;
    if (result)
        return result;
    vdisk_snapshot_get_info(since, &info);
    return info.id == context->since_id ? 0 : -ESTALE;
}

int nbd_contexts_attach(struct nbd_conn *conn)
{
    struct vdisk_error error;
    int result = 0;

    for (unsigned i = 0; i < conn->context_count && result == 0; i++) {
        struct nbd_context *context = &conn->context[i];

        if (context->kind != NBD_CONTEXT_DIRTY)
            continue;
        /* Without events: the connection's own session has them. */
        result =
            export_attach(conn->export, context->since_name, NULL, NULL, &context->since, &error);
        if (result == 0)
            result = export_call(conn->export, look_at_id, context, &error);
        if (result == VDISK_E_NOT_FOUND)
            result = -ESTALE;
    }
    return result;
}
