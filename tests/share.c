/* SPDX-License-Identifier: Apache-2.0 */
/* Rounds divided among runs (share.h). */
#include "share.h"

#include <stdio.h>
#include <stdlib.h>

bool share_has(uint64_t n)
{
    const char *text = getenv("VDISK_TEST_SHARE");
    unsigned own, all;

    if (!text)
        return true;
    if (sscanf(text, "%u/%u", &own, &all) != 2 || own < 1 || own > all) {
        fprintf(stderr, "VDISK_TEST_SHARE is not I/N: %s\n", text);
        abort(); /* else rounds would be done by nobody */
    }
    return n % all == own - 1;
}
