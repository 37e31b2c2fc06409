/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk backup restore: a backup to a new image, a new raw file, or a block device.
 */
#include "backup_image.h"
#include "backup_restore.h"
#include "backup_session.h"
#include "interrupt.h"
#include "newimage.h"
#include "outdevice.h"
#include "outfile.h"
#include "progress.h"
#include "report.h"
#include "session.h"
#include "sink.h"
#include "zeros.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR_BYTES UINT64_C(512)

struct restoration {
    struct backup_options options;
    struct keyopt image_key;
    const char *drive, *to;
    bool quiet;
    struct backup_session session;
    const struct vb_backup *backup;
};

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
    struct vb_restore_result done;
    int result;

    progress_begin(&progress, "restore", restoration->quiet);
    result = vb_restore(&options, &done, &error);
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

/* With the repository's KEY, unless another one is named. */
static int to_image(struct restoration *restoration)
{
    struct vdisk_key key = restoration->session.key.key;
    uint8_t public_key[VDISK_PUBLIC_KEY_BYTES];
    struct held_key held;
    int status;

    if (keyopt_is_given(&restoration->image_key, KEYOPT_ADD)) {
        status = keyopt_load(&restoration->image_key, KEYOPT_ADD, "backup restore", restoration->to,
                             &held);
        if (status != STATUS_DONE)
            return status;
        status = to_image_with(restoration, &held.key);
        keyopt_release(&held);
        return status;
    }
    key = backup_image_key(&key, public_key);
    return to_image_with(restoration, &key);
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
    int result = vb_backups_pick(&restoration->session.backups, name, restoration->drive,
                                 &restoration->backup, &error);

    if (result)
        return backup_report(restoration->session.path, result, &error);
    interrupt_catch();
    if (stat(restoration->to, &to) == 0 && S_ISBLK(to.st_mode))
        return to_device(restoration);
    return ends_in(restoration->to, ".vdk") ? to_image(restoration) : to_file(restoration);
}

int cmd_backup_restore(int argc, char **argv)
{
    struct restoration restoration = {.options = BACKUP_OPTIONS_NONE,
                                      .image_key = {.prefix = "image-"}};
    const struct option_spec own[] = {
        {"drive", OPTION_TEXT, &restoration.drive, "NAME", "of which drive `latest` is"},
        {"image-key-file", OPTION_TEXT, &restoration.image_key.key_file, "FILE",
         "the key of the new image (KEY)"},
        {"image-passphrase-file", OPTION_TEXT, &restoration.image_key.passphrase_file, "FILE",
         "or its passphrase"},
        {"image-recipient", OPTION_TEXT, &restoration.image_key.recipient, "PUBKEY",
         "or a public key"},
        KEYOPT_KDF_OPTIONS(&restoration.image_key),
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
            "removed.",
        .min = 3,
        .max = 3,
        .groups = {own},
    };
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    restoration.to = operands[2];
    status = backup_open(&restoration.session, usage.command, operands[0], &restoration.options);
    if (status != STATUS_DONE)
        return status;
    status = run(&restoration, operands[1]);
    backup_close(&restoration.session);
    return status;
}
