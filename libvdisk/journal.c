/* SPDX-License-Identifier: Apache-2.0 */
/* Writing the journal, and the commit that makes it durable; see journal.h. */
#include "journal.h"

#include "bytes.h"
#include "checkpoint.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define BODY_MAX   (VD_RECORD_BLOCKS_MAX * VD_BLOCK - VD_RECORD_HEAD - VD_RECORD_BODY_HEAD)
#define BODY_BLOCK (VD_BLOCK - VD_RECORD_HEAD - VD_RECORD_BODY_HEAD)

uint32_t vd_journal_cost(size_t op_bytes)
{
    /* Operations are not divided: each record but the last may end in a gap of one. */
    size_t overhead = VD_RECORD_HEAD + VD_RECORD_BODY_HEAD;
    return (uint32_t)(vd_div_up(op_bytes + overhead, VD_BLOCK) + op_bytes / (BODY_MAX / 2) * 3);
}

int vd_journal_admit(struct vdisk_image *image, uint32_t blocks)
{
    struct vd_journal *j = &image->journal;
    for (;;) {
        if (image->failed)
            return vd_image_fail(image, VDISK_E_FAILED,
                                 "an earlier write to the image file failed; open it again");
        if (image->stamp << 24 >> 24 > (UINT64_C(1) << VD_STAMP_COUNTER) - (1u << 24))
            return vd_image_fail(image, VDISK_E_LIMIT,
                                 "too much was written since it was opened; open it again");
        if (j->used + j->pending_blocks + j->reserved_blocks + blocks <= j->ring_blocks)
            break;
        /* Small writes reserve a block each; written together they take far less. */
        bool thin = j->pending_blocks > 2 * vd_journal_cost(j->pending_bytes - j->loose_bytes);
        int r = thin ? vd_journal_emit(image) : vd_checkpoint_join(image);
        if (r)
            return r;
    }
    j->reserved_blocks += blocks;
    return 0;
}

int vd_journal_ready(struct vdisk_image *image, size_t op_bytes)
{
    struct vd_journal *j = &image->journal;
    if (j->pending_room - j->pending_bytes >= op_bytes)
        return 0;
    size_t room = (j->pending_bytes + op_bytes) * 2;
    uint8_t *pending = realloc(j->pending, room);
    if (!pending)
        return -ENOMEM;
    j->pending = pending;
    j->pending_room = room;
    return 0;
}

void vd_journal_add(struct vdisk_image *image, const struct vd_op *op)
{
    struct vd_journal *j = &image->journal;
    size_t size = vd_op_size(op);
    assert(j->pending_room - j->pending_bytes >= size);
    vd_op_encode(op, j->pending + j->pending_bytes);
    j->pending_bytes += size;
    j->pending_count++;
    j->added++;
}

void vd_journal_settle(struct vdisk_image *image, uint32_t blocks, bool added)
{
    image->journal.reserved_blocks -= blocks;
    if (added)
        image->journal.pending_blocks += blocks;
}

/* --- records --- */

static size_t encoded_op_size(const uint8_t *p)
{
    struct vd_op op = {.type = (enum vd_op_type)p[0], .count = vd_get32(p + 4)};
    return vd_op_size(&op);
}

/* How many bytes of whole operations fit into one record. */
static size_t record_share(const uint8_t *ops, size_t bytes, uint32_t *count)
{
    size_t at = 0;
    *count = 0;
    while (at < bytes && at + encoded_op_size(ops + at) <= BODY_MAX) {
        at += encoded_op_size(ops + at);
        (*count)++;
    }
    return at;
}

struct record_buffer {
    struct record_buffer *next;
    uint8_t *bytes;
    struct vdisk_io_request io[2]; /* the second where the ring starts over */
};

/* Seals one record and advances the journal; the write is the caller's to submit. */
static int build_record(struct vdisk_image *image, struct vd_cipher *cipher, const uint8_t *ops,
                        size_t op_bytes, uint32_t op_count, struct record_buffer **out)
{
    struct vd_journal *j = &image->journal;
    uint32_t blocks =
        (uint32_t)vd_div_up(VD_RECORD_HEAD + VD_RECORD_BODY_HEAD + op_bytes, VD_BLOCK);
    uint32_t length = blocks * VD_BLOCK;
    struct record_buffer *record = calloc(1, sizeof(*record));
    uint8_t *bytes = record ? vd_buffer_new(length) : NULL;
    if (!bytes) {
        free(record);
        return -ENOMEM;
    }
    memset(bytes, 0, length);
    struct vd_record head = {
        .durable = j->durable, .op_bytes = (uint32_t)op_bytes, .op_count = op_count};
    memcpy(head.prev_tag, j->prev_tag, VD_TAG_BYTES);
    vd_record_encode(&head, bytes + VD_RECORD_HEAD);
    memcpy(bytes + VD_RECORD_HEAD + VD_RECORD_BODY_HEAD, ops, op_bytes);
    struct vd_seal_context context = {
        .image_id = image->header.image_id,
        .stamp = vd_stamp_take(image, 1),
        .address = j->seq,
        .length = length - VD_RECORD_HEAD,
        .kind = VD_SEAL_RECORD,
    };
    vd_put64(bytes + 16, context.stamp);
    vd_put64(bytes + 24, j->seq);
    vd_put32(bytes + 32, blocks);
    int r = vd_seal(cipher, &context, bytes + VD_RECORD_HEAD, bytes + VD_RECORD_HEAD, bytes);
    if (r) {
        free(bytes);
        free(record);
        return r;
    }
    memcpy(j->prev_tag, bytes, VD_TAG_BYTES);
    uint32_t first = blocks < j->ring_blocks - j->pos ? blocks : j->ring_blocks - j->pos;
    record->bytes = bytes;
    record->io[0] = (struct vdisk_io_request){
        .op = VDISK_IO_WRITE,
        .offset = (4 + (uint64_t)j->pos) * VD_BLOCK,
        .data = bytes,
        .length = (uint64_t)first * VD_BLOCK,
    };
    record->io[1] = (struct vdisk_io_request){
        .op = VDISK_IO_WRITE,
        .offset = 4 * VD_BLOCK,
        .data = bytes + (size_t)first * VD_BLOCK,
        .length = (uint64_t)(blocks - first) * VD_BLOCK,
    };
    j->pos = (j->pos + blocks) % j->ring_blocks;
    j->used += blocks;
    j->seq++;
    j->records++;
    *out = record;
    return 0;
}

/* --- the last record, while it may be written again --- */

/* It stays as it is. */
static void fix_last(struct vd_journal *j)
{
    if (j->loose_bytes == 0)
        return;
    j->pending_bytes -= j->loose_bytes;
    j->pending_count -= j->loose_count;
    memmove(j->pending, j->pending + j->loose_bytes, j->pending_bytes);
    j->loose_bytes = 0;
    j->loose_count = 0;
}

/* Steps back before it, so that the next record takes its place, if all of it fits there or it must
 * not stay. */
static void take_last(struct vd_journal *j)
{
    if (!j->rewrite && j->pending_bytes > BODY_BLOCK)
        fix_last(j);
    if (!j->rewrite && j->loose_bytes == 0)
        return;
    j->pos = (j->pos + j->ring_blocks - 1) % j->ring_blocks;
    j->used--;
    memcpy(j->prev_tag, j->loose_prev_tag, VD_TAG_BYTES);
}

/* All pending operations as records, in memory; in place of one that must not stay one at least.
 * With `keep` they stay pending while they are in a record that may be written again. */
static int build_records(struct vdisk_image *image, bool keep, struct record_buffer **list)
{
    struct vd_journal *j = &image->journal;
    struct vd_epoch_keys *keys = NULL;
    struct record_buffer **tail = list;
    int r = vd_keys_get(image, image->super->epoch, &keys);
    if (r)
        return r;
    struct vd_cipher *cipher = vd_keys_take(keys);
    if (!cipher)
        r = -ENOMEM;
    take_last(j);
    memcpy(j->loose_prev_tag, j->prev_tag, VD_TAG_BYTES);
    keep = keep && j->pending_bytes <= BODY_BLOCK;
    for (size_t at = 0; !r && (at < j->pending_bytes || j->rewrite);) {
        uint32_t count;
        size_t share = record_share(j->pending + at, j->pending_bytes - at, &count);
        r = build_record(image, cipher, j->pending + at, share, count, tail);
        if (!r)
            tail = &(*tail)->next;
        at += share;
        j->rewrite = false;
    }
    vd_keys_give(keys, cipher);
    vd_keys_put(keys);
    j->loose_bytes = j->pending_bytes;
    j->loose_count = j->pending_count;
    if (!keep)
        fix_last(j);
    j->pending_blocks = 0;
    return r;
}

static int write_records(struct vdisk_image *image, struct record_buffer *list, bool cached)
{
    struct vd_group group;
    vd_group_init(&group, &image->loop);
    for (struct record_buffer *record = list; record; record = record->next) {
        record->io[0].cached = record->io[1].cached = cached;
        vd_group_io(&group, &record->io[0]);
        if (record->io[1].length)
            vd_group_io(&group, &record->io[1]);
    }
    return vd_group_wait(&group);
}

static void free_records(struct record_buffer *list)
{
    while (list) {
        struct record_buffer *next = list->next;
        free(list->bytes);
        free(list);
        list = next;
    }
}

/* With `cached` the record reaches the disk with the next sync, else now. */
static int emit_now(struct vdisk_image *image, bool keep, bool cached)
{
    struct vd_journal *j = &image->journal;
    struct record_buffer *list = NULL;
    int r = 0;
    vd_lock_exclusive(&image->loop, &j->lock);
    if (image->failed) {
        r = VDISK_E_FAILED;
        goto out;
    }
    if (j->pending_bytes == j->loose_bytes && !j->rewrite) { /* all of it was written */
        if (!keep)
            fix_last(j);
        j->pending_blocks = 0;
        goto out;
    }
    r = build_records(image, keep, &list);
    uint64_t added = j->added;
    if (!r)
        r = write_records(image, list, cached);
    if (r)
        vd_image_latch(image, r, "the journal cannot be written");
    else if (!j->leading)
        j->kept = added;
out:
    vd_unlock_exclusive(&image->loop, &j->lock);
    free_records(list);
    return r;
}

static int emit(struct vdisk_image *image, bool keep, bool cached)
{
    while (image->journal.leading)
        vd_wait(&image->loop, &image->journal.lead_waiters);
    return emit_now(image, keep, cached);
}

int vd_journal_emit(struct vdisk_image *image)
{
    return emit(image, false, true);
}

int vd_journal_keep(struct vdisk_image *image)
{
    const struct vd_journal *j = &image->journal;
    uint64_t upto = j->added;
    int r = 0;
    if (j->kept < upto)
        vd_yield(&image->loop); /* what completes in the same turn shares the record */
    while (!r && j->kept < upto)
        r = emit(image, true, true);
    return r;
}

/* --- records beside their data --- */

bool vd_journal_may_lead(const struct vdisk_image *image, size_t op_bytes)
{
    const struct vd_journal *j = &image->journal;
    /* Nothing that was promised to outlive the process goes into a record that may turn out bad. */
    return !j->leading && !j->lock.exclusive && !j->lock.head && !image->failed &&
           j->loose_bytes == 0 && j->pending_bytes + op_bytes <= BODY_BLOCK;
}

void vd_journal_lead(struct vdisk_image *image, struct vd_lead *lead)
{
    struct vd_journal *j = &image->journal;
    *lead = (struct vd_lead){.at = j->pending_bytes, .count = j->pending_count};
    j->leading = true;
}

int vd_journal_lead_emit(struct vdisk_image *image, struct vd_lead *lead)
{
    struct vd_journal *j = &image->journal;
    lead->bytes = j->pending_bytes - lead->at;
    lead->count = j->pending_count - lead->count;
    lead->added = j->added;
    return emit_now(image, true, false);
}

/* The data that it named did not arrive: a record without it takes its place before any sync. */
static void take_back(struct vdisk_image *image, const struct vd_lead *lead)
{
    struct vd_journal *j = &image->journal;
    uint8_t *ops = j->pending + lead->at;
    memmove(ops, ops + lead->bytes, j->pending_bytes - lead->at - lead->bytes);
    j->pending_bytes -= lead->bytes;
    j->pending_count -= lead->count;
    j->loose_bytes = 0;
    j->loose_count = 0;
    j->rewrite = true;
    (void)emit_now(image, false, false);
}

void vd_journal_lead_end(struct vdisk_image *image, const struct vd_lead *lead, bool arrived)
{
    struct vd_journal *j = &image->journal;
    if (arrived)
        j->kept = vd_max64(j->kept, lead->added);
    else if (!image->failed)
        take_back(image, lead);
    j->leading = false;
    vd_wake_all(&image->loop, &j->lead_waiters);
}

/* --- what is likely to come --- */

bool vd_journal_expects_flush(const struct vdisk_image *image)
{
    return image->commit.changes + 1 == image->commit.expected;
}

void vd_journal_note_flush(struct vdisk_image *image)
{
    image->commit.expected = image->commit.changes;
    image->commit.changes = 0;
}

void vd_journal_expect(struct vdisk_image *image)
{
    struct vd_commit *c = &image->commit;
    if (++c->changes != c->expected)
        return;
    vd_yield(&image->loop); /* the answer goes first */
    (void)emit(image, false, false);
}

/* --- commit: one sync for all who wait --- */

static int commit_once(struct vdisk_image *image)
{
    struct vd_journal *j = &image->journal;
    int r = vd_journal_emit(image);
    uint64_t seq = j->seq;
    if (r || j->durable >= seq)
        return r;
    r = vd_io(&image->loop, VDISK_IO_SYNC, 0, NULL, 0);
    if (r)
        return vd_image_latch(image, r, "the image file cannot be synced");
    j->syncs++;
    j->durable = vd_max64(j->durable, seq);
    vd_checkpoint_kick(image);
    return 0;
}

int vd_commit(struct vdisk_image *image)
{
    struct vd_commit *c = &image->commit;
    uint64_t ticket = ++c->wanted;
    while (c->done < ticket) {
        if (c->running) {
            vd_wait(&image->loop, &c->waiters);
            continue;
        }
        uint64_t upto = c->wanted;
        c->running = true;
        int r = commit_once(image);
        c->running = false;
        c->done = upto;
        if (r) {
            c->failed = upto;
            c->failed_result = r;
        }
        vd_wake_all(&image->loop, &c->waiters);
    }
    return ticket <= c->failed ? c->failed_result : 0;
}
