/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The JSON writer; see json.h. An object in a list gets one line, all else a line for each value.
 */
#include "json.h"

#include <assert.h>
#include <inttypes.h>

void json_begin(struct json *json, FILE *out)
{
    *json = (struct json){.out = out};
}

void json_end(struct json *json)
{
    assert(json->depth == 0);
    fputc('\n', json->out);
}

static bool in_row(const struct json *json)
{
    return json->row_depth && json->depth >= json->row_depth;
}

static void new_line(struct json *json)
{
    if (in_row(json))
        return;
    fputc('\n', json->out);
    for (unsigned i = 0; i < json->depth; i++)
        fputs("  ", json->out);
}

unsigned json_utf8_length(const unsigned char *at)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned length = *at < 0x80       ? 1
                      : *at >> 5 == 6  ? 2
                      : *at >> 4 == 14 ? 3
                      : *at >> 3 == 30 ? 4
                                       : 0;
    uint32_t point;

    if (length < 2)
        return length;
    point = *at & (0x7fu >> length);
    for (unsigned i = 1; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        point = point << 6 | (at[i] & 0x3f);
    }
    if (point < least[length] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000))
        return 0;
    return length;
}

static void put_string(FILE *out, const char *value)
{
    const unsigned char *at = (const unsigned char *)value;

    fputc('"', out);
    while (*at) {
        unsigned length = json_utf8_length(at);

        if (*at == '"' || *at == '\\')
            fprintf(out, "\\%c", *at);
        else if (*at < 0x20 || *at == 0x7f)
            fprintf(out, "\\u%04x", *at);
        else if (length == 0)
            fputs("\xef\xbf\xbd", out);
        else
            fwrite(at, 1, length, out);
        at += length ? length : 1;
    }
    fputc('"', out);
}

static void begin_value(struct json *json, const char *name)
{
    if (json->has_items)
        fputs(in_row(json) ? ", " : ",", json->out);
    if (json->depth)
        new_line(json);
    json->has_items = true;
    if (name) {
        put_string(json->out, name);
        fputs(": ", json->out);
    }
}

static void open_container(struct json *json, const char *name, char bracket)
{
    begin_value(json, name);
    fputc(bracket, json->out);
    json->depth++;
    json->has_items = false;
    if (!json->row_depth && bracket == '{' && !name && json->depth > 1)
        json->row_depth = json->depth;
}

static void close_container(struct json *json, char bracket)
{
    bool was_in_row = in_row(json);

    assert(json->depth > 0);
    json->depth--;
    if (json->has_items && !was_in_row)
        new_line(json);
    if (json->depth < json->row_depth)
        json->row_depth = 0;
    fputc(bracket, json->out);
    json->has_items = true;
}

void json_open_object(struct json *json, const char *name)
{
    open_container(json, name, '{');
}

void json_close_object(struct json *json)
{
    close_container(json, '}');
}

void json_open_array(struct json *json, const char *name)
{
    open_container(json, name, '[');
}

void json_close_array(struct json *json)
{
    close_container(json, ']');
}

void json_string(struct json *json, const char *name, const char *value)
{
    begin_value(json, name);
    if (value)
        put_string(json->out, value);
    else
        fputs("null", json->out);
}

void json_number(struct json *json, const char *name, uint64_t value)
{
    begin_value(json, name);
    fprintf(json->out, "%" PRIu64, value);
}

void json_signed(struct json *json, const char *name, int64_t value)
{
    begin_value(json, name);
    fprintf(json->out, "%" PRId64, value);
}

void json_bool(struct json *json, const char *name, bool value)
{
    begin_value(json, name);
    fputs(value ? "true" : "false", json->out);
}

void json_null(struct json *json, const char *name)
{
    begin_value(json, name);
    fputs("null", json->out);
}

void json_hex(struct json *json, const char *name, const uint8_t *bytes, size_t length)
{
    begin_value(json, name);
    fputc('"', json->out);
    for (size_t i = 0; i < length; i++)
        fprintf(json->out, "%02x", bytes[i]);
    fputc('"', json->out);
}
