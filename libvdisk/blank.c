/* SPDX-License-Identifier: Apache-2.0 */
/* Writing zeros ahead; see blank.h. */
#include "blank.h"

#include "bytes.h"
#include "image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STRETCH_BLOCKS 256u
#define FILE_SHARE     8u /* of a small file, a stretch is not more than this share */

int vd_blank_write(struct vdisk_image *image, uint64_t block, uint64_t count)
{
    size_t bytes = (size_t)vd_min64(count, STRETCH_BLOCKS) * VD_BLOCK;
    uint8_t *zeros = vd_pool_take(&image->pool, bytes);
    int r = zeros ? 0 : -ENOMEM;
    if (zeros)
        memset(zeros, 0, bytes);
    for (uint64_t end = block + count; !r && block < end; block += bytes / VD_BLOCK)
        r = vd_io(&image->loop, VDISK_IO_WRITE, block * VD_BLOCK, zeros,
                  vd_min64(bytes, (end - block) * VD_BLOCK));
    vd_pool_give(&image->pool, zeros, bytes);
    return r;
}

/* Whether a whole unit lies in the run, which may have been punched. */
static bool may_be_hole(const struct vd_run *run)
{
    return vd_div_up(run->block, VD_PUNCH_BLOCKS) + 1 <=
           (run->block + run->count) / VD_PUNCH_BLOCKS;
}

struct stretch {
    struct vdisk_image *image;
    struct vd_run run;
};

/* Where it cannot be written it is as if it had not been asked for. */
static void write_stretch(void *arg)
{
    struct stretch *stretch = arg;
    struct vdisk_image *image = stretch->image;
    struct vd_alloc *alloc = &image->alloc;
    vd_lock_shared(&image->loop, &image->gate);
    if (vd_blank_write(image, stretch->run.block, stretch->run.count)) {
        vd_alloc_unhold(image, stretch->run.block, stretch->run.count);
        alloc->rover = vd_min64(alloc->rover, stretch->run.block);
    } else {
        alloc->blank[1] = stretch->run;
    }
    alloc->blank_busy = false;
    vd_unlock_shared(&image->loop, &image->gate);
    free(stretch);
}

/* Sees to the next stretch; nobody waits for it to be written. */
static int prepare(struct vdisk_image *image)
{
    struct vd_alloc *alloc = &image->alloc;
    uint32_t want = (uint32_t)vd_min64(STRETCH_BLOCKS, alloc->host_blocks / FILE_SHARE);
    struct vd_run run;
    int r = vd_alloc_take(image, want, 1, &run);
    if (r)
        return r;
    if (!may_be_hole(&run)) {
        alloc->blank[1] = run;
        return 0;
    }
    struct stretch *stretch = malloc(sizeof(*stretch));
    if (stretch) {
        *stretch = (struct stretch){image, run};
        alloc->blank_busy = vd_loop_spawn(&image->loop, write_stretch, stretch) == 0;
    }
    if (!alloc->blank_busy) {
        vd_alloc_unhold(image, run.block, run.count);
        free(stretch);
    }
    return 0;
}

int vd_blank_take(struct vdisk_image *image, uint32_t want, struct vd_run *run)
{
    struct vd_alloc *alloc = &image->alloc;
    struct vd_run *blank = alloc->blank;
    int r = 0;
    if (blank[0].count <= STRETCH_BLOCKS / 2 && blank[1].count == 0 && !alloc->blank_busy)
        r = prepare(image);
    if (blank[0].count == 0) {
        blank[0] = blank[1];
        blank[1].count = 0;
    }
    if (r || blank[0].count == 0)
        return r ? r : vd_alloc_take(image, want, 1, run);
    *run = (struct vd_run){blank[0].block, (uint32_t)vd_min64(want, blank[0].count)};
    blank[0].block += run->count;
    blank[0].count -= run->count;
    return 0;
}

void vd_blank_drop(struct vdisk_image *image)
{
    struct vd_run *blank = image->alloc.blank;
    for (unsigned i = 0; i < 2; i++) {
        vd_alloc_unhold(image, blank[i].block, blank[i].count);
        blank[i].count = 0;
    }
}
