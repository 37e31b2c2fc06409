/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk backup prune, delete, undelete: backups that go, by rules or by name, and back.
 */
#include "backup_session.h"
#include "durations.h"
#include "json.h"
#include "prune.h"
#include "report.h"
#include "times.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SECOND_NS INT64_C(1000000000)

struct pruning {
    struct backup_options options;
    struct backup_session session;
    struct vb_retention rules;
    struct option_size last, hourly, daily, weekly, monthly, yearly;
    struct option_list tags;
    const char *within, *drive;
    bool dry_run, force, json, quiet;
    struct vb_plan plan;
};

/* --- what is said -------------------------------------------------------------------------------
 */

static void print_row(const struct vb_plan_row *row)
{
    const struct vb_manifest *manifest = &row->backup->manifest;
    char name[VB_NAME_TEXT_BYTES], created[TIMES_TEXT_BYTES];

    printf("%-6s  %.16s  %-20s  ", row->verdict.keep ? "keep" : "remove",
           vb_id_text(name, &row->backup->name),
           times_text(created, manifest->created / SECOND_NS));
    print_escaped(stdout, manifest->drive_name);
    fputs("  ", stdout);
    print_escaped(stdout, row->verdict.reason);
    putchar('\n');
}

static void print_json(const struct pruning *pruning)
{
    struct json json;

    json_begin(&json, stdout);
    json_open_object(&json, NULL);
    json_open_array(&json, "backups");
    for (size_t i = 0; i < pruning->plan.count; i++) {
        const struct vb_plan_row *row = &pruning->plan.row[i];
        const struct vb_manifest *manifest = &row->backup->manifest;
        char name[VB_NAME_TEXT_BYTES], created[TIMES_TEXT_BYTES];

        json_open_object(&json, NULL);
        json_string(&json, "name", vb_id_text(name, &row->backup->name));
        json_string(&json, "drive", manifest->drive_name);
        json_hex(&json, "drive_id", manifest->drive, sizeof(manifest->drive));
        json_number(&json, "sequence", manifest->sequence);
        json_string(&json, "created", times_text(created, manifest->created / SECOND_NS));
        json_bool(&json, "keep", row->verdict.keep);
        json_bool(&json, "suspect", row->verdict.suspect);
        json_string(&json, "reason", row->verdict.reason);
        json_close_object(&json);
    }
    json_close_array(&json);
    json_number(&json, "removed", pruning->plan.removed);
    json_bool(&json, "dry_run", pruning->dry_run);
    json_close_object(&json);
    json_end(&json);
}

static void print_plan(const struct pruning *pruning)
{
    if (pruning->json) {
        print_json(pruning);
        return;
    }
    for (size_t i = 0; i < pruning->plan.count && !pruning->quiet; i++)
        print_row(&pruning->plan.row[i]);
}

/* --- prune -------------------------------------------------------------------------------- */

static int remove_all(struct pruning *pruning)
{
    const struct vb_plan *plan = &pruning->plan;
    const struct vb_backup **backups =
        calloc(plan->removed + 1, sizeof(*backups)); /* NOLINT(bugprone-sizeof-expression) */
    const char **reasons = calloc(plan->removed + 1, sizeof(*reasons));
    struct vdisk_error error = {0};
    size_t count = 0;
    int result = backups && reasons ? 0 : -ENOMEM;

    for (size_t i = 0; i < plan->count && result == 0; i++) {
        if (plan->row[i].verdict.keep)
            continue;
        backups[count] = plan->row[i].backup;
        reasons[count++] = plan->row[i].verdict.reason;
    }
    if (result == 0)
        result = vb_prune(pruning->session.repo, backups, reasons, count, time(NULL), &error);
    free(backups);
    free(reasons);
    return result ? report(pruning->session.path, result, &error) : STATUS_DONE;
}

static int prune(struct pruning *pruning)
{
    const char *path = pruning->session.path;
    int result = vb_plan_make(&pruning->session.backups, &pruning->rules, pruning->drive,
                              time(NULL), localtime_r, &pruning->plan);
    int status = STATUS_DONE;

    if (result)
        return report(path, result, NULL);
    if (pruning->drive && pruning->plan.count == 0)
        status = report_text(path, VDISK_E_NOT_FOUND, "there is no backup of %s", pruning->drive);
    else if (pruning->plan.over_limit && !pruning->force && !pruning->dry_run)
        status = report_text(path, VDISK_E_LIMIT,
                             "more than half of a drive's backups would go; --dry-run shows which, "
                             "--force does it");
    else if (pruning->plan.removed && !pruning->dry_run)
        status = remove_all(pruning);
    if (status == STATUS_DONE)
        print_plan(pruning);
    free(pruning->plan.row);
    return status;
}

static int read_rules(struct pruning *pruning)
{
    struct vb_retention *rules = &pruning->rules;

    rules->last = pruning->last.value;
    rules->hourly = pruning->hourly.value;
    rules->daily = pruning->daily.value;
    rules->weekly = pruning->weekly.value;
    rules->monthly = pruning->monthly.value;
    rules->yearly = pruning->yearly.value;
    rules->tags = pruning->tags.value;
    rules->tag_count = pruning->tags.count;
    if (pruning->within && !durations_parse(pruning->within, 0, &rules->within))
        return report_usage("backup prune", "--keep-within is a time such as 36h, 30d or 1y");
    if (vb_retention_is_empty(rules))
        return report_usage("backup prune", "say what is to be kept, such as --keep-daily 7");
    return STATUS_DONE;
}

static int run_prune(struct pruning *pruning, int argc, char **argv)
{
    const struct option_spec own[] = {
        {"keep-last", OPTION_NUMBER, &pruning->last, "N", "the last N backups of each drive"},
        {"keep-hourly", OPTION_NUMBER, &pruning->hourly, "N",
         "the newest of each of the last N hours that have one"},
        {"keep-daily", OPTION_NUMBER, &pruning->daily, "N", "likewise of days"},
        {"keep-weekly", OPTION_NUMBER, &pruning->weekly, "N", "of weeks, which begin on Monday"},
        {"keep-monthly", OPTION_NUMBER, &pruning->monthly, "N", "of months"},
        {"keep-yearly", OPTION_NUMBER, &pruning->yearly, "N", "of years"},
        {"keep-within", OPTION_TEXT, &pruning->within, "TIME",
         "all that are not older, such as 36h, 30d, 1y"},
        {"keep-tag", OPTION_LIST, &pruning->tags, "TAG", "all with this tag; may be repeated"},
        {.kind = OPTION_END},
    };
    const struct option_spec others[] = {
        {"drive", OPTION_TEXT, &pruning->drive, "NAME", "only of this drive"},
        {"dry-run", OPTION_FLAG, &pruning->dry_run, NULL, "only say what would go, and why"},
        {"force", OPTION_FLAG, &pruning->force, NULL, "also more than half of a drive's backups"},
        OPTION_JSON(&pruning->json),
        OPTION_QUIET(&pruning->quiet),
        BACKUP_OPTIONS(&pruning->options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup prune",
        .operands = "REPO",
        .about =
            "Removes the backups that no rule keeps, drive by drive. The newest of a drive\n"
            "stays, one that is immutable, too. What goes is in the trash until `vdisk backup\n"
            "gc` deletes it, a day later; `vdisk backup undelete` brings it back.",
        .min = 1,
        .max = 1,
        .groups = {own, others},
    };
    char **operands;
    int count, status = options_parse(&usage, argc, argv, &operands, &count);

    if (status != OPTIONS_GO_ON)
        return status;
    status = read_rules(pruning);
    if (status == STATUS_DONE)
        status = backup_open(&pruning->session, usage.command, operands[0], &pruning->options);
    if (status != STATUS_DONE)
        return status;
    status = prune(pruning);
    backup_close(&pruning->session);
    return status;
}

int cmd_backup_prune(int argc, char **argv)
{
    struct pruning *pruning = calloc(1, sizeof(*pruning));
    int status;

    if (!pruning)
        return report("backup prune", -ENOMEM, NULL);
    pruning->options = (struct backup_options)BACKUP_OPTIONS_NONE;
    status = run_prune(pruning, argc, argv);
    free(pruning);
    return status;
}

/* --- delete, undelete ------------------------------------------------------------------------- */

static int delete_named(struct backup_session *session, char **names, int count, const char *drive)
{
    const struct vb_backup **backups =
        calloc((size_t)count, sizeof(*backups)); /* NOLINT(bugprone-sizeof-expression) */
    const char **reasons = calloc((size_t)count, sizeof(*reasons));
    struct vdisk_error error = {0};
    int result = backups && reasons ? 0 : -ENOMEM;

    for (int i = 0; i < count && result == 0; i++) {
        reasons[i] = "by name";
        result = vb_backups_pick(&session->backups, names[i], drive, &backups[i], &error);
    }
    if (result == 0)
        result = vb_prune(session->repo, backups, reasons, (size_t)count, time(NULL), &error);
    free(backups);
    free(reasons);
    return result ? backup_report(session->path, result, &error) : STATUS_DONE;
}

int cmd_backup_delete(int argc, char **argv)
{
    struct backup_options options = BACKUP_OPTIONS_NONE;
    const char *drive = NULL;
    const struct option_spec own[] = {
        {"drive", OPTION_TEXT, &drive, "NAME", "of this drive"},
        BACKUP_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup delete",
        .operands = "REPO BACKUP...",
        .about = "Removes backups by name, also the last one of a drive, and none that is\n"
                 "immutable. Until the grace time is over `vdisk backup undelete` brings them\n"
                 "back.",
        .min = 2,
        .max = INT32_MAX,
        .groups = {own},
    };
    struct backup_session session;
    int status;

    if (!backup_begin(&session, &usage, argc, argv, &options, &status))
        return status;
    status = delete_named(&session, session.operands + 1, session.count - 1, drive);
    backup_close(&session);
    return status;
}

int cmd_backup_undelete(int argc, char **argv)
{
    struct backup_options options = BACKUP_OPTIONS_NONE;
    const struct option_spec own[] = {
        BACKUP_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup undelete",
        .operands = "REPO BACKUP",
        .about = "Brings a backup back that was removed, as long as it is in the trash; BACKUP is\n"
                 "the beginning of its name.",
        .min = 2,
        .max = 2,
        .groups = {own},
    };
    struct vdisk_error error = {0};
    struct backup_session session;
    struct vb_id name;
    int status, result;

    if (!backup_begin(&session, &usage, argc, argv, &options, &status))
        return status;
    result = vb_unprune(session.repo, session.operands[1], &name, &error);
    status = result ? backup_report(session.path, result, &error) : STATUS_DONE;
    backup_close(&session);
    return status;
}
