/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decodes a manifest, or a prune record (an odd first byte), of any bytes. What decodes is within
 * its bounds and encodes to the same bytes.
 */
#include "manifest.h"
#include "require.h"

static void try_manifest(const uint8_t *data, size_t size)
{
    static uint8_t again[VB_MANIFEST_MAX];
    static struct vb_manifest manifest;
    int result = vb_manifest_decode(&manifest, data, size);

    require(result == 0 || result == VDISK_E_MALFORMED);
    if (result)
        return;
    require(manifest.size > 0 && manifest.size <= VDISK_SIZE_MAX);
    require(manifest.level <= VB_LEVEL_MAX && manifest.tag_count <= VB_TAGS_MAX);
    require(vb_manifest_encode(&manifest, again) == size && memcmp(again, data, size) == 0);
}

static void try_prune(const uint8_t *data, size_t size)
{
    struct vb_prune prune;
    uint8_t *again;
    size_t length;

    if (vb_prune_decode(&prune, data, size))
        return;
    require(prune.count <= VB_PRUNE_ENTRIES_MAX);
    require(vb_prune_encode(&prune, &again, &length) == 0);
    require(length == size && memcmp(again, data, size) == 0);
    free(again);
    free(prune.removed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0 && data[0] % 2)
        try_prune(data + 1, size - 1);
    else if (size > 0)
        try_manifest(data + 1, size - 1);
    return 0;
}
