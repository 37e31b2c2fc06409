/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Check: every node and extent of every state is read and verified, and the use counts are
 * computed anew and compared. Nodes and extents that states share are visited once. Memory: a
 * byte and two bits for each host block.
 */
#include "bytes.h"
#include "checkpoint.h"
#include "data.h"
#include "open.h"
#include "snapshot.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct check {
    struct vdisk_image *image;
    const struct vdisk_check_options *options;
    struct vdisk_check_result *result;
    uint64_t host_blocks;
    uint8_t *uses;      /* computed, for each host block */
    uint64_t *node_bit; /* a node begins here: visited */
    uint64_t *raw_bit;  /* a raw extent: visited */
    uint64_t *zstd;     /* open-addressed set: byte offset / 16, plus 1 */
    size_t zstd_count, zstd_room;
    bool tree_damaged; /* part of a tree could not be read: uses are incomplete */
    uint8_t *data;     /* a leaf's worth */
    struct vd_state state;
    const char *snapshot; /* name of the state, NULL for the live one */
    uint64_t cursor;      /* leaves below are freed (a deletion under way) */
};

/* --- findings --- */

static void find(struct check *c, struct vdisk_check_finding finding, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void find(struct check *c, struct vdisk_check_finding finding, const char *format, ...)
{
    char text[VDISK_ERROR_TEXT_BYTES];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    finding.text = text;
    if (finding.repaired)
        c->result->repaired++;
    else
        c->result->damaged++;
    if (c->options->finding)
        c->options->finding(c->options->opaque, &finding);
}

/* Whether an error is about what was read, not about memory. */
static bool is_damage(int r)
{
    return r == VDISK_E_NOT_AUTHENTIC || r == VDISK_E_MALFORMED || r == -EIO;
}

static int progress(struct check *c)
{
    uint64_t total = c->image->alloc.used_blocks * VD_BLOCK;
    if (c->options->progress &&
        !c->options->progress(c->options->opaque, vd_min64(c->result->data_bytes, total), total))
        return vd_image_fail(c->image, -ECANCELED, "cancelled");
    return 0;
}

/* --- what was visited --- */

static bool test_and_set(uint64_t *bits, uint64_t i)
{
    bool was = bits[i / 64] >> i % 64 & 1;
    bits[i / 64] |= UINT64_C(1) << i % 64;
    return was;
}

/* Adds the uses of an extent or node; false where it cannot lie there. */
static bool add_uses(struct check *c, uint64_t block, uint32_t count)
{
    if (block < vd_data_start(c->image) || block + count > c->host_blocks)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        if (c->uses[block + i] < UINT8_MAX)
            c->uses[block + i]++;
    }
    return true;
}

static int grow_set(struct check *c)
{
    size_t room = c->zstd_room ? c->zstd_room * 2 : 1024;
    uint64_t *set = calloc(room, sizeof(*set));
    if (!set)
        return -ENOMEM;
    for (size_t i = 0; i < c->zstd_room; i++) {
        uint64_t key = c->zstd[i];
        if (!key)
            continue;
        size_t at = (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (room - 1);
        while (set[at])
            at = (at + 1) & (room - 1);
        set[at] = key;
    }
    free(c->zstd);
    c->zstd = set;
    c->zstd_room = room;
    return 0;
}

static int see_zstd(struct check *c, const struct vd_zstd *z, bool *seen)
{
    uint64_t key = (z->block << 8 | z->offset16) + 1;
    if (c->zstd_count * 2 >= c->zstd_room) {
        int r = grow_set(c);
        if (r)
            return r;
    }
    size_t at = (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (c->zstd_room - 1);
    while (c->zstd[at] && c->zstd[at] != key)
        at = (at + 1) & (c->zstd_room - 1);
    *seen = c->zstd[at] == key;
    if (!*seen)
        c->zstd_count++;
    c->zstd[at] = key;
    return 0;
}

/* --- leaves --- */

static void report_data(struct check *c, uint64_t first, uint64_t count)
{
    struct vdisk_check_finding finding = {.data = true,
                                          .offset = first * VD_BLOCK,
                                          .length = count * VD_BLOCK,
                                          .snapshot = c->snapshot};
    find(c, finding, "%s%s%s: %llu bytes at offset %llu are damaged",
         c->snapshot ? "snapshot \"" : "the drive", c->snapshot ? c->snapshot : "",
         c->snapshot ? "\"" : "", (unsigned long long)finding.length,
         (unsigned long long)finding.offset);
}

/* Reads a range; where that fails, block by block, to tell what exactly is damaged. */
static int verify_data(struct check *c, uint64_t first, uint32_t count)
{
    int r = vd_read_blocks(&c->state, first, count, c->data);
    c->result->data_bytes += (uint64_t)count * VD_BLOCK;
    if (!is_damage(r))
        return r;
    uint64_t bad_from = 0, bad = 0;
    for (uint64_t block = first; block < first + count; block++) {
        r = vd_read_blocks(&c->state, block, 1, c->data);
        if (r && !is_damage(r))
            return r;
        if (r && bad && bad_from + bad == block) {
            bad++;
        } else if (r) {
            if (bad)
                report_data(c, bad_from, bad);
            bad_from = block;
            bad = 1;
        }
    }
    if (bad)
        report_data(c, bad_from, bad);
    return 0;
}

static bool is_stored(const struct vdisk_image *image, const struct vd_node *leaf, unsigned i)
{
    enum vd_block_kind kind =
        leaf->map.blocks ? vd_block_kind(&leaf->map.blocks[i]) : VD_BLOCK_NONE;
    return kind == VD_BLOCK_RAW || (kind == VD_BLOCK_NONE && leaf->map.zstd &&
                                    leaf->map.zstd[i / vd_cluster_blocks(image)].length);
}

static int verify_leaf(struct check *c, const struct vd_node *leaf)
{
    uint64_t base = leaf->index * VD_LEAF_BLOCKS;
    uint64_t end = vd_min64(base + VD_LEAF_BLOCKS, vd_guest_blocks(c->state.size));
    for (uint64_t block = base; block < end;) {
        uint64_t stop = block;
        while (stop < end && is_stored(c->image, leaf, (unsigned)(stop - base)))
            stop++;
        int r = stop > block ? verify_data(c, block, (uint32_t)(stop - block)) : 0;
        if (r)
            return r;
        block = stop > block ? stop : block + 1;
    }
    return progress(c);
}

static int count_leaf(struct check *c, const struct vd_node *leaf, bool *new_data, bool *placed)
{
    unsigned clusters = VD_LEAF_BLOCKS / vd_cluster_blocks(c->image);
    for (unsigned i = 0; leaf->map.zstd && i < clusters; i++) {
        const struct vd_zstd *z = &leaf->map.zstd[i];
        bool seen = true;
        int r = z->length ? see_zstd(c, z, &seen) : 0;
        if (r)
            return r;
        if (seen)
            continue;
        *placed &= add_uses(c, z->block, vd_zstd_blocks(z));
        *new_data = true;
        c->result->extents++;
    }
    for (unsigned i = 0; leaf->map.blocks && i < VD_LEAF_BLOCKS; i++) {
        const struct vd_block *b = &leaf->map.blocks[i];
        if (vd_block_kind(b) != VD_BLOCK_RAW)
            continue;
        if (vd_block_host(b) >= c->host_blocks) {
            *placed = false;
        } else if (!test_and_set(c->raw_bit, vd_block_host(b))) {
            *placed &= add_uses(c, vd_block_host(b), 1);
            *new_data = true;
            c->result->extents++;
        }
    }
    return 0;
}

/* --- trees --- */

static int check_leaf(struct check *c, const struct vd_node *leaf)
{
    bool new_data = false, placed = true;
    int r = count_leaf(c, leaf, &new_data, &placed);
    if (!placed)
        find(c, (struct vdisk_check_finding){.snapshot = c->snapshot},
             "map leaf %llu refers to host blocks that cannot hold data",
             (unsigned long long)leaf->index);
    return r || !new_data ? r : verify_leaf(c, leaf);
}

static int check_subtree(struct check *c, struct vd_tree *tree, unsigned level, uint64_t index)
{
    struct vd_node *node = NULL;
    bool map = tree->type == VD_TREE_MAP;
    if (map && (index + 1) * vd_span(level) <= c->cursor)
        return 0;
    int r = vd_tree_get(tree, level, index, false, &node, NULL);
    if (is_damage(r)) {
        uint64_t span = vd_span(level) * VD_LEAF_BLOCKS * VD_BLOCK;
        c->tree_damaged = true;
        find(c,
             (struct vdisk_check_finding){.data = map,
                                          .offset = map ? index * span : 0,
                                          .length = map ? span : 0,
                                          .snapshot = c->snapshot},
             "%s", c->image->error.text);
        return 0;
    }
    if (r || !node)
        return r;
    bool seen = false;
    if (vd_ref_is_node(&node->ref)) {
        if (node->ref.block >= c->host_blocks)
            seen = true;
        else
            seen = test_and_set(c->node_bit, node->ref.block);
        if (!seen) {
            (void)add_uses(c, node->ref.block, node->ref.blocks);
            c->result->nodes++;
        }
    }
    if (node->dirty || !seen) { /* what is dirty differs from what is on disk at its place */
        for (unsigned i = 0; level > 0 && i < VD_FANOUT && !r; i++) {
            if (node->inner->kid[i] || vd_ref_is_node(&node->inner->ref[i]))
                r = check_subtree(c, tree, level - 1, index * VD_FANOUT + i);
        }
        if (level == 0 && map)
            r = check_leaf(c, node);
    }
    vd_node_unpin(node);
    return r;
}

static int check_snapshot(struct check *c, const struct vd_snap *snap)
{
    struct vdisk_snapshot *snapshot;
    int r = vd_snapshot_open_record(c->image, snap, &snapshot);
    if (r)
        return r;
    c->snapshot = snap->deleting ? "(being deleted)" : snap->name;
    c->cursor = snap->id == c->image->super->deleting ? c->image->super->delete_cursor : 0;
    c->state = vd_snapshot_state(snapshot);
    r = check_subtree(c, &snapshot->map, snapshot->map.height, 0);
    c->snapshot = NULL;
    c->cursor = 0;
    vdisk_snapshot_close(snapshot);
    return r;
}

struct snap_list {
    struct vd_snap *snap;
    size_t count, room;
};

static int collect(void *arg, struct vd_node *leaf, struct vd_snap *snap)
{
    struct snap_list *list = arg;
    (void)leaf;
    if (list->count == list->room) {
        size_t room = list->room ? list->room * 2 : 16;
        struct vd_snap *grown = realloc(list->snap, room * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        list->snap = grown;
        list->room = room;
    }
    list->snap[list->count++] = *snap;
    return 0;
}

static int check_states(struct check *c)
{
    struct vdisk_image *image = c->image;
    struct snap_list list = {0};
    int r = vd_snap_each(image, collect, &list);
    if (is_damage(r)) {
        c->tree_damaged = true;
        find(c, (struct vdisk_check_finding){0}, "%s", image->error.text);
        r = 0;
    }
    for (size_t i = 0; i < list.count && !r; i++)
        r = check_snapshot(c, &list.snap[i]);
    free(list.snap);
    /* The live state last: what it has changed in memory is still on disk for the snapshots. */
    c->state = vd_live_state(image);
    if (!r)
        r = check_subtree(c, &image->map, image->map.height, 0);
    if (!r)
        r = check_subtree(c, &image->snaps, image->snaps.height, 0);
    if (!r)
        r = check_subtree(c, &image->epochs, image->epochs.height, 0);
    if (!r)
        r = check_subtree(c, &image->alloc.tree, image->alloc.tree.height, 0);
    return r;
}

/* --- use counts --- */

static void report_counts(struct check *c, uint64_t first, uint64_t count, bool leak)
{
    bool repaired = c->options->repair;
    if (count == 0)
        return;
    if (leak)
        c->result->leaked_blocks += count;
    find(c, (struct vdisk_check_finding){.repaired = repaired}, "host blocks %llu to %llu %s%s",
         (unsigned long long)first, (unsigned long long)(first + count - 1),
         leak ? "are counted as used, but nothing refers to them"
              : "are used more often than they are counted",
         repaired ? " (repaired)" : "");
}

static int compare_counts(struct check *c)
{
    struct vdisk_image *image = c->image;
    uint64_t used = 0, from = 0, run = 0;
    bool leak = false;
    for (size_t i = 0; i < image->alloc.frees.count; i++)
        (void)add_uses(c, image->alloc.frees.run[i].block, image->alloc.frees.run[i].count);
    for (uint64_t block = 0; block < c->host_blocks; block++) {
        unsigned have, want = block < vd_data_start(image) ? 1 : c->uses[block];
        int r = vd_alloc_get_count(image, block, &have);
        if (r)
            return r;
        used += want != 0;
        if (have == want)
            continue;
        if (run && (from + run != block || leak != (have > want))) {
            report_counts(c, from, run, leak);
            run = 0;
        }
        leak = have > want;
        from = run ? from : block;
        run++;
        if (c->options->repair && want <= VD_USE_MAX)
            r = vd_alloc_set_count(image, block, want);
        if (r)
            return r;
    }
    report_counts(c, from, run, leak);
    if (used != image->alloc.used_blocks && !c->result->damaged && !c->result->repaired)
        find(c, (struct vdisk_check_finding){0}, "the superblock counts %llu used blocks, not %llu",
             (unsigned long long)image->alloc.used_blocks, (unsigned long long)used);
    return 0;
}

static int check_reserve(struct check *c)
{
    const struct vd_superblock *super = c->image->super;
    for (uint32_t i = 0; i < super->reserve_count; i++) {
        for (uint32_t n = 0; n < super->reserve[i].count; n++) {
            uint64_t block = super->reserve[i].block + n;
            if (block < c->host_blocks && c->uses[block]) {
                find(c, (struct vdisk_check_finding){0},
                     "host block %llu is in use and in the reserve", (unsigned long long)block);
                return 0;
            }
        }
    }
    return 0;
}

/* --- the whole --- */

static void check_copies(struct check *c, bool header, bool superblock)
{
    bool repaired = c->options->repair;
    if (header)
        find(c, (struct vdisk_check_finding){.repaired = repaired},
             "one of the two header copies is damaged%s", repaired ? " (repaired)" : "");
    if (superblock)
        find(c, (struct vdisk_check_finding){.repaired = repaired},
             "one of the two superblocks is damaged%s", repaired ? " (repaired)" : "");
}

static int allocate(struct check *c)
{
    struct vdisk_io *io = c->image->loop.io;
    uint64_t bytes;
    int r = io->ops->size(io, &bytes);
    if (r)
        return vd_image_fail(c->image, r, "cannot tell the size of the image file: %s",
                             vdisk_strerror(r));
    /* Nothing can lie behind the end of the file. */
    c->host_blocks = vd_min64(c->image->alloc.host_blocks, vd_div_up(bytes, VD_BLOCK));
    size_t words = (size_t)(c->host_blocks / 64 + 1);
    c->uses = calloc((size_t)c->host_blocks + 1, 1);
    c->node_bit = calloc(words, sizeof(uint64_t));
    c->raw_bit = calloc(words, sizeof(uint64_t));
    c->data = vd_buffer_new(VD_LEAF_BLOCKS * VD_BLOCK);
    return c->uses && c->node_bit && c->raw_bit && c->data ? 0 : -ENOMEM;
}

static int scan(struct check *c)
{
    struct vdisk_image *image = c->image;
    vd_lock_shared(&image->loop, &image->states);
    vd_lock_exclusive(&image->loop, &image->gate);
    vd_cache_drop(image); /* what is in memory would not be verified */
    int r = allocate(c);
    if (!r)
        r = check_states(c);
    if (!r && !c->tree_damaged)
        r = compare_counts(c);
    if (!r && !c->tree_damaged)
        r = check_reserve(c);
    vd_unlock_exclusive(&image->loop, &image->gate);
    vd_unlock_shared(&image->loop, &image->states);
    return r;
}

static int check_entry(struct vdisk_image *image, void *arg)
{
    struct check *c = arg;
    /* A copy that is only behind is what a crash between the two writes leaves. */
    bool header = image->header_damaged;
    bool superblock = image->superblock_damaged && !image->superblock_behind;
    int r = 0;
    if (!image->read_only) /* then memory and disk agree */
        r = vd_checkpoint(image, NULL);
    if (!r && c->options->repair)
        r = vd_snapshot_reap(image);
    if (!r)
        r = scan(c);
    if (!r && c->options->repair && header)
        r = vd_header_store(image);
    if (!r && c->options->repair)
        r = vd_checkpoint(image, NULL);
    if (!r)
        check_copies(c, header, superblock);
    return r;
}

int vdisk_check(struct vdisk_image *image, const struct vdisk_check_options *options,
                struct vdisk_check_result *result)
{
    static const struct vdisk_check_options defaults = {.struct_bytes = sizeof(defaults)};
    struct vdisk_check_result ignored = {0};
    struct check c = {
        .image = image,
        .options = options ? options : &defaults,
        .result = result ? result : &ignored,
    };
    *c.result = (struct vdisk_check_result){0};
    int r = c.options->repair && image->read_only
                ? vd_image_fail(image, -EROFS, "the image is open read-only")
                : vd_run(image, check_entry, &c);
    free(c.uses);
    free(c.node_bit);
    free(c.raw_bit);
    free(c.zstd);
    free(c.data);
    if (!r && c.result->damaged)
        r = vd_image_fail(image, VDISK_E_DAMAGED, "%llu problems were found",
                          (unsigned long long)c.result->damaged);
    return r;
}
