/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk backup create: what is said on the command line, and of the backup that was made. What it
 * is made of is in backup_from.c.
 */
#include "backup_from.h"
#include "durations.h"
#include "interrupt.h"
#include "json.h"
#include "report.h"
#include "sizes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define DAY_S           UINT64_C(86400)
#define IMMUTABLE_MAX_S (36500 * DAY_S)

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

static int describe(struct creation *creation)
{
    struct vb_manifest *manifest = &creation->manifest;
    char host[VB_TEXT_MAX + 1] = "";

    if (creation->tags.count > VB_TAGS_MAX)
        return report_usage("backup create", "at most %u tags", VB_TAGS_MAX);
    for (unsigned i = 0; i < creation->tags.count; i++) {
        if (!vb_text_set(manifest->tag[i], sizeof(manifest->tag[i]), creation->tags.value[i]))
            return report_usage("backup create", "--tag is to be text of at most %u bytes",
                                VB_TAG_TEXT_MAX);
    }
    manifest->tag_count = creation->tags.count;
    manifest->consistency = VB_CONSISTENT_CRASH;
    if (creation->immutable) {
        uint64_t seconds;

        if (!durations_parse(creation->immutable, DAY_S, &seconds) || seconds > IMMUTABLE_MAX_S)
            return report_usage("backup create",
                                "--immutable is a time such as 30d, at most 100 years");
        manifest->immutable_until = (uint64_t)time(NULL) + seconds;
    }
    gethostname(host, sizeof(host) - 1);
    vb_text_set(manifest->host, sizeof(manifest->host), host);
    return STATUS_DONE;
}

static int run(struct creation *creation, const char *repo)
{
    int status = backup_from_check(creation);

    if (status == STATUS_DONE)
        status = describe(creation);
    if (status == STATUS_DONE)
        status = backup_open(&creation->session, "backup create", repo, &creation->options);
    if (status != STATUS_DONE)
        return status;
    interrupt_catch();
    status = backup_from(creation);
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
         "what the drive is called (the file's name; of NBD, the URI)"},
        {"socket", OPTION_TEXT, &creation->socket, "PATH", "of vdiskd's management"},
        {"vm", OPTION_TEXT, &creation->vm, "NAME", "the vdiskd of that guest of `vdisk run`"},
        {"bitmap", OPTION_TEXT, &creation->bitmap, "NAME",
         "read only what that dirty bitmap of the NBD server's has; see above"},
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
        .operands = "REPO IMAGE|vdiskd:EXPORT|nbd://HOST[:PORT]/EXPORT",
        .about =
            "Backs up an image, what a vdiskd serves, an export of NBD "
            "(nbd+unix:///EXPORT?socket=\n"
            "PATH, too), or a raw file or device. KEY opens the repository; the image too, unless "
            "an\n"
            "--image-... option names another one. The image keeps a snapshot, against which the\n"
            "next backup finds what has changed without reading the drive. Of vdiskd:EXPORT it is\n"
            "made and read by the daemon, while clients write; its backups and those of the file\n"
            "go on from each other. Other drives go by their name, and are read and compared by\n"
            "hash, holes aside.\n"
            "\n"
            "With --bitmap what the bitmap does not have is taken from the newest backup of the\n"
            "drive, unread. So it must have every change since the state in that backup: it was\n"
            "made, or cleared, at the moment of that state, not later (more in it does no harm).\n"
            "With QEMU, in one transaction: block-dirty-bitmap-add the one for the next backup,\n"
            "block-dirty-bitmap-disable that of the last, and keep the state to be backed up. "
            "When\n"
            "a backup has failed, merge the new one into the old, or make the next one without\n"
            "--bitmap. It is refused without a backup to go on from, or after a change of size.",
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
