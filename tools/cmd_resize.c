/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk resize: another size for the drive.
 */
#include "commands.h"
#include "newimage.h"
#include "options.h"
#include "report.h"
#include "session.h"
#include "sizes.h"

#include <errno.h>

struct target {
    uint64_t bytes;
    bool is_more; /* `+SIZE`: that much more */
    bool may_shrink;
};

static int resize(struct session *session, const struct target *target)
{
    uint64_t before = vdisk_size(session->image), size = target->bytes;
    char before_text[SIZES_TEXT_BYTES];
    int status, result;

    if (target->is_more && __builtin_add_overflow(before, size, &size))
        size = UINT64_MAX;
    if (size > VDISK_SIZE_MAX) {
        status = newimage_check_size("resize", "SIZE", size);
        return status;
    }
    if (size < before && !target->may_shrink)
        return report_text(session->spec.text, -EINVAL,
                           "the drive has %s, what lies beyond the new size would be lost; give "
                           "--shrink if it may be",
                           sizes_text(before_text, before));
    result = vdisk_resize(session->image, size, target->may_shrink);
    return result ? session_fail(session, result) : STATUS_DONE;
}

int cmd_resize(int argc, char **argv)
{
    struct session_options options = SESSION_OPTIONS_NONE;
    struct target target = {.may_shrink = false};
    const struct option_spec own[] = {
        {"shrink", OPTION_FLAG, &target.may_shrink, NULL, "the drive may lose its end"},
        SESSION_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "resize",
        .operands = "IMAGE [+]SIZE",
        .about = "Sets the size of the drive, or makes it larger by +SIZE.",
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
    target.is_more = operands[1][0] == '+';
    status = options_operand_size(&usage, "SIZE", operands[1] + target.is_more, &target.bytes);
    if (status != OPTIONS_GO_ON)
        return status;
    status = newimage_check_size("resize", operands[1], target.bytes);
    if (status != STATUS_DONE)
        return status;
    status = session_open(&session, "resize", operands[0], &options, SESSION_WRITE);
    if (status != STATUS_DONE)
        return status;
    return session_close(&session, resize(&session, &target));
}
