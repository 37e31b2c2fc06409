/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing. The life of a piece (at most VD_PIECE_BLOCKS, whole blocks):
 *   plan      whole clusters are compressed where it pays; zeros are not stored
 *   admit     ring space for its operations and a reserve for the next checkpoint
 *   place     host blocks, compressed extents side by side, then raw blocks
 *   seal      stamps, encryption and tags, into the buffers that are written
 *   write     one request for each run of host blocks; where a flush is about to follow, the record
 *             of the journal beside it
 *   commit    map, use counts and pending journal operations, without a wait between them
 * The gate is held from place to commit. Until commit nothing has changed, so that any failure
 * only gives the host blocks back (and takes the record back).
 */
#include "blank.h"
#include "bytes.h"
#include "checkpoint.h"
#include "data.h"
#include "journal.h"
#include "map.h"
#include "tasks.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>

/* One operation in the making. */
struct unit {
    struct vd_op op;
    const uint8_t *source; /* raw: the guest's blocks; zstd: the packed cluster */
    uint8_t *sealed;       /* where it is written from */
    uint8_t *tags;
};

struct out_run {
    struct vd_run run;
    uint32_t filled; /* bytes */
    uint8_t *bytes;
    struct vdisk_io_request io;
};

struct piece {
    struct vdisk_image *image;
    uint64_t first;
    uint32_t count;
    const uint8_t *data;
    struct unit *unit; /* at most one for each block */
    unsigned units;
    struct out_run *run;
    unsigned runs, run_room;
    uint8_t *tags;   /* for each block */
    uint8_t *packed; /* clusters of cluster_bytes */
    uint32_t *packed_length;
    uint64_t first_cluster; /* guest block where packed[0] begins */
    unsigned clusters;
    uint8_t packed_in_block; /* extents that touch the last block filled so far */
    struct vd_epoch_keys *keys;
    bool leads; /* its operations are in the journal before its data */
    struct vd_lead lead;
};

/* --- plan --- */

static void pack_work(struct vd_task *task)
{
    struct piece *p = task->arg;
    size_t bytes = vd_cluster_bytes(p->image);
    int level = (int)p->image->super->level; /* NOLINT(cert-str34-c): a number, not a character */
    for (unsigned c = task->from; c < task->to; c++) {
        const uint8_t *data =
            p->data + (p->first_cluster - p->first) * VD_BLOCK + (size_t)c * bytes;
        p->packed_length[c] = 0;
        if (!vd_is_zero(data, bytes))
            p->packed_length[c] = vd_compress(task->codec, level, data, bytes,
                                              p->packed + (size_t)c * bytes, bytes - VD_BLOCK);
    }
}

/* Compresses the clusters that lie whole in the piece. */
static int pack(struct piece *p)
{
    uint32_t per = vd_cluster_blocks(p->image);
    uint64_t from = (p->first + per - 1) / per * per, to = (p->first + p->count) / per * per;
    if (p->image->super->codec == 0 || from >= to)
        return 0;
    p->first_cluster = from;
    p->clusters = (unsigned)((to - from) / per);
    p->packed = vd_pool_take(&p->image->pool, (size_t)(to - from) * VD_BLOCK);
    p->packed_length = calloc(p->clusters, sizeof(*p->packed_length));
    if (!p->packed || !p->packed_length)
        return -ENOMEM;
    struct vd_tasks tasks;
    vd_tasks_init(&tasks, p->image);
    vd_tasks_add(&tasks, 0, p->clusters, 1, p, NULL, true, pack_work);
    return vd_tasks_wait(&tasks);
}

/* The packed cluster that begins at this block, or -1. */
static int packed_at(const struct piece *p, uint64_t block)
{
    uint32_t per = vd_cluster_blocks(p->image);
    if (!p->clusters || block < p->first_cluster || (block - p->first_cluster) % per)
        return -1;
    uint64_t c = (block - p->first_cluster) / per;
    return c < p->clusters && p->packed_length[c] ? (int)c : -1;
}

static void plan_block(struct piece *p, uint64_t block)
{
    const uint8_t *data = p->data + (block - p->first) * VD_BLOCK;
    enum vd_op_type type = vd_is_zero(data, VD_BLOCK) ? VD_OP_ZERO : VD_OP_RAW;
    assert(p->unit);
    struct unit *last = p->units ? &p->unit[p->units - 1] : NULL;
    if (last && last->op.type == type && last->op.first + last->op.count == block &&
        block % VD_LEAF_BLOCKS != 0) {
        last->op.count++;
        return;
    }
    p->unit[p->units++] =
        (struct unit){.op = {.type = type, .first = block, .count = 1}, .source = data};
}

static void plan_units(struct piece *p)
{
    uint32_t per = vd_cluster_blocks(p->image);
    for (uint64_t block = p->first; block < p->first + p->count;) {
        int c = packed_at(p, block);
        if (c < 0) {
            plan_block(p, block++);
            continue;
        }
        p->unit[p->units++] = (struct unit){
            .op = {.type = VD_OP_ZSTD, .first = block, .count = per, .length = p->packed_length[c]},
            .source = p->packed + (size_t)c * vd_cluster_bytes(p->image),
        };
        block += per;
    }
}

/* --- place --- */

static struct out_run *new_run(struct piece *p, uint32_t want, uint32_t min, int *result)
{
    if (p->runs == p->run_room) {
        unsigned room = p->run_room ? p->run_room * 2 : 2;
        struct out_run *grown = realloc(p->run, room * sizeof(*grown));
        if (!grown) {
            *result = -ENOMEM;
            return NULL;
        }
        p->run = grown;
        p->run_room = room;
    }
    struct out_run out = {0};
    *result = want <= VD_BLANK_SMALL && min == 1 ? vd_blank_take(p->image, want, &out.run)
                                                 : vd_alloc_take(p->image, want, min, &out.run);
    if (*result)
        return NULL;
    assert(p->run);
    p->run[p->runs++] = out;
    p->packed_in_block = 0;
    out.bytes = vd_pool_take(&p->image->pool, (size_t)out.run.count * VD_BLOCK);
    p->run[p->runs - 1].bytes = out.bytes;
    if (!out.bytes)
        *result = -ENOMEM;
    return out.bytes ? &p->run[p->runs - 1] : NULL;
}

static struct out_run *last_run(struct piece *p)
{
    return p->runs ? &p->run[p->runs - 1] : NULL;
}

/* Blocks that the units from `u` on will take at most. */
static uint32_t blocks_left(const struct piece *p, unsigned u)
{
    uint64_t bytes = 0, raw = 0;
    for (unsigned i = 0; i < p->units; i++) {
        const struct vd_op *op = &p->unit[i].op;
        if (op->type == VD_OP_ZSTD && i >= u)
            bytes += vd_round16(op->length);
        else if (op->type == VD_OP_RAW && p->unit[i].sealed == NULL)
            raw += op->count;
    }
    return (uint32_t)(vd_div_up(bytes, VD_BLOCK) + raw);
}

/* Goes on in the next block. The rest of this one is zeros: what the memory held before must not
 * reach the disk. */
static void end_block(struct out_run *run)
{
    uint32_t end = (run->filled + VD_BLOCK - 1) / VD_BLOCK * VD_BLOCK;
    memset(run->bytes + run->filled, 0, end - run->filled);
    run->filled = end;
}

static int place_zstd(struct piece *p, unsigned u)
{
    struct unit *unit = &p->unit[u];
    uint32_t length = vd_round16(unit->op.length);
    struct out_run *run = last_run(p);
    int r = 0;
    if (run && p->packed_in_block == VD_USE_MAX) {
        end_block(run);
        p->packed_in_block = 0;
    }
    if (!run || run->filled + length > run->run.count * VD_BLOCK) {
        uint32_t min = (length + VD_BLOCK - 1) / VD_BLOCK;
        uint32_t want = blocks_left(p, u);
        run = new_run(p, want > min ? want : min, min, &r);
        if (!run)
            return r;
    }
    uint32_t at = run->filled;
    unit->op.block = run->run.block + at / VD_BLOCK;
    unit->op.offset16 = (uint8_t)(at % VD_BLOCK / 16);
    unit->sealed = run->bytes + at;
    run->filled = at + length;
    bool same = at / VD_BLOCK == (run->filled - 1) / VD_BLOCK;
    p->packed_in_block = (uint8_t)(same ? p->packed_in_block + 1 : 1);
    if (run->filled % VD_BLOCK == 0)
        p->packed_in_block = 0;
    return 0;
}

/* Places what fits into a run; the rest becomes a unit of its own at the end. */
static int place_raw(struct piece *p, unsigned u)
{
    struct out_run *run = last_run(p);
    int r = 0;
    if (run)
        end_block(run);
    if (!run || run->filled == run->run.count * VD_BLOCK) {
        run = new_run(p, blocks_left(p, p->units), 1, &r);
        if (!run)
            return r;
    }
    struct unit *unit = &p->unit[u];
    uint32_t room = run->run.count - run->filled / VD_BLOCK;
    if (unit->op.count > room) {
        struct unit rest = *unit;
        rest.op.first += room;
        rest.op.count -= room;
        rest.source += (size_t)room * VD_BLOCK;
        unit->op.count = room;
        p->unit[p->units++] = rest;
    }
    unit->op.block = run->run.block + run->filled / VD_BLOCK;
    unit->sealed = run->bytes + run->filled;
    run->filled += (uint32_t)unit->op.count * VD_BLOCK;
    return 0;
}

static int place(struct piece *p)
{
    int r = 0;
    for (unsigned u = 0; u < p->units && !r; u++) {
        if (p->unit[u].op.type == VD_OP_ZSTD)
            r = place_zstd(p, u);
    }
    for (unsigned u = 0; u < p->units && !r; u++) {
        if (p->unit[u].op.type == VD_OP_RAW)
            r = place_raw(p, u);
    }
    return r;
}

/* --- seal --- */

static void number_units(struct piece *p)
{
    uint8_t *tags = p->tags;
    for (unsigned u = 0; u < p->units; u++) {
        struct unit *unit = &p->unit[u];
        uint64_t extents = unit->op.type == VD_OP_RAW ? unit->op.count : 1;
        if (unit->op.type != VD_OP_RAW && unit->op.type != VD_OP_ZSTD)
            continue;
        unit->op.stamp = vd_stamp_take(p->image, extents);
        unit->tags = tags;
        unit->op.tags = tags;
        tags += extents * VD_TAG_BYTES;
    }
}

static int seal_raw(const struct piece *p, const struct unit *unit, struct vd_cipher *cipher,
                    unsigned from, unsigned to)
{
    struct vd_seal_context context = {
        .image_id = p->image->header.image_id, .length = VD_BLOCK, .kind = VD_SEAL_RAW};
    int r = 0;
    for (unsigned i = from; i < to && !r; i++) {
        context.stamp = unit->op.stamp + i;
        context.address = unit->op.first + i;
        r = vd_seal(cipher, &context, unit->source + (size_t)i * VD_BLOCK,
                    unit->sealed + (size_t)i * VD_BLOCK, unit->tags + (size_t)i * VD_TAG_BYTES);
    }
    return r;
}

static int seal_zstd(const struct piece *p, const struct unit *unit, struct vd_cipher *cipher)
{
    uint32_t length = vd_round16(unit->op.length);
    struct vd_seal_context context = {
        .image_id = p->image->header.image_id,
        .stamp = unit->op.stamp,
        .address = unit->op.first,
        .length = length,
        .kind = VD_SEAL_ZSTD,
        .detail = 1,
        .extra = unit->op.length,
    };
    memcpy(unit->sealed, unit->source, unit->op.length);
    memset(unit->sealed + unit->op.length, 0, length - unit->op.length);
    return vd_seal(cipher, &context, unit->sealed, unit->sealed, unit->tags);
}

struct raw_slice {
    const struct piece *piece;
    const struct unit *unit;
};

static void raw_work(struct vd_task *task)
{
    const struct raw_slice *slice = task->arg;
    task->result = seal_raw(slice->piece, slice->unit, task->cipher, task->from, task->to);
}

static void zstd_work(struct vd_task *task)
{
    const struct piece *p = task->arg;
    for (unsigned u = task->from; u < task->to && !task->result; u++) {
        if (p->unit[u].op.type == VD_OP_ZSTD)
            task->result = seal_zstd(p, &p->unit[u], task->cipher);
    }
}

static int seal(struct piece *p)
{
    struct vd_tasks tasks;
    struct raw_slice *slices = malloc(p->units * sizeof(*slices));
    if (!slices)
        return -ENOMEM;
    number_units(p);
    vd_tasks_init(&tasks, p->image);
    if (p->clusters)
        vd_tasks_add(&tasks, 0, p->units, 4, p, p->keys, false, zstd_work);
    for (unsigned u = 0; u < p->units; u++) {
        const struct unit *unit = &p->unit[u];
        slices[u] = (struct raw_slice){p, unit};
        if (unit->op.type == VD_OP_RAW)
            vd_tasks_add(&tasks, 0, (unsigned)unit->op.count, 32, &slices[u], p->keys, false,
                         raw_work);
    }
    int r = vd_tasks_wait(&tasks);
    free(slices);
    return r;
}

/* --- write, commit --- */

static size_t op_bytes(const struct piece *p)
{
    size_t bytes = 0;
    for (unsigned u = 0; u < p->units; u++)
        bytes += vd_op_size(&p->unit[u].op);
    return bytes;
}

/* Begins the record that is written beside the data, if it may. */
static void begin_lead(struct piece *p)
{
    size_t bytes = op_bytes(p);
    if (!vd_journal_may_lead(p->image, bytes) || vd_journal_ready(p->image, bytes))
        return;
    vd_journal_lead(p->image, &p->lead);
    for (unsigned u = 0; u < p->units; u++)
        vd_journal_add(p->image, &p->unit[u].op);
    p->leads = true;
}

static int write_runs(struct piece *p, bool lead)
{
    struct vd_group group;
    vd_group_init(&group, &p->image->loop);
    for (unsigned i = 0; i < p->runs; i++) {
        struct out_run *run = &p->run[i];
        size_t length = (run->filled + VD_BLOCK - 1) / VD_BLOCK * VD_BLOCK;
        memset(run->bytes + run->filled, 0, length - run->filled);
        run->io = (struct vdisk_io_request){.op = VDISK_IO_WRITE,
                                            .offset = run->run.block * VD_BLOCK,
                                            .data = run->bytes,
                                            .length = length};
        if (length)
            vd_group_io(&group, &run->io);
    }
    if (lead && p->runs)
        begin_lead(p);
    int led = p->leads ? vd_journal_lead_emit(p->image, &p->lead) : 0;
    int r = vd_group_wait(&group);
    for (unsigned i = 0; i < p->runs && r == -ENOSPC; i++)
        vd_alloc_refused(p->image, &p->run[i].run);
    if (r)
        return vd_image_fail(p->image, r, "cannot write to the image file: %s", vdisk_strerror(r));
    return led;
}

#define LEAVES_MAX  (VD_PIECE_BLOCKS / VD_LEAF_BLOCKS + 2)
#define NODE_BLOCKS (VD_NODE_BLOCKS_MAX * LEAVES_MAX + 16)

static int commit(struct piece *p)
{
    struct vdisk_image *image = p->image;
    struct vd_node *leaf[LEAVES_MAX] = {0};
    uint64_t from = p->first / VD_LEAF_BLOCKS;
    unsigned leaves = (unsigned)((p->first + p->count - 1) / VD_LEAF_BLOCKS - from + 1);
    int r = 0;
    for (unsigned i = 0; i < leaves && !r; i++)
        r = vd_map_leaf(image, from + i, &leaf[i]);
    for (unsigned i = 0; i < leaves && !r; i++)
        r = vd_map_ready(image, leaf[i], leaves * (VD_LEAF_BLOCKS + VD_LEAF_CLUSTERS_MAX));
    if (!r && !p->leads)
        r = vd_journal_ready(image, op_bytes(p));
    for (unsigned u = 0; u < p->units && !r; u++) {
        struct vd_op *op = &p->unit[u].op;
        if (op->type == VD_OP_RAW)
            vd_alloc_use(image, op->block, (uint32_t)op->count);
        if (op->type == VD_OP_ZSTD) {
            struct vd_zstd z = {.offset16 = op->offset16, .length = op->length};
            vd_alloc_use(image, op->block, vd_zstd_blocks(&z));
        }
        vd_map_apply(image, leaf[op->first / VD_LEAF_BLOCKS - from], op);
        if (!p->leads)
            vd_journal_add(image, op);
    }
    for (unsigned i = 0; i < leaves; i++)
        vd_node_unpin(leaf[i]);
    return r;
}

static void release_piece(struct piece *p)
{
    struct vd_pool *pool = &p->image->pool;
    for (unsigned i = 0; i < p->runs; i++) {
        vd_alloc_unhold(p->image, p->run[i].run.block, p->run[i].run.count);
        vd_pool_give(pool, p->run[i].bytes, (size_t)p->run[i].run.count * VD_BLOCK);
    }
    vd_keys_put(p->keys);
    free(p->run);
    vd_pool_give(pool, p->unit, p->count * sizeof(*p->unit));
    vd_pool_give(pool, p->tags, (size_t)p->count * VD_TAG_BYTES);
    vd_pool_give(pool, p->packed, (size_t)p->clusters * vd_cluster_blocks(p->image) * VD_BLOCK);
    free(p->packed_length);
}

static int write_piece(struct vdisk_image *image, uint64_t first, uint32_t count,
                       const uint8_t *data, bool lead)
{
    struct piece p = {.image = image, .first = first, .count = count, .data = data};
    uint32_t cost = vd_journal_cost((size_t)count * (32 + VD_TAG_BYTES));
    bool committed = false;
    int r = vd_begin_writing(image);
    p.unit = vd_pool_take(&image->pool, count * sizeof(*p.unit));
    p.tags = vd_pool_take(&image->pool, (size_t)count * VD_TAG_BYTES);
    if (!r && (!p.unit || !p.tags))
        r = -ENOMEM;
    if (!r)
        r = pack(&p);
    if (r)
        goto out;
    plan_units(&p);
    r = vd_journal_admit(image, cost);
    if (r)
        goto out;
    bool promised = (r = vd_reserve_promise(image, NODE_BLOCKS, VD_FOR_WRITE)) == 0;
    vd_lock_shared(&image->loop, &image->gate);
    if (!r && image->failed)
        r = VDISK_E_FAILED;
    if (!r)
        r = vd_keys_get(image, image->super->epoch, &p.keys);
    if (!r)
        r = place(&p);
    if (!r)
        r = seal(&p);
    if (!r)
        r = write_runs(&p, lead);
    if (!r)
        r = commit(&p);
    committed = r == 0;
    if (p.leads)
        vd_journal_lead_end(image, &p.lead, committed);
    release_piece(&p);
    vd_unlock_shared(&image->loop, &image->gate);
    vd_journal_settle(image, cost, committed && !p.leads);
    if (promised)
        vd_reserve_settle(image, NODE_BLOCKS);
    vd_checkpoint_kick(image);
    return r;

out:
    release_piece(&p);
    return r;
}

/* Waits for what may give a full disk room: a checkpoint, after which the tree on disk no longer
 * refers to what was overwritten, or the end of a change, for which part of the reserve was there
 * and which has overwritten something. `done` checkpoints had ended when there was no room.
 * -ENOSPC: there is nothing to wait for; a checkpoint that failed has made no room. */
static int wait_for_room(struct vdisk_image *image, uint64_t done)
{
    if (image->alloc.frees.count > 0 || image->checkpoint_running)
        return vd_checkpoint_join(image);
    if (image->checkpoints_done != done && !image->checkpoint_result)
        return 0;
    if (image->alloc.promised_blocks == 0)
        return -ENOSPC;
    vd_wait(&image->loop, &image->settle_waiters);
    return 0;
}

/* Those that find no room try again one after the other: together they would take it from each
 * other. */
int vd_write_piece(struct vdisk_image *image, uint64_t first, uint32_t count, const uint8_t *data,
                   bool lead)
{
    uint64_t done = image->checkpoints_done;
    int r = write_piece(image, first, count, data, lead);
    if (r != -ENOSPC)
        return r;
    vd_lock_exclusive(&image->loop, &image->full);
    while (r == -ENOSPC) {
        r = wait_for_room(image, done);
        if (r)
            break;
        done = image->checkpoints_done;
        r = write_piece(image, first, count, data, lead);
    }
    vd_unlock_exclusive(&image->loop, &image->full);
    return r;
}
