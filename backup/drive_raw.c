/* SPDX-License-Identifier: Apache-2.0 */
/* A raw drive to be backed up; see backup_drive.h. All of it is looked at, but for holes. */
#include "backup_drive.h"

#include "report.h"
#include "source.h"

#include <errno.h>
#include <stdlib.h>

struct raw {
    struct vb_drive drive;
    struct source source; /* for the main thread: size and holes */
};

static int fail(const struct source *source, int result, struct vdisk_error *error)
{
    return error_set(error, result, "%s: %s", source->name,
                     source->error.code ? source->error.text : vdisk_strerror(result));
}

static int raw_open(struct vb_drive *drive, void **reader, struct vdisk_error *error)
{
    const struct raw *raw = (const struct raw *)drive;
    struct source *source = malloc(sizeof(*source));
    int result;

    if (!source)
        return -ENOMEM;
    result = source_open_file(source, raw->source.name);
    if (result) {
        fail(source, result, error);
        free(source);
        return result;
    }
    *reader = source;
    return 0;
}

static int raw_read(void *reader, uint64_t offset, void *data, size_t length,
                    struct vdisk_error *error)
{
    struct source *source = reader;
    struct nbd_read read = {.offset = offset, .length = (uint32_t)length, .data = data};
    int result = source->ops->start(source, &read);

    return result ? fail(source, result, error) : 0;
}

static void raw_close(void *reader)
{
    source_close(reader);
    free(reader);
}

static int raw_next(struct vb_drive *drive, uint64_t from, struct vb_span *span,
                    struct vdisk_error *error)
{
    struct source *source = &((struct raw *)drive)->source;

    *span = (struct vb_span){.offset = from};
    while (span->offset < source->size) {
        uint64_t length;
        bool is_zero;
        int result = source->ops->range(source, span->offset, &length, &is_zero);

        if (result)
            return fail(source, result, error);
        if (!is_zero) {
            span->length = length;
            return 0;
        }
        span->offset += length;
    }
    return 0;
}

int vb_drive_raw_open(const char *path, struct vb_drive **out, struct vdisk_error *error)
{
    static const struct vb_drive_ops ops = {
        .open = raw_open,
        .read = raw_read,
        .close = raw_close,
        .next = raw_next,
    };
    struct raw *raw = calloc(1, sizeof(*raw));
    int result;

    if (!raw)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    result = source_open_file(&raw->source, path);
    if (result) {
        *error = raw->source.error;
        free(raw);
        return result;
    }
    if (raw->source.size == 0 || raw->source.size > VDISK_SIZE_MAX) {
        result = raw->source.size ? -EFBIG : -EINVAL;
        source_close(&raw->source);
        free(raw);
        return error_set(error, result, "is %s", result == -EFBIG ? "too large" : "empty");
    }
    raw->drive.ops = &ops;
    raw->drive.size = raw->source.size;
    *out = &raw->drive;
    return 0;
}

void vb_drive_raw_close(struct vb_drive *drive)
{
    struct raw *raw = (struct raw *)drive;

    if (!raw)
        return;
    source_close(&raw->source);
    free(raw);
}
