/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image to be backed up (SPEC.md B11, 2 and 6); see backup_drive.h.
 *
 * The image is opened for writing only to make and to delete snapshots. In between it is open for
 * reading, once here and once in each thread; that keeps writers away, and a backup reads from a
 * snapshot, which nothing changes.
 */
#include "backup_drive.h"

#include "drive_snapshots.h"
#include "report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SPANS_MAX    1024u
#define READER_CACHE (2u << 20)

struct vb_image {
    struct vb_drive drive;
    const struct vb_image_options *options;
    struct vdisk_unlocked *unlocked;
    struct vdisk_image *image; /* for reading */
    struct vdisk_snapshot *snapshot, *before;
    char name[VDISK_NAME_MAX + 1], before_name[VDISK_NAME_MAX + 1];
    /* Spans of one look at the map. */
    struct vb_span span[SPANS_MAX];
    unsigned next, count;
    uint64_t reached;
};

struct image_reader {
    struct vdisk_image *image;
    struct vdisk_snapshot *snapshot;
};

static int copy_error(struct vdisk_image *image, int result, struct vdisk_error *error)
{
    const struct vdisk_error *last = vdisk_last_error(image);

    return error_set(error, result, "%s", last->code ? last->text : vdisk_strerror(result));
}

static int open_image(const struct vb_image_options *options, const struct vdisk_unlocked *unlocked,
                      bool read_only, size_t cache, struct vdisk_image **image,
                      struct vdisk_error *error)
{
    struct vdisk_open_options open_options = {
        .struct_bytes = sizeof(open_options),
        .read_only = read_only,
        .unlocked = unlocked,
        .base_path = options->base_path,
        .cache_bytes = cache,
    };

    return vdisk_open(options->path, &open_options, unlocked ? NULL : options->key, image, error);
}

/* --- as a drive --------------------------------------------------------------------------- */

static void reader_close(void *opaque)
{
    struct image_reader *reader = opaque;

    vdisk_snapshot_close(reader->snapshot);
    vdisk_close(reader->image, NULL); /* only read */
    free(reader);
}

static int reader_open(struct vb_drive *drive, void **out, struct vdisk_error *error)
{
    struct vb_image *image = (struct vb_image *)drive;
    struct image_reader *reader = calloc(1, sizeof(*reader));
    int result;

    if (!reader)
        return -ENOMEM;
    result = open_image(image->options, image->unlocked, true, READER_CACHE, &reader->image, error);
    if (result) {
        free(reader);
        return result;
    }
    result = vdisk_snapshot_open(reader->image, image->name, &reader->snapshot);
    if (result) {
        copy_error(reader->image, result, error);
        reader_close(reader);
        return result;
    }
    *out = reader;
    return 0;
}

static int reader_read(void *opaque, uint64_t offset, void *data, size_t length,
                       struct vdisk_error *error)
{
    struct image_reader *reader = opaque;
    int result = vdisk_snapshot_read(reader->snapshot, offset, data, length);

    return result ? copy_error(reader->image, result, error) : 0;
}

static bool take_extent(void *opaque, const struct vdisk_extent *extent)
{
    struct vb_image *image = opaque;

    image->span[image->count++] = (struct vb_span){
        .offset = extent->offset,
        .length = extent->length,
        .is_zero = extent->kind == VDISK_EXTENT_ZERO || extent->kind == VDISK_EXTENT_HOLE,
    };
    return image->count < SPANS_MAX;
}

/* Some more spans from `from` on. */
static int look(struct vb_image *image, uint64_t from, struct vdisk_error *error)
{
    struct vdisk_range range = {
        .state = image->snapshot,
        .offset = from,
        .length = image->drive.size - from,
        .wanted = SPANS_MAX / 2,
    };
    const struct vb_span *last;
    int result;

    image->next = image->count = 0;
    result = image->before
                 ? vdisk_diff_part(image->image, image->before, &range, take_extent, image,
                                   &image->reached)
                 : vdisk_map_part(image->image, &range, true, take_extent, image, &image->reached);
    if (result)
        return copy_error(image->image, result, error);
    /* Ended by us: it goes on behind the last one. */
    if (image->count == SPANS_MAX) {
        last = &image->span[SPANS_MAX - 1];
        image->reached = last->offset + last->length;
    }
    return 0;
}

static int image_next(struct vb_drive *drive, uint64_t from, struct vb_span *out,
                      struct vdisk_error *error)
{
    struct vb_image *image = (struct vb_image *)drive;

    *out = (struct vb_span){.offset = drive->size};
    for (;;) {
        while (image->next < image->count) {
            struct vb_span span = image->span[image->next];

            if (span.offset + span.length <= from || (span.is_zero && !image->before)) {
                image->next++;
                continue;
            }
            if (span.offset < from) {
                span.length -= from - span.offset;
                span.offset = from;
            }
            *out = span;
            return 0;
        }
        if (image->reached >= drive->size)
            return 0;
        int result = look(image, image->reached > from ? image->reached : from, error);

        if (result)
            return result;
    }
}

static const struct vb_drive_ops ops = {
    .open = reader_open,
    .read = reader_read,
    .close = reader_close,
    .next = image_next,
};

/* --- snapshots ---------------------------------------------------------------------------- */

struct collected {
    struct vb_snapshots list;
    int result;
};

static bool collect(void *opaque, const struct vdisk_snapshot_info *info)
{
    struct collected *collected = opaque;

    collected->result = vb_snapshots_add(&collected->list, info);
    return collected->result == 0;
}

/* vb_snapshots_release() is due after any result. */
static int list_snapshots(struct vdisk_image *image, struct vb_snapshots *list)
{
    struct collected collected = {.result = 0};
    int result = vdisk_snapshot_list(image, collect, &collected);

    *list = collected.list;
    return result ? result : collected.result;
}

int vb_image_base(struct vdisk_image *image, struct vb_base_wish wish, const struct vb_backup **out)
{
    struct vb_snapshots list;
    struct vdisk_info info;
    int result = list_snapshots(image, &list);

    vdisk_get_info(image, &info);
    wish.drive = info.image_id;
    *out = result ? NULL : vb_snapshots_base(&list, &wish);
    vb_snapshots_release(&list);
    return result;
}

/* What one that was interrupted left behind, under the name of the one to come. */
static int delete_leftover(struct vb_image *made, struct vdisk_image *image,
                           const struct vb_snapshots *list)
{
    /* Asked for first: a deletion in vain would begin to write to the image, and wait for that. */
    return strcmp(made->name, made->before_name) != 0 && vb_snapshots_find(list, made->name)
               ? vdisk_snapshot_delete(image, made->name)
               : 0;
}

static void find_base(struct vb_image *made, const struct vb_snapshots *list,
                      const struct vb_manifest *manifest, uint64_t size)
{
    const struct vb_base_wish wish = {.repo = made->options->repo,
                                      .backups = made->options->backups,
                                      .drive = manifest->drive,
                                      .size_max = size};

    made->drive.base = vb_snapshots_base(list, &wish);
    if (made->drive.base)
        memcpy(made->before_name, made->drive.base->manifest.snapshot_name,
               sizeof(made->before_name));
}

static int describe(struct vdisk_image *image, const char *name, const struct vdisk_info *info,
                    struct vb_manifest *manifest)
{
    const struct vdisk_snapshot_info *snapshot = NULL;
    struct vb_snapshots list;
    int result = list_snapshots(image, &list);

    if (result == 0) {
        snapshot = vb_snapshots_find(&list, name);
        result = snapshot ? 0 : VDISK_E_NOT_FOUND;
    }
    if (result == 0)
        vb_snapshot_describe(snapshot, manifest);
    manifest->compress = info->compress;
    manifest->compress_level = (int8_t)info->compress_level;
    manifest->cluster_bytes = (uint32_t)info->cluster_bytes;
    vb_snapshots_release(&list);
    return result;
}

/* With the image open for writing. */
static int make_snapshot(struct vb_image *made, struct vdisk_image *image,
                         struct vb_manifest *manifest, struct vdisk_error *error)
{
    struct vb_snapshots list;
    struct vdisk_info info;
    int result;

    vdisk_get_info(image, &info);
    memcpy(manifest->drive, info.image_id, VB_DRIVE_ID_BYTES);
    vb_backups_continue(made->options->backups, manifest);
    vb_snapshot_name(made->options->repo, manifest->sequence, made->name);
    result = list_snapshots(image, &list);
    if (result == 0) {
        find_base(made, &list, manifest, info.size);
        result = delete_leftover(made, image, &list);
    }
    vb_snapshots_release(&list);
    if (result == 0)
        result = vdisk_snapshot_create(image, made->name);
    if (result == 0)
        result = describe(image, made->name, &info, manifest);
    if (result)
        return copy_error(image, result, error);
    made->unlocked = vdisk_unlocked_of(image);
    return made->unlocked ? 0 : error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
}

static int open_for_reading(struct vb_image *made, struct vdisk_error *error)
{
    int result = open_image(made->options, made->unlocked, true, 0, &made->image, error);

    if (result)
        return result;
    result = vdisk_snapshot_open(made->image, made->name, &made->snapshot);
    if (result == 0 && made->drive.base)
        result = vdisk_snapshot_open(made->image, made->before_name, &made->before);
    return result ? copy_error(made->image, result, error) : 0;
}

int vb_image_open(const struct vb_image_options *options, struct vb_manifest *manifest,
                  struct vb_image **out, struct vdisk_error *error)
{
    struct vb_image *made = calloc(1, sizeof(*made));
    struct vdisk_image *image;
    int result;

    if (!made)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    made->drive.ops = &ops;
    made->options = options;
    result = open_image(options, NULL, false, 0, &image, error);
    if (result) {
        free(made);
        return result;
    }
    result = make_snapshot(made, image, manifest, error);
    if (result) {
        vdisk_close(image, NULL);
        vdisk_unlocked_free(made->unlocked);
        free(made);
        return result;
    }
    made->drive.size = manifest->size;
    result = vdisk_close(image, error);
    if (result == 0)
        result = open_for_reading(made, error);
    if (result) {
        vb_image_close(made, false, NULL);
        return result;
    }
    *out = made;
    return 0;
}

struct vb_drive *vb_image_drive(struct vb_image *image)
{
    return &image->drive;
}

/* --- afterwards --------------------------------------------------------------------------- */

static int delete_older(struct vb_image *made, struct vdisk_image *image)
{
    struct vb_snapshots list;
    int result = list_snapshots(image, &list);

    for (size_t i = 0; i < list.count && result == 0; i++) {
        if (vb_snapshot_is_old(made->options->repo, list.info[i].name, made->name))
            result = vdisk_snapshot_delete(image, list.info[i].name);
    }
    vb_snapshots_release(&list);
    return result;
}

static int tidy(struct vb_image *made, bool done, struct vdisk_error *error)
{
    struct vdisk_image *image;
    int closed, result = open_image(made->options, made->unlocked, false, 0, &image, error);

    if (result)
        return result;
    result = done ? delete_older(made, image) : vdisk_snapshot_delete(image, made->name);
    if (result)
        copy_error(image, result, error);
    closed = vdisk_close(image, result ? NULL : error);
    return result ? result : closed;
}

int vb_image_close(struct vb_image *image, bool done, struct vdisk_error *error)
{
    int result;

    if (!image)
        return 0;
    vdisk_snapshot_close(image->before);
    vdisk_snapshot_close(image->snapshot);
    vdisk_close(image->image, NULL); /* only read */
    result = tidy(image, done, error);
    vdisk_unlocked_free(image->unlocked);
    free(image);
    return result;
}
