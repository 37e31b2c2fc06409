/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding zeros, so that they need not be stored. Looked for in units counted from the beginning
 * of the data; the last may be shorter.
 */
#ifndef TOOLS_ZEROS_H
#define TOOLS_ZEROS_H

#include <stdbool.h>
#include <stdint.h>

#define ZEROS_BLOCK_BYTES 4096u

bool zeros_is_all(const void *data, uint64_t length);

/* How many bytes from the beginning are units of nothing but zeros, and how many are not. */
uint64_t zeros_run(const uint8_t *data, uint64_t length, uint64_t unit);
uint64_t zeros_data_run(const uint8_t *data, uint64_t length, uint64_t unit);

#endif
