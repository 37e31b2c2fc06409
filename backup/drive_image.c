/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image to be backed up (SPEC.md B11, 2 and 6); see backup_drive.h.
 *
 * The image is opened for writing only to make and to delete snapshots. In between it is open for
 * reading, once here and once in each thread; that keeps writers away, and a backup reads from a
 * snapshot, which nothing changes.
 */
#include "backup_drive.h"

#include "report.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define SPANS_MAX     1024u
#define READER_CACHE  (2u << 20)
#define PREFIX_BYTES  sizeof("backup-RRRRRRRR-")
#define SNAPSHOTS_MAX 64u /* to be deleted at once */

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

static void snapshot_prefix(const struct vb_repo *repo, char prefix[static PREFIX_BYTES])
{
    char digits[9];

    sodium_bin2hex(digits, sizeof(digits), repo->config.repo_id, 4);
    snprintf(prefix, PREFIX_BYTES, "backup-%s-", digits);
}

struct search {
    const char *name; /* by name */
    struct vdisk_snapshot_info info;
    bool found;
};

static bool look_at(void *opaque, const struct vdisk_snapshot_info *info)
{
    struct search *search = opaque;

    if (strcmp(info->name, search->name) != 0)
        return true;
    search->info = *info;
    search->found = true;
    return false;
}

static int find_snapshot(struct vdisk_image *image, const char *name, struct search *search)
{
    *search = (struct search){.name = name};
    return vdisk_snapshot_list(image, look_at, search);
}

int vb_image_base(struct vdisk_image *image, const struct vb_base_wish *wish,
                  const struct vb_backup **out)
{
    const struct vb_backups *backups = wish->backups;
    struct vdisk_info info;

    *out = NULL;
    vdisk_get_info(image, &info);
    for (size_t i = backups->count; i-- > 0;) {
        const struct vb_backup *backup = &backups->backup[i];
        const struct vb_manifest *manifest = &backup->manifest;
        struct search search;
        int result;

        if (memcmp(manifest->drive, info.image_id, VB_DRIVE_ID_BYTES) != 0 ||
            !manifest->snapshot_id || manifest->size > wish->size_max ||
            !(vb_repo_trusts(wish->repo, &backup->signer) ||
              (wish->signer && vb_id_equal(wish->signer, &backup->signer))))
            continue;
        result = find_snapshot(image, manifest->snapshot_name, &search);
        if (result)
            return result;
        if (search.found && search.info.id == manifest->snapshot_id &&
            memcmp(search.info.root_tag, manifest->snapshot_tag, VDISK_TAG_BYTES) == 0) {
            *out = backup;
            return 0;
        }
    }
    return 0;
}

static int find_base(struct vb_image *made, struct vdisk_image *image, uint64_t size)
{
    const struct vb_base_wish wish = {
        .repo = made->options->repo, .backups = made->options->backups, .size_max = size};
    int result = vb_image_base(image, &wish, &made->drive.base);

    if (result == 0 && made->drive.base)
        memcpy(made->before_name, made->drive.base->manifest.snapshot_name,
               sizeof(made->before_name));
    return result;
}

static void describe(const struct vdisk_info *info, const struct vdisk_snapshot_info *snapshot,
                     struct vb_manifest *manifest)
{
    manifest->size = snapshot->size;
    manifest->created = snapshot->created;
    manifest->source = VB_FROM_IMAGE;
    manifest->compress = info->compress;
    manifest->compress_level = (int8_t)info->compress_level;
    manifest->cluster_bytes = (uint32_t)info->cluster_bytes;
    manifest->snapshot_id = snapshot->id;
    memcpy(manifest->snapshot_tag, snapshot->root_tag, VDISK_TAG_BYTES);
    memcpy(manifest->snapshot_name, snapshot->name, sizeof(manifest->snapshot_name));
}

/* What one that was interrupted left behind, under the name of the one to come. */
static int delete_leftover(struct vb_image *made, struct vdisk_image *image)
{
    struct search search;
    int result;

    if (strcmp(made->name, made->before_name) == 0)
        return 0;
    /* Asked for first: a deletion in vain would begin to write to the image, and wait for that. */
    result = find_snapshot(image, made->name, &search);
    return result || !search.found ? result : vdisk_snapshot_delete(image, made->name);
}

/* With the image open for writing. */
static int make_snapshot(struct vb_image *made, struct vdisk_image *image,
                         struct vb_manifest *manifest, struct vdisk_error *error)
{
    const struct vb_backup *newest;
    char prefix[PREFIX_BYTES];
    struct vdisk_info info;
    struct search search;
    int result;

    vdisk_get_info(image, &info);
    memcpy(manifest->drive, info.image_id, VB_DRIVE_ID_BYTES);
    newest = vb_backups_newest(made->options->backups, manifest->drive);
    if (newest) {
        manifest->sequence = newest->manifest.sequence;
        manifest->previous = newest->name;
    }
    manifest->sequence++;
    snapshot_prefix(made->options->repo, prefix);
    snprintf(made->name, sizeof(made->name), "%s%llu", prefix,
             (unsigned long long)manifest->sequence);
    result = find_base(made, image, info.size);
    if (result == 0)
        result = delete_leftover(made, image);
    if (result == 0)
        result = vdisk_snapshot_create(image, made->name);
    if (result == 0)
        result = find_snapshot(image, made->name, &search);
    if (result)
        return copy_error(image, result, error);
    describe(&info, &search.info, manifest);
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

struct doomed {
    char prefix[PREFIX_BYTES];
    const char *keep;
    char (*name)[VDISK_NAME_MAX + 1];
    unsigned count;
};

static bool find_doomed(void *opaque, const struct vdisk_snapshot_info *info)
{
    struct doomed *doomed = opaque;

    if (strncmp(info->name, doomed->prefix, strlen(doomed->prefix)) == 0 &&
        strcmp(info->name, doomed->keep) != 0)
        memcpy(doomed->name[doomed->count++], info->name, sizeof(info->name));
    return doomed->count < SNAPSHOTS_MAX;
}

static int delete_older(struct vb_image *made, struct vdisk_image *image)
{
    struct doomed doomed = {.keep = made->name};
    int result;

    snapshot_prefix(made->options->repo, doomed.prefix);
    doomed.name = calloc(SNAPSHOTS_MAX, sizeof(*doomed.name));
    if (!doomed.name)
        return -ENOMEM;
    result = vdisk_snapshot_list(image, find_doomed, &doomed);
    for (unsigned i = 0; i < doomed.count && result == 0; i++)
        result = vdisk_snapshot_delete(image, doomed.name[i]);
    free(doomed.name);
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
