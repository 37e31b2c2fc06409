/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Points in time as text: RFC 3339 in UTC, the same in every locale and time zone.
 */
#ifndef TOOLS_TIMES_H
#define TOOLS_TIMES_H

#include <stdint.h>

#define TIMES_TEXT_BYTES 64

/* "2026-01-31T12:00:00Z" from seconds since 1970. Returns `text`. */
const char *times_text(char text[TIMES_TEXT_BYTES], int64_t seconds);

#endif
