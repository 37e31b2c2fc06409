/* SPDX-License-Identifier: Apache-2.0 */
/* Handing out host blocks, and counting their uses; see alloc.h for the invariants. */
#include "alloc.h"

#include "bytes.h"
#include "image.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* --- lists of runs --- */

int vd_runs_reserve(struct vd_runs *runs, size_t more)
{
    if (runs->room - runs->count >= more)
        return 0;
    size_t room = (runs->count + more) * 2;
    struct vd_run *run = realloc(runs->run, room * sizeof(*run));
    if (!run)
        return -ENOMEM;
    runs->run = run;
    runs->room = room;
    return 0;
}

void vd_runs_add(struct vd_runs *runs, uint64_t block, uint32_t count)
{
    if (runs->count) {
        struct vd_run *last = &runs->run[runs->count - 1];
        if (last->block + last->count == block && last->count + count <= VD_PAGE_BLOCKS) {
            last->count += count;
            return;
        }
    }
    assert(runs->count < runs->room);
    runs->run[runs->count++] = (struct vd_run){block, count};
}

void vd_runs_release(struct vd_runs *runs)
{
    free(runs->run);
    *runs = (struct vd_runs){0};
}

/* --- pages --- */

static bool is_busy(const struct vd_page *page, unsigned i)
{
    return page->busy[i / 64] >> i % 64 & 1;
}

static unsigned get_count(const struct vd_page *page, unsigned i)
{
    return page->count[i / 2] >> (i % 2 * 4) & 15;
}

static void set_count(struct vd_page *page, unsigned i, unsigned count)
{
    unsigned shift = i % 2 * 4;
    page->count[i / 2] = (uint8_t)((page->count[i / 2] & ~(15u << shift)) | count << shift);
}

/* The page of a block if it is in memory, as it is when one of its blocks is held. The pointer is
 * good until the next wait. */
static struct vd_node *loaded_page(struct vd_alloc *alloc, uint64_t block)
{
    uint64_t index = block / VD_PAGE_BLOCKS;
    struct vd_node *node = alloc->tree.root;
    if (index >= vd_span(alloc->tree.height))
        return NULL;
    while (node && !node->loading && node->level > 0) {
        unsigned slot = (unsigned)(index >> (VD_FANOUT_LOG2 * (node->level - 1u))) % VD_FANOUT;
        node = node->inner->kid[slot];
    }
    return node && !node->loading ? node : NULL;
}

static int load_page(struct vdisk_image *image, uint64_t block, struct vd_node **page)
{
    struct vd_tree *tree = &image->alloc.tree;
    uint64_t index = block / VD_PAGE_BLOCKS;
    if (index >= vd_span(tree->height)) {
        if (block >= VD_HOST_BLOCKS_MAX)
            return vd_image_fail(image, -EFBIG, "the image file cannot grow further");
        int grown = vd_tree_grow(tree, vd_height_for(index + 1));
        if (grown)
            return grown;
    }
    int r = vd_tree_get(tree, 0, index, true, page, NULL);
    assert(r || (*page && (*page)->page));
    return r;
}

/* A free block becomes held; the first one pins the page. */
static void hold(struct vdisk_image *image, struct vd_node *node, unsigned i)
{
    struct vd_page *page = node->page;
    assert(!is_busy(page, i) && get_count(page, i) == 0);
    page->busy[i / 64] |= UINT64_C(1) << i % 64;
    page->free--;
    if (page->held++ == 0)
        vd_node_pin(node);
    image->alloc.held_blocks++;
}

/* A held block is no more held: free, or its count has risen. */
static void end_hold(struct vdisk_image *image, struct vd_node *node)
{
    image->alloc.held_blocks--;
    if (--node->page->held == 0)
        vd_node_unpin(node);
}

/* --- taking --- */

/* A run of at least `min` free blocks at or after `from`; its length (at most want) or 0. */
static uint32_t find_run(const struct vd_page *page, uint32_t from, uint32_t want, uint32_t min,
                         uint32_t *first)
{
    for (uint32_t i = from; i < VD_PAGE_BLOCKS;) {
        if (i % 64 == 0 && page->busy[i / 64] == UINT64_MAX) {
            i += 64;
            continue;
        }
        if (is_busy(page, i)) {
            i++;
            continue;
        }
        uint32_t n = 1;
        while (n < want && i + n < VD_PAGE_BLOCKS && !is_busy(page, i + n))
            n++;
        if (n >= min) {
            *first = i;
            return n;
        }
        i += n;
    }
    return 0;
}

/* Whether the page may have min free blocks, as far as can be told without reading it. */
static int promising(struct vdisk_image *image, uint64_t index, uint32_t min, bool *yes)
{
    struct vd_tree *tree = &image->alloc.tree;
    struct vd_node *above = NULL;
    *yes = true;
    if (tree->height == 0 || index >= vd_span(tree->height))
        return 0;
    int r = vd_tree_get(tree, 1, index / VD_FANOUT, false, &above, NULL);
    if (r || !above)
        return r;
    const struct vd_node *kid = above->inner->kid[index % VD_FANOUT];
    const struct vd_ref *ref = &above->inner->ref[index % VD_FANOUT];
    if (kid && !kid->loading)
        *yes = kid->page->free >= min;
    else if (vd_ref_is_node(ref))
        *yes = ref->hint > 13 || (ref->hint && (UINT32_C(1) << ref->hint) > min);
    vd_node_unpin(above);
    return 0;
}

static int take_in_page(struct vdisk_image *image, uint64_t index, uint32_t from, uint32_t want,
                        uint32_t min, struct vd_run *run)
{
    struct vd_node *node = NULL;
    uint32_t first = 0;
    int r = load_page(image, index * VD_PAGE_BLOCKS, &node);
    if (r)
        return r;
    assert(node);
    uint32_t n = find_run(node->page, from, want, min, &first);
    for (uint32_t i = 0; i < n; i++)
        hold(image, node, first + i);
    vd_node_unpin(node);
    *run = (struct vd_run){index * VD_PAGE_BLOCKS + first, n};
    return 0;
}

int vd_alloc_take(struct vdisk_image *image, uint32_t want, uint32_t min, struct vd_run *run)
{
    struct vd_alloc *alloc = &image->alloc;
    assert(min >= 1 && want >= min && want <= VD_PAGE_BLOCKS);
    uint64_t unused =
        alloc->host_blocks - vd_min64(alloc->host_blocks, alloc->used_blocks + alloc->held_blocks);
    /* Round once through the file when an eighth of it is free, else let it grow: finding a place
     * costs little on average either way. */
    if (alloc->rover >= alloc->host_blocks && unused > alloc->host_blocks / 8)
        alloc->rover = vd_data_start(image);
    for (uint64_t at = vd_max64(alloc->rover, vd_data_start(image));;) {
        uint64_t index = at / VD_PAGE_BLOCKS;
        bool yes;
        int r = promising(image, index, min, &yes);
        if (!r && yes)
            r = take_in_page(image, index, (uint32_t)(at % VD_PAGE_BLOCKS), want, min, run);
        else
            run->count = 0;
        if (r)
            return r;
        if (run->count)
            break;
        at = (index + 1) * VD_PAGE_BLOCKS;
    }
    alloc->rover = run->block + run->count;
    alloc->host_blocks = vd_max64(alloc->host_blocks, alloc->rover);
    alloc->kept_blocks -= vd_min64(alloc->kept_blocks, run->count);
    return 0;
}

void vd_alloc_refused(struct vdisk_image *image, const struct vd_run *run)
{
    struct vd_alloc *alloc = &image->alloc;
    if (run->block + run->count == alloc->host_blocks)
        alloc->rover = vd_data_start(image);
}

int vd_alloc_hold(struct vdisk_image *image, uint64_t block, uint32_t count)
{
    for (uint32_t n = 0; n < count; n++, block++) {
        struct vd_node *node = NULL;
        unsigned i = (unsigned)(block % VD_PAGE_BLOCKS);
        int r = load_page(image, block, &node);
        if (r)
            return r;
        assert(node);
        if (is_busy(node->page, i))
            r = vd_image_corrupt(image, VDISK_E_MALFORMED, "host block %llu is not free",
                                 (unsigned long long)block);
        else
            hold(image, node, i);
        vd_node_unpin(node);
        if (r)
            return r;
    }
    image->alloc.host_blocks = vd_max64(image->alloc.host_blocks, block);
    return 0;
}

void vd_alloc_unhold(struct vdisk_image *image, uint64_t block, uint32_t count)
{
    for (uint32_t n = 0; n < count; n++, block++) {
        struct vd_node *node = loaded_page(&image->alloc, block);
        unsigned i = (unsigned)(block % VD_PAGE_BLOCKS);
        if (!node || get_count(node->page, i) || !is_busy(node->page, i))
            continue; /* came into use */
        node->page->busy[i / 64] &= ~(UINT64_C(1) << i % 64);
        node->page->free++;
        end_hold(image, node);
    }
}

static int punch(struct vdisk_image *image, uint64_t block, uint64_t count)
{
    return count ? vd_io(&image->loop, VDISK_IO_PUNCH, block * VD_BLOCK, NULL, count * VD_BLOCK)
                 : 0;
}

/* Holds a block too, if it is free and its page in memory. */
static bool hold_too(struct vdisk_image *image, uint64_t block)
{
    struct vd_node *node = loaded_page(&image->alloc, block);
    unsigned i = (unsigned)(block % VD_PAGE_BLOCKS);
    if (!node || block < vd_data_start(image) || is_busy(node->page, i))
        return false;
    hold(image, node, i);
    return true;
}

void vd_alloc_give_back(struct vdisk_image *image, const struct vd_run *run)
{
    struct vd_alloc *alloc = &image->alloc;
    uint64_t from = run->block, to = from + run->count;
    /* Neighbours that became free before make the units at its ends whole; nobody takes them while
     * they are punched. */
    while (from % VD_PUNCH_BLOCKS && hold_too(image, from - 1))
        from--;
    while (to % VD_PUNCH_BLOCKS && hold_too(image, to))
        to++;
    uint64_t first = from, last = to;
    if (alloc->kept_blocks + run->count <= alloc->host_blocks / VD_KEEP_SHARE) {
        first = vd_div_up(from, VD_PUNCH_BLOCKS) * VD_PUNCH_BLOCKS;
        last = vd_max64(first, to / VD_PUNCH_BLOCKS * VD_PUNCH_BLOCKS);
    }
    alloc->kept_blocks += run->count;
    alloc->kept_blocks -= vd_min64(alloc->kept_blocks, last - first);
    (void)punch(image, first, last - first); /* best effort: the blocks are free either way */
    vd_alloc_unhold(image, from, (uint32_t)(to - from));
}

/* --- counting --- */

static void raise_count(struct vdisk_image *image, struct vd_node *node, unsigned i)
{
    struct vd_page *page = node->page;
    unsigned count = get_count(page, i);
    assert(count < VD_USE_MAX);
    set_count(page, i, count + 1);
    vd_node_dirty(node);
    if (count == 0) {
        image->alloc.used_blocks++;
        assert(is_busy(page, i));
        end_hold(image, node);
    }
}

void vd_alloc_use(struct vdisk_image *image, uint64_t block, uint32_t count)
{
    for (uint32_t n = 0; n < count; n++, block++)
        raise_count(image, loaded_page(&image->alloc, block), (unsigned)(block % VD_PAGE_BLOCKS));
    image->alloc.host_blocks = vd_max64(image->alloc.host_blocks, block);
}

int vd_alloc_use_load(struct vdisk_image *image, uint64_t block, uint32_t count)
{
    for (uint32_t n = 0; n < count; n++, block++) {
        struct vd_node *node = NULL;
        unsigned i = (unsigned)(block % VD_PAGE_BLOCKS);
        int r = load_page(image, block, &node);
        if (r)
            return r;
        assert(node);
        if (get_count(node->page, i) == VD_USE_MAX || block < vd_data_start(image)) {
            r = vd_image_corrupt(image, VDISK_E_MALFORMED,
                                 "the journal uses host block %llu, which cannot be",
                                 (unsigned long long)block);
        } else {
            if (!is_busy(node->page, i))
                hold(image, node, i);
            raise_count(image, node, i);
        }
        vd_node_unpin(node);
        if (r)
            return r;
    }
    image->alloc.host_blocks = vd_max64(image->alloc.host_blocks, block);
    return 0;
}

void vd_alloc_free(struct vdisk_image *image, uint64_t block, uint32_t count)
{
    vd_runs_add(&image->alloc.frees, block, count);
}

static int lower_count(struct vdisk_image *image, uint64_t block, struct vd_runs *freed)
{
    struct vd_node *node = NULL;
    unsigned i = (unsigned)(block % VD_PAGE_BLOCKS);
    int r = vd_runs_reserve(freed, 1);
    if (!r)
        r = load_page(image, block, &node);
    if (r)
        return r;
    assert(node);
    unsigned count = get_count(node->page, i);
    if (count == 0 || block < vd_data_start(image)) {
        r = vd_image_corrupt(image, VDISK_E_MALFORMED, "host block %llu is freed but not in use",
                             (unsigned long long)block);
    } else {
        set_count(node->page, i, count - 1);
        vd_node_dirty(node);
        if (count == 1) {
            image->alloc.used_blocks--;
            if (node->page->held++ == 0)
                vd_node_pin(node);
            image->alloc.held_blocks++;
            vd_runs_add(freed, block, 1);
        }
    }
    vd_node_unpin(node);
    return r;
}

int vd_alloc_apply_frees(struct vdisk_image *image, struct vd_runs *freed)
{
    struct vd_runs *frees = &image->alloc.frees;
    while (frees->count) {
        struct vd_run *run = &frees->run[frees->count - 1];
        while (run->count) {
            int r = lower_count(image, run->block, freed);
            if (r)
                return r;
            run->block++;
            run->count--;
        }
        frees->count--;
    }
    return 0;
}

/* --- check and compact --- */

int vd_alloc_get_count(struct vdisk_image *image, uint64_t block, unsigned *count)
{
    struct vd_node *node = NULL;
    int r = vd_tree_get(&image->alloc.tree, 0, block / VD_PAGE_BLOCKS, false, &node, NULL);
    if (r)
        return r;
    *count = node ? get_count(node->page, (unsigned)(block % VD_PAGE_BLOCKS)) : 0;
    vd_node_unpin(node);
    return 0;
}

int vd_alloc_set_count(struct vdisk_image *image, uint64_t block, unsigned count)
{
    struct vd_node *node = NULL;
    unsigned i = (unsigned)(block % VD_PAGE_BLOCKS);
    int r = load_page(image, block, &node);
    if (r)
        return r;
    assert(node);
    struct vd_page *page = node->page;
    bool used = get_count(page, i) != 0, held = !used && is_busy(page, i);
    if (held && count) { /* taken for free, but the trees have it */
        end_hold(image, node);
    } else if (!used && count) {
        page->busy[i / 64] |= UINT64_C(1) << i % 64;
        page->free--;
    } else if (used && !count) {
        page->busy[i / 64] &= ~(UINT64_C(1) << i % 64);
        page->free++;
    }
    image->alloc.used_blocks += (uint64_t)(count != 0) - (uint64_t)used;
    set_count(page, i, count);
    vd_node_dirty(node);
    vd_node_unpin(node);
    return 0;
}

int vd_alloc_trim(struct vdisk_image *image)
{
    struct vd_alloc *alloc = &image->alloc;
    uint64_t end = 0, free_from = 0;
    for (uint64_t at = 0; at < alloc->host_blocks; at += VD_PAGE_BLOCKS) {
        struct vd_node *node = NULL;
        int r = vd_tree_get(&alloc->tree, 0, at / VD_PAGE_BLOCKS, false, &node, NULL);
        for (unsigned i = 0; !r && node && i < VD_PAGE_BLOCKS; i++) {
            if (!is_busy(node->page, i))
                continue;
            r = punch(image, free_from, at + i - free_from);
            free_from = end = at + i + 1;
        }
        vd_node_unpin(node);
        if (r)
            return r;
    }
    alloc->host_blocks = end;
    alloc->kept_blocks = 0;
    alloc->rover = vd_min64(alloc->rover, end);
    return vd_io(&image->loop, VDISK_IO_TRUNCATE, end * VD_BLOCK, NULL, 0);
}
