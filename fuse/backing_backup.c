/* SPDX-License-Identifier: Apache-2.0 */
/* A backup, for reading; see backing.h. */
#include "backing.h"

#include "json.h"
#include "reader.h"
#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CACHED_CHUNKS 48u /* for several files that are read in order */

struct backup_backing {
    struct backing backing;
    struct vb_source *source;
    char *info;
};

struct backup_access {
    struct access access;
    struct backup_backing *of;
};

static struct backup_access *own(struct access *access)
{
    return (struct backup_access *)access;
}

static int access_read(struct access *access, unsigned state, uint64_t offset, void *data,
                       uint64_t length)
{
    struct vdisk_source *source = &own(access)->of->source->source;

    (void)state;
    return length ? source->read(source, offset, data, length, &access->error) : 0;
}

static int access_map(struct access *access, unsigned state, uint64_t offset, uint64_t length,
                      access_range *each, void *opaque, uint64_t *reached)
{
    struct vdisk_source *source = &own(access)->of->source->source;
    uint64_t start, count, end = offset + length;
    int result = source->next(source, offset, &start, &count, &access->error);

    (void)state;
    if (result)
        return result;
    if (count == 0 || start > end)
        start = end;
    if (start > offset) {
        *reached = start;
        (void)each(opaque, offset, start - offset, true);
        return 0;
    }
    *reached = offset + count < end ? offset + count : end;
    (void)each(opaque, offset, *reached - offset, false);
    return 0;
}

static int access_info(struct access *access, char **text)
{
    *text = strdup(own(access)->of->info);
    return *text ? 0 : -ENOMEM;
}

static void access_close(struct access *access)
{
    free(access);
}

static int open_access(struct backing *backing, struct access **out, struct vdisk_error *error)
{
    static const struct access_ops ops = {
        .read = access_read, .map = access_map, .info = access_info, .close = access_close};
    struct backup_access *access = calloc(1, sizeof(*access));

    if (!access)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    access->access.ops = &ops;
    access->of = (struct backup_backing *)backing;
    *out = &access->access;
    return 0;
}

static int close_backing(struct backing *backing, struct vdisk_error *error)
{
    struct backup_backing *of = (struct backup_backing *)backing;

    (void)error;
    vb_source_close(of->source);
    free(of->info);
    free(backing->state);
    free(of);
    return 0;
}

static int describe(struct backup_backing *of)
{
    const struct vb_manifest *manifest = &of->source->manifest;
    size_t length = 0;
    FILE *out = open_memstream(&of->info, &length);
    struct json json;
    bool failed;

    if (!out)
        return -ENOMEM;
    json_begin(&json, out);
    json_open_object(&json, NULL);
    json_string(&json, "backup", of->source->source.name);
    json_string(&json, "drive", manifest->drive_name);
    json_string(&json, "host", manifest->host);
    json_number(&json, "size", manifest->size);
    json_signed(&json, "created", manifest->created / 1000000000);
    json_close_object(&json);
    json_end(&json);
    failed = ferror(out);
    return fclose(out) || failed ? -ENOMEM : 0;
}

int backing_open_backup(const char *name, const struct backing_backup_options *options,
                        struct backing **out, struct vdisk_error *error)
{
    static const struct backing_ops ops = {.open = open_access, .close = close_backing};
    const struct vb_source_options source = {.path = options->repo,
                                             .backup = options->backup,
                                             .key = options->key,
                                             .cached_chunks = CACHED_CHUNKS};
    struct backup_backing *of = calloc(1, sizeof(*of));
    int result;

    if (!of)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    of->backing = (struct backing){.ops = &ops, .name = name, .threads = backing_reading_threads()};
    result = vb_source_open(&source, &of->source, error);
    if (result == 0) {
        const struct vb_manifest *manifest = &of->source->manifest;

        of->backing.used_bytes = manifest->bytes_data;
        result = backing_add(&of->backing, "", manifest->size, manifest->created);
        if (result == 0)
            result = describe(of);
        if (result)
            error_set(error, result, "%s", vdisk_strerror(result));
    }
    if (result) {
        (void)close_backing(&of->backing, NULL);
        return result;
    }
    *out = &of->backing;
    return 0;
}
