/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading: look the blocks up, read all their extents at once, verify and decrypt, decompress.
 *
 * A plan is a list of segments: neighbouring raw blocks, or one zstd extent of which some blocks
 * show. Raw segments are read into their place and decrypted there; if anything fails, all of
 * the caller's memory is wiped, since it may hold what was not verified.
 */
#include "bytes.h"
#include "clusters.h"
#include "data.h"
#include "tasks.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>

#define MASK_WORDS ((1u << (VD_CLUSTER_LOG2_MAX - 12)) / 64)

struct segment {
    uint64_t first; /* guest block */
    uint32_t count; /* raw: blocks */
    bool zstd;
    struct vd_epoch_keys *keys;
    struct vd_block *raw;      /* raw: count entries */
    struct vd_zstd extent;     /* zstd */
    uint64_t show[MASK_WORDS]; /* zstd: blocks of the cluster to copy */
    uint8_t *bytes;            /* zstd: sealed, then packed */
    uint8_t *cluster;          /* zstd: the content */
    bool cached;               /* zstd: it was in memory, and is copied */
    struct vdisk_io_request io;
};

struct plan {
    const struct vd_state *state;
    struct vdisk_image *image;
    uint64_t first;
    uint32_t count;
    uint8_t *out;
    struct segment *segment;
    unsigned segments, room;
    struct vd_block *raw; /* copies of the map's entries */
    uint32_t raws;
};

struct vd_state vd_live_state(struct vdisk_image *image)
{
    return (struct vd_state){image, &image->map, image->super->size};
}

struct vd_state vd_snapshot_state(struct vdisk_snapshot *snapshot)
{
    return (struct vd_state){snapshot->image, &snapshot->map, snapshot->snap.size};
}

/* --- planning --- */

static struct segment *add_segment(struct plan *plan)
{
    if (plan->segments == plan->room) {
        unsigned room = plan->room ? plan->room * 2 : 4;
        struct segment *grown = realloc(plan->segment, room * sizeof(*grown));
        if (!grown)
            return NULL;
        plan->segment = grown;
        plan->room = room;
    }
    struct segment *segment = &plan->segment[plan->segments++];
    memset(segment, 0, sizeof(*segment));
    return segment;
}

/* A raw block: continues the segment before it where both lie together. */
static int plan_raw(struct plan *plan, uint64_t block, const struct vd_block *entry)
{
    struct segment *last = plan->segments ? &plan->segment[plan->segments - 1] : NULL;
    if (!plan->raw &&
        !(plan->raw = vd_pool_take(&plan->image->pool, plan->count * sizeof(*plan->raw))))
        return -ENOMEM;
    struct vd_block *copy = &plan->raw[plan->raws++];
    *copy = *entry;
    if (last && !last->zstd && last->first + last->count == block &&
        vd_block_host(&last->raw[last->count - 1]) + 1 == vd_block_host(entry) &&
        vd_stamp_epoch(last->raw[0].stamp) == vd_stamp_epoch(entry->stamp)) {
        last->count++;
        return 0;
    }
    struct segment *segment = add_segment(plan);
    if (!segment)
        return -ENOMEM;
    segment->first = block;
    segment->count = 1;
    segment->raw = copy;
    return 0;
}

static int plan_zstd(struct plan *plan, uint64_t block, const struct vd_zstd *extent)
{
    uint32_t per = vd_cluster_blocks(plan->image);
    uint64_t first = block - block % per;
    struct segment *segment = NULL;
    for (unsigned i = plan->segments; i-- > 0 && !segment;) {
        struct segment *s = &plan->segment[i];
        if (s->first + s->count <= first)
            break;
        if (s->zstd && s->first == first)
            segment = s;
    }
    if (!segment) {
        segment = add_segment(plan);
        if (!segment)
            return -ENOMEM;
        segment->zstd = true;
        segment->first = first;
        segment->count = per;
        segment->extent = *extent;
    }
    uint32_t i = (uint32_t)(block - first);
    segment->show[i / 64] |= UINT64_C(1) << i % 64;
    return 0;
}

/* What is in no extent of this image: zeros, or the base. */
static int fill_absent(struct plan *plan, uint64_t first, uint32_t count, bool zero)
{
    uint8_t *out = plan->out + (first - plan->first) * VD_BLOCK;
    if (zero || !plan->image->super->overlay) {
        memset(out, 0, (size_t)count * VD_BLOCK);
        return 0;
    }
    return vd_read_base(plan->image, first, count, out);
}

/* The blocks from *block on that are absent in the same way. */
static int plan_absent(struct plan *plan, const struct vd_node *leaf, uint64_t *block, uint64_t end)
{
    uint64_t first = *block;
    enum vd_presence kind = vd_leaf_presence(plan->image, leaf, (unsigned)(first % VD_LEAF_BLOCKS));
    while (*block < end &&
           vd_leaf_presence(plan->image, leaf, (unsigned)(*block % VD_LEAF_BLOCKS)) == kind)
        ++*block;
    return fill_absent(plan, first, (uint32_t)(*block - first), kind == VD_IS_ZERO);
}

static int plan_leaf(struct plan *plan, const struct vd_node *leaf, uint64_t first, uint64_t end)
{
    uint32_t per = vd_cluster_blocks(plan->image);
    int r = 0;
    for (uint64_t block = first; block < end && !r;) {
        unsigned i = (unsigned)(block % VD_LEAF_BLOCKS);
        const struct vd_block *entry = leaf->map.blocks ? &leaf->map.blocks[i] : NULL;
        const struct vd_zstd *extent = leaf->map.zstd ? &leaf->map.zstd[i / per] : NULL;
        enum vd_block_kind kind = entry ? vd_block_kind(entry) : VD_BLOCK_NONE;
        if (kind == VD_BLOCK_RAW)
            r = plan_raw(plan, block++, entry);
        else if (kind == VD_BLOCK_NONE && extent && extent->length)
            r = plan_zstd(plan, block++, extent);
        else
            r = plan_absent(plan, leaf, &block, end);
    }
    return r;
}

static int make_plan(struct plan *plan)
{
    uint64_t end = plan->first + plan->count;
    uint64_t size_end = vd_guest_blocks(plan->state->size);
    if (end > size_end) { /* the drive is larger than the state, or was */
        uint64_t from = vd_max64(plan->first, size_end);
        memset(plan->out + (from - plan->first) * VD_BLOCK, 0, (size_t)(end - from) * VD_BLOCK);
        end = from;
    }
    for (uint64_t block = plan->first; block < end;) {
        struct vd_node *leaf = NULL;
        enum vd_absent absent;
        uint64_t stop = vd_min64(end, (block / VD_LEAF_BLOCKS + 1) * VD_LEAF_BLOCKS);
        int r = vd_tree_get(plan->state->map, 0, block / VD_LEAF_BLOCKS, false, &leaf, &absent);
        if (!r && leaf)
            r = plan_leaf(plan, leaf, block, stop);
        else if (!r)
            r = fill_absent(plan, block, (uint32_t)(stop - block), absent == VD_ABSENT_ZERO);
        vd_node_unpin(leaf);
        if (r)
            return r;
        block = stop;
    }
    return 0;
}

/* --- reading --- */

static void copy_zstd(const struct plan *plan, const struct segment *s, const uint8_t *cluster)
{
    for (uint32_t i = 0; i < s->count; i++) {
        if (s->show[i / 64] >> i % 64 & 1)
            memcpy(plan->out + (s->first + i - plan->first) * VD_BLOCK,
                   cluster + (size_t)i * VD_BLOCK, VD_BLOCK);
    }
}

static int prepare_zstd(struct plan *plan, struct segment *s, struct vd_group *group)
{
    struct vdisk_image *image = plan->image;
    const uint8_t *cached = vd_clusters_get(image->clusters, s->extent.stamp);
    if (cached) { /* now: the cache's memory is only good until somebody else runs */
        copy_zstd(plan, s, cached);
        s->cached = true;
        return 0;
    }
    size_t length = (size_t)vd_zstd_blocks(&s->extent) * VD_BLOCK;
    s->cluster = vd_pool_take(&image->pool, vd_cluster_bytes(image));
    s->bytes = vd_pool_take(&image->pool, length);
    if (!s->cluster || !s->bytes)
        return -ENOMEM;
    s->io = (struct vdisk_io_request){.op = VDISK_IO_READ,
                                      .offset = s->extent.block * VD_BLOCK,
                                      .data = s->bytes,
                                      .length = length};
    vd_group_io(group, &s->io);
    return 0;
}

static int start_reads(struct plan *plan, struct vd_group *group)
{
    int r = 0;
    for (unsigned i = 0; i < plan->segments && !r; i++) {
        struct segment *s = &plan->segment[i];
        uint64_t stamp = s->zstd ? s->extent.stamp : s->raw[0].stamp;
        r = vd_keys_get(plan->image, vd_stamp_epoch(stamp), &s->keys);
        if (r)
            break;
        if (s->zstd) {
            r = prepare_zstd(plan, s, group);
            continue;
        }
        s->io = (struct vdisk_io_request){
            .op = VDISK_IO_READ,
            .offset = vd_block_host(&s->raw[0]) * VD_BLOCK,
            .data = plan->out + (s->first - plan->first) * VD_BLOCK,
            .length = (uint64_t)s->count * VD_BLOCK,
        };
        vd_group_io(group, &s->io);
    }
    return r;
}

/* --- verifying, decrypting, decompressing --- */

static int open_raw(const struct plan *plan, const struct segment *s, struct vd_cipher *cipher,
                    unsigned from, unsigned to)
{
    struct vd_seal_context context = {
        .image_id = plan->image->header.image_id, .length = VD_BLOCK, .kind = VD_SEAL_RAW};
    for (unsigned i = from; i < to; i++) {
        uint8_t *bytes = plan->out + (s->first + i - plan->first) * VD_BLOCK;
        context.stamp = s->raw[i].stamp;
        context.address = s->first + i;
        int r = vd_open(cipher, &context, bytes, bytes, s->raw[i].tag);
        if (r)
            return r;
    }
    return 0;
}

static int open_zstd(const struct plan *plan, const struct segment *s, struct vd_cipher *cipher,
                     struct vd_codec *codec)
{
    const struct vd_zstd *z = &s->extent;
    struct vd_seal_context context = {
        .image_id = plan->image->header.image_id,
        .stamp = z->stamp,
        .address = s->first,
        .length = vd_round16(z->length),
        .kind = VD_SEAL_ZSTD,
        .detail = 1,
        .extra = z->length,
    };
    uint8_t *bytes = s->bytes + z->offset16 * 16u;
    int r = vd_open(cipher, &context, bytes, bytes, z->tag);
    return r ? r
             : vd_decompress(codec, bytes, z->length, s->cluster,
                             (size_t)1 << plan->image->header.cluster_log2);
}

struct raw_slice {
    const struct plan *plan;
    const struct segment *segment;
};

static void raw_work(struct vd_task *task)
{
    const struct raw_slice *slice = task->arg;
    task->result = open_raw(slice->plan, slice->segment, task->cipher, task->from, task->to);
}

static void zstd_work(struct vd_task *task)
{
    const struct plan *plan = task->arg;
    for (unsigned i = task->from; i < task->to && !task->result; i++) {
        const struct segment *s = &plan->segment[i];
        if (s->zstd && !s->cached)
            task->result = open_zstd(plan, s, task->cipher, task->codec);
    }
}

/* Neighbouring zstd segments of one epoch from `i` on. */
static unsigned zstd_stretch(const struct plan *plan, unsigned i)
{
    unsigned end = i + 1;
    while (end < plan->segments && plan->segment[end].zstd &&
           plan->segment[end].keys == plan->segment[i].keys)
        end++;
    return end;
}

static int open_all(struct plan *plan)
{
    struct vd_tasks tasks;
    struct raw_slice *slices = malloc((plan->segments + 1) * sizeof(*slices));
    if (!slices)
        return -ENOMEM;
    vd_tasks_init(&tasks, plan->image);
    for (unsigned i = 0; i < plan->segments;) {
        struct segment *s = &plan->segment[i];
        if (s->zstd) {
            unsigned end = zstd_stretch(plan, i);
            vd_tasks_add(&tasks, i, end, 2, plan, s->keys, true, zstd_work);
            i = end;
            continue;
        }
        slices[i] = (struct raw_slice){plan, s};
        vd_tasks_add(&tasks, 0, s->count, 32, &slices[i], s->keys, false, raw_work);
        i++;
    }
    int r = vd_tasks_wait(&tasks);
    free(slices);
    return r;
}

static void release_plan(struct plan *plan)
{
    struct vd_pool *pool = &plan->image->pool;
    for (unsigned i = 0; i < plan->segments; i++) {
        struct segment *s = &plan->segment[i];
        vd_keys_put(s->keys);
        vd_pool_give(pool, s->bytes, (size_t)vd_zstd_blocks(&s->extent) * VD_BLOCK);
        vd_pool_give(pool, s->cluster, vd_cluster_bytes(plan->image));
    }
    free(plan->segment);
    vd_pool_give(pool, plan->raw, plan->count * sizeof(*plan->raw));
}

static int say_failure(struct plan *plan, int r)
{
    unsigned long long offset = plan->first * (unsigned long long)VD_BLOCK;
    unsigned long long length = plan->count * (unsigned long long)VD_BLOCK;
    if (r == VDISK_E_NOT_AUTHENTIC)
        return vd_image_corrupt(plan->image, r,
                                "data in the %llu bytes at offset %llu is not authentic", length,
                                offset);
    if (r == VDISK_E_MALFORMED)
        return vd_image_corrupt(plan->image, r,
                                "data in the %llu bytes at offset %llu cannot be decompressed",
                                length, offset);
    return vd_image_fail(plan->image, r, "cannot read the %llu bytes at offset %llu: %s", length,
                         offset, vdisk_strerror(r));
}

int vd_read_blocks(const struct vd_state *state, uint64_t first, uint32_t count, uint8_t *out)
{
    struct plan plan = {
        .state = state, .image = state->image, .first = first, .count = count, .out = out};
    struct vd_group group;
    int r = make_plan(&plan);
    if (!r && plan.segments) {
        vd_group_init(&group, &state->image->loop);
        r = start_reads(&plan, &group);
        int read = vd_group_wait(&group);
        r = r ? r : read;
        if (!r)
            r = open_all(&plan);
        for (unsigned i = 0; !r && i < plan.segments; i++) {
            struct segment *s = &plan.segment[i];
            if (!s->zstd || s->cached)
                continue;
            copy_zstd(&plan, s, s->cluster);
            if (plan.count < s->count) /* the neighbours may be asked for next */
                vd_clusters_put(state->image->clusters, s->extent.stamp, s->cluster);
        }
        if (r)
            say_failure(&plan, r);
    }
    if (r)
        sodium_memzero(out, (size_t)count * VD_BLOCK);
    release_plan(&plan);
    return r;
}

static int is_missing(const struct vd_state *state, uint64_t first, uint64_t end, bool *missing)
{
    uint64_t from, to;
    int r = vd_hole_next(state, first, vd_min64(end, vd_guest_blocks(state->size)), &from, &to);
    *missing = from < to;
    return r;
}

int vd_do_read(struct vdisk_image *image, struct vdisk_snapshot *snapshot, uint64_t offset,
               uint8_t *data, uint64_t length)
{
    uint64_t first = offset / VD_BLOCK, end = vd_guest_blocks(offset + length);
    struct vd_range range;
    int r = 0;
    if (!snapshot)
        vd_range_lock(&image->loop, &image->range, &range, first, end - 1, false);
    vd_lock_shared(&image->loop, &image->states);
    struct vd_state state = snapshot ? vd_snapshot_state(snapshot) : vd_live_state(image);
    bool missing = false;
    if (!snapshot && image->source)
        r = is_missing(&state, first, end, &missing);
    bool aligned =
        offset % VD_BLOCK == 0 && length % VD_BLOCK == 0 && (uintptr_t)data % VD_BLOCK == 0;
    uint8_t *bounce = NULL;
    size_t bounce_bytes = (size_t)vd_min64(end - first, VD_PIECE_BLOCKS) * VD_BLOCK;
    if (!aligned && !(bounce = vd_pool_take(&image->pool, bounce_bytes)))
        r = -ENOMEM;
    for (uint64_t at = first; at < end && !r;) {
        uint32_t count = (uint32_t)vd_min64(end - at, VD_PIECE_BLOCKS);
        uint64_t from = vd_max64(offset, at * VD_BLOCK);
        uint64_t to = vd_min64(offset + length, (at + count) * VD_BLOCK);
        r = vd_read_blocks(&state, at, count, bounce ? bounce : data + (from - offset));
        if (bounce && !r)
            memcpy(data + (from - offset), bounce + (from - at * VD_BLOCK), to - from);
        at += count;
    }
    vd_pool_give(&image->pool, bounce, bounce_bytes);
    vd_unlock_shared(&image->loop, &image->states);
    if (!snapshot)
        vd_range_unlock(&image->loop, &image->range, &range);
    if (missing && !r)
        vd_fill_behind(image, first, end);
    return r;
}
