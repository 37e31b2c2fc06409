/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys as text; see textformat.h. Base64 is computed, not looked up, so that no table access
 * depends on a secret; the secret's bytes stay where the caller put them.
 */
#include "textformat.h"

#include <string.h>

#define KEY_BYTES 32u

_Static_assert(VDISK_IDENTITY_BYTES == KEY_BYTES && VDISK_PUBLIC_KEY_BYTES == KEY_BYTES,
               "both keys have one length");

/* 0xff where low <= value <= high, else 0; of values below 256. */
static unsigned between(unsigned value, unsigned low, unsigned high)
{
    return (~((value - low) | (high - value)) >> 8) & 0xff;
}

static char put_six(unsigned six)
{
    unsigned c = (between(six, 0, 25) & (six + 'A')) | (between(six, 26, 51) & (six - 26 + 'a')) |
                 (between(six, 52, 61) & (six - 52 + '0')) | (between(six, 62, 62) & '+') |
                 (between(six, 63, 63) & '/');

    return (char)c;
}

/* The six bits; *bad gets bits when it is no character of the alphabet. */
static unsigned get_six(unsigned char c, unsigned *bad)
{
    unsigned upper = between(c, 'A', 'Z'), lower = between(c, 'a', 'z');
    unsigned digit = between(c, '0', '9'), plus = between(c, '+', '+');
    unsigned slash = between(c, '/', '/');

    *bad |= ~(upper | lower | digit | plus | slash) & 0xff;
    return (upper & (c - 'A' + 0u)) | (lower & (c - 'a' + 26u)) | (digit & (c - '0' + 52u)) |
           (plus & 62) | (slash & 63);
}

static void encode(char *text, const uint8_t key[KEY_BYTES])
{
    for (unsigned i = 0; i < KEY_BYTES; i += 3) {
        unsigned last = i + 2 < KEY_BYTES ? key[i + 2] : 0;
        unsigned bits = (unsigned)key[i] << 16 | (unsigned)key[i + 1] << 8 | last;

        *text++ = put_six(bits >> 18);
        *text++ = put_six(bits >> 12 & 63);
        *text++ = put_six(bits >> 6 & 63);
        *text++ = i + 2 < KEY_BYTES ? put_six(bits & 63) : '=';
    }
}

static bool decode(const char *text, uint8_t key[KEY_BYTES])
{
    unsigned bad = 0;

    for (unsigned i = 0; i < KEY_BYTES; i += 3, text += 4) {
        bool is_last = i + 2 >= KEY_BYTES;
        unsigned bits = get_six((unsigned char)text[0], &bad) << 18;

        bits |= get_six((unsigned char)text[1], &bad) << 12;
        bits |= get_six((unsigned char)text[2], &bad) << 6;
        if (is_last)
            bad |= (unsigned)(text[3] != '=') | (bits & 0xff); /* one spelling for each key */
        else
            bits |= get_six((unsigned char)text[3], &bad);
        key[i] = (uint8_t)(bits >> 16);
        key[i + 1] = (uint8_t)(bits >> 8 & 0xff);
        if (!is_last)
            key[i + 2] = (uint8_t)(bits & 0xff);
    }
    return bad == 0;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool get(const char *text, size_t length, const char *prefix, uint8_t key[KEY_BYTES])
{
    size_t prefix_length = strlen(prefix);

    while (length > 0 && is_blank(text[length - 1]))
        length--;
    while (length > 0 && is_blank(text[0])) {
        text++;
        length--;
    }
    return length == prefix_length + TEXTFORMAT_BASE64_CHARS &&
           memcmp(text, prefix, prefix_length) == 0 && decode(text + prefix_length, key);
}

void textformat_put_identity(char text[TEXTFORMAT_IDENTITY_CHARS],
                             const uint8_t identity[VDISK_IDENTITY_BYTES])
{
    static const char prefix[] = TEXTFORMAT_IDENTITY_PREFIX;

    memcpy(text, prefix, sizeof(prefix) - 1);
    encode(text + sizeof(prefix) - 1, identity);
}

void textformat_put_recipient(char text[TEXTFORMAT_RECIPIENT_CHARS],
                              const uint8_t public_key[VDISK_PUBLIC_KEY_BYTES])
{
    static const char prefix[] = TEXTFORMAT_RECIPIENT_PREFIX;

    memcpy(text, prefix, sizeof(prefix) - 1);
    encode(text + sizeof(prefix) - 1, public_key);
}

bool textformat_get_identity(const void *text, size_t length,
                             uint8_t identity[VDISK_IDENTITY_BYTES])
{
    return get(text, length, TEXTFORMAT_IDENTITY_PREFIX, identity);
}

bool textformat_get_recipient(const void *text, size_t length,
                              uint8_t public_key[VDISK_PUBLIC_KEY_BYTES])
{
    return get(text, length, TEXTFORMAT_RECIPIENT_PREFIX, public_key);
}
