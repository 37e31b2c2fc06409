/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON of management sockets: requests and their values, and the names of errors. */
#ifndef VDISKD_CONTROL_JSON_H
#define VDISKD_CONTROL_JSON_H

#include "vdisk/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The request in a line (without its newline): a new reference, and the name of its command, NULL
 * if it has none. Refuses duplicate names, and nesting deeper than any request needs: the parser
 * recurses, and may run on a task's stack. -EINVAL. */
int control_json_load(const char *line, size_t length, json_t **root, const char **command,
                      struct vdisk_error *error);
/* The name of an error code in replies: "not-found", "wrong-key", ... */
const char *control_code(int code);

/* The value, if it is one of that type and fits. Text has no control characters. */
bool control_json_text(const json_t *value, char *out, size_t size);
bool control_json_bool(const json_t *value, bool *out);
bool control_json_number(const json_t *value, uint64_t max, uint64_t *out);

#endif
