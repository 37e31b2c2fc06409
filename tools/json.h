/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A writer of JSON: objects and arrays are opened and closed, values go in between. `name` is the
 * key within an object and NULL within an array and at the top. The output is valid UTF-8 and
 * ASCII but for what is valid UTF-8 in a string; other bytes become U+FFFD.
 *
 * Whether it could be written is found out by main(), which looks at stdout at the end.
 */
#ifndef TOOLS_JSON_H
#define TOOLS_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Programs are also linked with jansson, which has functions of these names and would call ours. */
#define json_string vd_json_string
#define json_null   vd_json_null

struct json {
    FILE *out;
    unsigned depth;
    unsigned row_depth; /* of the object that is on one line; 0: none */
    bool has_items;     /* in the innermost container */
};

void json_begin(struct json *json, FILE *out);
/* Ends the text with a newline; every container must be closed. */
void json_end(struct json *json);

void json_open_object(struct json *json, const char *name);
void json_close_object(struct json *json);
void json_open_array(struct json *json, const char *name);
void json_close_array(struct json *json);

void json_string(struct json *json, const char *name, const char *value); /* NULL: null */
void json_number(struct json *json, const char *name, uint64_t value);
void json_signed(struct json *json, const char *name, int64_t value);
void json_bool(struct json *json, const char *name, bool value);
void json_null(struct json *json, const char *name);
void json_hex(struct json *json, const char *name, const uint8_t *bytes, size_t length);

/* Length of the UTF-8 sequence at `at`, which ends with a NUL, or 0 when it is none (overlong,
 * surrogate, cut off). */
unsigned json_utf8_length(const unsigned char *at);

#endif
