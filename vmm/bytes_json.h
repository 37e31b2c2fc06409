/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes in JSON: a string in base64. */
#ifndef VMM_BYTES_JSON_H
#define VMM_BYTES_JSON_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/* A new reference, or NULL without memory. */
json_t *bytes_to_json(const uint8_t *bytes, size_t count);
/* How many bytes there are, at most `room`; -EINVAL: it is something else, or longer. Then *bytes
 * is partly written. */
ssize_t bytes_from_json(const json_t *value, uint8_t *bytes, size_t room);

#endif
