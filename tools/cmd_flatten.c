/* SPDX-License-Identifier: Apache-2.0 */
/* vdisk flatten: an overlay gets all that its base shows, and needs the base no more. */
#include "commands.h"
#include "interrupt.h"
#include "keyopt.h"
#include "options.h"
#include "progress.h"
#include "report.h"
#include "session.h"

#include "vdisk/vdisk.h"

#include <errno.h>

static int fill(struct vdisk_image *image, bool quiet)
{
    struct progress progress;
    uint64_t size = vdisk_size(image), cursor = 0;
    int result = 0;

    progress_begin(&progress, "flatten", quiet);
    while (cursor < size && result == 0) {
        result = vdisk_fill(image, &cursor, NULL);
        if (result == 0 && !progress_callback(&progress, cursor, size))
            result = -ECANCELED;
    }
    progress_clear(&progress);
    return result ? result : vdisk_detach(image);
}

static int flatten(struct session *session, bool quiet)
{
    struct vdisk_info info;
    int result;

    vdisk_get_info(session->image, &info);
    if (!info.has_base) {
        report_note(session->spec.path, "has no base");
        return STATUS_DONE;
    }
    result = fill(session->image, quiet);
    return result ? session_fail(session, result) : STATUS_DONE;
}

int cmd_flatten(int argc, char **argv)
{
    struct session_options options = SESSION_OPTIONS_NONE;
    bool quiet = false;
    const struct option_spec own[] = {
        OPTION_QUIET(&quiet),
        SESSION_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "flatten",
        .operands = "IMAGE",
        .about = "Copies what the base of an overlay shows into it, so that it needs the base no\n"
                 "more. Snapshots that show the base have to be deleted first. It may be\n"
                 "interrupted at any time, and goes on the next time.",
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
        session_open(&session, "flatten", operands[0], &options, SESSION_WRITE | SESSION_WORKERS);
    if (status != STATUS_DONE)
        return status;
    interrupt_catch();
    return session_close(&session, flatten(&session, quiet));
}
