/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk backup gc, stats: the space that a repository takes.
 */
#include "backup_session.h"
#include "durations.h"
#include "gc.h"
#include "interrupt.h"
#include "json.h"
#include "repo_stats.h"
#include "report.h"
#include "sizes.h"
#include "times.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define SECOND_NS INT64_C(1000000000)

static bool go_on(void *opaque)
{
    (void)opaque;
    return !interrupt_pending();
}

/* --- gc ----------------------------------------------------------------------------------- */

static void print_gc_json(const struct vb_gc_result *done, bool dry_run)
{
    const struct {
        const char *name;
        uint64_t value;
    } row[] = {
        {"packs", done->packs},
        {"bytes", done->bytes},
        {"trashed_packs", done->trashed},
        {"trashed_bytes", done->trashed_bytes},
        {"rewritten_packs", done->rewritten},
        {"rewritten_bytes", done->rewritten_bytes},
        {"written_bytes", done->written_bytes},
        {"brought_back", done->brought_back},
        {"merged_index_objects", done->merged},
        {"deleted_objects", done->deleted},
        {"deleted_bytes", done->deleted_bytes},
        {"young_bytes", done->young_bytes},
        {"trash_objects", done->waiting},
        {"trash_bytes", done->waiting_bytes},
        {"at_work", done->at_work},
    };
    struct json json;

    json_begin(&json, stdout);
    json_open_object(&json, NULL);
    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++)
        json_number(&json, row[i].name, row[i].value);
    json_bool(&json, "dry_run", dry_run);
    json_close_object(&json);
    json_end(&json);
}

static void print_gc(const char *path, const struct vb_gc_result *done, bool dry_run)
{
    char bytes[SIZES_TEXT_BYTES], more[SIZES_TEXT_BYTES];

    printf("%s%s in %" PRIu64 " packs no longer needed; %s in packs with little left in them%s\n",
           dry_run ? "would go: " : "", sizes_text(bytes, done->trashed_bytes), done->trashed,
           sizes_text(more, done->rewritten_bytes), dry_run ? "" : ", written anew");
    if (!dry_run)
        printf("%s deleted, %s in the trash\n", sizes_text(bytes, done->deleted_bytes),
               sizes_text(more, done->waiting_bytes));
    if (done->brought_back)
        report_note(path, "%" PRIu64 " object(s) in the trash were needed, and are back",
                    done->brought_back);
    if (done->at_work && done->waiting && !dry_run)
        report_note(path, "%u at work: nothing is deleted that one of them may count on",
                    done->at_work);
}

int cmd_backup_gc(int argc, char **argv)
{
    struct backup_options options = BACKUP_OPTIONS_NONE;
    bool dry_run = false, as_json = false, quiet = false;
    const char *grace_text = "24h";
    const struct option_spec own[] = {
        {"grace", OPTION_TEXT, &grace_text, "TIME",
         "what is younger stays, and what goes is in the trash so long (24h)"},
        {"dry-run", OPTION_FLAG, &dry_run, NULL, "only say what would go"},
        OPTION_JSON(&as_json),
        OPTION_QUIET(&quiet),
        BACKUP_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup gc",
        .operands = "REPO",
        .about = "Gives back the space of what no backup needs any more. Safe while backups are\n"
                 "made, and whenever it is stopped; takes a key of role maintain, which cannot\n"
                 "read data. To be run regularly, after `vdisk backup prune`.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    struct vb_gc_options work = {.go_on = go_on};
    struct vb_gc_result done;
    struct vdisk_error error = {0};
    struct backup_session session;
    char **operands;
    int count, status, result;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status == OPTIONS_GO_ON && !durations_parse(grace_text, 0, &work.grace))
        status = report_usage(usage.command, "--grace is a time such as 24h, 7d or 0s");
    if (status != OPTIONS_GO_ON)
        return status;
    status = backup_open(&session, usage.command, operands[0], &options);
    if (status != STATUS_DONE)
        return status;
    interrupt_catch();
    work.repo = session.repo;
    work.dry_run = dry_run;
    result = vb_gc(&work, &done, &error);
    if (result)
        status = report(session.path, result, &error);
    else if (as_json)
        print_gc_json(&done, dry_run);
    else if (!quiet)
        print_gc(session.path, &done, dry_run);
    backup_close(&session);
    return status;
}

/* --- stats -------------------------------------------------------------------------------- */

static double ratio(uint64_t large, uint64_t small)
{
    return small ? (double)large / (double)small : 1;
}

static void print_stats(const struct vb_backups *backups, const struct vb_stats *stats)
{
    char a[SIZES_TEXT_BYTES], b[SIZES_TEXT_BYTES], c[SIZES_TEXT_BYTES], time[TIMES_TEXT_BYTES],
        name[VB_NAME_TEXT_BYTES];

    if (backups->count)
        printf("%-16s  %-20s  %-10s  %-10s  %-10s  %s\n", "NAME", "CREATED", "DATA", "STORED",
               "UNIQUE", "DRIVE");
    for (size_t i = 0; i < backups->count; i++) {
        const struct vb_backup *backup = &backups->backup[i];

        printf("%.16s  %-20s  %-10s  %-10s  %-10s  ", vb_id_text(name, &backup->name),
               times_text(time, backup->manifest.created / SECOND_NS),
               sizes_text(a, backup->manifest.bytes_data), sizes_text(b, stats->backup[i].stored),
               sizes_text(c, stats->backup[i].unique));
        print_escaped(stdout, backup->manifest.drive_name);
        putchar('\n');
    }
    printf("%" PRIu64 " backups of %" PRIu64 " drives: %s, with data %s\n", stats->backups,
           stats->drives, sizes_text(a, stats->size_bytes), sizes_text(b, stats->data_bytes));
    printf("deduplication %.2f: %s are different; compression %.2f: %s stored\n",
           ratio(stats->data_bytes, stats->unique_bytes), sizes_text(a, stats->unique_bytes),
           ratio(stats->unique_bytes, stats->stored_bytes - stats->node_bytes),
           sizes_text(b, stats->stored_bytes));
    printf("%" PRIu64 " packs with %s, of which %s are needed; %s in the trash\n", stats->packs,
           sizes_text(a, stats->pack_bytes), sizes_text(b, stats->stored_bytes),
           sizes_text(c, stats->trash_bytes));
}

static void print_stats_backups(struct json *json, const struct vb_backups *backups,
                                const struct vb_stats *stats)
{
    char name[VB_NAME_TEXT_BYTES];

    json_open_array(json, "backups");
    for (size_t i = 0; i < backups->count; i++) {
        const struct vb_backup *backup = &backups->backup[i];

        json_open_object(json, NULL);
        json_string(json, "name", vb_id_text(name, &backup->name));
        json_string(json, "drive", backup->manifest.drive_name);
        json_number(json, "size", backup->manifest.size);
        json_number(json, "data_bytes", backup->manifest.bytes_data);
        json_number(json, "stored_bytes", stats->backup[i].stored);
        json_number(json, "unique_bytes", stats->backup[i].unique);
        json_number(json, "shared_bytes", stats->backup[i].stored - stats->backup[i].unique);
        json_close_object(json);
    }
    json_close_array(json);
}

static void print_stats_json(const struct vb_backups *backups, const struct vb_stats *stats)
{
    struct json json;

    json_begin(&json, stdout);
    json_open_object(&json, NULL);
    print_stats_backups(&json, backups, stats);
    json_number(&json, "drives", stats->drives);
    json_number(&json, "size_bytes", stats->size_bytes);
    json_number(&json, "data_bytes", stats->data_bytes);
    json_number(&json, "unique_bytes", stats->unique_bytes);
    json_number(&json, "stored_bytes", stats->stored_bytes);
    json_number(&json, "node_bytes", stats->node_bytes);
    json_number(&json, "pack_bytes", stats->pack_bytes);
    json_number(&json, "trash_bytes", stats->trash_bytes);
    json_number(&json, "packs", stats->packs);
    json_number(&json, "records", stats->records);
    json_number(&json, "index_objects", stats->index_objects);
    json_number(&json, "prune_records", stats->prune_records);
    /* In hundredths, as there are no fractions elsewhere. */
    json_number(&json, "deduplication_percent",
                (uint64_t)(100 * ratio(stats->data_bytes, stats->unique_bytes) + 0.5));
    json_number(
        &json, "compression_percent",
        (uint64_t)(100 * ratio(stats->unique_bytes, stats->stored_bytes - stats->node_bytes) +
                   0.5));
    json_close_object(&json);
    json_end(&json);
}

int cmd_backup_stats(int argc, char **argv)
{
    struct backup_options options = BACKUP_OPTIONS_NONE;
    bool as_json = false;
    const struct option_spec own[] = {
        OPTION_JSON(&as_json),
        BACKUP_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup stats",
        .operands = "REPO",
        .about = "What the backups hold (DATA), take on disk (STORED), and share: UNIQUE is what\n"
                 "only this one needs, and what its removal gives back.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    struct vdisk_error error = {0};
    struct backup_session session;
    struct vb_stats stats;
    int status, result;

    if (!backup_begin(&session, &usage, argc, argv, &options, &status))
        return status;
    interrupt_catch();
    result = vb_stats_load(session.repo, &session.backups, go_on, NULL, &stats, &error);
    if (result) {
        status = report(session.path, result, &error);
    } else {
        if (as_json)
            print_stats_json(&session.backups, &stats);
        else
            print_stats(&session.backups, &stats);
        free(stats.backup);
    }
    backup_close(&session);
    return status;
}
