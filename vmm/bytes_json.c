/* SPDX-License-Identifier: Apache-2.0 */
/* See bytes_json.h. */
#include "bytes_json.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>

json_t *bytes_to_json(const uint8_t *bytes, size_t count)
{
    size_t room = sodium_base64_encoded_len(count, sodium_base64_VARIANT_ORIGINAL);
    char *text = malloc(room);
    json_t *value;

    if (!text)
        return NULL;
    sodium_bin2base64(text, room, bytes, count, sodium_base64_VARIANT_ORIGINAL);
    value = json_string(text);
    free(text);
    return value;
}

ssize_t bytes_from_json(const json_t *value, uint8_t *bytes, size_t room)
{
    const char *text = json_string_value(value), *end;
    size_t count;

    if (!text || sodium_base642bin(bytes, room, text, json_string_length(value), NULL, &count, &end,
                                   sodium_base64_VARIANT_ORIGINAL))
        return -EINVAL;
    return end == text + json_string_length(value) ? (ssize_t)count : -EINVAL;
}
