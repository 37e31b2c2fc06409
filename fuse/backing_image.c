/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image that is only read. Each thread opens it once more: a request is read, verified,
 * decrypted and handed to the kernel by one thread on one processor. The first image stays open as
 * well, which keeps the lock whatever becomes of the threads.
 */
#include "backing.h"

#include "report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_BYTES ((size_t)8 << 20) /* of each thread */

struct image_backing {
    struct backing backing;
    const char *path, *base, *shown;
    struct vdisk_unlocked *unlocked;
    struct vdisk_image *image;
    char *info;
};

struct image_access {
    struct access access;
    struct image_backing *of;
    struct vdisk_image *image;
    struct vdisk_snapshot **snapshot; /* by state; opened when first asked for */
};

static int open_image(const struct image_backing *of, struct vdisk_image **out,
                      struct vdisk_error *error)
{
    const struct vdisk_open_options options = {
        .struct_bytes = sizeof(options),
        .read_only = true,
        .unlocked = of->unlocked,
        .base_path = of->base,
        .cache_bytes = CACHE_BYTES,
    };

    return vdisk_open(of->path, &options, NULL, out, error);
}

/* ---- an access ---- */

static int failed(struct image_access *access, int result)
{
    access->access.error = *vdisk_last_error(access->image);
    return result;
}

/* The snapshot that a state is; *out is NULL for the live state. */
static int find(struct image_access *access, unsigned state, struct vdisk_snapshot **out)
{
    const char *name = access->of->backing.state[state].name;
    int result = 0;

    if (name[0] && !access->snapshot[state])
        result = vdisk_snapshot_open(access->image, name, &access->snapshot[state]);
    *out = access->snapshot[state];
    return result ? failed(access, result) : 0;
}

static int image_read(struct access *base, unsigned state, uint64_t offset, void *data,
                      uint64_t length)
{
    struct image_access *access = (struct image_access *)base;
    struct vdisk_snapshot *snapshot;
    int result = find(access, state, &snapshot);

    if (result)
        return result;
    result = snapshot ? vdisk_snapshot_read(snapshot, offset, data, length)
                      : vdisk_read(access->image, offset, data, length);
    return result ? failed(access, result) : 0;
}

static int image_map(struct access *base, unsigned state, uint64_t offset, uint64_t length,
                     access_range *each, void *opaque, uint64_t *reached)
{
    struct image_access *access = (struct image_access *)base;
    struct backing_mapping mapping = {.each = each, .opaque = opaque};
    struct vdisk_range range = {.offset = offset, .length = length};
    int result = find(access, state, &range.state);

    if (result)
        return result;
    result = vdisk_map_part(access->image, &range, true, backing_map_extent, &mapping, reached);
    return result ? failed(access, result) : 0;
}

static int image_info(struct access *base, char **text)
{
    const struct image_access *access = (struct image_access *)base;

    *text = strdup(access->of->info);
    return *text ? 0 : -ENOMEM;
}

static void close_access(struct access *base)
{
    struct image_access *access = (struct image_access *)base;

    for (unsigned i = 0; i < access->of->backing.count; i++)
        vdisk_snapshot_close(access->snapshot[i]);
    free(access->snapshot);
    (void)vdisk_close(access->image, NULL); /* only read */
    free(access);
}

static int open_access(struct backing *backing, struct access **out, struct vdisk_error *error)
{
    static const struct access_ops ops = {
        .read = image_read,
        .map = image_map,
        .info = image_info,
        .close = close_access,
    };
    struct image_access *access = calloc(1, sizeof(*access));
    int result = -ENOMEM;

    if (!access)
        return error_set(error, result, "%s", vdisk_strerror(result));
    access->access.ops = &ops;
    access->of = (struct image_backing *)backing;
    access->snapshot = calloc(backing->count, sizeof(struct vdisk_snapshot *));
    if (access->snapshot)
        result = open_image(access->of, &access->image, error);
    if (result) {
        free(access->snapshot);
        free(access);
        return result;
    }
    *out = &access->access;
    return 0;
}

/* ---- the backing ---- */

static int close_backing(struct backing *backing, struct vdisk_error *error)
{
    struct image_backing *of = (struct image_backing *)backing;

    (void)error;
    (void)vdisk_close(of->image, NULL); /* only read */
    vdisk_unlocked_free(of->unlocked);
    free(of->info);
    free(backing->state);
    free(of);
    return 0;
}

/* State 0, and all snapshots. */
static int find_states(struct image_backing *of, const char *snapshot, struct vdisk_error *error)
{
    struct backing *backing = &of->backing;
    int result = backing_add(backing, snapshot, vdisk_size(of->image), 0);

    if (result == 0)
        result = backing_add_snapshots(backing, of->image);
    if (result)
        return error_set(error, result, "its snapshots cannot be read: %s", vdisk_strerror(result));
    if (!snapshot[0])
        return 0;
    for (unsigned i = 1; i < backing->count; i++) {
        if (strcmp(backing->state[i].name, snapshot) == 0) {
            backing->state[0] = backing->state[i];
            return 0;
        }
    }
    return error_set(error, VDISK_E_NOT_FOUND,
                     "there is no snapshot `%s`; `vdisk snapshot list` shows them", snapshot);
}

static int describe(struct image_backing *of, struct vdisk_error *error)
{
    struct vdisk_public_info public_info;
    struct vdisk_info info;
    int result = vdisk_probe(of->path, &public_info, error);

    if (result)
        return result;
    vdisk_get_info(of->image, &info);
    of->backing.has_base = info.has_base;
    of->backing.used_bytes = info.has_base ? 0 : info.used_bytes;
    result = backing_describe(of->shown, &public_info, &info, &of->info);
    return result ? error_set(error, result, "%s", vdisk_strerror(result)) : 0;
}

int backing_open_image(const char *name, const struct backing_image_options *options,
                       struct backing **out, struct vdisk_error *error)
{
    static const struct backing_ops ops = {.open = open_access, .close = close_backing};
    struct image_backing *of = calloc(1, sizeof(*of));
    int result = -ENOMEM;

    if (!of)
        return error_set(error, result, "%s", vdisk_strerror(result));
    of->backing = (struct backing){
        .ops = &ops,
        .name = name,
        .threads = backing_reading_threads(),
    };
    of->path = options->path;
    of->shown = options->shown;
    of->base = options->base;
    of->unlocked = vdisk_unlocked_copy(options->unlocked);
    result = of->unlocked ? open_image(of, &of->image, error)
                          : error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    if (result == 0)
        result = find_states(of, options->snapshot, error);
    if (result == 0)
        result = describe(of, error);
    if (result) {
        (void)close_backing(&of->backing, NULL);
        return result;
    }
    *out = &of->backing;
    return 0;
}
