/* SPDX-License-Identifier: Apache-2.0 */
/* Decodes an index of any bytes. What decodes encodes to the same bytes. */
#include "repo_index.h"
#include "require.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vb_pack *packs;
    size_t count, length;
    uint8_t *again;
    int result = vb_index_decode(data, size, &packs, &count);

    require(result == 0 || result == VDISK_E_MALFORMED);
    if (result)
        return 0;
    require(vb_index_encode(packs, count, &again, &length) == 0);
    require(length == size && memcmp(again, data, size) == 0);
    free(again);
    for (size_t i = 0; i < count; i++) {
        require(packs[i].segment_count >= 1 && packs[i].length <= VB_PACK_MAX);
        vb_pack_release(&packs[i]);
    }
    free(packs);
    return 0;
}
