/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See limit_json.h.
 */
#include "limit_json.h"

const char *const limit_names[LIMIT_KINDS] = {"read_ops", "write_ops", "read_bytes", "write_bytes"};

static bool take_number(const json_t *value, uint64_t *out)
{
    json_int_t number = json_integer_value(value);

    if (!json_is_integer(value) || number < 0)
        return false;
    *out = (uint64_t)number;
    return true;
}

bool limit_from_json(json_t *value, struct limit_settings *limits)
{
    size_t known = 0;

    if (!json_is_object(value))
        return false;
    for (unsigned kind = 0; kind < LIMIT_KINDS; kind++) {
        json_t *setting = json_object_get(value, limit_names[kind]);
        const json_t *rate = json_object_get(setting, "rate");
        const json_t *burst = json_object_get(setting, "burst");

        if (!setting)
            continue;
        if (!rate || json_object_size(setting) != (burst ? 2u : 1u) ||
            !take_number(rate, &limits->kind[kind].rate) ||
            (burst && !take_number(burst, &limits->kind[kind].burst)))
            return false;
        known++;
    }
    return known == json_object_size(value);
}

json_t *limit_to_json(const struct limit_settings *limits)
{
    json_t *root = json_object();

    for (unsigned kind = 0; kind < LIMIT_KINDS; kind++)
        json_object_set_new(root, limit_names[kind],
                            json_pack("{s:I, s:I}", "rate", (json_int_t)limits->kind[kind].rate,
                                      "burst", (json_int_t)limits->kind[kind].burst));
    return root;
}
