/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk read: a range of the drive to standard output.
 */
#include "commands.h"
#include "copyout.h"
#include "options.h"
#include "report.h"
#include "session.h"
#include "sizes.h"

#include <errno.h>
#include <unistd.h>

struct wanted {
    uint64_t offset, length;
    bool has_length; /* else to the end */
};

static int read_range(struct session *session, const struct wanted *wanted)
{
    uint64_t size = session_size(session);
    struct sink sink;
    struct copyout copy = {
        .session = session,
        .sink = &sink,
        .offset = wanted->offset,
        .verb = "read",
        .quiet = true,
    };
    char text[SIZES_TEXT_BYTES];

    if (wanted->offset > size || (wanted->has_length && wanted->length > size - wanted->offset))
        return report_text(session->spec.text, -EINVAL,
                           "the range goes past the end of the drive, which has %s (%llu bytes)",
                           sizes_text(text, size), (unsigned long long)size);
    copy.length = wanted->has_length ? wanted->length : size - wanted->offset;
    sink_stream(&sink, "standard output", STDOUT_FILENO);
    return copyout_run(&copy);
}

int cmd_read(int argc, char **argv)
{
    struct session_options options = SESSION_OPTIONS_NONE;
    const struct option_spec own[] = {SESSION_OPTIONS(&options), {.kind = OPTION_END}};
    const struct usage usage = {
        .command = "read",
        .operands = "IMAGE[@SNAPSHOT] OFFSET [LENGTH]",
        .about = "Writes a range of the drive to standard output; without LENGTH up to its end.",
        .min = 2,
        .max = 3,
        .groups = {own},
    };
    struct session session;
    struct wanted wanted = {0};
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    status = options_operand_size(&usage, "OFFSET", operands[1], &wanted.offset);
    wanted.has_length = count > 2;
    if (status == OPTIONS_GO_ON && wanted.has_length)
        status = options_operand_size(&usage, "LENGTH", operands[2], &wanted.length);
    if (status != OPTIONS_GO_ON)
        return status;
    status =
        session_open(&session, "read", operands[0], &options, SESSION_SNAPSHOT | SESSION_WORKERS);
    if (status != STATUS_DONE)
        return status;
    return session_close(&session, read_range(&session, &wanted));
}
