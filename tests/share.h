/* SPDX-License-Identifier: Apache-2.0 */
/* Rounds of a long test, divided among runs of its program side by side (tests/run --share). */
#ifndef TESTS_SHARE_H
#define TESTS_SHARE_H

#include <stdbool.h>
#include <stdint.h>

/* Whether this run does round n: of N runs, one does; a run that is the only one does all. */
bool share_has(uint64_t n);

#endif
