/* SPDX-License-Identifier: Apache-2.0 */
/* Lengths of time; see durations.h. */
#include "durations.h"

#include "sizes.h"

#include <string.h>

#define DAY_S    UINT64_C(86400)
#define YEAR_S   (365 * DAY_S)
#define LONGEST  (1000 * YEAR_S)
#define TEXT_MAX 24u

static uint64_t unit_of(char letter)
{
    switch (letter) {
    case 's':
        return 1;
    case 'm':
        return 60;
    case 'h':
        return 3600;
    case 'd':
        return DAY_S;
    case 'w':
        return 7 * DAY_S;
    case 'y':
        return YEAR_S;
    default:
        return 0;
    }
}

bool durations_parse(const char *text, uint64_t unit, uint64_t *seconds)
{
    size_t length = strlen(text);
    char digits[TEXT_MAX] = "";
    uint64_t number;

    if (length == 0 || length >= sizeof(digits))
        return false;
    memcpy(digits, text, length);
    if (unit_of(digits[length - 1])) {
        unit = unit_of(digits[length - 1]);
        digits[length - 1] = '\0';
    }
    if (!sizes_parse_number(digits, &number) || (unit == 0 && number != 0))
        return false;
    if (unit && number > LONGEST / unit)
        return false;
    *seconds = number * unit;
    return true;
}
