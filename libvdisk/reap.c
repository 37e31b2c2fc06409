/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deleting snapshots (SPEC.md 13): the walk over the victim, its parent and its child that frees
 * what only the victim holds. It goes in steps, each within a checkpoint, from map leaf 0 up; the
 * cursor in the superblock tells what is done, so that it can stop and go on at any time.
 */
#include "bytes.h"
#include "checkpoint.h"
#include "data.h"
#include "snapshot.h"

#include <errno.h>
#include <stdlib.h>

#define FEW_SMALL 16u /* in an image whose journal allows fewer, a step never has more */
#define MORE      8u

struct walk {
    struct vdisk_image *image;
    struct vdisk_snapshot *victim;
    struct vd_tree *other[2]; /* parent and child, NULL where there is none */
    unsigned few, leaves;     /* in one step, at least; in this one until now */
    bool alone;               /* nobody waits while it lasts */
};

/* 32 with the usual journal, and few in a small image, whose deletions then are cut in steps too.
 */
static unsigned few_leaves(const struct vdisk_image *image)
{
    return image->journal.ring_blocks / 16 < 64 ? image->journal.ring_blocks / 16 + 1 : 64;
}

/* A step costs three syncs: with nobody there whom it keeps waiting it takes more leaves, as long
 * as the nodes of the allocation tree that it changes fit into what was promised for it. */
static bool is_full(const struct walk *w)
{
    const struct vd_alloc *alloc = &w->image->alloc;
    uint64_t pages = vd_min64(alloc->frees.count, alloc->host_blocks / VD_PAGE_BLOCKS);

    if (w->leaves < w->few)
        return false;
    return !w->alone || w->few < FEW_SMALL || w->leaves >= MORE * w->few ||
           pages * 2 + 16 > vd_reserve_relief(w->image);
}

static bool has_zstd(const struct vd_node *leaf, unsigned cluster, uint64_t stamp)
{
    return leaf && leaf->map.zstd && leaf->map.zstd[cluster].length &&
           leaf->map.zstd[cluster].stamp == stamp;
}

static bool has_raw(const struct vd_node *leaf, unsigned i, uint64_t stamp)
{
    return leaf && leaf->map.blocks && vd_block_kind(&leaf->map.blocks[i]) == VD_BLOCK_RAW &&
           leaf->map.blocks[i].stamp == stamp;
}

static void free_unshared(struct vdisk_image *image, const struct vd_node *leaf,
                          struct vd_node *const other[2])
{
    unsigned clusters = VD_LEAF_BLOCKS / vd_cluster_blocks(image);
    for (unsigned c = 0; leaf->map.zstds && c < clusters; c++) {
        const struct vd_zstd *z = &leaf->map.zstd[c];
        if (z->length && !has_zstd(other[0], c, z->stamp) && !has_zstd(other[1], c, z->stamp))
            vd_alloc_free(image, z->block, vd_zstd_blocks(z));
    }
    for (unsigned i = 0; leaf->map.raws && i < VD_LEAF_BLOCKS; i++) {
        const struct vd_block *b = &leaf->map.blocks[i];
        if (vd_block_kind(b) == VD_BLOCK_RAW && !has_raw(other[0], i, b->stamp) &&
            !has_raw(other[1], i, b->stamp))
            vd_alloc_free(image, vd_block_host(b), 1);
    }
}

static int free_leaf(struct walk *w, uint64_t index)
{
    struct vd_node *leaf = NULL, *other[2] = {NULL, NULL};
    int r = vd_tree_get(&w->victim->map, 0, index, false, &leaf, NULL);
    for (unsigned i = 0; i < 2 && !r; i++) {
        if (w->other[i])
            r = vd_tree_get(w->other[i], 0, index, false, &other[i], NULL);
    }
    if (!r)
        r = vd_runs_reserve(&w->image->alloc.frees, VD_LEAF_BLOCKS + VD_LEAF_CLUSTERS_MAX + 8);
    if (!r)
        free_unshared(w->image, leaf, other);
    vd_node_unpin(leaf);
    vd_node_unpin(other[0]);
    vd_node_unpin(other[1]);
    return r;
}

/* Frees the victim's subtree at (level, index) from the cursor on, until the step is full. */
static int walk_subtree(struct walk *w, unsigned level, uint64_t index)
{
    struct vd_superblock *super = w->image->super;
    uint64_t end = (index + 1) * vd_span(level);
    struct vd_ref ref, other;
    bool known;
    if (end <= super->delete_cursor || is_full(w))
        return 0;
    int r = vd_tree_ref(&w->victim->map, level, index, &ref, &known);
    bool mine = vd_ref_is_node(&ref);
    for (unsigned i = 0; i < 2 && !r && mine; i++) {
        if (!w->other[i])
            continue;
        r = vd_tree_ref(w->other[i], level, index, &other, &known);
        mine = !known || !vd_ref_equal(&ref, &other);
    }
    if (r)
        return r;
    if (!mine) {
        super->delete_cursor = end;
        return 0;
    }
    if (level == 0) {
        r = free_leaf(w, index);
        w->leaves++;
    }
    for (unsigned i = 0; level > 0 && i < VD_FANOUT && !r; i++)
        r = walk_subtree(w, level - 1, index * VD_FANOUT + i);
    if (r || (level > 0 && super->delete_cursor < end))
        return r;
    r = vd_runs_reserve(&w->image->alloc.frees, 1);
    if (r)
        return r;
    vd_alloc_free(w->image, ref.block, ref.blocks);
    super->delete_cursor = end;
    return 0;
}

/* --- choosing, beginning, ending --- */

struct search {
    uint64_t id; /* whose children are counted */
    unsigned children;
    uint64_t child;
    uint64_t victims[64]; /* marked ones */
    unsigned victim_count;
};

static int count_children(void *arg, struct vd_node *leaf, struct vd_snap *snap)
{
    struct search *s = arg;
    (void)leaf;
    if (snap->parent == s->id) {
        s->children++;
        s->child = snap->id;
    }
    return 0;
}

static int collect_marked(void *arg, struct vd_node *leaf, struct vd_snap *snap)
{
    struct search *s = arg;
    (void)leaf;
    /* The youngest come first: a marked parent may have to wait for its marked children. */
    if (snap->deleting) {
        memmove(&s->victims[1], &s->victims[0], sizeof(s->victims) - sizeof(s->victims[0]));
        s->victims[0] = snap->id;
        s->victim_count += s->victim_count < 64;
    }
    return 0;
}

/* A marked snapshot with at most one child; 0: none. */
static int choose_victim(struct vdisk_image *image, uint64_t *victim)
{
    struct search *s = calloc(1, sizeof(*s));
    int r = s ? vd_snap_each(image, collect_marked, s) : -ENOMEM;
    *victim = 0;
    for (unsigned i = 0; !r && i < s->victim_count && !*victim; i++) {
        s->id = s->victims[i];
        s->children = image->super->parent == s->id;
        r = vd_snap_each(image, count_children, s);
        if (!r && s->children <= 1)
            *victim = s->id;
    }
    free(s);
    return r;
}

static int parent_stamp(struct vdisk_image *image, uint64_t id, uint64_t *stamp)
{
    struct vd_node *leaf = NULL;
    struct vd_snap *snap;
    *stamp = 0;
    int r = id ? vd_snap_find_id(image, id, &leaf, &snap) : 0;
    if (!r && id)
        *stamp = snap->stamp;
    vd_node_unpin(leaf);
    return r;
}

int vd_snapshot_resume(struct vdisk_image *image)
{
    struct vd_node *leaf = NULL;
    struct vd_snap *snap;
    if (!image->super->deleting)
        return 0;
    int r = vd_snap_find_id(image, image->super->deleting, &leaf, &snap);
    uint64_t parent = r ? 0 : snap->parent;
    vd_node_unpin(leaf);
    return r ? r : parent_stamp(image, parent, &image->deleting_parent_stamp);
}

struct reparent {
    uint64_t from, to;
};

static int reparent_one(void *arg, struct vd_node *leaf, struct vd_snap *snap)
{
    const struct reparent *p = arg;
    if (snap->parent == p->from) {
        snap->parent = p->to;
        vd_node_dirty(leaf);
    }
    return 0;
}

/* The victim is empty: its record goes, its child gets its parent. */
static int end_deletion(struct vdisk_image *image, const struct vd_snap *victim)
{
    struct vd_superblock *super = image->super;
    struct reparent reparent = {victim->id, victim->parent};
    struct vd_node *leaf = NULL;
    struct vd_snap *snap;
    int r = vd_snap_each(image, reparent_one, &reparent);
    if (!r)
        r = vd_snap_find_id(image, victim->id, &leaf, &snap);
    if (r)
        return r;
    leaf->snaps.snap[victim->id % VD_SNAPS] = NULL;
    free(snap);
    vd_node_dirty(leaf);
    vd_node_unpin(leaf);
    if (super->parent == victim->id) {
        super->parent = victim->parent;
        super->parent_stamp = image->deleting_parent_stamp;
    }
    super->deleting = 0;
    super->delete_cursor = 0;
    image->deleting_parent_stamp = 0;
    return 0;
}

static int open_state(struct vdisk_image *image, uint64_t id, struct vdisk_snapshot **out)
{
    struct vd_node *leaf = NULL;
    struct vd_snap *snap;
    int r = vd_snap_find_id(image, id, &leaf, &snap);
    if (!r)
        r = vd_snapshot_open_record(image, snap, out);
    vd_node_unpin(leaf);
    return r;
}

/* The states beside the victim: its parent, and its child (perhaps the live state). */
static int open_others(struct walk *w, struct vdisk_snapshot *opened[2])
{
    struct vdisk_image *image = w->image;
    struct search *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    int r = 0;
    s->id = w->victim->snap.id;
    if (w->victim->snap.parent)
        r = open_state(image, w->victim->snap.parent, &opened[0]);
    if (!r && image->super->parent == s->id)
        w->other[1] = &image->map;
    else if (!r)
        r = vd_snap_each(image, count_children, s);
    if (!r && s->children)
        r = open_state(image, s->child, &opened[1]);
    for (unsigned i = 0; i < 2; i++) {
        if (opened[i])
            w->other[i] = &opened[i]->map;
    }
    free(s);
    return r;
}

int vd_snapshot_reap_step(struct vdisk_image *image, bool *more)
{
    struct vd_superblock *super = image->super;
    struct walk w = {
        .image = image, .few = few_leaves(image), .alone = image->loop.coroutines == 1};
    struct vdisk_snapshot *opened[2] = {NULL, NULL};
    int r = 0;
    *more = true;
    if (!super->deleting) {
        uint64_t victim;
        r = choose_victim(image, &victim);
        if (r || !victim) {
            *more = false;
            return r;
        }
        super->deleting = victim;
        super->delete_cursor = 0;
        r = vd_snapshot_resume(image);
    }
    if (!r)
        r = open_state(image, super->deleting, &w.victim);
    if (!r)
        r = open_others(&w, opened);
    if (!r)
        r = walk_subtree(&w, w.victim->map.height, 0);
    if (!r && super->delete_cursor >= vd_span(w.victim->map.height))
        r = end_deletion(image, &w.victim->snap);
    vdisk_snapshot_close(w.victim);
    vdisk_snapshot_close(opened[0]);
    vdisk_snapshot_close(opened[1]);
    return r;
}

static int apply_step(struct vdisk_image *image, void *arg, bool *changed)
{
    *changed = true;
    return vd_snapshot_reap_step(image, arg);
}

int vd_snapshot_reap(struct vdisk_image *image)
{
    struct vd_change change = {.apply = apply_step,
                               .states = true,
                               .relief = true,
                               .reserve_blocks = vd_reserve_relief(image)};
    for (bool more = true; more;) {
        uint64_t victim = image->super->deleting;
        int r = victim ? 0 : choose_victim(image, &victim);
        if (r || !victim)
            return r;
        change.arg = &more;
        r = vd_checkpoint(image, &change);
        if (r)
            return r;
    }
    return 0;
}
