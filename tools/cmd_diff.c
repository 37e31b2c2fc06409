/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk diff: the ranges that changed between two states of an image.
 */
#include "commands.h"
#include "json.h"
#include "options.h"
#include "report.h"
#include "session.h"

#include <stdio.h>

struct listing {
    struct json json;
    bool as_json;
    uint64_t changed_bytes;
};

static bool print_range(void *opaque, const struct vdisk_extent *extent)
{
    struct listing *listing = opaque;

    listing->changed_bytes += extent->length;
    if (listing->as_json) {
        json_open_object(&listing->json, NULL);
        json_number(&listing->json, "offset", extent->offset);
        json_number(&listing->json, "length", extent->length);
        json_close_object(&listing->json);
    } else {
        printf("%llu %llu\n", (unsigned long long)extent->offset,
               (unsigned long long)extent->length);
    }
    return !ferror(stdout);
}

static int open_state(struct session *session, const char *name, struct vdisk_snapshot **state)
{
    int result = vdisk_snapshot_open(session->image, name, state);

    if (result == VDISK_E_NOT_FOUND)
        return report_text(session->spec.text, result,
                           "there is no snapshot `%s`; `vdisk snapshot list` shows them", name);
    return result ? session_fail(session, result) : STATUS_DONE;
}

static int print_diff(struct session *session, struct vdisk_snapshot *old_state,
                      struct vdisk_snapshot *new_state, bool as_json)
{
    struct listing listing = {.as_json = as_json};
    int result;

    if (as_json) {
        json_begin(&listing.json, stdout);
        json_open_object(&listing.json, NULL);
        json_open_array(&listing.json, "ranges");
    }
    result = vdisk_diff(session->image, old_state, new_state, print_range, &listing);
    if (as_json) {
        json_close_array(&listing.json);
        json_number(&listing.json, "changed_bytes", listing.changed_bytes);
        json_close_object(&listing.json);
        json_end(&listing.json);
    }
    return result ? session_fail(session, result) : STATUS_DONE;
}

static int diff(struct session *session, const char *old_name, const char *new_name, bool as_json)
{
    struct vdisk_snapshot *old_state = NULL, *new_state = NULL;
    int status = open_state(session, old_name, &old_state);

    if (status == STATUS_DONE && new_name)
        status = open_state(session, new_name, &new_state);
    if (status == STATUS_DONE)
        status = print_diff(session, old_state, new_state, as_json);
    vdisk_snapshot_close(new_state);
    vdisk_snapshot_close(old_state);
    return status;
}

int cmd_diff(int argc, char **argv)
{
    struct session_options options = SESSION_OPTIONS_NONE;
    bool as_json = false;
    const struct option_spec own[] = {
        OPTION_JSON(&as_json),
        SESSION_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "diff",
        .operands = "IMAGE OLD [NEW]",
        .about = "Lists what changed from the snapshot OLD to the snapshot NEW, or to the present\n"
                 "state: a line `OFFSET LENGTH`, in bytes, for each range.",
        .min = 2,
        .max = 3,
        .groups = {own},
    };
    struct session session;
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    status = session_open(&session, "diff", operands[0], &options, 0);
    if (status != STATUS_DONE)
        return status;
    status = diff(&session, operands[1], count > 2 ? operands[2] : NULL, as_json);
    return session_close(&session, status);
}
