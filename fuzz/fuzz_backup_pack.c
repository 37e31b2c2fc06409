/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decodes the directory of a pack of any bytes; the first four are the pack's length, the next its
 * segments. What decodes is within the pack, and encodes to the same bytes.
 */
#include "cursor.h"
#include "pack.h"
#include "require.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vb_entry *entries;
    uint64_t end = 0, pack_bytes;
    unsigned segments;
    uint32_t count;
    int result;

    if (size < 5)
        return 0;
    pack_bytes = vb_get_le(data, 4);
    segments = data[4];
    result = vb_directory_decode(data + 5, size - 5, pack_bytes, segments, &entries, &count);
    require(result == 0 || result == VDISK_E_MALFORMED);
    if (result)
        return 0;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t again[VB_ENTRY_BYTES];

        require(entries[i].offset >= end && entries[i].segment < segments);
        require(entries[i].length <= VB_RECORD_MAX);
        end = (uint64_t)entries[i].offset + entries[i].length;
        require(end + VB_PACK_TRAILER <= pack_bytes);
        vb_entry_encode(&entries[i], again);
        require(memcmp(again, data + 13 + (size_t)i * VB_ENTRY_BYTES, sizeof(again)) == 0);
    }
    free(entries);
    return 0;
}
