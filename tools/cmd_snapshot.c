/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk snapshot create, list, delete, rollback.
 */
#include "commands.h"
#include "json.h"
#include "options.h"
#include "report.h"
#include "session.h"
#include "sizes.h"
#include "times.h"

#include <stdio.h>

#define SECOND_NS INT64_C(1000000000)

/* --- create, delete, rollback: IMAGE NAME -------------------------------------------------- */

typedef int change(struct vdisk_image *image, const char *name);

static int report_change(struct session *session, int result, const char *name)
{
    const char *image = session->spec.text;

    switch (result) {
    case 0:
        return STATUS_DONE;
    case VDISK_E_EXISTS:
        return report_text(image, result, "there is already a snapshot `%s`; choose another name",
                           name);
    case VDISK_E_NOT_FOUND:
        return report_text(image, result,
                           "there is no snapshot `%s`; `vdisk snapshot list` shows them", name);
    default:
        return session_fail(session, result);
    }
}

static int run_change(int argc, char **argv, const char *command, const char *about, change *run)
{
    struct session_options options = SESSION_OPTIONS_NONE;
    const struct option_spec own[] = {SESSION_OPTIONS(&options), {.kind = OPTION_END}};
    const struct usage usage = {
        .command = command,
        .operands = "IMAGE NAME",
        .about = about,
        .min = 2,
        .max = 2,
        .groups = {own},
    };
    struct session session;
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    status = session_open(&session, command, operands[0], &options, SESSION_WRITE);
    if (status != STATUS_DONE)
        return status;
    status = report_change(&session, run(session.image, operands[1]), operands[1]);
    return session_close(&session, status);
}

static int create(int argc, char **argv)
{
    return run_change(argc, argv, "snapshot create",
                      "Keeps the present state of the drive under NAME.", vdisk_snapshot_create);
}

static int delete (int argc, char **argv)
{
    return run_change(argc, argv, "snapshot delete",
                      "Forgets the snapshot NAME and frees what only it held.",
                      vdisk_snapshot_delete);
}

static int rollback(int argc, char **argv)
{
    return run_change(argc, argv, "snapshot rollback",
                      "Makes the drive what it was at the snapshot NAME; what was written since\n"
                      "is lost, unless another snapshot has it.",
                      vdisk_snapshot_rollback);
}

/* --- list --------------------------------------------------------------------------------- */

static bool print_row(void *opaque, const struct vdisk_snapshot_info *info)
{
    char created[TIMES_TEXT_BYTES], size[SIZES_TEXT_BYTES];
    bool *has_rows = opaque;

    if (!*has_rows)
        printf("%5s %5s  %-20s  %-10s  %s\n", "ID", "FROM", "CREATED", "SIZE", "NAME");
    *has_rows = true;
    printf("%5llu %5llu  %-20s  %-10s  ", (unsigned long long)info->id,
           (unsigned long long)info->parent, times_text(created, info->created / SECOND_NS),
           sizes_text(size, info->size));
    print_escaped(stdout, info->name);
    putchar('\n');
    return true;
}

static bool print_json(void *opaque, const struct vdisk_snapshot_info *info)
{
    struct json *json = opaque;
    char created[TIMES_TEXT_BYTES];

    json_open_object(json, NULL);
    json_string(json, "name", info->name);
    json_number(json, "id", info->id);
    if (info->parent)
        json_number(json, "parent", info->parent);
    else
        json_null(json, "parent");
    json_number(json, "size", info->size);
    json_string(json, "created", times_text(created, info->created / SECOND_NS));
    json_signed(json, "created_ns", info->created);
    json_hex(json, "root_tag", info->root_tag, sizeof(info->root_tag));
    json_close_object(json);
    return true;
}

static int print_list(struct session *session, bool as_json)
{
    bool has_rows = false;
    struct json json;
    int result;

    if (!as_json) {
        result = vdisk_snapshot_list(session->image, print_row, &has_rows);
        return result ? session_fail(session, result) : STATUS_DONE;
    }
    json_begin(&json, stdout);
    json_open_object(&json, NULL);
    json_open_array(&json, "snapshots");
    result = vdisk_snapshot_list(session->image, print_json, &json);
    json_close_array(&json);
    json_close_object(&json);
    json_end(&json);
    return result ? session_fail(session, result) : STATUS_DONE;
}

static int list(int argc, char **argv)
{
    struct session_options options = SESSION_OPTIONS_NONE;
    bool as_json = false;
    const struct option_spec own[] = {
        OPTION_JSON(&as_json),
        SESSION_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "snapshot list",
        .operands = "IMAGE",
        .about = "Lists the snapshots in the order of their creation. FROM is the snapshot that\n"
                 "the drive descended from then, 0 for none.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    struct session session;
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    status = session_open(&session, usage.command, operands[0], &options, 0);
    if (status != STATUS_DONE)
        return status;
    return session_close(&session, print_list(&session, as_json));
}

int cmd_snapshot(int argc, char **argv)
{
    static const struct command commands[] = {
        {"create", "keep the present state of the drive", create},
        {"list", "what is kept", list},
        {"delete", "forget a snapshot", delete},
        {"rollback", "make the drive what it was", rollback},
        {NULL, NULL, NULL},
    };

    return command_dispatch(commands, "vdisk snapshot", argc, argv);
}
