/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A walk over JSON text; see json_find.h. Text that is no JSON gives no matches.
 */
#include "json_find.h"

#include <stdlib.h>
#include <string.h>

#define KEY_BYTES 64u

static const char *skip_blanks(const char *at)
{
    return at + strspn(at, " \t\r\n");
}

/* Copies the string that begins at the quote and returns what is behind it; NULL without an end.
 * One that is too long is cut; *fits says so. */
static const char *take_string(const char *at, char *value, size_t size, bool *fits)
{
    size_t length = 0;

    *fits = true;
    for (at++; *at != '"'; at++) {
        char c = *at;

        if (c == '\0')
            return NULL;
        if (c == '\\') {
            c = *++at;
            if (c == '\0')
                return NULL;
            if (c == 'u') {
                char digits[5] = "";
                long point;

                strncpy(digits, at + 1, 4);
                point = strtol(digits, NULL, 16);
                if (strlen(digits) != 4)
                    return NULL;
                c = point > 0 && point < 0x80 ? (char)point : '?';
                at += 4;
            } else if (strchr("bfnrt", c)) {
                c = '?';
            }
        }
        if (length + 1 < size)
            value[length++] = c;
        else
            *fits = false;
    }
    value[length] = '\0';
    return at + 1;
}

/* Calls for the next key at any depth: returns what stands behind its colon, or NULL at the end. */
static const char *next_key(const char *at, int *depth, char key[KEY_BYTES])
{
    while (*at) {
        bool fits;

        if (*at == '{' || *at == '[')
            (*depth)++;
        if (*at == '}' || *at == ']')
            (*depth)--;
        if (*at != '"') {
            at++;
            continue;
        }
        at = take_string(at, key, KEY_BYTES, &fits);
        if (!at)
            return NULL;
        at = skip_blanks(at);
        if (*at == ':' && fits)
            return skip_blanks(at + 1);
    }
    return NULL;
}

bool json_find_string(const char *json, const char *key, char *value, size_t size)
{
    char word[KEY_BYTES];
    int depth = 0;
    const char *at = json;

    while ((at = next_key(at, &depth, word))) {
        bool fits;

        if (depth == 1 && *at == '"' && strcmp(word, key) == 0)
            return take_string(at, value, size, &fits) && fits;
    }
    return false;
}

bool json_has_key(const char *json, const char *key)
{
    char word[KEY_BYTES];
    int depth = 0;
    const char *at = json;

    while ((at = next_key(at, &depth, word))) {
        if (strcmp(word, key) == 0)
            return true;
    }
    return false;
}
