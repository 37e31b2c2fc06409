/* SPDX-License-Identifier: Apache-2.0 */
/* See control_json.h. */
#include "control_json.h"

#include "report.h"

#include <errno.h>
#include <string.h>

#define DEPTH_MAX 4u

const char *control_code(int code)
{
    switch (code) {
    case VDISK_E_WRONG_KEY:
        return "wrong-key";
    case VDISK_E_NOT_AUTHENTIC:
        return "not-authentic";
    case VDISK_E_MALFORMED:
        return "malformed";
    case VDISK_E_IN_USE:
        return "in-use";
    case VDISK_E_EXISTS:
        return "exists";
    case VDISK_E_NOT_FOUND:
    case -ENOENT:
        return "not-found";
    case VDISK_E_LIMIT:
        return "limit";
    case VDISK_E_UNSUPPORTED:
    case -EOPNOTSUPP:
        return "unsupported";
    case -EINVAL:
        return "invalid";
    case -EPERM:
    case -EACCES:
        return "not-permitted";
    case -ENOSPC:
    case -EDQUOT:
        return "no-space";
    default:
        return "failed";
    }
}

/* Whether brackets nest no deeper than any request needs. */
static bool is_shallow(const char *line, size_t length)
{
    bool in_string = false;
    size_t depth = 0;

    for (size_t i = 0; i < length; i++) {
        if (in_string && line[i] == '\\')
            i++;
        else if (line[i] == '"')
            in_string = !in_string;
        else if (!in_string && (line[i] == '{' || line[i] == '['))
            depth++;
        else if (!in_string && (line[i] == '}' || line[i] == ']') && depth > 0)
            depth--;
        if (depth > DEPTH_MAX)
            return false;
    }
    return true;
}

int control_json_load(const char *line, size_t length, json_t **root, const char **command,
                      struct vdisk_error *error)
{
    json_error_t where;

    if (!is_shallow(line, length))
        return error_set(error, -EINVAL, "the request nests too deeply");
    *root = json_loadb(line, length, JSON_REJECT_DUPLICATES, &where);
    if (!*root)
        return error_set(error, -EINVAL, "the request is not JSON: %s", where.text);
    *command = json_string_value(json_object_get(*root, "command"));
    return 0;
}

bool control_json_text(const json_t *value, char *out, size_t size)
{
    const char *text = json_string_value(value); /* without a NUL in it: the parser refuses one */
    size_t length = text ? json_string_length(value) : size;

    if (length >= size || (text && strlen(text) != length))
        return false;
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            return false;
    }
    memcpy(out, text, length + 1);
    return true;
}

bool control_json_bool(const json_t *value, bool *out)
{
    *out = json_is_true(value);
    return json_is_boolean(value);
}

bool control_json_number(const json_t *value, uint64_t max, uint64_t *out)
{
    json_int_t number = json_integer_value(value);

    if (!json_is_integer(value) || number < 0 || (uint64_t)number > max)
        return false;
    *out = (uint64_t)number;
    return true;
}
