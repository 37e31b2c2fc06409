/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A backup over an image that is there; see in_place.h.
 *
 * Before anything is changed a snapshot keeps what is there. Who is killed leaves that snapshot and
 * an image that is partly restored: the next run finds out anew what differs.
 */
#include "in_place.h"

#include "backup_drive.h"
#include "report.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define RUNS_MAX    256u
#define FLUSH_BYTES (UINT64_C(32) << 20) /* so much at most is done again after a kill */

struct run {
    uint64_t offset, length;
};

struct present_target {
    struct vb_target target;
    struct vdisk_image *image;
    struct run run[RUNS_MAX]; /* data that is to go */
    unsigned runs;
    uint64_t unflushed; /* bytes */
};

static int say(struct vdisk_image *image, int result, struct vdisk_error *error)
{
    const struct vdisk_error *last = vdisk_last_error(image);

    return result ? error_set(error, result, "%s",
                              last->code == result ? last->text : vdisk_strerror(result))
                  : 0;
}

/* --- the image as a target ------------------------------------------------------------------- */

static int present_read(struct vb_target *target, uint64_t offset, void *data, size_t length,
                        struct vdisk_error *error)
{
    struct vdisk_image *image = ((struct present_target *)target)->image;

    return say(image, vdisk_read(image, offset, data, length), error);
}

static int present_write(struct vb_target *target, uint64_t offset, const void *data, size_t length,
                         struct vdisk_error *error)
{
    struct present_target *to = (struct present_target *)target;
    int result = vdisk_write(to->image, offset, data, length);

    to->unflushed += length;
    if (result == 0 && to->unflushed >= FLUSH_BYTES) {
        to->unflushed = 0;
        result = vdisk_flush(to->image);
    }
    return say(to->image, result, error);
}

static bool take_data(void *opaque, const struct vdisk_extent *extent)
{
    struct present_target *to = opaque;

    if (extent->kind != VDISK_EXTENT_ZERO && extent->kind != VDISK_EXTENT_HOLE)
        to->run[to->runs++] = (struct run){extent->offset, extent->length};
    return to->runs < RUNS_MAX;
}

/* Only what is not zeros already is discarded: the rest costs nothing, in time or in the image. */
static int present_zeros(struct vb_target *target, uint64_t offset, uint64_t length,
                         struct vdisk_error *error)
{
    struct present_target *to = (struct present_target *)target;
    uint64_t at = offset, end = offset + length;
    int result = 0;

    while (at < end && result == 0) {
        const struct vdisk_range range = {.offset = at, .length = end - at, .wanted = RUNS_MAX / 2};

        to->runs = 0;
        result = vdisk_map_part(to->image, &range, true, take_data, to, &at);
        if (to->runs == RUNS_MAX) /* ended by us */
            at = to->run[RUNS_MAX - 1].offset + to->run[RUNS_MAX - 1].length;
        for (unsigned i = 0; i < to->runs && result == 0; i++)
            result = vdisk_discard(to->image, to->run[i].offset, to->run[i].length);
    }
    return say(to->image, result, error);
}

/* --- before ------------------------------------------------------------------------------- */

/* Over the drive of which it is a backup, unless that is said not to matter. */
static int check_drive(const struct vb_in_place_options *options, struct vdisk_image *image,
                       struct vdisk_error *error)
{
    const struct vb_manifest *manifest = &options->backup->manifest;
    char own[2 * VDISK_ID_BYTES + 1], wanted[2 * VB_DRIVE_ID_BYTES + 1];
    struct vdisk_info info;

    vdisk_get_info(image, &info);
    if (options->other_drive || memcmp(info.image_id, manifest->drive, VB_DRIVE_ID_BYTES) == 0)
        return 0;
    sodium_bin2hex(own, sizeof(own), info.image_id, VDISK_ID_BYTES);
    sodium_bin2hex(wanted, sizeof(wanted), manifest->drive, VB_DRIVE_ID_BYTES);
    return error_set(error, -EINVAL, "it is image %.8s, the backup is of drive %.8s (%s)", own,
                     wanted, manifest->drive_name);
}

static int keep_present(struct vdisk_image *image, struct vb_in_place_result *out,
                        struct vdisk_error *error)
{
    time_t now = time(NULL);
    struct tm parts;
    int result = VDISK_E_EXISTS;

    if (!gmtime_r(&now, &parts))
        return error_set(error, -EINVAL, "the clock shows no time");
    for (unsigned i = 1; result == VDISK_E_EXISTS; i++) {
        size_t length =
            strftime(out->snapshot, sizeof(out->snapshot), "before-restore-%Y%m%d-%H%M%S", &parts);

        if (i > 1) /* in the same second */
            snprintf(out->snapshot + length, sizeof(out->snapshot) - length, "-%u", i);
        result = vdisk_snapshot_create(image, out->snapshot);
    }
    return say(image, result, error);
}

/* The size of the backup, and zeros behind its last byte. */
static int fit(const struct vb_in_place_options *options, struct vdisk_image *image)
{
    uint64_t bytes = options->backup->manifest.size, size = vb_image_size(bytes);
    int result = vdisk_resize(image, size, true);

    return result || size == bytes ? result : vdisk_zero(image, bytes, size - bytes);
}

/* --- doing it, and undoing it ------------------------------------------------------------------
 */

static int bring(const struct vb_in_place_options *options, struct vdisk_image *image,
                 const struct vb_chunk_set *where, struct vb_restore_result *out,
                 struct vdisk_error *error)
{
    struct present_target to = {
        .target = {.write = present_write, .zeros = present_zeros, .read = present_read},
        .image = image};
    const struct vb_restore_options restore = {.repo = options->repo,
                                               .backup = options->backup,
                                               .target = &to.target,
                                               .where = where,
                                               .threads = options->threads,
                                               .progress = options->progress,
                                               .opaque = options->opaque};
    int result = vb_restore(&restore, out, error);

    return result ? result : say(image, vdisk_flush(image), error);
}

static int find_and_bring(const struct vb_in_place_options *options, struct vdisk_image *image,
                          struct vb_in_place_result *out, struct vdisk_error *error)
{
    const struct vb_base_wish wish = {.repo = options->repo,
                                      .backups = options->backups,
                                      .size_max = UINT64_MAX,
                                      .signer = &options->backup->signer};
    struct vb_chunk_set where = {.count = 0};
    int result = fit(options, image);

    if (result == 0 && !options->compare)
        result = vb_image_base(image, wish, &out->since);
    if (result)
        return say(image, result, error);
    if (out->since)
        result =
            vb_image_differences(image, options->repo, out->since, options->backup, &where, error);
    if (result == 0)
        result = bring(options, image, out->since ? &where : NULL, &out->restored, error);
    vb_chunk_set_release(&where);
    return result;
}

/* The image as it was; `error` says so, or how that is done. */
static void put_back(const struct vb_in_place_options *options, struct vdisk_image *image,
                     const char *snapshot, struct vdisk_error *error)
{
    struct vdisk_error why = *error;
    int result = vdisk_snapshot_rollback(image, snapshot);

    if (result == 0)
        result = vdisk_snapshot_delete(image, snapshot);
    if (result == 0)
        error_set(error, why.code, "%.300s; the image is as it was before", why.text);
    else
        error_set(error, why.code,
                  "%.200s; `vdisk snapshot rollback %.150s %s` brings back what was there",
                  why.text, options->path, snapshot);
}

static int restore_over(const struct vb_in_place_options *options, struct vdisk_image *image,
                        struct vb_in_place_result *out, struct vdisk_error *error)
{
    int result = check_drive(options, image, error);

    if (result == 0)
        result = keep_present(image, out, error);
    if (result)
        return result;
    result = find_and_bring(options, image, out, error);
    if (result)
        put_back(options, image, out->snapshot, error);
    return result;
}

int vb_restore_in_place(const struct vb_in_place_options *options, struct vb_in_place_result *out,
                        struct vdisk_error *error)
{
    const struct vdisk_open_options open_options = {.struct_bytes = sizeof(open_options),
                                                    .base_path = options->base_path,
                                                    .workers = options->workers};
    struct vdisk_image *image;
    int closed, result = vb_restore_allowed(options->repo, error);

    memset(out, 0, sizeof(*out));
    if (result == 0)
        result = vdisk_open(options->path, &open_options, options->key, &image, error);
    if (result)
        return result;
    result = restore_over(options, image, out, error);
    closed = vdisk_close(image, result ? NULL : error);
    return result ? result : closed;
}
