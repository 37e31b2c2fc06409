/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See log.h.
 */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 2048u /* longer lines are cut */

static struct {
    bool quiet, has_journal;
} log_ = {.quiet = false};

struct line {
    size_t length;
    char text[LINE_BYTES];
};

void log_open(bool quiet)
{
    log_.quiet = quiet;
    log_.has_journal = getenv("JOURNAL_STREAM") != NULL;
}

void log_to_journal(void)
{
    log_.has_journal = true;
}

static void put(struct line *line, const char *text)
{
    size_t length = strlen(text), room = LINE_BYTES - 2 - line->length; /* newline, NUL */

    length = length < room ? length : room;
    memcpy(line->text + line->length, text, length);
    line->length += length;
}

/* Whether the value stands as it is. */
static bool is_word(const char *value)
{
    for (const unsigned char *at = (const unsigned char *)value; *at; at++) {
        if (*at <= ' ' || *at == '"' || *at == '=' || *at == '\\' || *at >= 0x7f)
            return false;
    }
    return value[0] != 0;
}

static void put_value(struct line *line, const char *value)
{
    char piece[8];

    if (is_word(value)) {
        put(line, value);
        return;
    }
    put(line, "\"");
    for (const unsigned char *at = (const unsigned char *)value; *at; at++) {
        if (*at < ' ' || *at == 0x7f)
            snprintf(piece, sizeof(piece), "\\x%02x", *at);
        else
            snprintf(piece, sizeof(piece), "%s%c", *at == '"' || *at == '\\' ? "\\" : "", *at);
        put(line, piece);
    }
    put(line, "\"");
}

static void begin(struct line *line, enum log_level level)
{
    static const char *const priorities[] = {"<3>", "<4>", "<6>"};
    static const char *const names[] = {"error", "warning", "info"};
    char text[64];
    struct timespec now;
    struct tm parts;

    if (log_.has_journal) {
        put(line, priorities[level]);
    } else {
        clock_gettime(CLOCK_REALTIME, &now);
        gmtime_r(&now.tv_sec, &parts);
        size_t length = strftime(text, sizeof(text), "time=%Y-%m-%dT%H:%M:%S", &parts);
        snprintf(text + length, sizeof(text) - length, ".%03uZ ",
                 (unsigned)(now.tv_nsec / 1000000));
        put(line, text);
    }
    put(line, "level=");
    put(line, names[level]);
}

void log_event(enum log_level level, const char *event, ...)
{
    struct line line = {.length = 0};
    va_list arguments;
    const char *name;

    if (level == LOG_INFO && log_.quiet)
        return;
    begin(&line, level);
    put(&line, " event=");
    put(&line, event);
    va_start(arguments, event);
    while ((name = va_arg(arguments, const char *)) != NULL) {
        const char *value = va_arg(arguments, const char *);

        if (!value)
            continue;
        put(&line, " ");
        put(&line, name);
        put(&line, "=");
        put_value(&line, value);
    }
    va_end(arguments);
    line.text[line.length++] = '\n';
    if (write(STDERR_FILENO, line.text, line.length) < 0)
        return; /* there is nobody left to tell */
}
