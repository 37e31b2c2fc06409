/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Points in time as text; see times.h.
 */
#include "times.h"

#include <stdio.h>
#include <time.h>

const char *times_text(char text[TIMES_TEXT_BYTES], int64_t seconds)
{
    time_t when = (time_t)seconds;
    struct tm parts;

    if (!gmtime_r(&when, &parts) ||
        strftime(text, TIMES_TEXT_BYTES, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
        snprintf(text, TIMES_TEXT_BYTES, "unknown");
    return text;
}
