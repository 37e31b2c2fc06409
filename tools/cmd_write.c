/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk write: standard input to a range of the drive.
 */
#include "commands.h"
#include "options.h"
#include "report.h"
#include "session.h"
#include "sizes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES (1u << 20)
#define ALIGNMENT   4096u

/* Fills the piece unless the input ends before. */
static int read_piece(uint8_t *piece, size_t *length)
{
    *length = 0;
    while (*length < PIECE_BYTES) {
        ssize_t got = read(STDIN_FILENO, piece + *length, PIECE_BYTES - *length);

        if (got < 0 && errno != EINTR)
            return -errno;
        if (got == 0)
            break;
        if (got > 0)
            *length += (size_t)got;
    }
    return 0;
}

/* What a regular file will give; false where that is not known before. */
static bool input_length(uint64_t *length)
{
    struct stat status;
    off_t at;

    if (fstat(STDIN_FILENO, &status) < 0 || !S_ISREG(status.st_mode))
        return false;
    at = lseek(STDIN_FILENO, 0, SEEK_CUR);
    if (at < 0)
        return false;
    *length = status.st_size > at ? (uint64_t)(status.st_size - at) : 0;
    return true;
}

/* After a failure: what of the input is on the drive for good. */
static int fail(struct session *session, int code, uint64_t written, const char *what)
{
    int result = vdisk_flush(session->image);

    if (result)
        return session_fail(session, result);
    return report_text(session->spec.text, code, "%s; %llu bytes before it are written and durable",
                       what, (unsigned long long)written);
}

static int write_input(struct session *session, uint64_t offset, uint8_t *piece)
{
    uint64_t size = vdisk_size(session->image), written = 0;

    for (;;) {
        size_t length;
        int result = read_piece(piece, &length);

        if (result)
            return fail(session, result, written, "standard input cannot be read");
        if (length == 0)
            break;
        if (length > size - offset - written)
            return fail(session, -ENOSPC, written, "the input goes past the end of the drive");
        result = vdisk_write(session->image, offset + written, piece, length);
        if (result)
            return session_fail(session, result);
        written += length;
    }
    return STATUS_DONE;
}

static int check_and_write(struct session *session, uint64_t offset)
{
    uint64_t size = vdisk_size(session->image), length;
    char text[SIZES_TEXT_BYTES];
    uint8_t *piece;
    int status, result;

    if (offset > size)
        return report_text(session->spec.text, -EINVAL,
                           "the offset is past the end of the drive, "
                           "which has %s (%llu bytes)",
                           sizes_text(text, size), (unsigned long long)size);
    if (input_length(&length) && length > size - offset)
        return report_text(session->spec.text, -ENOSPC,
                           "the input has %llu bytes, from the offset on the drive has %llu; "
                           "nothing was written",
                           (unsigned long long)length, (unsigned long long)(size - offset));
    piece = aligned_alloc(ALIGNMENT, PIECE_BYTES);
    if (!piece)
        return report(session->spec.text, -ENOMEM, NULL);
    status = write_input(session, offset, piece);
    free(piece);
    result = status == STATUS_DONE ? vdisk_flush(session->image) : 0;
    return result ? session_fail(session, result) : status;
}

int cmd_write(int argc, char **argv)
{
    struct session_options options = SESSION_OPTIONS_NONE;
    const struct option_spec own[] = {SESSION_OPTIONS(&options), {.kind = OPTION_END}};
    const struct usage usage = {
        .command = "write",
        .operands = "IMAGE OFFSET",
        .about = "Writes standard input to the drive from OFFSET on and makes it durable.",
        .min = 2,
        .max = 2,
        .groups = {own},
    };
    struct session session;
    uint64_t offset;
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    status = options_operand_size(&usage, "OFFSET", operands[1], &offset);
    if (status != OPTIONS_GO_ON)
        return status;
    if (keyopt_uses_stdin(&options.key))
        return report_usage("write",
                            "standard input is the data, the key must come from elsewhere");
    status =
        session_open(&session, "write", operands[0], &options, SESSION_WRITE | SESSION_WORKERS);
    if (status != STATUS_DONE)
        return status;
    return session_close(&session, check_and_write(&session, offset));
}
