/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding a few words in JSON that another program wrote. No tree, no allocation: a walk over the
 * text.
 */
#ifndef TOOLS_JSON_FIND_H
#define TOOLS_JSON_FIND_H

#include <stdbool.h>
#include <stddef.h>

/* The string under `key` in the outermost object; false when there is none or it is too long.
 * Escapes are resolved for the ASCII range, others become `?`. */
bool json_find_string(const char *json, const char *key, char *value, size_t size);

/* Whether any object in it, however deep, has the key. */
bool json_has_key(const char *json, const char *key);

#endif
