/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a running daemon has to say, on standard error: a line for each event, of words
 * `name=value`, the value in quotes where it needs them.
 *
 *     time=2026-03-01T12:00:00.000Z level=info event=connect export=vm1 peer=unix
 *
 * Under a service manager that keeps a journal the line begins with `<priority>` in place of the
 * time. No secrets: names, numbers, sentences. From any thread.
 */
#ifndef VDISKD_LOG_H
#define VDISKD_LOG_H

#include <stdbool.h>

enum log_level {
    LOG_ERROR,
    LOG_WARNING,
    LOG_INFO,
};

/* Looks whether a journal listens; `quiet`: no LOG_INFO. */
void log_open(bool quiet);
/* Standard error is a journal's, or the system log's, whatever the environment says. */
void log_to_journal(void);
/* Pairs of names and values, then NULL; a value that is NULL is left out with its name. */
void log_event(enum log_level level, const char *event, ...) __attribute__((sentinel));

#endif
