/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk backup create: a backup of an image, or of a raw file or device.
 */
#include "backup_create.h"
#include "backup_session.h"
#include "durations.h"
#include "freeze.h"
#include "interrupt.h"
#include "json.h"
#include "progress.h"
#include "report.h"
#include "sizes.h"

#include <errno.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DAY_S           UINT64_C(86400)
#define IMMUTABLE_MAX_S (36500 * DAY_S)

struct creation {
    struct backup_options options;
    struct keyopt image_key;
    const char *path, *base, *drive_name;
    struct option_list tags;
    const char *immutable, *freeze_hook, *thaw_hook;
    bool quiet, json;
    struct backup_session session;
    struct vb_manifest manifest;
    struct vb_create_result result;
};

static void print_json(const struct creation *creation)
{
    const struct vb_create_result *result = &creation->result;
    char name[VB_NAME_TEXT_BYTES];
    struct json json;

    json_begin(&json, stdout);
    json_open_object(&json, NULL);
    json_string(&json, "name", vb_id_text(name, &result->name));
    json_string(&json, "drive", creation->manifest.drive_name);
    json_number(&json, "sequence", creation->manifest.sequence);
    json_number(&json, "size", creation->manifest.size);
    json_number(&json, "data_bytes", creation->manifest.bytes_data);
    json_number(&json, "read_bytes", result->bytes_read);
    json_number(&json, "stored_bytes", result->bytes_stored);
    json_number(&json, "chunks_stored", result->chunks_stored);
    json_number(&json, "chunks_known", result->chunks_known);
    json_number(&json, "chunks_zero", result->chunks_zero);
    json_number(&json, "patches", result->patches);
    json_close_object(&json);
    json_end(&json);
}

static void print_result(const struct creation *creation)
{
    const struct vb_create_result *result = &creation->result;
    char name[VB_NAME_TEXT_BYTES], read[SIZES_TEXT_BYTES], stored[SIZES_TEXT_BYTES];

    if (creation->json)
        print_json(creation);
    else if (!creation->quiet)
        printf("backup %.16s: %s read, %s stored\n", vb_id_text(name, &result->name),
               sizes_text(read, result->bytes_read), sizes_text(stored, result->bytes_stored));
}

/* --- what the manifest says beside the drive ------------------------------------------------ */

static bool copy_text(char *to, size_t room, const char *text)
{
    if (strlen(text) >= room)
        return false;
    for (const char *at = text; *at;) {
        unsigned length = json_utf8_length((const unsigned char *)at);

        if (length == 0 || (unsigned char)*at < 0x20 || *at == 0x7f)
            return false;
        at += length;
    }
    memcpy(to, text, strlen(text) + 1);
    return true;
}

static int describe(struct creation *creation)
{
    struct vb_manifest *manifest = &creation->manifest;
    const char *slash = strrchr(creation->path, '/');
    const char *name = creation->drive_name ? creation->drive_name
                       : slash && slash[1]  ? slash + 1
                                            : creation->path;
    char host[VB_TEXT_MAX + 1] = "";

    if (!copy_text(manifest->drive_name, sizeof(manifest->drive_name), name))
        return report_usage("backup create", "--drive NAME is to be text of at most %u bytes",
                            VB_TEXT_MAX);
    if (creation->tags.count > VB_TAGS_MAX)
        return report_usage("backup create", "at most %u tags", VB_TAGS_MAX);
    for (unsigned i = 0; i < creation->tags.count; i++) {
        if (!copy_text(manifest->tag[i], sizeof(manifest->tag[i]), creation->tags.value[i]))
            return report_usage("backup create", "--tag is to be text of at most %u bytes",
                                VB_TAG_TEXT_MAX);
    }
    manifest->tag_count = creation->tags.count;
    manifest->consistency = VB_CONSISTENT_CRASH;
    if (!creation->freeze_hook != !creation->thaw_hook)
        return report_usage("backup create", "--freeze-hook and --thaw-hook go together");
    if (creation->immutable) {
        uint64_t seconds;

        if (!durations_parse(creation->immutable, DAY_S, &seconds) || seconds > IMMUTABLE_MAX_S)
            return report_usage("backup create",
                                "--immutable is a time such as 30d, at most 100 years");
        manifest->immutable_until = (uint64_t)time(NULL) + seconds;
    }
    gethostname(host, sizeof(host) - 1);
    copy_text(manifest->host, sizeof(manifest->host), host);
    return STATUS_DONE;
}

/* --- making it ---------------------------------------------------------------------------- */

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

/* With the drive at rest, where there are hooks for that. */
static int open_image(struct creation *creation, const struct vb_image_options *options,
                      struct vb_image **image, struct vdisk_error *error)
{
    struct vdisk_error thaw_error = {0};
    struct freeze freeze;
    int result, thawed;

    if (!creation->freeze_hook)
        return vb_image_open(options, &creation->manifest, image, error);
    result = freeze_begin(&freeze, creation->freeze_hook, creation->thaw_hook, error);
    if (result)
        return result;
    result = vb_image_open(options, &creation->manifest, image, error);
    thawed = freeze_end(&freeze, &thaw_error);
    if (result == 0 && thawed == -ETIMEDOUT) {
        vb_image_close(*image, false, error);
        *error = thaw_error;
        return thawed;
    }
    if (thawed)
        report_note(creation->path, "%s: see to it that it goes on", thaw_error.text);
    creation->manifest.consistency = VB_CONSISTENT_FILES;
    return result;
}

static void *remember(void *arg)
{
    struct creation *creation = arg;
    struct vdisk_error error = {0};

    vb_backups_release(&creation->session.backups);
    if (vb_backups_load(creation->session.repo, &creation->session.backups, &error) == 0)
        backup_remember(&creation->session);
    return NULL;
}

/* The image's old snapshots go while the new backup is remembered: each waits for a disk. */
static void finish_image(struct creation *creation, struct vb_image *image)
{
    struct vdisk_error error = {0};
    pthread_t thread;
    bool beside = pthread_create(&thread, NULL, remember, creation) == 0;

    if (vb_image_close(image, true, &error))
        report_note(creation->path, "old snapshots of backups stay until the next one: %s",
                    error.text);
    if (beside)
        pthread_join(thread, NULL);
    else
        remember(creation);
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
    struct vdisk_error error = {0};
    struct vb_image *image;
    int status, result = open_image(creation, &options, &image, &error);

    if (result == VDISK_E_WRONG_KEY && !keyopt_is_given(&creation->image_key, KEYOPT_OPEN_NAMED))
        return report_text(creation->path, result,
                           "the repository's key does not open the image; --image-key-file FILE "
                           "and the like name another one");
    if (result)
        return report(creation->path, result, &error);
    status = back_up(creation, vb_image_drive(image));
    if (status == STATUS_DONE)
        finish_image(creation, image);
    else if (vb_image_close(image, false, &error))
        report_note(creation->path, "its snapshot stays until the next backup: %s", error.text);
    return status;
}

/* A raw drive goes by its name. */
static void find_raw(struct creation *creation)
{
    const struct vb_backups *backups = &creation->session.backups;
    struct vb_manifest *manifest = &creation->manifest;
    const struct vb_backup *newest = NULL;

    for (size_t i = 0; i < backups->count; i++) {
        const struct vb_backup *backup = &backups->backup[i];

        if (backup->manifest.source == VB_FROM_RAW &&
            strcmp(backup->manifest.drive_name, manifest->drive_name) == 0)
            newest = backup;
    }
    if (!newest) {
        randombytes_buf(manifest->drive, sizeof(manifest->drive));
        manifest->sequence = 1;
        return;
    }
    memcpy(manifest->drive, newest->manifest.drive, sizeof(manifest->drive));
    manifest->sequence = newest->manifest.sequence + 1;
    manifest->previous = newest->name;
}

static int from_raw(struct creation *creation)
{
    struct vdisk_error error = {0};
    struct timespec now;
    struct vb_drive *drive;
    int status, result;

    if (creation->freeze_hook)
        return report_usage("backup create", "hooks are for images, which can have a snapshot");
    result = vb_drive_raw_open(creation->path, &drive, &error);
    if (result)
        return report(creation->path, result, &error);
    clock_gettime(CLOCK_REALTIME, &now);
    creation->manifest.created = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    creation->manifest.size = drive->size;
    creation->manifest.source = VB_FROM_RAW;
    find_raw(creation);
    status = back_up(creation, drive);
    vb_drive_raw_close(drive);
    if (status == STATUS_DONE)
        remember(creation);
    return status;
}

static int from_either(struct creation *creation)
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

static int run(struct creation *creation, const char *repo)
{
    int status = describe(creation);

    if (status == STATUS_DONE)
        status = backup_open(&creation->session, "backup create", repo, &creation->options);
    if (status != STATUS_DONE)
        return status;
    interrupt_catch();
    status = from_either(creation);
    if (status == STATUS_DONE)
        print_result(creation);
    backup_close(&creation->session);
    return status;
}

int cmd_backup_create(int argc, char **argv)
{
    struct creation *creation = calloc(1, sizeof(*creation));
    char **operands;
    int count, status;

    if (!creation)
        return report("backup create", -ENOMEM, NULL);
    creation->options = (struct backup_options)BACKUP_OPTIONS_NONE;
    creation->image_key.prefix = "image-";
    const struct option_spec own[] = {
        {"tag", OPTION_LIST, &creation->tags, "TAG", "a word for it; may be repeated"},
        {"drive", OPTION_TEXT, &creation->drive_name, "NAME",
         "what the drive is called (the file's name)"},
        {"immutable", OPTION_TEXT, &creation->immutable, "TIME",
         "so long nothing removes this backup, such as 30d"},
        {"freeze-hook", OPTION_TEXT, &creation->freeze_hook, "COMMAND",
         "run before the snapshot is taken, to bring the guest's files to rest"},
        {"thaw-hook", OPTION_TEXT, &creation->thaw_hook, "COMMAND",
         "run behind it, whatever happens"},
        KEYOPT_OPEN_OPTIONS(&creation->image_key, "image-"),
        {"base", OPTION_TEXT, &creation->base, "IMAGE",
         "where the base of this overlay is, if it has moved"},
        OPTION_JSON(&creation->json),
        OPTION_QUIET(&creation->quiet),
        BACKUP_OPTIONS(&creation->options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup create",
        .operands = "REPO IMAGE",
        .about =
            "Backs an image up, or a raw file or device. KEY opens the repository; the image\n"
            "too, unless an --image-... option names another one. The image keeps a snapshot,\n"
            "against which the next backup finds what has changed without reading the drive;\n"
            "a raw drive is read and compared by hash.",
        .min = 2,
        .max = 2,
        .groups = {own},
    };

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status == OPTIONS_GO_ON) {
        creation->path = operands[1];
        status = run(creation, operands[0]);
    }
    free(creation);
    return status;
}
