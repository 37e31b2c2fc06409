/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk backup restore --in-place: an image becomes a backup again, and only what differs is
 * fetched and written.
 *
 * Before anything is changed a snapshot keeps what is there. Who is killed leaves that snapshot and
 * an image that is partly restored: the next run finds out anew what differs.
 */
#include "backup_drive.h"
#include "backup_image.h"
#include "report.h"
#include "restoration.h"
#include "session.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RUNS_MAX 256u

struct run {
    uint64_t offset, length;
};

struct present_target {
    struct vb_target target;
    struct vdisk_image *image;
    struct run run[RUNS_MAX]; /* data that is to go */
    unsigned runs;
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
    struct vdisk_image *image = ((struct present_target *)target)->image;

    return say(image, vdisk_write(image, offset, data, length), error);
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

static int open_image(struct restoration *restoration, const struct vdisk_key *key,
                      struct vdisk_workers *workers, struct vdisk_image **image)
{
    const struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .base_path = restoration->base, .workers = workers};
    struct vdisk_error error = {0};
    int result = vdisk_open(restoration->to, &options, key, image, &error);

    if (result == VDISK_E_WRONG_KEY && key->bytes == restoration->session.key.key.bytes)
        return report_text(restoration->to, result,
                           "the repository's key does not open the image; --image-key-file FILE "
                           "and the like name another one");
    return result ? report(restoration->to, result, &error) : STATUS_DONE;
}

/* Over the drive of which it is a backup, unless that is said not to matter. */
static int check_drive(const struct restoration *restoration, struct vdisk_image *image)
{
    const uint8_t *drive = restoration->backup->manifest.drive;
    char own[2 * VDISK_ID_BYTES + 1], wanted[2 * VB_DRIVE_ID_BYTES + 1];
    struct vdisk_info info;

    vdisk_get_info(image, &info);
    if (restoration->other_drive || memcmp(info.image_id, drive, VB_DRIVE_ID_BYTES) == 0)
        return STATUS_DONE;
    sodium_bin2hex(own, sizeof(own), info.image_id, VDISK_ID_BYTES);
    sodium_bin2hex(wanted, sizeof(wanted), drive, VB_DRIVE_ID_BYTES);
    return report_text(restoration->to, -EINVAL,
                       "is image %.8s, the backup is of drive %.8s (%s); --other-drive restores "
                       "over it all the same",
                       own, wanted, restoration->backup->manifest.drive_name);
}

static int keep_present(struct restoration *restoration, struct vdisk_image *image)
{
    time_t now = time(NULL);
    struct tm parts;
    int result = VDISK_E_EXISTS;

    if (!gmtime_r(&now, &parts))
        return -EINVAL;
    for (unsigned i = 1; result == VDISK_E_EXISTS; i++) {
        size_t length = strftime(restoration->snapshot, sizeof(restoration->snapshot),
                                 "before-restore-%Y%m%d-%H%M%S", &parts);

        if (i > 1) /* in the same second */
            snprintf(restoration->snapshot + length, sizeof(restoration->snapshot) - length, "-%u",
                     i);
        result = vdisk_snapshot_create(image, restoration->snapshot);
    }
    return result;
}

/* The size of the backup, and zeros behind its last byte. */
static int fit(const struct restoration *restoration, struct vdisk_image *image)
{
    uint64_t bytes = restoration->backup->manifest.size, size = backup_image_size(bytes);
    int result = vdisk_resize(image, size, true);

    return result || size == bytes ? result : vdisk_zero(image, bytes, size - bytes);
}

/* --- doing it, and undoing it ------------------------------------------------------------------
 */

static int bring(struct restoration *restoration, struct vdisk_image *image,
                 struct vdisk_error *error)
{
    struct present_target to = {
        .target = {.write = present_write, .zeros = present_zeros, .read = present_read},
        .image = image};
    const struct vb_base_wish wish = {.repo = restoration->session.repo,
                                      .backups = &restoration->session.backups,
                                      .size_max = UINT64_MAX,
                                      .signer = &restoration->backup->signer};
    struct vb_ranges where = {.count = 0};
    int result = fit(restoration, image);

    if (result == 0 && !restoration->compare)
        result = vb_image_base(image, &wish, &restoration->since);
    if (result)
        return say(image, result, error);
    if (restoration->since)
        result = vb_image_differences(image, restoration->session.repo, restoration->since,
                                      restoration->backup, &where, error);
    if (result == 0)
        result =
            restoration_run(restoration, &to.target, restoration->since ? &where : NULL, error);
    vb_ranges_release(&where);
    return result ? result : say(image, vdisk_flush(image), error);
}

/* The image as it was. */
static int put_back(const struct restoration *restoration, struct vdisk_image *image)
{
    int result = vdisk_snapshot_rollback(image, restoration->snapshot);

    return result ? result : vdisk_snapshot_delete(image, restoration->snapshot);
}

static int explain(const struct restoration *restoration, struct vdisk_image *image,
                   const struct vdisk_error *error)
{
    if (put_back(restoration, image) == 0)
        return report_text(restoration->to, error->code, "%s; the image is as it was before",
                           error->text);
    return report_text(restoration->to, error->code,
                       "%s; `vdisk snapshot rollback %s %s` brings back what was there",
                       error->text, restoration->to, restoration->snapshot);
}

static int restore_over(struct restoration *restoration, struct vdisk_image *image)
{
    struct vdisk_error error = {0};
    int result, status = check_drive(restoration, image);

    if (status != STATUS_DONE)
        return status;
    result = keep_present(restoration, image);
    if (result)
        return report(restoration->to, result, vdisk_last_error(image));
    result = bring(restoration, image, &error);
    return result ? explain(restoration, image, &error) : STATUS_DONE;
}

static int with_key(struct restoration *restoration, const struct vdisk_key *key)
{
    struct vdisk_workers *workers = session_workers();
    struct vdisk_error error = {0};
    struct vdisk_image *image;
    int result, status = open_image(restoration, key, workers, &image);

    if (status == STATUS_DONE) {
        status = restore_over(restoration, image);
        result = vdisk_close(image, &error);
        if (result && status == STATUS_DONE)
            status = report(restoration->to, result, &error);
    }
    session_workers_close(workers);
    return status;
}

int restore_in_place(struct restoration *restoration)
{
    struct vdisk_key key;
    struct held_key held;
    int status;

    if (access(restoration->to, F_OK) < 0)
        return report_text(restoration->to, -errno,
                           "there is nothing to restore over; without --in-place it is made anew");
    status = restoration_key(restoration, KEYOPT_OPEN_NAMED, &held, &key);
    if (status == STATUS_DONE)
        status = with_key(restoration, &key);
    keyopt_release(&held);
    return status;
}
