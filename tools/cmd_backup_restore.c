/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk backup restore: a backup to a new image, a new raw file, or a block device; or over an
 * image that is there.
 */
#include "backup_image.h"
#include "backup_session.h"
#include "in_place.h"
#include "interrupt.h"
#include "json.h"
#include "newimage.h"
#include "outdevice.h"
#include "outfile.h"
#include "progress.h"
#include "report.h"
#include "session.h"
#include "sink.h"
#include "sizes.h"
#include "zeros.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct restoration {
    struct backup_options options;
    struct keyopt image_key;
    const char *drive, *to, *base;
    bool in_place, other_drive, compare, quiet, json;
    struct backup_session session;
    const struct vb_backup *backup;
    struct vb_in_place_result result; /* of something new: `restored` alone */
};

static void begin_progress(const struct restoration *restoration, struct progress *progress)
{
    progress_begin(progress, "restore", restoration->quiet || restoration->json);
}

/* The verified bytes to a target. An exit status, reported. */
static int restore(struct restoration *restoration, struct vb_target *target)
{
    struct progress progress;
    struct vdisk_error error = {0};
    const struct vb_restore_options options = {
        .repo = restoration->session.repo,
        .backup = restoration->backup,
        .target = target,
        .progress = progress_callback,
        .opaque = &progress,
    };
    int result;

    begin_progress(restoration, &progress);
    result = vb_restore(&options, &restoration->result.restored, &error);
    progress_clear(&progress);
    if (result == 0 && interrupt_pending())
        result = -ECANCELED;
    return result ? backup_report(restoration->to, result, &error) : STATUS_DONE;
}

/* --- raw ---------------------------------------------------------------------------------- */

struct raw_target {
    struct vb_target target;
    struct sink sink;
};

static int raw_write(struct vb_target *target, uint64_t offset, const void *data, size_t length,
                     struct vdisk_error *error)
{
    struct sink sink = ((struct raw_target *)target)->sink; /* one for each thread, for its error */
    int result = sink.ops->data(&sink, offset, data, length);

    if (result)
        *error = sink.error;
    return result;
}

static int raw_zeros(struct vb_target *target, uint64_t offset, uint64_t length,
                     struct vdisk_error *error)
{
    struct sink *sink = &((struct raw_target *)target)->sink;
    int result = sink->ops->zeros(sink, offset, length);

    if (result)
        *error = sink->error;
    return result;
}

static int to_file(struct restoration *restoration)
{
    struct raw_target raw = {.target = {.any_thread = true, .write = raw_write}};
    struct vdisk_error error = {0};
    struct outfile file;
    int status, result = outfile_open(&file, restoration->to, false, false, &error);

    if (result == VDISK_E_EXISTS)
        return report_text(restoration->to, result, "exists already; nothing is restored over it");
    if (result)
        return report(restoration->to, result, &error);
    if (ftruncate(file.fd, (off_t)restoration->backup->manifest.size) < 0)
        status = report(restoration->to, -errno, NULL);
    else {
        sink_file(&raw.sink, restoration->to, file.fd);
        sink_open_direct(&raw.sink);
        status = restore(restoration, &raw.target);
        sink_close_direct(&raw.sink);
    }
    if (status != STATUS_DONE) {
        outfile_discard(&file);
        return status;
    }
    result = outfile_finish(&file, &error);
    return result ? report(restoration->to, result, &error) : STATUS_DONE;
}

static int to_device(struct restoration *restoration)
{
    struct raw_target raw = {
        .target = {.any_thread = true, .write = raw_write, .zeros = raw_zeros}};
    int fd, status = outdevice_open(restoration->to, restoration->backup->manifest.size, &fd);

    if (status != STATUS_DONE)
        return status;
    sink_device(&raw.sink, restoration->to, fd);
    return outdevice_close(restoration->to, fd, restore(restoration, &raw.target));
}

/* --- an image ----------------------------------------------------------------------------- */

struct image_target {
    struct vb_target target;
    struct vdisk_image *image;
    uint64_t unit; /* zeros are left out in such pieces */
};

static int image_write(struct vb_target *target, uint64_t offset, const void *data, size_t length,
                       struct vdisk_error *error)
{
    struct image_target *to = (struct image_target *)target;
    const uint8_t *bytes = data;
    uint64_t at = 0;

    while (at < length) {
        uint64_t run;
        int result;

        at += zeros_run(bytes + at, length - at, to->unit);
        run = zeros_data_run(bytes + at, length - at, to->unit);
        result = run ? vdisk_write(to->image, offset + at, bytes + at, run) : 0;
        if (result) {
            *error = *vdisk_last_error(to->image);
            return result;
        }
        at += run;
    }
    return 0;
}

static int to_image_with(struct restoration *restoration, const struct vdisk_key *key)
{
    struct image_target to = {.target = {.write = image_write}};
    struct vdisk_workers *workers = session_workers();
    struct newimage image;
    struct vdisk_info info;
    int status = backup_image_make(&image, restoration->to, &restoration->backup->manifest, key,
                                   (struct vdisk_create_options){.workers = workers});

    if (status == STATUS_DONE) {
        vdisk_get_info(image.image, &info);
        to.image = image.image;
        to.unit = info.compress ? info.cluster_bytes : ZEROS_BLOCK_BYTES;
        status = restore(restoration, &to.target);
        if (status == STATUS_DONE)
            status = newimage_finish(&image);
        else
            newimage_discard(&image);
    }
    session_workers_close(workers);
    return status;
}

/* The key of the image that was named, into `held`, or else the repository's. An exit status,
 * reported; keyopt_release() is due in any case. */
static int image_key(const struct restoration *restoration, enum keyopt_use use,
                     struct held_key *held, struct vdisk_key *key)
{
    int status = STATUS_DONE;

    *held = (struct held_key){.prompted = false};
    if (keyopt_is_given(&restoration->image_key, use))
        status = keyopt_load(&restoration->image_key, use, "backup restore", restoration->to, held);
    *key = held->key.bytes ? held->key : restoration->session.key.key;
    return status;
}

static int to_image(struct restoration *restoration)
{
    uint8_t public_key[VDISK_PUBLIC_KEY_BYTES];
    struct vdisk_key key;
    struct held_key held;
    int status = image_key(restoration, KEYOPT_ADD, &held, &key);

    key = backup_image_key(&key, public_key);
    if (status == STATUS_DONE)
        status = to_image_with(restoration, &key);
    keyopt_release(&held);
    return status;
}

/* --- an image that is there
 * ----------------------------------------------------------------------- */

static int report_in_place(const struct restoration *restoration, int result,
                           const struct vdisk_error *error)
{
    if (result == VDISK_E_WRONG_KEY && restoration->session.repo->keys->role == VB_ROLE_READ &&
        !keyopt_is_given(&restoration->image_key, KEYOPT_OPEN_NAMED))
        return report_text(restoration->to, result,
                           "the repository's key does not open the image; --image-key-file FILE "
                           "and the like name another one");
    if (result == -EINVAL)
        return report_text(restoration->to, result,
                           "%s; --other-drive restores over it all the same", error->text);
    return result == VDISK_E_IN_USE ? report(restoration->to, result, error)
                                    : backup_report(restoration->to, result, error);
}

static int in_place_with(struct restoration *restoration, const struct vdisk_key *key)
{
    struct progress progress;
    struct vdisk_workers *workers = session_workers();
    struct vdisk_error error = {0};
    const struct vb_in_place_options options = {
        .repo = restoration->session.repo,
        .backups = &restoration->session.backups,
        .backup = restoration->backup,
        .path = restoration->to,
        .base_path = restoration->base,
        .key = key,
        .workers = workers,
        .other_drive = restoration->other_drive,
        .compare = restoration->compare,
        .progress = progress_callback,
        .opaque = &progress,
    };
    int result;

    begin_progress(restoration, &progress);
    result = vb_restore_in_place(&options, &restoration->result, &error);
    progress_clear(&progress);
    session_workers_close(workers);
    return result ? report_in_place(restoration, result, &error) : STATUS_DONE;
}

static int in_place(struct restoration *restoration)
{
    struct vdisk_key key;
    struct held_key held;
    int status;

    if (access(restoration->to, F_OK) < 0)
        return report_text(restoration->to, -errno,
                           "there is nothing to restore over; without --in-place it is made anew");
    status = image_key(restoration, KEYOPT_OPEN_NAMED, &held, &key);
    if (status == STATUS_DONE)
        status = in_place_with(restoration, &key);
    keyopt_release(&held);
    return status;
}

/* --- what came of it
 * ------------------------------------------------------------------------------ */

static void print_json(const struct restoration *restoration)
{
    const struct vb_in_place_result *result = &restoration->result;
    char name[VB_NAME_TEXT_BYTES];
    struct json json;

    json_begin(&json, stdout);
    json_open_object(&json, NULL);
    json_string(&json, "name", vb_id_text(name, &restoration->backup->name));
    json_string(&json, "drive", restoration->backup->manifest.drive_name);
    json_number(&json, "size", restoration->backup->manifest.size);
    json_number(&json, "chunks_fetched", result->restored.chunks);
    json_number(&json, "fetched_bytes", result->restored.bytes_data);
    if (restoration->in_place) {
        json_number(&json, "compared_bytes", result->restored.bytes_compared);
        json_number(&json, "written_bytes", result->restored.bytes_written);
        json_string(&json, "since", result->since ? vb_id_text(name, &result->since->name) : NULL);
        json_string(&json, "snapshot", result->snapshot);
    }
    json_close_object(&json);
    json_end(&json);
}

static void print_in_place(const struct restoration *restoration)
{
    const struct vb_in_place_result *result = &restoration->result;
    char compared[SIZES_TEXT_BYTES], fetched[SIZES_TEXT_BYTES], written[SIZES_TEXT_BYTES];
    char name[VB_NAME_TEXT_BYTES];

    printf("restored in place: %s of the image compared, %s fetched, %s written",
           sizes_text(compared, result->restored.bytes_compared),
           sizes_text(fetched, result->restored.bytes_data),
           sizes_text(written, result->restored.bytes_written));
    if (result->since)
        printf(" (by the snapshot of backup %.16s)", vb_id_text(name, &result->since->name));
    printf("\nwhat was there before is the snapshot %s; delete it when all is well\n",
           result->snapshot);
}

/* ------------------------------------------------------------------------------------------ */

static bool ends_in(const char *path, const char *end)
{
    size_t length = strlen(path), end_length = strlen(end);

    return length > end_length && strcmp(path + length - end_length, end) == 0;
}

static int run(struct restoration *restoration, const char *name)
{
    struct vdisk_error error = {0};
    struct stat to;
    bool is_there;
    int result = vb_backups_pick(&restoration->session.backups, name, restoration->drive,
                                 &restoration->backup, &error);

    if (result)
        return backup_report(restoration->session.path, result, &error);
    interrupt_catch();
    if (restoration->in_place)
        return in_place(restoration);
    is_there = stat(restoration->to, &to) == 0;
    if (is_there && S_ISBLK(to.st_mode))
        return to_device(restoration);
    if (!ends_in(restoration->to, ".vdk"))
        return to_file(restoration);
    if (is_there)
        return report_text(restoration->to, VDISK_E_EXISTS,
                           "exists already; --in-place restores over it");
    return to_image(restoration);
}

static void print_result(const struct restoration *restoration)
{
    if (restoration->json)
        print_json(restoration);
    else if (restoration->in_place && !restoration->quiet)
        print_in_place(restoration);
}

int cmd_backup_restore(int argc, char **argv)
{
    struct restoration restoration = {.options = BACKUP_OPTIONS_NONE,
                                      .image_key = {.prefix = "image-"}};
    const struct option_spec own[] = {
        {"drive", OPTION_TEXT, &restoration.drive, "NAME", "of which drive `latest` is"},
        {"image-key-file", OPTION_TEXT, &restoration.image_key.key_file, "FILE",
         "the key of the image (KEY)"},
        {"image-passphrase-file", OPTION_TEXT, &restoration.image_key.passphrase_file, "FILE",
         "or its passphrase"},
        {"image-recipient", OPTION_TEXT, &restoration.image_key.recipient, "PUBKEY",
         "or, of a new one, a public key"},
        {"image-identity", OPTION_TEXT, &restoration.image_key.identity, "FILE",
         "or, in place, the secret half of a key pair"},
        KEYOPT_KDF_OPTIONS(&restoration.image_key),
        {"in-place", OPTION_FLAG, &restoration.in_place, NULL,
         "DEST is an image: only what differs is fetched and written"},
        {"other-drive", OPTION_FLAG, &restoration.other_drive, NULL,
         "in place, though DEST is not the image that was backed up"},
        {"compare", OPTION_FLAG, &restoration.compare, NULL,
         "in place: read all of DEST, which finds and mends damage, too"},
        {"base", OPTION_TEXT, &restoration.base, "IMAGE",
         "in place: where the base of this overlay is, if it has moved"},
        OPTION_JSON(&restoration.json),
        OPTION_QUIET(&restoration.quiet),
        BACKUP_OPTIONS(&restoration.options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup restore",
        .operands = "REPO BACKUP|latest DEST",
        .about =
            "Restores a backup, named by `latest` or the first digits of its name, to DEST: a\n"
            "new image where that ends in .vdk, else a new raw file, or a block device.\n"
            "Every byte is verified before it is written; if one is not right DEST is\n"
            "removed.\n"
            "\n"
            "With --in-place DEST is the image itself, such as it is now, and becomes what it\n"
            "was: size and every byte. Where it has the snapshot of any of its backups in REPO\n"
            "only what has changed since is looked at; else all of it is read and compared by\n"
            "hash. The image is known by its id (`vdisk info`). A copy of it has that, one made\n"
            "by a restore does not: it is another drive, for which --other-drive is. What was\n"
            "there before is kept as a snapshot, before-restore-TIME: delete it when all is\n"
            "well. A restore that fails puts the image back; one that was killed is run again,\n"
            "or undone with `vdisk snapshot rollback`.",
        .min = 3,
        .max = 3,
        .groups = {own},
    };
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    if (!restoration.in_place &&
        (restoration.other_drive || restoration.compare || restoration.base))
        return report_usage(usage.command,
                            "--other-drive, --compare and --base go with --in-place");
    restoration.to = operands[2];
    status = backup_open(&restoration.session, usage.command, operands[0], &restoration.options);
    if (status != STATUS_DONE)
        return status;
    status = run(&restoration, operands[1]);
    if (status == STATUS_DONE)
        print_result(&restoration);
    backup_close(&restoration.session);
    return status;
}
