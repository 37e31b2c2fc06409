/* SPDX-License-Identifier: Apache-2.0 */
/* Options of the NBD handshake. Every length here is a stranger's: see nbd_options.h. */
#include "nbd_options.h"

struct cursor {
    const uint8_t *at;
    size_t left;
};

static bool take(struct cursor *cursor, size_t length, const uint8_t **out)
{
    if (length > cursor->left)
        return false;
    *out = cursor->at;
    cursor->at += length;
    cursor->left -= length;
    return true;
}

static bool take16(struct cursor *cursor, uint16_t *out)
{
    const uint8_t *bytes;

    if (!take(cursor, sizeof(*out), &bytes))
        return false;
    *out = nbd_get16(bytes);
    return true;
}

static bool take32(struct cursor *cursor, uint32_t *out)
{
    const uint8_t *bytes;

    if (!take(cursor, sizeof(*out), &bytes))
        return false;
    *out = nbd_get32(bytes);
    return true;
}

static bool take_string(struct cursor *cursor, struct nbd_string *out)
{
    const uint8_t *bytes;

    if (!take32(cursor, &out->length) || out->length > NBD_STRING_MAX ||
        !take(cursor, out->length, &bytes))
        return false;
    out->text = (const char *)bytes;
    return true;
}

bool nbd_option_parse(const uint8_t header[static NBD_OPTION_BYTES], struct nbd_option *option)
{
    option->number = nbd_get32(header + 8);
    option->length = nbd_get32(header + 12);
    return nbd_get64(header) == NBD_OPT_MAGIC;
}

bool nbd_info_parse(const uint8_t *payload, size_t length, struct nbd_string *name, unsigned *asked)
{
    struct cursor cursor = {payload, length};
    uint16_t count, item;

    *asked = 0;
    if (!take_string(&cursor, name) || !take16(&cursor, &count))
        return false;
    for (unsigned i = 0; i < count; i++) {
        if (!take16(&cursor, &item))
            return false;
        if (item < 16)
            *asked |= 1u << item;
    }
    return cursor.left == 0;
}

bool nbd_queries_parse(const uint8_t *payload, size_t length, struct nbd_queries *queries)
{
    struct cursor cursor = {payload, length};
    struct nbd_string query;

    if (!take_string(&cursor, &queries->name) || !take32(&cursor, &queries->count))
        return false;
    queries->at = cursor.at;
    queries->left = cursor.left;
    /* Each takes four bytes at least, so that the count is bounded by the payload. */
    for (uint32_t i = 0; i < queries->count; i++) {
        if (!take_string(&cursor, &query))
            return false;
    }
    return cursor.left == 0;
}

bool nbd_queries_next(struct nbd_queries *queries, struct nbd_string *query)
{
    struct cursor cursor = {queries->at, queries->left};

    if (!take_string(&cursor, query))
        return false;
    queries->at = cursor.at;
    queries->left = cursor.left;
    return true;
}

bool nbd_string_after(const struct nbd_string *string, const char *prefix, struct nbd_string *rest)
{
    size_t length = strlen(prefix);

    if (string->length < length || memcmp(string->text, prefix, length) != 0)
        return false;
    *rest = (struct nbd_string){string->text + length, string->length - (uint32_t)length};
    return true;
}

bool nbd_string_is(const struct nbd_string *string, const char *text)
{
    struct nbd_string rest;

    return nbd_string_after(string, text, &rest) && rest.length == 0;
}

bool nbd_string_copy(const struct nbd_string *string, char *out, size_t room)
{
    if (string->length >= room || memchr(string->text, 0, string->length))
        return false;
    memcpy(out, string->text, string->length);
    out[string->length] = 0;
    return true;
}

void nbd_greeting_encode(uint8_t out[static NBD_GREETING_BYTES])
{
    nbd_put64(out, NBD_MAGIC);
    nbd_put64(out + 8, NBD_OPT_MAGIC);
    nbd_put16(out + 16, NBD_HANDSHAKE_FIXED | NBD_HANDSHAKE_NO_ZEROES);
}

void nbd_option_reply_encode(uint8_t out[static NBD_OPT_REPLY_BYTES], uint32_t option,
                             uint32_t type, uint32_t length)
{
    nbd_put64(out, NBD_REP_MAGIC);
    nbd_put32(out + 8, option);
    nbd_put32(out + 12, type);
    nbd_put32(out + 16, length);
}

uint16_t nbd_export_flags(bool read_only, bool structured, bool extended, bool has_contexts)
{
    unsigned flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
                     NBD_FLAG_SEND_CACHE | NBD_FLAG_CAN_MULTI_CONN;

    flags |= read_only ? NBD_FLAG_READ_ONLY
                       : NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    flags |= structured || extended ? NBD_FLAG_SEND_DF : 0;
    flags |= extended && has_contexts ? NBD_FLAG_BLOCK_STATUS_PAYLOAD : 0;
    return (uint16_t)flags;
}
