/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the tools fail: one line on standard error, `vdisk: SUBJECT: what is wrong; what to do`,
 * and an exit status (cli contract: see man/vdisk.1, "EXIT STATUS").
 *
 * Every function here prints exactly one line, with control characters of names escaped, and
 * returns the status for its caller to return in turn.
 */
#ifndef TOOLS_REPORT_H
#define TOOLS_REPORT_H

#include "vdisk/error.h"

#include <stddef.h>
#include <stdio.h>

enum status {
    STATUS_DONE = 0,
    STATUS_FAILED = 1,
    STATUS_USAGE = 2,  /* the command line is wrong */
    STATUS_DAMAGE = 3, /* check or verify found damage */
    STATUS_KEY = 4,    /* wrong key, or not authentic */
    STATUS_BUSY = 5,   /* in use by another process */
};

/* The first word of each line; `name` is kept. "vdisk" if it is not set. */
void report_set_program(const char *name);
const char *report_program(void);

/* The exit status of an error code. */
int report_status(int code);

/* The library's sentence if `error` (NULL allowed) is about `code`, else the code's own words, and
 * advice where there is any. */
int report(const char *subject, int code, const struct vdisk_error *error);

/* A sentence of the tool's own. subject may be NULL. */
int report_text(const char *subject, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* STATUS_USAGE, with a pointer to the command's --help; command may be NULL. */
int report_usage(const char *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A remark or a warning: nothing has failed. */
void report_note(const char *subject, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Fills `error` (NULL allowed) and returns `code`. */
int error_set(struct vdisk_error *error, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Writes text with its control characters as \xNN, so that no name can forge a line or drive the
 * terminal. */
void print_escaped(FILE *out, const char *text);

#endif
