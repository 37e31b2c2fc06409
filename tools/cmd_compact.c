/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk compact: fold patches, finish deletions, give space back to the host.
 */
#include "commands.h"
#include "interrupt.h"
#include "options.h"
#include "progress.h"
#include "report.h"
#include "session.h"
#include "sizes.h"

#include <stdio.h>

static int compact(struct session *session, bool quiet)
{
    struct vdisk_compact_result result = {0};
    struct progress progress;
    char freed[SIZES_TEXT_BYTES];
    int code;

    interrupt_catch();
    progress_begin(&progress, "compact", quiet);
    code = vdisk_compact(session->image, progress_callback, &progress, &result);
    progress_clear(&progress);
    if (code)
        return session_fail(session, code);
    if (!quiet)
        printf("%llu clusters folded, %s freed\n", (unsigned long long)result.clusters_folded,
               sizes_text(freed, result.bytes_freed));
    return STATUS_DONE;
}

int cmd_compact(int argc, char **argv)
{
    struct session_options options = SESSION_OPTIONS_NONE;
    bool quiet = false;
    const struct option_spec own[] = {
        OPTION_QUIET(&quiet),
        SESSION_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "compact",
        .operands = "IMAGE",
        .about = "Folds patched clusters, finishes deletions, gives free space back to the host.\n"
                 "It may be interrupted at any time.",
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
        session_open(&session, "compact", operands[0], &options, SESSION_WRITE | SESSION_WORKERS);
    if (status != STATUS_DONE)
        return status;
    return session_close(&session, compact(&session, quiet));
}
