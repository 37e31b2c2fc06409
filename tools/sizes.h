/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sizes as people write and read them: 512, 64K, 10M, 2G, 1T, in powers of 1024.
 */
#ifndef TOOLS_SIZES_H
#define TOOLS_SIZES_H

#include <stdbool.h>
#include <stdint.h>

#define SIZES_TEXT_BYTES 32

/* Digits with at most one letter of K, M, G, T, P behind them. False for anything else, and for
 * what does not fit into 64 bits. */
bool sizes_parse(const char *text, uint64_t *bytes);

/* Decimal digits only. */
bool sizes_parse_number(const char *text, uint64_t *number);

/* RATE or RATE/BURST, each a size below 2^63; *burst is 0 without one. */
bool sizes_parse_rate(const char *text, uint64_t *rate, uint64_t *burst);

/* "10 GiB", "1.5 MiB", "512 bytes". Returns `text`. */
const char *sizes_text(char text[SIZES_TEXT_BYTES], uint64_t bytes);

#endif
