/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk backup copy, diff: a second repository; what changed between two backups.
 */
#include "backup_session.h"
#include "copy.h"
#include "interrupt.h"
#include "json.h"
#include "progress.h"
#include "report.h"
#include "sizes.h"
#include "tree_diff.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- copy --------------------------------------------------------------------------------- */

struct duplication {
    struct backup_options options;
    struct backup_session session; /* with a key */
    struct vb_repo *repo;          /* either way */
    const char *path, *dest, *drive;
    char **names;
    size_t count;
    bool all, json, quiet;
};

static void print_copy(const struct duplication *duplication, const struct vb_copy_result *done)
{
    char bytes[SIZES_TEXT_BYTES];
    struct json json;

    if (!duplication->json) {
        if (!duplication->quiet)
            printf("%" PRIu64 " backups, %s in %" PRIu64 " packs copied; %" PRIu64
                   " packs were there\n",
                   done->backups, sizes_text(bytes, done->bytes), done->packs, done->packs_there);
        return;
    }
    json_begin(&json, stdout);
    json_open_object(&json, NULL);
    json_number(&json, "manifests", done->backups);
    json_number(&json, "packs", done->packs);
    json_number(&json, "bytes", done->bytes);
    json_number(&json, "packs_there", done->packs_there);
    json_number(&json, "damaged_objects", done->damaged_objects);
    json_number(&json, "withheld_backups", done->withheld_backups);
    json_close_object(&json);
    json_end(&json);
}

static int open_dest(const struct duplication *duplication, struct vb_store **out)
{
    struct vdisk_error error = {0};
    int result = vb_store_dir_open(duplication->dest, false, out, &error);

    if (result == -ENOENT)
        result = vb_store_dir_open(duplication->dest, true, out, &error);
    return result ? report(duplication->dest, result, &error) : STATUS_DONE;
}

static int copy_to(const struct duplication *duplication, const struct vb_backup *const *backups)
{
    struct progress progress;
    struct vb_copy_options options = {
        .from = duplication->repo,
        .backups = backups,
        .count = duplication->count,
        .progress = progress_callback,
        .opaque = &progress,
    };
    struct vdisk_error error = {0};
    struct vb_copy_result done;
    int result, status = open_dest(duplication, &options.to);

    if (status != STATUS_DONE)
        return status;
    interrupt_catch();
    progress_begin(&progress, "copy", duplication->quiet || duplication->json);
    result = vb_copy(&options, &done, &error);
    progress_clear(&progress);
    options.to->ops->close(options.to);
    if (result == 0 || result == VDISK_E_DAMAGED)
        print_copy(duplication, &done);
    if (result == VDISK_E_DAMAGED)
        return report_text(duplication->path, result,
                           "%" PRIu64 " damaged object(s) and %" PRIu64
                           " backup(s) were not copied, all else was: %s",
                           done.damaged_objects, done.withheld_backups, error.text);
    return result ? report(result == VDISK_E_EXISTS ? duplication->dest : duplication->path, result,
                           &error)
                  : STATUS_DONE;
}

static int copy_chosen(struct duplication *duplication)
{
    const struct vb_backup **backups =
        calloc(duplication->count + 1, sizeof(*backups)); /* NOLINT(bugprone-sizeof-expression) */
    struct vdisk_error error = {0};
    int status, result = backups ? 0 : -ENOMEM;

    for (size_t i = 0; i < duplication->count && result == 0; i++)
        result = vb_backups_pick(&duplication->session.backups, duplication->names[i],
                                 duplication->drive, &backups[i], &error);
    status = result ? backup_report(duplication->path, result, &error)
                    : copy_to(duplication, duplication->all ? NULL : backups);
    free(backups);
    return status;
}

/* As it is: nobody needs to trust who copies. */
static int copy_without_key(struct duplication *duplication)
{
    struct vdisk_error error = {0};
    struct vb_store *store;
    int status, result = vb_store_dir_open(duplication->path, false, &store, &error);

    if (result == 0)
        result = vb_repo_open(store, NULL, &duplication->repo, &error);
    if (result)
        return backup_report(duplication->path, result, &error);
    status = copy_to(duplication, NULL);
    vb_repo_close(duplication->repo);
    return status;
}

static int copy_with_key(struct duplication *duplication)
{
    int status =
        backup_open(&duplication->session, "backup copy", duplication->path, &duplication->options);

    if (status != STATUS_DONE)
        return status;
    duplication->repo = duplication->session.repo;
    status = copy_chosen(duplication);
    backup_close(&duplication->session);
    return status;
}

int cmd_backup_copy(int argc, char **argv)
{
    struct duplication duplication = {.options = BACKUP_OPTIONS_NONE};
    const struct option_spec own[] = {
        {"all", OPTION_FLAG, &duplication.all, NULL, "all backups, as without a KEY"},
        {"drive", OPTION_TEXT, &duplication.drive, "NAME", "of this drive, for `latest`"},
        OPTION_JSON(&duplication.json),
        OPTION_QUIET(&duplication.quiet),
        BACKUP_OPTIONS(&duplication.options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup copy",
        .operands = "REPO DEST [BACKUP...]",
        .about =
            "Copies the repository, or with a KEY of role maintain or read some of its\n"
            "backups, to a second one in the directory DEST, which has the same keys. Objects\n"
            "are copied as they are, and verified; what is there is passed over, and nothing\n"
            "there is removed.",
        .min = 2,
        .max = INT32_MAX,
        .groups = {own},
    };
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    duplication.path = operands[0];
    duplication.dest = operands[1];
    duplication.names = operands + 2;
    duplication.count = (size_t)count - 2;
    if (duplication.all && duplication.count)
        return report_usage(usage.command, "either --all, or BACKUPs");
    if (keyopt_is_given(&duplication.options.key, KEYOPT_OPEN)) {
        duplication.all |= duplication.count == 0;
        return copy_with_key(&duplication);
    }
    return duplication.count ? copy_with_key(&duplication) : copy_without_key(&duplication);
}

/* --- diff --------------------------------------------------------------------------------- */

struct listing {
    struct json json;
    bool as_json;
    uint64_t changed_bytes;
};

static bool print_range(void *opaque, uint64_t offset, uint64_t length, bool is_zero)
{
    struct listing *listing = opaque;

    listing->changed_bytes += length;
    if (listing->as_json) {
        json_open_object(&listing->json, NULL);
        json_number(&listing->json, "offset", offset);
        json_number(&listing->json, "length", length);
        json_bool(&listing->json, "zero", is_zero);
        json_close_object(&listing->json);
    } else {
        printf("%" PRIu64 " %" PRIu64 "%s\n", offset, length, is_zero ? " zero" : "");
    }
    return !ferror(stdout) && !interrupt_pending();
}

static int print_diff(struct backup_session *session, const struct vb_backup *before,
                      const struct vb_backup *after, bool as_json)
{
    struct listing listing = {.as_json = as_json};
    struct vdisk_error error = {0};
    int result;

    if (as_json) {
        json_begin(&listing.json, stdout);
        json_open_object(&listing.json, NULL);
        json_number(&listing.json, "old_size", before->manifest.size);
        json_number(&listing.json, "new_size", after->manifest.size);
        json_open_array(&listing.json, "ranges");
    }
    interrupt_catch();
    result = vb_tree_diff(session->repo, before, after, print_range, &listing, &error);
    if (as_json) {
        json_close_array(&listing.json);
        json_number(&listing.json, "changed_bytes", listing.changed_bytes);
        json_close_object(&listing.json);
        json_end(&listing.json);
    }
    return result ? backup_report(session->path, result, &error) : STATUS_DONE;
}

int cmd_backup_diff(int argc, char **argv)
{
    struct backup_options options = BACKUP_OPTIONS_NONE;
    const char *drive = NULL;
    bool as_json = false;
    const struct option_spec own[] = {
        {"drive", OPTION_TEXT, &drive, "NAME", "of this drive, for `latest`"},
        OPTION_JSON(&as_json),
        BACKUP_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup diff",
        .operands = "REPO OLD NEW",
        .about = "Lists what may differ between two backups: a line `OFFSET LENGTH`, in bytes,\n"
                 "for each range, with `zero` where it reads as zeros in NEW. All else is the\n"
                 "same. No data is read, only what differs in the trees.",
        .min = 3,
        .max = 3,
        .groups = {own},
    };
    const struct vb_backup *before, *after;
    struct vdisk_error error = {0};
    struct backup_session session;
    int status, result;

    if (!backup_begin(&session, &usage, argc, argv, &options, &status))
        return status;
    result = vb_backups_pick(&session.backups, session.operands[1], drive, &before, &error);
    if (result == 0)
        result = vb_backups_pick(&session.backups, session.operands[2], drive, &after, &error);
    status = result ? backup_report(session.path, result, &error)
                    : print_diff(&session, before, after, as_json);
    backup_close(&session);
    return status;
}
