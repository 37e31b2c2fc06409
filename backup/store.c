/* SPDX-License-Identifier: Apache-2.0 */
/* What all stores share; see store.h. */
#include "store.h"

#include <sodium.h>
#include <string.h>

const char *vb_place_name(enum vb_place place)
{
    static const char *const names[VB_PLACES] = {
        [VB_CONFIG] = "config",         [VB_KEYS] = "keys",
        [VB_WRITERS] = "writers",       [VB_PACKS] = "packs",
        [VB_INDEX_DATA] = "index-data", [VB_INDEX_TREE] = "index-tree",
        [VB_BACKUPS] = "backups",       [VB_LEASES] = "leases",
    };

    return names[place];
}

char *vb_id_text(char text[static VB_NAME_TEXT_BYTES], const struct vb_id *id)
{
    return sodium_bin2hex(text, VB_NAME_TEXT_BYTES, id->b, sizeof(id->b));
}

bool vb_id_parse(const char *text, struct vb_id *id)
{
    size_t length;

    return strlen(text) == 2 * VB_ID_BYTES && strspn(text, "0123456789abcdef") == 2 * VB_ID_BYTES &&
           sodium_hex2bin(id->b, sizeof(id->b), text, 2 * VB_ID_BYTES, NULL, &length, NULL) == 0;
}

bool vb_id_equal(const struct vb_id *a, const struct vb_id *b)
{
    return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}

bool vb_id_is_zero(const struct vb_id *id)
{
    return sodium_is_zero(id->b, sizeof(id->b));
}

int vb_id_compare(const void *a, const void *b)
{
    return memcmp(a, b, VB_ID_BYTES);
}
