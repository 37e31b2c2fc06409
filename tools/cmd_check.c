/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk check: reads and verifies everything that an image holds.
 */
#include "commands.h"
#include "interrupt.h"
#include "json.h"
#include "options.h"
#include "progress.h"
#include "report.h"
#include "session.h"
#include "sizes.h"

#include <stdio.h>

struct check {
    struct session *session;
    struct progress progress;
    struct json json;
    bool as_json, repair, quiet;
};

static void print_finding(const struct vdisk_check_finding *finding)
{
    fputs(finding->repaired ? "repaired: " : "damaged: ", stdout);
    print_escaped(stdout, finding->text);
    if (finding->data)
        printf(" (%llu bytes of the drive at %llu%s", (unsigned long long)finding->length,
               (unsigned long long)finding->offset, finding->snapshot ? ", snapshot " : "");
    if (finding->data && finding->snapshot)
        print_escaped(stdout, finding->snapshot);
    puts(finding->data ? ")" : "");
}

static void print_json_finding(struct json *json, const struct vdisk_check_finding *finding)
{
    json_open_object(json, NULL);
    json_string(json, "text", finding->text);
    json_bool(json, "repaired", finding->repaired);
    json_bool(json, "data", finding->data);
    if (finding->data) {
        json_number(json, "offset", finding->offset);
        json_number(json, "length", finding->length);
    }
    json_string(json, "snapshot", finding->snapshot);
    json_close_object(json);
}

static void take_finding(void *opaque, const struct vdisk_check_finding *finding)
{
    struct check *check = opaque;

    progress_clear(&check->progress);
    if (check->as_json)
        print_json_finding(&check->json, finding);
    else
        print_finding(finding);
    fflush(stdout); /* it is long work, and whoever watches a pipe wants to see it come */
}

static bool take_progress(void *opaque, uint64_t done_bytes, uint64_t total_bytes)
{
    struct check *check = opaque;

    return progress_callback(&check->progress, done_bytes, total_bytes);
}

static void print_summary(const struct check *check, const struct vdisk_check_result *result)
{
    char data[SIZES_TEXT_BYTES];

    if (check->quiet)
        return;
    printf("%llu nodes, %llu extents, %s of data verified; ", (unsigned long long)result->nodes,
           (unsigned long long)result->extents, sizes_text(data, result->data_bytes));
    if (result->leaked_blocks)
        printf("%llu blocks are in use for nothing; ", (unsigned long long)result->leaked_blocks);
    if (result->damaged || result->repaired)
        printf("%llu damaged, %llu repaired\n", (unsigned long long)result->damaged,
               (unsigned long long)result->repaired);
    else
        puts("no damage");
}

static void end_json(struct check *check, const struct vdisk_check_result *result, bool clean)
{
    struct json *json = &check->json;

    json_close_array(json);
    json_bool(json, "clean", clean);
    json_number(json, "nodes", result->nodes);
    json_number(json, "extents", result->extents);
    json_number(json, "data_bytes", result->data_bytes);
    json_number(json, "damaged", result->damaged);
    json_number(json, "repaired", result->repaired);
    json_number(json, "leaked_blocks", result->leaked_blocks);
    json_close_object(json);
    json_end(json);
}

static int run(struct check *check)
{
    const struct vdisk_check_options options = {
        .struct_bytes = sizeof(options),
        .repair = check->repair,
        .finding = take_finding,
        .progress = take_progress,
        .opaque = check,
    };
    struct vdisk_check_result result = {0};
    int code;

    interrupt_catch();
    progress_begin(&check->progress, "check", check->quiet);
    if (check->as_json) {
        json_begin(&check->json, stdout);
        json_open_object(&check->json, NULL);
        json_string(&check->json, "image", check->session->spec.path);
        json_open_array(&check->json, "findings");
    }
    code = vdisk_check(check->session->image, &options, &result);
    progress_clear(&check->progress);
    if (check->as_json)
        end_json(check, &result, code == 0);
    else if (code == 0 || code == VDISK_E_DAMAGED)
        print_summary(check, &result);
    if (code == VDISK_E_DAMAGED)
        return report_text(check->session->spec.path, code,
                           "is damaged%s; restore what is listed from a backup",
                           check->repair ? "" : ", --repair mends what can be");
    return code ? session_fail(check->session, code) : STATUS_DONE;
}

int cmd_check(int argc, char **argv)
{
    struct session_options options = SESSION_OPTIONS_NONE;
    struct session session;
    struct check check = {.session = &session};
    const struct option_spec own[] = {
        {"repair", OPTION_FLAG, &check.repair, NULL, "mend header copies, superblocks, use counts"},
        OPTION_JSON(&check.as_json),
        OPTION_QUIET(&check.quiet),
        SESSION_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "check",
        .operands = "IMAGE",
        .about = "Reads all of the image with its snapshots and verifies every tag and the\n"
                 "allocation. The exit status is 3 when there is damage.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    status = session_open(&session, "check", operands[0], &options,
                          SESSION_WORKERS | SESSION_UNFILLED | (check.repair ? SESSION_WRITE : 0));
    if (status != STATUS_DONE)
        return status;
    return session_close(&session, run(&check));
}
