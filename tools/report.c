/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Error codes into lines and exit statuses; see report.h.
 */
#include "report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

static const char *program = "vdisk";

void report_set_program(const char *name)
{
    program = name;
}

const char *report_program(void)
{
    return program;
}

int report_status(int code)
{
    switch (code) {
    case 0:
        return STATUS_DONE;
    case VDISK_E_DAMAGED:
        return STATUS_DAMAGE;
    case VDISK_E_WRONG_KEY:
    case VDISK_E_NOT_AUTHENTIC:
        return STATUS_KEY;
    case VDISK_E_IN_USE:
        return STATUS_BUSY;
    default:
        return STATUS_FAILED;
    }
}

/* What a person can do about it; NULL when the sentence itself must do. */
static const char *advice(int code)
{
    switch (code) {
    case VDISK_E_WRONG_KEY:
        return "`vdisk key list` shows which keys open it";
    case VDISK_E_NOT_AUTHENTIC:
        return "it was damaged or altered, `vdisk check` shows where";
    case VDISK_E_IN_USE:
        return "stop what uses it, or try again later";
    case VDISK_E_EXISTS:
        return "choose another name";
    case VDISK_E_UNSUPPORTED:
        return "a newer vdisk may read it";
    case VDISK_E_FAILED:
        return "look after the storage, then run the command again";
    case VDISK_E_BASE_CHANGED:
        return "bring the original base back, or name it with --base";
    case -ENOSPC:
    case -EDQUOT:
        return "make room, then run the command again";
    default:
        return NULL;
    }
}

void print_escaped(FILE *out, const char *text)
{
    const unsigned char *at = (const unsigned char *)text;

    for (; *at; at++) {
        /* C2 80 to C2 9F: the controls of Latin 1. */
        bool is_latin = *at == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0;

        if (*at < 0x20 || *at == 0x7f || is_latin)
            fprintf(out, "\\x%02x", *at);
        else
            fputc(*at, out);
    }
}

static void begin_line(const char *subject)
{
    fflush(stdout); /* so that a log with both streams reads in order */
    flockfile(stderr);
    fprintf(stderr, "%s: ", program);
    if (subject) {
        print_escaped(stderr, subject);
        fputs(": ", stderr);
    }
}

static void end_line(void)
{
    fputc('\n', stderr);
    funlockfile(stderr);
}

static void put_format(const char *format, va_list arguments)
{
    char text[2 * VDISK_ERROR_TEXT_BYTES];

    vsnprintf(text, sizeof(text), format, arguments);
    print_escaped(stderr, text);
}

int report(const char *subject, int code, const struct vdisk_error *error)
{
    const char *hint = advice(code);

    begin_line(subject);
    if (code == -ECANCELED)
        fputs("interrupted", stderr);
    else if (error && error->code == code && error->text[0])
        print_escaped(stderr, error->text);
    else
        fputs(vdisk_strerror(code), stderr);
    if (hint)
        fprintf(stderr, "; %s", hint);
    end_line();
    return report_status(code);
}

int report_text(const char *subject, int code, const char *format, ...)
{
    va_list arguments;

    begin_line(subject);
    va_start(arguments, format);
    put_format(format, arguments);
    va_end(arguments);
    end_line();
    return report_status(code);
}

int report_usage(const char *command, const char *format, ...)
{
    va_list arguments;

    begin_line(command);
    va_start(arguments, format);
    put_format(format, arguments);
    va_end(arguments);
    if (command)
        fprintf(stderr, "; see `%s %s --help`", program, command);
    end_line();
    return STATUS_USAGE;
}

void report_note(const char *subject, const char *format, ...)
{
    va_list arguments;

    begin_line(subject);
    va_start(arguments, format);
    put_format(format, arguments);
    va_end(arguments);
    end_line();
}

int error_set(struct vdisk_error *error, int code, const char *format, ...)
{
    va_list arguments;

    if (!error)
        return code;
    error->code = code;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof(error->text), format, arguments);
    va_end(arguments);
    return code;
}
