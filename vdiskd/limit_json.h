/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits as JSON: {"read_ops": {"rate": 100, "burst": 10}, "write_ops": ..., "read_bytes": ...,
 * "write_bytes": ...}. What is not named has no limit.
 */
#ifndef VDISKD_LIMIT_JSON_H
#define VDISKD_LIMIT_JSON_H

#include "limit.h"

#include <jansson.h>

extern const char *const limit_names[LIMIT_KINDS];

/* False: it is something else; then *limits is partly set. */
bool limit_from_json(json_t *value, struct limit_settings *limits);
/* All four; a new reference, or NULL without memory. */
json_t *limit_to_json(const struct limit_settings *limits);

#endif
