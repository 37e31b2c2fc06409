/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sizes in and out; see sizes.h. By hand, because strtoull takes signs, blanks and overflows.
 */
#include "sizes.h"

#include <stdio.h>
#include <string.h>

static bool parse_digits(const char **text, uint64_t *number)
{
    const char *at = *text;
    uint64_t value = 0;

    if (*at < '0' || *at > '9')
        return false;
    for (; *at >= '0' && *at <= '9'; at++) {
        if (__builtin_mul_overflow(value, UINT64_C(10), &value) ||
            __builtin_add_overflow(value, (uint64_t)(*at - '0'), &value))
            return false;
    }
    *text = at;
    *number = value;
    return true;
}

bool sizes_parse_number(const char *text, uint64_t *number)
{
    uint64_t value;

    if (!parse_digits(&text, &value) || *text)
        return false;
    *number = value;
    return true;
}

bool sizes_parse(const char *text, uint64_t *bytes)
{
    static const char letters[] = "KMGTPkmgtp";
    uint64_t value;

    if (!parse_digits(&text, &value))
        return false;
    if (*text) {
        const char *letter = strchr(letters, *text);
        unsigned shift;

        if (!letter || text[1])
            return false;
        shift = 10 * (unsigned)((letter - letters) % 5 + 1);
        if (__builtin_mul_overflow(value, UINT64_C(1) << shift, &value))
            return false;
    }
    *bytes = value;
    return true;
}

bool sizes_parse_rate(const char *text, uint64_t *rate, uint64_t *burst)
{
    const char *slash = strchr(text, '/');
    size_t length = slash ? (size_t)(slash - text) : strlen(text);
    char first[SIZES_TEXT_BYTES];

    *burst = 0;
    if (length >= sizeof(first))
        return false;
    memcpy(first, text, length);
    first[length] = 0;
    return sizes_parse(first, rate) && *rate <= INT64_MAX &&
           (!slash || (sizes_parse(slash + 1, burst) && *burst <= INT64_MAX));
}

const char *sizes_text(char text[SIZES_TEXT_BYTES], uint64_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    uint64_t whole = bytes, rest = 0;

    while (whole >= 1024) {
        rest = whole % 1024;
        whole /= 1024;
        unit++;
    }
    if (unit > 0 && rest * 10 / 1024 > 0)
        snprintf(text, SIZES_TEXT_BYTES, "%llu.%llu %s", (unsigned long long)whole,
                 (unsigned long long)(rest * 10 / 1024), units[unit]);
    else
        snprintf(text, SIZES_TEXT_BYTES, "%llu %s", (unsigned long long)whole, units[unit]);
    return text;
}
