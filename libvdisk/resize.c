/* SPDX-License-Identifier: Apache-2.0 */
/* Changing the size of the drive. */
#include "bytes.h"
#include "checkpoint.h"
#include "data.h"
#include "map.h"

#include <errno.h>

/* What an overlay gains must read as zeros, whatever the base has there. */
static int hide_base(struct vdisk_image *image, uint64_t before, uint64_t size)
{
    uint64_t shown = vd_min64(size, image->super->base.size), reached;
    uint64_t per = vd_cluster_blocks(image);
    uint64_t end = vd_div_up(vd_guest_blocks(shown), per) * per;
    if (!image->super->overlay || before >= shown)
        return 0;
    return vd_map_clear(image, vd_guest_blocks(before), end, true, UINT32_MAX, &reached);
}

static int apply_size(struct vdisk_image *image, void *arg, bool *changed)
{
    uint64_t size = *(const uint64_t *)arg, before = image->super->size;
    uint8_t height = vd_height_for(vd_div_up(size, (uint64_t)VD_LEAF_BLOCKS * VD_BLOCK));
    *changed = true;
    int r = vd_tree_grow(&image->map, height);
    if (r)
        return r;
    image->super->size = size;
    return size > before ? hide_base(image, before, size) : 0;
}

/* The same for the rest of the last block, where the old size is not a multiple of it. */
static int hide_base_in_block(struct vdisk_image *image, uint64_t before)
{
    static const uint8_t zeros[VD_BLOCK];
    uint64_t rest = VD_BLOCK - before % VD_BLOCK;
    if (!image->super->overlay || before >= image->super->base.size || rest == VD_BLOCK)
        return 0;
    return vd_do_write(image, before, zeros, rest, false);
}

static int resize_entry(struct vdisk_image *image, void *arg)
{
    uint64_t size = *(const uint64_t *)arg, before = image->size;
    struct vd_change change = {
        .apply = apply_size, .arg = arg, .relief = size < before, .reserve_blocks = 16};
    int r = 0;
    if (size < before) {
        /* Nothing is let in behind the new end; what is there goes, so that growing again shows
         * zeros. */
        image->size = size;
        r = vd_do_clear(image, size, before - size, true);
    } else {
        r = hide_base_in_block(image, before);
    }
    if (!r)
        r = vd_checkpoint(image, &change);
    image->size = r ? before : size;
    return r;
}

int vdisk_resize(struct vdisk_image *image, uint64_t size, bool may_shrink)
{
    if (size == 0 || size % 512 || size > VDISK_SIZE_MAX)
        return vd_image_fail(image, -EINVAL,
                             "the size must be a multiple of 512 bytes, from 512 to 64 PiB");
    if (size < image->size && !may_shrink)
        return vd_image_fail(image, -EINVAL,
                             "the new size is smaller: what lies beyond would be lost");
    return size == image->size ? 0 : vd_run(image, resize_entry, &size);
}
