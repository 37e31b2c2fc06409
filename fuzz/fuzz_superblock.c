/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decodes a superblock's body of any bytes. What decodes is within its bounds and encodes to the
 * same bytes: nothing that must be zero was passed over.
 */
#include "format.h"
#include "require.h"

static void check_bounds(const struct vd_superblock *s)
{
    require(s->size >= 512 && s->size <= VDISK_SIZE_MAX && s->size % 512 == 0);
    require(s->reserve_count <= VD_RESERVE_RUNS && s->used_blocks <= s->host_blocks);
    for (unsigned t = VD_TREE_MAP; t <= VD_TREE_SNAPS; t++)
        require(s->height[t] <= VD_HEIGHT_MAX && s->root[t].blocks <= VD_NODE_BLOCKS_MAX);
    for (unsigned i = 0; i < s->reserve_count; i++)
        require(s->reserve[i].count && s->reserve[i].count <= VD_PAGE_BLOCKS);
    require(strlen(s->base.path) <= VDISK_PATH_MAX);
    require(strlen(s->base.snapshot) <= VDISK_NAME_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct vd_superblock super;
    static uint8_t body[VD_SUPER_BODY], again[VD_SUPER_BODY];
    const struct vd_header header = {.cluster_log2 = 14, .journal_log2 = 5};
    struct vdisk_error error = {0};

    take_bytes(body, sizeof(body), data, size);
    int r = vd_superblock_decode(&super, body, &header, &error);
    require(r == 0 || (r == VDISK_E_MALFORMED && error.code == r));
    if (r)
        return 0;
    check_bounds(&super);
    vd_superblock_encode(&super, again);
    require(memcmp(body, again, sizeof(body)) == 0);
    return 0;
}
