/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk map: how each range of the drive is stored.
 */
#include "commands.h"
#include "json.h"
#include "kinds.h"
#include "options.h"
#include "report.h"
#include "session.h"

#include <stdio.h>

static bool print_row(void *opaque, const struct vdisk_extent *extent)
{
    (void)opaque;
    printf("%16llu %16llu  %-7s %u\n", (unsigned long long)extent->offset,
           (unsigned long long)extent->length, kinds_extent(extent->kind), extent->depth);
    return !ferror(stdout);
}

static bool print_json(void *opaque, const struct vdisk_extent *extent)
{
    struct json *json = opaque;

    json_open_object(json, NULL);
    json_number(json, "offset", extent->offset);
    json_number(json, "length", extent->length);
    json_string(json, "kind", kinds_extent(extent->kind));
    json_number(json, "depth", extent->depth);
    json_close_object(json);
    return !ferror(stdout);
}

static int print_map(struct session *session, bool as_json)
{
    uint64_t size = session_size(session);
    struct json json;
    int result;

    if (as_json) {
        json_begin(&json, stdout);
        json_open_array(&json, NULL);
        result = vdisk_map(session->image, session->snapshot, 0, size, true, print_json, &json);
        json_close_array(&json);
        json_end(&json);
    } else {
        printf("%16s %16s  %-7s %s\n", "OFFSET", "LENGTH", "KIND", "DEPTH");
        result = vdisk_map(session->image, session->snapshot, 0, size, true, print_row, NULL);
    }
    return result ? session_fail(session, result) : STATUS_DONE;
}

int cmd_map(int argc, char **argv)
{
    struct session_options options = SESSION_OPTIONS_NONE;
    bool as_json = false;
    const struct option_spec own[] = {
        OPTION_JSON(&as_json),
        SESSION_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "map",
        .operands = "IMAGE[@SNAPSHOT]",
        .about =
            "Lists the ranges of the drive, in bytes, and how each is stored: hole, zero, raw\n"
            "(encrypted), zstd (compressed and encrypted), patched (with newer blocks over\n"
            "it). DEPTH 0 is this image, 1 its base, and so on.",
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
    status =
        session_open(&session, "map", operands[0], &options, SESSION_SNAPSHOT | SESSION_UNFILLED);
    if (status != STATUS_DONE)
        return status;
    return session_close(&session, print_map(&session, as_json));
}
