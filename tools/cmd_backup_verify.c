/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk backup verify: whether the backups would restore.
 */
#include "backup_session.h"
#include "backup_verify.h"
#include "interrupt.h"
#include "json.h"
#include "progress.h"
#include "report.h"
#include "sizes.h"

#include <stdio.h>

struct verification {
    bool as_json;
    struct progress progress;
    struct json json;
    bool in_backups; /* of the JSON */
};

static void print_finding(void *opaque, const char *text)
{
    struct verification *verification = opaque;

    progress_clear(&verification->progress);
    if (verification->as_json) {
        json_string(&verification->json, NULL, text);
        return;
    }
    print_escaped(stdout, text);
    putchar('\n');
}

/* The findings come first. */
static void begin_backups(struct verification *verification)
{
    if (verification->as_json && !verification->in_backups) {
        json_close_array(&verification->json);
        json_open_array(&verification->json, "backups");
    }
    verification->in_backups = true;
}

static void print_verdict(void *opaque, const struct vb_backup *backup, uint64_t damaged_bytes,
                          const char *why)
{
    struct verification *verification = opaque;
    const struct vb_manifest *manifest = &backup->manifest;
    char name[VB_NAME_TEXT_BYTES], size[SIZES_TEXT_BYTES];

    progress_clear(&verification->progress);
    begin_backups(verification);
    vb_id_text(name, &backup->name);
    if (verification->as_json) {
        struct json *json = &verification->json;

        json_open_object(json, NULL);
        json_string(json, "name", name);
        json_string(json, "drive", manifest->drive_name);
        json_number(json, "sequence", manifest->sequence);
        json_bool(json, "restores", damaged_bytes == 0);
        json_number(json, "damaged_bytes", damaged_bytes);
        json_string(json, "why", damaged_bytes ? why : NULL);
        json_close_object(json);
        return;
    }
    printf("backup %.16s  %4llu  ", name, (unsigned long long)manifest->sequence);
    print_escaped(stdout, manifest->drive_name);
    if (damaged_bytes)
        printf(": DAMAGED, %s do not restore, %s\n", sizes_text(size, damaged_bytes), why);
    else
        puts(": restores");
}

static bool advance(void *opaque, uint64_t done, uint64_t total)
{
    struct verification *verification = opaque;

    if (!total) /* trees: too quick for a bar */
        return !interrupt_pending();
    return progress_callback(&verification->progress, done, total);
}

static int explain(const struct backup_session *session, int result,
                   const struct vb_verify_result *done, const struct vdisk_error *error)
{
    if (result == VDISK_E_DAMAGED)
        return report_text(session->path, result,
                           "damaged: %llu finding(s); %llu of %llu backups do not restore whole",
                           (unsigned long long)done->findings,
                           (unsigned long long)done->damaged_backups,
                           (unsigned long long)done->backups);
    return result ? report(session->path, result, error) : STATUS_DONE;
}

static int verify(struct backup_session *session, bool data, bool as_json, bool quiet)
{
    struct verification verification = {.as_json = as_json};
    const struct vb_verify_options options = {
        .repo = session->repo,
        .backups = &session->backups,
        .data = data,
        .finding = print_finding,
        .verdict = print_verdict,
        .progress = advance,
        .opaque = &verification,
    };
    struct vb_verify_result done = {0};
    struct vdisk_error error = {0};
    int result;

    interrupt_catch();
    if (as_json) {
        json_begin(&verification.json, stdout);
        json_open_object(&verification.json, NULL);
        json_open_array(&verification.json, "findings");
    }
    progress_begin(&verification.progress, "verify", quiet || as_json);
    result = vb_verify(&options, &done, &error);
    progress_clear(&verification.progress);
    if (as_json) {
        begin_backups(&verification);
        json_close_array(&verification.json);
        json_number(&verification.json, "read_bytes", done.bytes);
        json_close_object(&verification.json);
        json_end(&verification.json);
    }
    return explain(session, result, &done, &error);
}

int cmd_backup_verify(int argc, char **argv)
{
    struct backup_options options = BACKUP_OPTIONS_NONE;
    bool data = false, as_json = false, quiet = false;
    const struct option_spec own[] = {
        {"data", OPTION_FLAG, &data, NULL, "read and verify every byte"},
        OPTION_JSON(&as_json),
        OPTION_QUIET(&quiet),
        BACKUP_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup verify",
        .operands = "REPO",
        .about = "Verifies that everything the backups need is there and authentic: signatures,\n"
                 "the chain of each drive's backups, index and trees; with --data every byte.\n"
                 "Names what is damaged and which backups restore all the same; then the exit\n"
                 "status is 3.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    struct backup_session session;
    int status;

    if (!backup_begin(&session, &usage, argc, argv, &options, &status))
        return status;
    status = verify(&session, data, as_json, quiet);
    backup_close(&session);
    return status;
}
