/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sources of backup_from.h: each opens its drive, says in the manifest which one it is, has the
 * backup made, and closes it.
 */
#include "backup_from.h"

#include "freeze.h"
#include "nbd_uri.h"
#include "progress.h"
#include "report.h"
#include "served.h"

#include <errno.h>
#include <pthread.h>
#include <sodium.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int back_up(struct creation *creation, struct vb_drive *drive)
{
    struct progress progress;
    struct vdisk_error error = {0};
    const struct vb_create_options options = {
        .repo = creation->session.repo,
        .drive = drive,
        .progress = progress_callback,
        .opaque = &progress,
    };
    int result;

    progress_begin(&progress, "backup", creation->quiet || creation->json);
    result = vb_create(&options, &creation->manifest, &creation->result, &error);
    progress_clear(&progress);
    return result ? backup_report(creation->path, result, &error) : STATUS_DONE;
}

/* --- what there is now is remembered ------------------------------------------------------------
 */

static void *remember(void *arg)
{
    struct creation *creation = arg;
    struct vdisk_error error = {0};

    if (vb_backups_refresh(creation->session.repo, &creation->session.backups, &error) == 0)
        backup_remember(&creation->session);
    return NULL;
}

/* While old snapshots go: each waits for a disk. */
struct remembering {
    pthread_t thread;
    bool is_beside;
};

static void remember_begin(struct creation *creation, struct remembering *remembering)
{
    remembering->is_beside = pthread_create(&remembering->thread, NULL, remember, creation) == 0;
}

static void remember_end(struct creation *creation, struct remembering *remembering)
{
    if (remembering->is_beside)
        pthread_join(remembering->thread, NULL);
    else
        remember(creation);
}

/* --- how it is named -------------------------------------------------------------------------- */

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash && slash[1] ? slash + 1 : path;
}

/* The drive's name, if none is given. */
static int set_name(struct creation *creation, const char *name)
{
    struct vb_manifest *manifest = &creation->manifest;

    if (vb_text_set(manifest->drive_name, sizeof(manifest->drive_name),
                    creation->drive_name ? creation->drive_name : name))
        return STATUS_DONE;
    return report_usage("backup create", "--drive NAME is to be text of at most %u bytes",
                        VB_TEXT_MAX);
}

int backup_from_check(const struct creation *creation)
{
    bool is_served = served_name(creation->path), is_nbd = nbd_uri_is(creation->path);

    if (!creation->freeze_hook != !creation->thaw_hook)
        return report_usage("backup create", "--freeze-hook and --thaw-hook go together");
    if ((creation->socket || creation->vm) && !is_served)
        return report_usage("backup create", "--socket and --vm are for vdiskd:EXPORT");
    if (creation->bitmap && !is_nbd)
        return report_usage("backup create", "--bitmap is for nbd://..., which cannot tell itself "
                                             "what has changed");
    if (creation->freeze_hook && is_nbd)
        return report_usage("backup create", "hooks are for images, which can have a snapshot");
    if ((is_served || is_nbd) &&
        (creation->base || keyopt_is_given(&creation->image_key, KEYOPT_OPEN_NAMED)))
        return report_usage("backup create", "--base and --image-... are for an image's file");
    return STATUS_DONE;
}

/* --- at rest ---------------------------------------------------------------------------------- */

/* Calls take(arg) with the drive at rest, where there are hooks for that. What was taken and came
 * too late is the caller's to give back. */
static int at_rest(void *opaque, int (*take)(void *arg, struct vdisk_error *error), void *arg,
                   struct vdisk_error *error)
{
    struct creation *creation = opaque;
    struct vdisk_error thaw_error = {0};
    struct freeze freeze;
    int result, thawed;

    if (!creation->freeze_hook)
        return take(arg, error);
    result = freeze_begin(&freeze, creation->freeze_hook, creation->thaw_hook, error);
    if (result)
        return result;
    result = take(arg, error);
    thawed = freeze_end(&freeze, &thaw_error);
    if (result == 0 && thawed == -ETIMEDOUT) {
        *error = thaw_error;
        return thawed;
    }
    if (thawed)
        report_note(creation->path, "%s: see to it that it goes on", thaw_error.text);
    creation->manifest.consistency = VB_CONSISTENT_FILES;
    return result;
}

static void note_snapshots(const struct creation *creation, int status,
                           const struct vdisk_error *error)
{
    report_note(creation->path,
                status == STATUS_DONE ? "old snapshots of backups stay until the next one: %s"
                                      : "its snapshot stays until the next backup: %s",
                error->text);
}

/* --- an image --------------------------------------------------------------------------------- */

struct opening {
    const struct vb_image_options *options;
    struct vb_manifest *manifest;
    struct vb_image *image;
};

static int open_image(void *arg, struct vdisk_error *error)
{
    struct opening *opening = arg;

    return vb_image_open(opening->options, opening->manifest, &opening->image, error);
}

static int report_image(const struct creation *creation, int result,
                        const struct vdisk_error *error)
{
    if (result == VDISK_E_WRONG_KEY && !keyopt_is_given(&creation->image_key, KEYOPT_OPEN_NAMED))
        return report_text(creation->path, result,
                           "the repository's key does not open the image; --image-key-file FILE "
                           "and the like name another one");
    if (result == VDISK_E_IN_USE)
        return report_text(creation->path, result,
                           "is in use by another process; if that is a vdiskd, `vdisk backup "
                           "create REPO vdiskd:EXPORT` goes by it");
    return report(creation->path, result, error);
}

static int from_image(struct creation *creation, const struct vdisk_key *key)
{
    const struct vb_image_options options = {
        .path = creation->path,
        .base_path = creation->base,
        .key = key,
        .repo = creation->session.repo,
        .backups = &creation->session.backups,
    };
    struct opening opening = {.options = &options, .manifest = &creation->manifest};
    struct vdisk_error error = {0}, late = {0};
    struct remembering remembering;
    int status, result = at_rest(creation, open_image, &opening, &error);

    if (result) {
        vb_image_close(opening.image, false, &late);
        return report_image(creation, result, &error);
    }
    status = back_up(creation, vb_image_drive(opening.image));
    if (status == STATUS_DONE)
        remember_begin(creation, &remembering);
    if (vb_image_close(opening.image, status == STATUS_DONE, &error))
        note_snapshots(creation, status, &error);
    if (status == STATUS_DONE)
        remember_end(creation, &remembering);
    return status;
}

/* --- an export of a vdiskd ----------------------------------------------------------------------
 */

static int from_open_served(struct creation *creation, const struct vb_served_options *options)
{
    struct vdisk_error error = {0};
    struct remembering remembering;
    struct vb_served *served;
    int status, result = vb_served_open(options, &creation->manifest, &served, &error);

    if (result)
        return report(creation->path, result, &error);
    status = set_name(creation, last_part(vb_served_path(served)));
    if (status == STATUS_DONE)
        status = back_up(creation, vb_served_drive(served));
    if (status == STATUS_DONE)
        remember_begin(creation, &remembering);
    if (vb_served_close(served, status == STATUS_DONE, &error))
        note_snapshots(creation, status, &error);
    if (status == STATUS_DONE)
        remember_end(creation, &remembering);
    return status;
}

static int from_served(struct creation *creation)
{
    struct vb_served_options options = {
        .export = served_name(creation->path),
        .repo = creation->session.repo,
        .backups = &creation->session.backups,
        .at_rest = at_rest,
        .opaque = creation,
    };
    struct vdisk_error error = {0};
    char room[SERVED_SOCKET_BYTES];
    int result = served_socket(creation->socket, creation->vm, room, &options.socket, &error);

    if (result)
        return report(NULL, result, &error);
    if (access(options.socket, F_OK))
        return report_text(options.socket, -errno, "there is no management of a vdiskd: %s",
                           vdisk_strerror(-errno));
    return from_open_served(creation, &options);
}

/* --- drives that go by their name ----------------------------------------------------------------
 */

/* A drive that has no id of its own. The newest backup of it, or NULL. */
static const struct vb_backup *go_on(struct creation *creation, enum vb_source_kind kind)
{
    const struct vb_backups *backups = &creation->session.backups;
    struct vb_manifest *manifest = &creation->manifest;
    const struct vb_backup *newest = NULL;
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    manifest->created = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    manifest->source = (uint8_t)kind;
    for (size_t i = 0; i < backups->count; i++) {
        const struct vb_backup *backup = &backups->backup[i];

        if (backup->manifest.source == kind &&
            strcmp(backup->manifest.drive_name, manifest->drive_name) == 0)
            newest = backup;
    }
    if (newest)
        memcpy(manifest->drive, newest->manifest.drive, sizeof(manifest->drive));
    else
        randombytes_buf(manifest->drive, sizeof(manifest->drive));
    vb_backups_continue(backups, manifest);
    return newest;
}

static int from_raw(struct creation *creation)
{
    struct vdisk_error error = {0};
    struct vb_drive *drive;
    int status, result;

    if (creation->freeze_hook)
        return report_usage("backup create", "hooks are for images, which can have a snapshot");
    result = vb_drive_raw_open(creation->path, &drive, &error);
    if (result)
        return report(creation->path, result, &error);
    creation->manifest.size = drive->size;
    go_on(creation, VB_FROM_RAW);
    status = back_up(creation, drive);
    vb_drive_raw_close(drive);
    if (status == STATUS_DONE)
        remember(creation);
    return status;
}

/* --- an export of NBD ---------------------------------------------------------------------------
 */

static bool is_alone(const struct vb_backups *backups, const struct vb_backup *newest)
{
    const struct vb_manifest *manifest = &newest->manifest;

    for (size_t i = 0; i < backups->count; i++) {
        const struct vb_backup *other = &backups->backup[i];

        if (other != newest && other->manifest.sequence >= manifest->sequence &&
            memcmp(other->manifest.drive, manifest->drive, VB_DRIVE_ID_BYTES) == 0)
            return false;
    }
    return true;
}

/* The bitmap is taken for changes since `last`: whatever is known to contradict that is refused. */
static int check_bitmap(const struct creation *creation, const struct vb_backup *last)
{
    const struct vb_manifest *manifest = &creation->manifest;

    if (!last)
        return report_text(creation->path, -ENOENT,
                           "there is no backup of it for --bitmap to go on from; make the first "
                           "one without");
    if (last->manifest.size != manifest->size)
        return report_text(creation->path, -ESTALE,
                           "has %llu bytes, and had %llu at its last backup; make one without "
                           "--bitmap",
                           (unsigned long long)manifest->size,
                           (unsigned long long)last->manifest.size);
    if (!is_alone(&creation->session.backups, last))
        return report_text(creation->path, -ESTALE,
                           "two backups of it were made at once, and --bitmap is against one; "
                           "make one without");
    if (!vb_repo_trusts(creation->session.repo, &last->signer))
        return report_text(creation->path, -ESTALE,
                           "its last backup is another host's; make one without --bitmap");
    return STATUS_DONE;
}

static int from_nbd(struct creation *creation)
{
    struct nbd_address address;
    const char *wrong = nbd_uri_parse(creation->path, &address);
    struct vdisk_error error = {0};
    const struct vb_backup *last;
    struct vb_drive *drive;
    int status, result;

    if (wrong)
        return report_usage("backup create", "%s: %s", creation->path, wrong);
    result = vb_drive_nbd_open(&address, creation->bitmap, &drive, &error);
    if (result)
        return report(creation->path, result, &error);
    creation->manifest.size = drive->size;
    last = go_on(creation, VB_FROM_NBD);
    status = creation->bitmap ? check_bitmap(creation, last) : STATUS_DONE;
    if (creation->bitmap)
        drive->base = last;
    if (status == STATUS_DONE)
        status = back_up(creation, drive);
    vb_drive_nbd_close(drive);
    if (status == STATUS_DONE)
        remember(creation);
    return status;
}

/* --- which of them ------------------------------------------------------------------------------
 */

static int from_file(struct creation *creation)
{
    struct vdisk_public_info info;
    struct vdisk_error error = {0};
    struct held_key held = {.prompted = false};
    int status, result = vdisk_probe(creation->path, &info, &error);

    if (result == VDISK_E_MALFORMED)
        return from_raw(creation);
    if (result)
        return report(creation->path, result, &error);
    if (!keyopt_is_given(&creation->image_key, KEYOPT_OPEN_NAMED))
        return from_image(creation, &creation->session.key.key);
    status = keyopt_load(&creation->image_key, KEYOPT_OPEN_NAMED, "backup create", creation->path,
                         &held);
    if (status != STATUS_DONE)
        return status;
    status = from_image(creation, &held.key);
    keyopt_release(&held);
    return status;
}

int backup_from(struct creation *creation)
{
    int status;

    if (served_name(creation->path))
        return from_served(creation);
    if (nbd_uri_is(creation->path)) {
        status = set_name(creation, creation->path);
        return status == STATUS_DONE ? from_nbd(creation) : status;
    }
    status = set_name(creation, last_part(creation->path));
    return status == STATUS_DONE ? from_file(creation) : status;
}
