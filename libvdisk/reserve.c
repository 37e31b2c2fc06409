/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reserve (SPEC.md 16): blocks that the host has already given to the file, so that the next
 * checkpoint cannot fail for want of space. Whoever is about to dirty nodes sees to it first;
 * so it is the guest's write that gets ENOSPC, before it has changed anything.
 */
#include "alloc.h"
#include "bytes.h"
#include "image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BASE_BLOCKS 32u /* always there */
#define STEP_BLOCKS 64u /* asked of the host at once, and kept beyond what is needed */

/* Blocks that a checkpoint of what is dirty now, and `more`, takes at most, so long as nodes are
 * small. */
static uint64_t needed(const struct vdisk_image *image, uint64_t more)
{
    const struct vd_alloc *alloc = &image->alloc;
    uint64_t nodes = image->map.dirty_nodes * 4 + image->snaps.dirty_nodes * 2 +
                     image->epochs.dirty_nodes + alloc->promised_blocks + more;
    /* Allocation nodes: those that are dirty, those of what will be freed, and those that placing
     * nodes will touch; never more than there are. */
    uint64_t pages = alloc->host_blocks / VD_PAGE_BLOCKS + 2;
    uint64_t touched = alloc->tree.dirty_nodes + alloc->frees.count + nodes;
    return nodes + vd_min64(touched * 2, pages + pages / VD_FANOUT + VD_HEIGHT_MAX) + BASE_BLOCKS;
}

uint64_t vd_reserve_relief(const struct vdisk_image *image)
{
    return vd_min64(256, image->alloc.host_blocks / VD_PAGE_BLOCKS * 2 + 16);
}

/* What is to be left when the caller has all that it asks for. */
static uint64_t spare(const struct vdisk_image *image, enum vd_reserve_use use)
{
    return (use == VD_FOR_CHECKPOINT ? 0 : VD_CHECKPOINT_BLOCKS) +
           (use == VD_FOR_WRITE ? vd_reserve_relief(image) : 0);
}

static int add_run(struct vdisk_image *image, uint32_t want)
{
    struct vd_alloc *alloc = &image->alloc;
    struct vd_run run;
    int r = vd_runs_reserve(&alloc->reserve, 2);
    if (!r)
        r = vd_alloc_take(image, want, 1, &run);
    if (r)
        return r;
    r = vd_io(&image->loop, VDISK_IO_ALLOCATE, run.block * VD_BLOCK, NULL,
              (uint64_t)run.count * VD_BLOCK);
    if (r && r != -EOPNOTSUPP) {
        vd_alloc_unhold(image, run.block, run.count);
        if (r == -ENOSPC)
            vd_alloc_refused(image, &run);
        return vd_image_fail(image, r,
                             r == -ENOSPC ? "no space left on the host's disk: %s"
                                          : "cannot allocate space: %s",
                             vdisk_strerror(r));
    }
    r = vd_runs_reserve(&alloc->reserve, 2);
    if (r) {
        vd_alloc_unhold(image, run.block, run.count);
        return r;
    }
    vd_runs_add(&alloc->reserve, run.block, run.count);
    alloc->reserve_blocks += run.count;
    return 0;
}

int vd_reserve_promise(struct vdisk_image *image, uint64_t blocks, enum vd_reserve_use use)
{
    struct vd_alloc *alloc = &image->alloc;
    for (;;) {
        uint64_t need = needed(image, blocks) + spare(image, use);
        uint64_t have = alloc->reserve_blocks;
        if (have >= need) { /* only now: what waits for space must not make others wait */
            alloc->promised_blocks += blocks;
            return 0;
        }
        uint64_t want = vd_min64(vd_max64(need - have, STEP_BLOCKS), VD_PAGE_BLOCKS);
        int r = add_run(image, (uint32_t)want);
        if (r == -ENOSPC && want > need - have) /* the step does not fit; what is needed may */
            r = add_run(image, (uint32_t)(need - have));
        if (r)
            return r;
    }
}

void vd_reserve_settle(struct vdisk_image *image, uint64_t blocks)
{
    image->alloc.promised_blocks -= blocks;
    vd_wake_all(&image->loop, &image->settle_waiters);
}

int vd_reserve_take(struct vdisk_image *image, uint32_t blocks, uint64_t *block)
{
    struct vd_alloc *alloc = &image->alloc;
    for (size_t i = alloc->reserve.count; i-- > 0;) {
        struct vd_run *run = &alloc->reserve.run[i];
        if (run->count < blocks)
            continue;
        *block = run->block;
        run->block += blocks;
        run->count -= blocks;
        alloc->reserve_blocks -= blocks;
        if (run->count == 0)
            *run = alloc->reserve.run[--alloc->reserve.count];
        return 0;
    }
    struct vd_run run;
    int r = vd_alloc_take(image, blocks, blocks, &run);
    if (!r)
        *block = run.block;
    return r;
}

void vd_reserve_shed(struct vdisk_image *image, struct vd_runs *freed)
{
    struct vd_alloc *alloc = &image->alloc;
    uint64_t want = needed(image, 0) + spare(image, VD_FOR_WRITE) + 2 * STEP_BLOCKS;
    for (size_t i = alloc->reserve.count; i-- > 0 && alloc->reserve_blocks > want;) {
        struct vd_run *run = &alloc->reserve.run[i];
        uint32_t n = (uint32_t)vd_min64(run->count, alloc->reserve_blocks - want);
        if (vd_runs_reserve(freed, 1))
            return;
        run->count -= n;
        vd_runs_add(freed, run->block + run->count, n);
        alloc->reserve_blocks -= n;
        if (run->count == 0)
            *run = alloc->reserve.run[--alloc->reserve.count];
    }
}

static int by_block(const void *a, const void *b)
{
    const struct vd_run *x = a, *y = b;
    return (x->block > y->block) - (x->block < y->block);
}

/* Sorted, and neighbours joined: few large punches instead of many small ones. */
static void join_runs(struct vd_runs *runs)
{
    size_t n = 0;
    if (runs->count == 0)
        return;
    qsort(runs->run, runs->count, sizeof(*runs->run), by_block);
    for (size_t i = 1; i < runs->count; i++) {
        struct vd_run *last = &runs->run[n];
        if (last->block + last->count == runs->run[i].block &&
            last->count + (uint64_t)runs->run[i].count <= UINT32_MAX)
            last->count += runs->run[i].count;
        else
            runs->run[++n] = runs->run[i];
    }
    runs->count = n + 1;
}

void vd_reserve_recycle(struct vdisk_image *image, struct vd_runs *freed)
{
    struct vd_alloc *alloc = &image->alloc;
    uint64_t want = needed(image, 0) + spare(image, VD_FOR_WRITE) + STEP_BLOCKS;
    join_runs(freed);
    for (size_t i = 0; i < freed->count; i++) {
        struct vd_run *run = &freed->run[i];
        if (alloc->reserve_blocks >= want || vd_runs_reserve(&alloc->reserve, 1))
            break;
        uint32_t n = (uint32_t)vd_min64(run->count, want - alloc->reserve_blocks);
        vd_runs_add(&alloc->reserve, run->block, n);
        alloc->reserve_blocks += n;
        run->block += n;
        run->count -= n;
    }
    for (size_t i = 0; i < freed->count; i++) {
        if (freed->run[i].count)
            vd_alloc_give_back(image, &freed->run[i]);
    }
}

uint32_t vd_reserve_runs(const struct vdisk_image *image, struct vd_run runs[VD_RESERVE_RUNS])
{
    const struct vd_runs *reserve = &image->alloc.reserve;
    uint32_t n = 0;
    memset(runs, 0, VD_RESERVE_RUNS * sizeof(runs[0]));
    for (size_t i = 0; i < reserve->count; i++) {
        uint32_t at = n;
        if (n == VD_RESERVE_RUNS) {
            at = 0;
            for (uint32_t k = 1; k < n; k++)
                at = runs[k].count < runs[at].count ? k : at;
            if (runs[at].count >= reserve->run[i].count)
                continue;
        } else {
            n++;
        }
        runs[at] = reserve->run[i];
    }
    return n;
}

int vd_reserve_adopt(struct vdisk_image *image, const struct vd_run *runs, uint32_t count)
{
    struct vd_alloc *alloc = &image->alloc;
    int r = vd_runs_reserve(&alloc->reserve, count);
    for (uint32_t i = 0; !r && i < count; i++) {
        if (runs[i].block < vd_data_start(image))
            r = vd_image_corrupt(image, VDISK_E_MALFORMED, "the reserve has blocks of the journal");
        else
            r = vd_alloc_hold(image, runs[i].block, runs[i].count);
        if (!r) {
            vd_runs_add(&alloc->reserve, runs[i].block, runs[i].count);
            alloc->reserve_blocks += runs[i].count;
        }
    }
    return r;
}
