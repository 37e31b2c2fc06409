/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A chunk's way into the repository (SPEC.md B11, 3): read, hash, compress, seal, by one thread, on
 * one processor; see create_impl.h.
 */
#include "create_impl.h"

#include "report.h"
#include "zeros.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT    4096u
#define PATCH_BLOCKS (VB_CHUNK_BLOCKS / 4) /* a patch has at most so many */

struct lane {
    struct chunk_shared *shared;
    void *reader;
    struct vb_sealer *sealer;
    uint8_t *buffer; /* VB_CHUNK_BYTES */
};

static void keep_error(struct chunk_shared *shared, const struct vdisk_error *error)
{
    pthread_mutex_lock(&shared->mutex);
    if (shared->error.code == 0)
        shared->error = *error;
    pthread_mutex_unlock(&shared->mutex);
}

/* --- reading ------------------------------------------------------------------------------ */

/* Blocks first to last of the chunk, without what lies past the end of the drive. */
static int read_run(struct lane *lane, uint64_t chunk_offset, unsigned first, unsigned last,
                    uint8_t *to, uint64_t *bytes, struct vdisk_error *error)
{
    struct vb_drive *drive = lane->shared->drive;
    uint64_t offset = chunk_offset + (uint64_t)first * VB_BLOCK_BYTES;
    size_t length = (size_t)(last - first) * VB_BLOCK_BYTES, inside = length;

    if (offset >= drive->size)
        inside = 0;
    else if (drive->size - offset < length)
        inside = (size_t)(drive->size - offset);
    memset(to + inside, 0, length - inside);
    if (inside == 0)
        return 0;
    *bytes += inside;
    return drive->ops->read(lane->reader, offset, to, inside, error);
}

/*
 * The blocks that `wanted` names into the buffer, one behind the other (`compact`) or each in its
 * place; those that are known to be zeros are not read.
 */
static int read_blocks(struct lane *lane, const struct chunk_task *task, const uint8_t *wanted,
                       bool compact, uint64_t *bytes, struct vdisk_error *error)
{
    uint64_t chunk = task->job->index * LEAF_BYTES + (uint64_t)task->slot * VB_CHUNK_BYTES;
    unsigned block = 0, at = 0;

    while (block < VB_CHUNK_BLOCKS) {
        bool is_zero = has_bit(task->changed, block) && !has_bit(task->data, block);
        unsigned first = block;
        uint8_t *to;
        int result = 0;

        if (!has_bit(wanted, block)) {
            block++;
            continue;
        }
        while (block < VB_CHUNK_BLOCKS && has_bit(wanted, block) &&
               is_zero == (has_bit(task->changed, block) && !has_bit(task->data, block)))
            block++;
        to = lane->buffer + (size_t)(compact ? at : first) * VB_BLOCK_BYTES;
        at += block - first;
        if (is_zero)
            memset(to, 0, (size_t)(block - first) * VB_BLOCK_BYTES);
        else
            result = read_run(lane, chunk, first, block, to, bytes, error);
        if (result)
            return result;
    }
    return 0;
}

/* --- storing ------------------------------------------------------------------------------ */

int vb_chunk_load_index(struct chunk_shared *shared)
{
    int result = 0;

    pthread_mutex_lock(&shared->mutex);
    if (!shared->data) {
        result = vb_index_load(shared->repo, VB_INDEX_DATA, NULL, NULL, &shared->data);
        if (result == 0) {
            shared->pack_used = calloc(vb_index_packs(shared->data) + 1, 1);
            if (!shared->pack_used) {
                vb_index_free(shared->data);
                shared->data = NULL;
                result = -ENOMEM;
            }
        }
    }
    pthread_mutex_unlock(&shared->mutex);
    return result;
}

/* 1: it has to be stored, by us; 0: it is there, or another thread stores it; or an error. */
static int ask_for(struct chunk_shared *shared, enum vb_record_kind kind, const struct vb_id *id)
{
    const struct vb_index *data;
    struct vb_found found;
    bool is_there;
    int result = 0;

    pthread_mutex_lock(&shared->mutex);
    data = shared->data; /* a patch alone does not have it loaded */
    pthread_mutex_unlock(&shared->mutex);
    is_there = data && vb_index_find_trusted(data, kind, id, &found);
    pthread_mutex_lock(&shared->mutex);
    if (is_there)
        shared->pack_used[vb_index_pack_number(data, &found)] = 1;
    else
        result = vb_idset_add(&shared->fresh, id);
    pthread_mutex_unlock(&shared->mutex);
    return result;
}

static int store(struct lane *lane, enum vb_record_kind kind, const struct vb_id *id, size_t length)
{
    struct chunk_shared *shared = lane->shared;
    int wanted = ask_for(shared, kind, id);

    if (wanted < 0)
        return wanted;
    pthread_mutex_lock(&shared->mutex);
    if (kind == VB_RECORD_PATCH)
        shared->counts.patches++;
    else if (wanted)
        shared->counts.chunks_stored++;
    else
        shared->counts.chunks_known++;
    pthread_mutex_unlock(&shared->mutex);
    return wanted ? vb_packer_add(shared->packer, lane->sealer, kind, id, lane->buffer, length) : 0;
}

/* --- the ways ----------------------------------------------------------------------------- */

static void count_zero(struct chunk_shared *shared)
{
    pthread_mutex_lock(&shared->mutex);
    shared->counts.chunks_zero++;
    pthread_mutex_unlock(&shared->mutex);
}

/* The whole chunk, as a base. */
static int store_base(struct lane *lane, struct chunk_task *task, uint64_t *bytes,
                      struct vdisk_error *error)
{
    const struct vb_keys *keys = lane->shared->repo->keys;
    uint8_t wanted[VB_BITMAP_BYTES];
    int result;

    if (task->before.state == VB_NODE_ZERO) {
        memcpy(wanted, task->data, sizeof(wanted));
        memset(lane->buffer, 0, VB_CHUNK_BYTES);
    } else {
        memset(wanted, 0xff, sizeof(wanted));
    }
    result = read_blocks(lane, task, wanted, false, bytes, error);
    if (result)
        return result;
    if (zeros_is_all(lane->buffer, VB_CHUNK_BYTES)) {
        count_zero(lane->shared);
        return 0;
    }
    result = vb_chunk_load_index(lane->shared);
    if (result)
        return result;
    task->after.state = VB_NODE_BASE;
    vb_id_of(keys->chunk_key, lane->buffer, VB_CHUNK_BYTES, &task->after.id);
    return store(lane, VB_RECORD_BASE, &task->after.id, VB_CHUNK_BYTES);
}

static int store_patch(struct lane *lane, struct chunk_task *task, const uint8_t *blocks,
                       uint64_t *bytes, struct vdisk_error *error)
{
    const struct vb_keys *keys = lane->shared->repo->keys;
    size_t length = (size_t)vb_bitmap_count(blocks) * VB_BLOCK_BYTES;
    int result = read_blocks(lane, task, blocks, true, bytes, error);

    if (result)
        return result;
    task->after.state = VB_NODE_PATCHED;
    task->after.id = task->before.id;
    memcpy(task->after.bitmap, blocks, VB_BITMAP_BYTES);
    vb_id_of(keys->patch_key, lane->buffer, length, &task->after.patch);
    return store(lane, VB_RECORD_PATCH, &task->after.patch, length);
}

/* The base of chunks that are zeros but for some blocks; stored with the first of them. */
static int use_zero_base(struct lane *lane, struct vb_id *id)
{
    struct chunk_shared *shared = lane->shared;
    int result = 0;

    pthread_mutex_lock(&shared->zero_mutex);
    if (!shared->has_zero_base) {
        memset(lane->buffer, 0, VB_CHUNK_BYTES);
        vb_id_of(shared->repo->keys->chunk_key, lane->buffer, VB_CHUNK_BYTES, &shared->zero_base);
        result = ask_for(shared, VB_RECORD_BASE, &shared->zero_base);
        if (result > 0)
            result = vb_packer_add(shared->packer, lane->sealer, VB_RECORD_BASE, &shared->zero_base,
                                   lane->buffer, VB_CHUNK_BYTES);
        shared->has_zero_base = result == 0;
    }
    *id = shared->zero_base;
    pthread_mutex_unlock(&shared->zero_mutex);
    return result;
}

/* Of the blocks in the buffer those that are not zeros, and what is left of their bitmap. */
static size_t leave_out_zeros(uint8_t *buffer, uint8_t *bitmap)
{
    size_t from = 0, to = 0;

    for (unsigned block = 0; block < VB_CHUNK_BLOCKS; block++) {
        if (!has_bit(bitmap, block))
            continue;
        if (zeros_is_all(buffer + from, VB_BLOCK_BYTES)) {
            bitmap[block / 8] &= (uint8_t) ~(1u << (block % 8));
        } else {
            memmove(buffer + to, buffer + from, VB_BLOCK_BYTES);
            to += VB_BLOCK_BYTES;
        }
        from += VB_BLOCK_BYTES;
    }
    return to;
}

/* Some blocks where all was zeros: a patch of zeros, so that they alone are hashed. */
static int store_sparse(struct lane *lane, struct chunk_task *task, uint64_t *bytes,
                        struct vdisk_error *error)
{
    struct chunk_shared *shared = lane->shared;
    uint8_t blocks[VB_BITMAP_BYTES];
    size_t length;
    int result = read_blocks(lane, task, task->data, true, bytes, error);

    if (result)
        return result;
    memcpy(blocks, task->data, sizeof(blocks));
    length = leave_out_zeros(lane->buffer, blocks);
    if (length == 0) {
        count_zero(shared);
        return 0;
    }
    /* Of a drive that is looked at as a whole, most may be there. */
    result = shared->drive->base ? 0 : vb_chunk_load_index(shared);
    if (result)
        return result;
    task->after.state = VB_NODE_PATCHED;
    memcpy(task->after.bitmap, blocks, VB_BITMAP_BYTES);
    vb_id_of(shared->repo->keys->patch_key, lane->buffer, length, &task->after.patch);
    result = store(lane, VB_RECORD_PATCH, &task->after.patch, length);
    return result ? result : use_zero_base(lane, &task->after.id);
}

static bool is_all_zero_now(const struct chunk_task *task)
{
    return vb_bitmap_count(task->changed) == VB_CHUNK_BLOCKS && vb_bitmap_count(task->data) == 0;
}

static int look_at(struct lane *lane, struct chunk_task *task, uint64_t *bytes,
                   struct vdisk_error *error)
{
    uint8_t blocks[VB_BITMAP_BYTES];

    if (is_all_zero_now(task)) {
        count_zero(lane->shared);
        return 0;
    }
    if (task->before.state == VB_NODE_ZERO && vb_bitmap_count(task->data) <= PATCH_BLOCKS)
        return store_sparse(lane, task, bytes, error);
    memcpy(blocks, task->changed, sizeof(blocks));
    for (unsigned i = 0; task->before.state == VB_NODE_PATCHED && i < VB_BITMAP_BYTES; i++)
        blocks[i] |= task->before.bitmap[i];
    if (task->before.state == VB_NODE_ZERO || vb_bitmap_count(blocks) > PATCH_BLOCKS)
        return store_base(lane, task, bytes, error);
    return store_patch(lane, task, blocks, bytes, error);
}

static void work(void *opaque, void *state, struct vb_task *vb_task)
{
    struct chunk_task *task = (struct chunk_task *)vb_task;
    struct chunk_shared *shared = opaque;
    struct lane *lane = state;
    struct vdisk_error error = {0};
    uint64_t bytes = 0;

    memset(&task->after, 0, sizeof(task->after));
    task->result = look_at(lane, task, &bytes, &error);
    pthread_mutex_lock(&shared->mutex);
    shared->counts.bytes_read += bytes;
    pthread_mutex_unlock(&shared->mutex);
    if (task->result == 0)
        return;
    if (error.code != task->result)
        error_set(&error, task->result, "%s", vdisk_strerror(task->result));
    keep_error(shared, &error);
}

/* --- a thread's begin and end ----------------------------------------------------------------- */

static void end(void *opaque, void *state)
{
    struct chunk_shared *shared = opaque;
    struct lane *lane = state;

    if (lane->reader)
        shared->drive->ops->close(lane->reader);
    vb_sealer_free(lane->sealer);
    free(lane->buffer);
    free(lane);
}

static int begin(void *opaque, void **state)
{
    struct chunk_shared *shared = opaque;
    struct lane *lane = calloc(1, sizeof(*lane));
    struct vdisk_error error = {0};
    int result;

    if (!lane)
        return -ENOMEM;
    lane->shared = shared;
    lane->buffer = aligned_alloc(ALIGNMENT, VB_CHUNK_BYTES);
    result = lane->buffer ? vb_sealer_new(shared->repo->config.repo_id, &lane->sealer) : -ENOMEM;
    if (result == 0)
        result = shared->drive->ops->open(shared->drive, &lane->reader, &error);
    if (result) {
        if (error.code != result)
            error_set(&error, result, "%s", vdisk_strerror(result));
        keep_error(shared, &error);
        end(opaque, lane);
        return result;
    }
    *state = lane;
    return 0;
}

const struct vb_crew_ops vb_chunk_ops = {.begin = begin, .work = work, .end = end};
