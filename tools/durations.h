/* SPDX-License-Identifier: Apache-2.0 */
/* Lengths of time as people write them. */
#ifndef TOOLS_DURATIONS_H
#define TOOLS_DURATIONS_H

#include <stdbool.h>
#include <stdint.h>

/* Digits and one of s, m, h, d, w, y (of 365 days); digits alone are of `unit` seconds, 0: not
 * allowed but for 0 itself. False for anything else, and above a thousand years. */
bool durations_parse(const char *text, uint64_t unit, uint64_t *seconds);

#endif
