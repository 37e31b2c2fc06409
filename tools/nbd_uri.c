/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NBD URIs; see nbd_uri.h.
 */
#include "nbd_uri.h"

#include <stddef.h>
#include <string.h>

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool nbd_uri_is(const char *text)
{
    return starts_with(text, "nbd://") || starts_with(text, "nbd+unix://") ||
           starts_with(text, "nbds://") || starts_with(text, "nbds+unix://");
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Copies [from, end) with its %XX resolved; false when it does not fit or is wrong. */
static bool decode(const char *from, const char *end, char *to, size_t size)
{
    size_t length = 0;

    while (from < end) {
        char c = *from++;

        if (c == '%') {
            int high = end - from >= 2 ? hex_value(from[0]) : -1;
            int low = high >= 0 ? hex_value(from[1]) : -1;

            if (low < 0 || (high == 0 && low == 0))
                return false;
            c = (char)(high << 4 | low);
            from += 2;
        }
        if (length + 1 >= size)
            return false;
        to[length++] = c;
    }
    to[length] = '\0';
    return true;
}

/* HOST, HOST:PORT, [ADDRESS]:PORT; a user in front is passed over. */
static bool parse_authority(const char *from, const char *end, struct nbd_address *address)
{
    const char *at = memchr(from, '@', (size_t)(end - from));
    const char *host_end, *colon;

    if (at)
        from = at + 1;
    if (from < end && *from == '[') {
        host_end = memchr(from, ']', (size_t)(end - from));
        if (!host_end || !decode(from + 1, host_end, address->host, sizeof(address->host)))
            return false;
        colon = host_end + 1;
    } else {
        colon = memchr(from, ':', (size_t)(end - from));
        if (!colon)
            colon = end;
        if (!decode(from, colon, address->host, sizeof(address->host)))
            return false;
    }
    if (colon == end)
        strcpy(address->port, "10809");
    else if (*colon != ':' || !decode(colon + 1, end, address->port, sizeof(address->port)))
        return false;
    return address->host[0] && address->port[0];
}

/* The value of socket= in ?a=b&c=d. */
static bool parse_socket(const char *query, struct nbd_address *address)
{
    while (*query) {
        size_t length = strcspn(query, "&;");

        if (starts_with(query, "socket="))
            return decode(query + 7, query + length, address->socket, sizeof(address->socket)) &&
                   address->socket[0];
        query += length + (query[length] != '\0');
    }
    return false;
}

const char *nbd_uri_parse(const char *text, struct nbd_address *address)
{
    bool is_unix = starts_with(text, "nbd+unix://");
    const char *authority, *path, *query;

    memset(address, 0, sizeof(*address));
    if (starts_with(text, "nbds"))
        return "is over TLS, which is not spoken here; forward it to a Unix socket";
    if (!is_unix && !starts_with(text, "nbd://"))
        return "is not an NBD URI";
    authority = strstr(text, "://") + 3;
    path = authority + strcspn(authority, "/?#");
    query = path + strcspn(path, "?#");
    if (path < query && !decode(path + 1, query, address->name, sizeof(address->name)))
        return "the name of the export is too long or wrongly escaped";
    if (!is_unix)
        return parse_authority(authority, path, address)
                   ? NULL
                   : "is not of the form nbd://HOST:PORT/NAME";
    if (*query != '?' || !parse_socket(query + 1, address))
        return "is not of the form nbd+unix:///NAME?socket=PATH, or PATH is too long";
    return NULL;
}
