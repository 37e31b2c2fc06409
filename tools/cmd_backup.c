/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk backup: the table of its subcommands; init, list.
 */
#include "backup_session.h"
#include "commands.h"
#include "json.h"
#include "report.h"
#include "sizes.h"
#include "times.h"

#include <sodium.h>
#include <stdio.h>

#define SECOND_NS  INT64_C(1000000000)
#define NAME_SHOWN 16 /* digits of a backup's name */

/* --- init --------------------------------------------------------------------------------- */

static int make(const char *path, const struct vb_init_options *options,
                const struct vdisk_key *key)
{
    struct vdisk_error error = {0};
    struct vb_store *store;
    int result = vb_store_dir_open(path, true, &store, &error);

    if (result)
        return report(path, result, &error);
    result = vb_repo_init(store, options, key, &error);
    store->ops->close(store);
    if (result == 0)
        return STATUS_DONE;
    vb_store_dir_discard(path);
    return report(path, result, &error);
}

int cmd_backup_init(int argc, char **argv)
{
    struct keyopt key = {.prefix = ""};
    bool no_padding = false;
    const char *name = NULL;
    const struct option_spec own[] = {
        {"name", OPTION_TEXT, &name, "NAME", "whose key it is, for `backup key list` (public)"},
        {"no-padding", OPTION_FLAG, &no_padding, NULL, "sizes of records are not rounded up"},
        KEYOPT_MAKE_OPTIONS(&key, ""),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup init",
        .operands = "REPO",
        .about = "Makes a repository for backups in the directory REPO. KEY will read it; other\n"
                 "keys, such as those of hosts that only make backups, come by `backup key add`.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    struct vb_init_options options = {.level = VB_LEVEL_DEFAULT};
    struct held_key held;
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    status = keyopt_load(&key, KEYOPT_MAKE, usage.command, operands[0], &held);
    if (status != STATUS_DONE)
        return status;
    options.pad = no_padding ? 0 : VB_PAD_DEFAULT;
    options.writer_name = name;
    status = make(operands[0], &options, &held.key);
    keyopt_release(&held);
    return status;
}

/* --- list --------------------------------------------------------------------------------- */

static const char *consistency(const struct vb_manifest *manifest)
{
    return manifest->consistency == VB_CONSISTENT_CRASH   ? "crash"
           : manifest->consistency == VB_CONSISTENT_FILES ? "filesystem"
                                                          : "application";
}

static void print_row(const struct vb_backup *backup)
{
    const struct vb_manifest *manifest = &backup->manifest;
    char name[VB_NAME_TEXT_BYTES], created[TIMES_TEXT_BYTES], size[SIZES_TEXT_BYTES],
        stored[SIZES_TEXT_BYTES];

    printf("%.*s  %-20s  %-10s  %-10s  %4llu  ", NAME_SHOWN, vb_id_text(name, &backup->name),
           times_text(created, manifest->created / SECOND_NS), sizes_text(size, manifest->size),
           sizes_text(stored, manifest->bytes_stored), (unsigned long long)manifest->sequence);
    print_escaped(stdout, manifest->drive_name);
    for (unsigned i = 0; i < manifest->tag_count; i++) {
        fputs(i ? "," : "  ", stdout);
        print_escaped(stdout, manifest->tag[i]);
    }
    putchar('\n');
}

static const char *source_kind(const struct vb_manifest *manifest)
{
    switch (manifest->source) {
    case VB_FROM_IMAGE:
        return "image";
    case VB_FROM_NBD:
        return "nbd";
    default:
        return "raw";
    }
}

static void print_json_row(struct json *json, const struct vb_repo *repo,
                           const struct vb_backup *backup)
{
    const struct vb_manifest *manifest = &backup->manifest;
    const struct vb_writer *writer = vb_repo_writer(repo, &backup->signer);
    char name[VB_NAME_TEXT_BYTES], created[TIMES_TEXT_BYTES];

    json_open_object(json, NULL);
    json_string(json, "name", vb_id_text(name, &backup->name));
    json_string(json, "drive", manifest->drive_name);
    json_hex(json, "drive_id", manifest->drive, sizeof(manifest->drive));
    json_number(json, "sequence", manifest->sequence);
    json_string(json, "created", times_text(created, manifest->created / SECOND_NS));
    json_signed(json, "created_ns", manifest->created);
    json_number(json, "size", manifest->size);
    json_number(json, "data_bytes", manifest->bytes_data);
    json_number(json, "read_bytes", manifest->bytes_read);
    json_number(json, "stored_bytes", manifest->bytes_stored);
    json_string(json, "host", manifest->host);
    json_string(json, "consistency", consistency(manifest));
    json_string(json, "source", source_kind(manifest));
    json_string(json, "snapshot", manifest->snapshot_id ? manifest->snapshot_name : NULL);
    json_number(json, "immutable_until", manifest->immutable_until);
    json_hex(json, "writer", backup->signer.b, sizeof(backup->signer.b));
    json_string(json, "writer_name", writer ? writer->name : NULL);
    json_open_array(json, "tags");
    for (unsigned i = 0; i < manifest->tag_count; i++)
        json_string(json, NULL, manifest->tag[i]);
    json_close_array(json);
    json_close_object(json);
}

static void print_list(const struct backup_session *session, bool as_json)
{
    const struct vb_backups *backups = &session->backups;
    struct json json;

    if (!as_json) {
        if (backups->count)
            printf("%-*s  %-20s  %-10s  %-10s  %4s  %s\n", NAME_SHOWN, "NAME", "CREATED", "SIZE",
                   "STORED", "SEQ", "DRIVE");
        for (size_t i = 0; i < backups->count; i++)
            print_row(&backups->backup[i]);
        return;
    }
    json_begin(&json, stdout);
    json_open_object(&json, NULL);
    json_open_array(&json, "backups");
    for (size_t i = 0; i < backups->count; i++)
        print_json_row(&json, session->repo, &backups->backup[i]);
    json_close_array(&json);
    json_close_object(&json);
    json_end(&json);
}

int cmd_backup_list(int argc, char **argv)
{
    struct backup_options options = BACKUP_OPTIONS_NONE;
    bool as_json = false;
    const struct option_spec own[] = {
        OPTION_JSON(&as_json),
        BACKUP_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup list",
        .operands = "REPO",
        .about = "Lists the backups, by drive and age. STORED is what each added to the\n"
                 "repository.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    struct backup_session session;
    int status;

    if (!backup_begin(&session, &usage, argc, argv, &options, &status))
        return status;
    print_list(&session, as_json);
    if (session.backups.bad_count) {
        char name[VB_NAME_TEXT_BYTES];

        status =
            report_text(session.path, VDISK_E_DAMAGED,
                        "%zu object(s) in backups/ do not count, such as %.16s: %s; `vdisk "
                        "backup verify` says more",
                        session.backups.bad_count, vb_id_text(name, &session.backups.bad[0].name),
                        session.backups.bad[0].reason);
    }
    backup_close(&session);
    return status;
}

/* ------------------------------------------------------------------------------------------ */

int cmd_backup(int argc, char **argv)
{
    static const struct command commands[] = {
        {"init", "make a repository", cmd_backup_init},
        {"key", "list, add, remove keys; an emergency key", cmd_backup_key},
        {"create", "back a drive up", cmd_backup_create},
        {"list", "what was backed up", cmd_backup_list},
        {"restore", "a backup to a new image, or raw", cmd_backup_restore},
        {"serve", "a backup as a drive at once, filled meanwhile", cmd_backup_serve},
        {"mount", "a backup as files", cmd_backup_mount},
        {"verify", "whether the backups would restore", cmd_backup_verify},
        {"prune", "remove backups by rules", cmd_backup_prune},
        {"delete", "remove backups by name", cmd_backup_delete},
        {"undelete", "bring one back from the trash", cmd_backup_undelete},
        {"gc", "give back the space of what was removed", cmd_backup_gc},
        {"copy", "a second repository, or some backups to it", cmd_backup_copy},
        {"diff", "what changed between two backups", cmd_backup_diff},
        {"stats", "sizes, deduplication, compression", cmd_backup_stats},
        {NULL, NULL, NULL},
    };

    return command_dispatch(commands, "vdisk backup", argc, argv);
}
