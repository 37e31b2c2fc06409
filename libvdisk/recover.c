/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recovery (SPEC.md 15): the records since the last checkpoint are applied in memory. A record
 * that was durable and is damaged is refused; the first one that was not, or names data that did
 * not arrive, ends the log.
 */
#include "bytes.h"
#include "checkpoint.h"
#include "data.h"
#include "journal.h"
#include "map.h"

#include <errno.h>
#include <stdlib.h>

/* Of the ring in memory at once: a record. Every command opens an image, and fresh memory costs
 * more than to read. */
#define WINDOW_BLOCKS VD_RECORD_BLOCKS_MAX

struct found {
    struct found *next;
    struct vd_record record;
    uint64_t seq;
    uint32_t blocks;
    uint8_t tag[VD_TAG_BYTES];
    uint8_t *body; /* the operations follow the record's head */
};

struct recovery {
    struct vdisk_image *image;
    struct vd_epoch_keys *keys;
    struct vd_cipher *cipher;
    uint8_t *window; /* `in_window` blocks of the ring from `window_pos` on */
    uint32_t window_pos, in_window;
    uint64_t guest_blocks;
    struct found *list, **tail;
    uint64_t end;     /* sequence number at which the log ends */
    uint64_t above;   /* one more than that of any record after the end */
    uint64_t durable; /* the greatest that was seen */
};

static int read_ring(const struct recovery *rec, uint32_t pos, uint8_t *out, uint32_t blocks)
{
    return vd_io(&rec->image->loop, VDISK_IO_READ, (4 + (uint64_t)pos) * VD_BLOCK, out,
                 (uint64_t)blocks * VD_BLOCK);
}

/* So many blocks of the ring, a record at most, from `pos` on, which goes on at its beginning; good
 * until the next call. -EIO. */
static int look(struct recovery *rec, uint32_t pos, uint32_t blocks, const uint8_t **out)
{
    uint32_t ring = rec->image->journal.ring_blocks;
    uint32_t at = (pos + ring - rec->window_pos) % ring;
    uint32_t count = ring < WINDOW_BLOCKS ? ring : WINDOW_BLOCKS;
    uint32_t first = count < ring - pos ? count : ring - pos;
    int r = 0;
    if (at + blocks > rec->in_window) {
        rec->in_window = 0;
        r = read_ring(rec, pos, rec->window, first);
        if (!r && first < count)
            r = read_ring(rec, 0, rec->window + (size_t)first * VD_BLOCK, count - first);
        if (r)
            return r;
        rec->window_pos = pos;
        rec->in_window = count;
        at = 0;
    }
    *out = rec->window + (size_t)at * VD_BLOCK;
    return 0;
}

/* Reads and authenticates the record that begins at `pos` of the ring, if its number is at least
 * `min`; *out is NULL when there is none. -ENOMEM, -EIO. */
static int read_record(struct recovery *rec, uint32_t pos, uint64_t min, struct found **out)
{
    const struct vd_journal *j = &rec->image->journal;
    const uint8_t *head;
    *out = NULL;
    int r = look(rec, pos, 1, &head);
    if (r)
        return r;
    uint64_t seq = vd_get64(head + 24);
    uint32_t blocks = vd_get32(head + 32);
    if (seq < min || blocks < 1 || blocks > VD_RECORD_BLOCKS_MAX || blocks > j->ring_blocks ||
        !vd_is_zero(head + 36, 12) ||
        vd_stamp_epoch(vd_get64(head + 16)) != rec->image->super->epoch)
        return 0;
    r = look(rec, pos, blocks, &head);
    if (r)
        return r;
    size_t length = (size_t)blocks * VD_BLOCK;
    struct found *found = calloc(1, sizeof(*found));
    uint8_t *bytes = found ? malloc(length) : NULL;
    if (!bytes) {
        free(found);
        return -ENOMEM;
    }
    memcpy(bytes, head, length);
    struct vd_seal_context context = {
        .image_id = rec->image->header.image_id,
        .stamp = vd_get64(bytes + 16),
        .address = seq,
        .length = (uint32_t)(length - VD_RECORD_HEAD),
        .kind = VD_SEAL_RECORD,
    };
    uint8_t *body = bytes + VD_RECORD_HEAD;
    r = vd_open(rec->cipher, &context, body, body, bytes);
    if (!r)
        r = vd_record_decode(&found->record, body, length - VD_RECORD_HEAD);
    if (r) {
        free(bytes);
        free(found);
        return r == VDISK_E_NOT_AUTHENTIC || r == VDISK_E_MALFORMED ? 0 : r;
    }
    found->seq = seq;
    found->blocks = blocks;
    found->body = body;
    memcpy(found->tag, bytes, VD_TAG_BYTES);
    if (context.stamp > rec->image->stamp)
        rec->image->stamp = context.stamp;
    *out = found;
    return 0;
}

static void free_found(struct found *found)
{
    if (found)
        free(found->body - VD_RECORD_HEAD);
    free(found);
}

static bool next_op(const struct recovery *rec, const struct found *found, size_t *at,
                    struct vd_op *op, int *result)
{
    if (*at == found->record.op_bytes)
        return false;
    *result = vd_op_decode(op, found->body + VD_RECORD_BODY_HEAD, found->record.op_bytes, at,
                           rec->image->header.cluster_log2, rec->guest_blocks);
    return *result == 0;
}

static bool ops_parse(const struct recovery *rec, const struct found *found)
{
    struct vd_op op;
    uint32_t count = 0;
    int r = 0;
    for (size_t at = 0; next_op(rec, found, &at, &op, &r);)
        count++;
    return r == 0 && count == found->record.op_count;
}

/* SPEC.md 15, step 3. */
static int read_chain(struct recovery *rec)
{
    struct vd_journal *j = &rec->image->journal;
    uint32_t used = 0;
    rec->end = j->seq;
    rec->durable = j->seq;
    for (;;) {
        struct found *found;
        int r = read_record(rec, j->pos, rec->end, &found);
        if (r)
            return r;
        if (!found)
            return 0;
        if (used + found->blocks > j->ring_blocks ||
            memcmp(found->record.prev_tag, j->prev_tag, VD_TAG_BYTES) != 0 ||
            !ops_parse(rec, found)) {
            free_found(found);
            return 0;
        }
        *rec->tail = found;
        rec->tail = &found->next;
        used += found->blocks;
        rec->end = found->seq + 1;
        rec->durable = vd_max64(rec->durable, found->record.durable);
        memcpy(j->prev_tag, found->tag, VD_TAG_BYTES);
        j->pos = (j->pos + found->blocks) % j->ring_blocks;
    }
}

/* SPEC.md 15, step 4. */
static int refuse_damage(struct recovery *rec)
{
    const struct vd_journal *j = &rec->image->journal;
    bool damaged = rec->durable > rec->end;
    for (uint32_t pos = 0; pos < j->ring_blocks && !damaged; pos++) {
        struct found *found;
        int r = read_record(rec, pos, rec->end, &found);
        if (r)
            return r;
        if (found)
            rec->above = vd_max64(rec->above, found->seq + 1);
        damaged = found && found->record.durable > rec->end;
        free_found(found);
    }
    if (damaged)
        return vd_image_corrupt(rec->image, VDISK_E_NOT_AUTHENTIC,
                                "journal record %llu was durable and is damaged or was removed",
                                (unsigned long long)rec->end);
    return 0;
}

static int verify_extent(struct recovery *rec, const struct vd_seal_context *context,
                         uint64_t block, uint32_t offset, const uint8_t *tag)
{
    struct vdisk_image *image = rec->image;
    struct vd_epoch_keys *keys = NULL;
    size_t length = vd_div_up(offset + context->length, VD_BLOCK) * VD_BLOCK;
    uint8_t *bytes = vd_buffer_new(length);
    if (!bytes)
        return -ENOMEM;
    int r = vd_io(&image->loop, VDISK_IO_READ, block * VD_BLOCK, bytes, length);
    if (!r)
        r = vd_keys_get(image, vd_stamp_epoch(context->stamp), &keys);
    if (!r) {
        struct vd_cipher *cipher = vd_keys_take(keys);
        r = cipher ? vd_verify(cipher, context, bytes + offset, tag) : -ENOMEM;
        vd_keys_give(keys, cipher);
    }
    vd_keys_put(keys);
    free(bytes);
    return r;
}

static int verify_op(struct recovery *rec, const struct vd_op *op)
{
    struct vd_seal_context context = {
        .image_id = rec->image->header.image_id,
        .stamp = op->stamp,
        .address = op->first,
    };
    int r = 0;
    if (op->type == VD_OP_ZSTD) {
        context.kind = VD_SEAL_ZSTD;
        context.detail = 1;
        context.length = vd_round16(op->length);
        context.extra = op->length;
        return verify_extent(rec, &context, op->block, op->offset16 * 16u, op->tags);
    }
    context.kind = VD_SEAL_RAW;
    context.length = VD_BLOCK;
    for (uint64_t i = 0; op->type == VD_OP_RAW && i < op->count && !r; i++) {
        context.stamp = op->stamp + i;
        context.address = op->first + i;
        r = verify_extent(rec, &context, op->block + i, 0, op->tags + i * VD_TAG_BYTES);
    }
    return r;
}

/* SPEC.md 15, step 5: cuts the list before the first record whose data is not all there. */
static int verify_tail(struct recovery *rec)
{
    for (struct found **p = &rec->list; *p; p = &(*p)->next) {
        struct vd_op op;
        int r = 0, parsed = 0;
        if ((*p)->seq < rec->durable)
            continue;
        for (size_t at = 0; !r && next_op(rec, *p, &at, &op, &parsed);)
            r = verify_op(rec, &op);
        if (r && r != VDISK_E_NOT_AUTHENTIC)
            return r;
        if (r) {
            while (*p) {
                struct found *cut = *p;
                *p = cut->next;
                free_found(cut);
            }
            return 0;
        }
    }
    return 0;
}

static int apply_op(struct vdisk_image *image, const struct vd_op *op)
{
    struct vd_node *leaf = NULL;
    uint64_t reached;
    if (op->type == VD_OP_ZERO || op->type == VD_OP_HOLE)
        return vd_map_clear(image, op->first, op->first + op->count, op->type == VD_OP_HOLE,
                            UINT32_MAX, &reached);
    uint32_t blocks = (uint32_t)op->count;
    uint64_t last_stamp = op->stamp + op->count - 1;
    if (op->type == VD_OP_ZSTD) {
        struct vd_zstd z = {.offset16 = op->offset16, .length = op->length};
        blocks = vd_zstd_blocks(&z);
        last_stamp = op->stamp;
    }
    image->stamp = vd_max64(image->stamp, last_stamp);
    int r = vd_alloc_use_load(image, op->block, blocks);
    if (!r)
        r = vd_map_leaf(image, op->first / VD_LEAF_BLOCKS, &leaf);
    if (r)
        return r;
    vd_map_apply(image, leaf, op);
    vd_node_unpin(leaf);
    return 0;
}

/* SPEC.md 15, step 6. */
static int apply_list(struct recovery *rec)
{
    for (struct found *found = rec->list; found; found = found->next) {
        struct vd_op op;
        int r = 0, parsed = 0;
        for (size_t at = 0; !r && next_op(rec, found, &at, &op, &parsed);)
            r = apply_op(rec->image, &op);
        if (r)
            return r;
        rec->image->recovered = true;
    }
    return 0;
}

int vd_journal_recover(struct vdisk_image *image)
{
    struct vd_journal *j = &image->journal;
    struct recovery rec = {.image = image};
    uint64_t clusters = vd_div_up(image->super->size, vd_cluster_bytes(image));
    rec.tail = &rec.list;
    rec.guest_blocks = clusters * vd_cluster_blocks(image);
    rec.window = vd_buffer_new((size_t)WINDOW_BLOCKS * VD_BLOCK);
    int r = rec.window ? 0 : -ENOMEM;
    if (!r)
        r = vd_keys_get(image, image->super->epoch, &rec.keys);
    if (!r && !(rec.cipher = vd_keys_take(rec.keys)))
        r = -ENOMEM;
    if (!r)
        r = read_chain(&rec);
    if (!r)
        r = refuse_damage(&rec);
    if (!r)
        r = verify_tail(&rec);
    if (!r)
        r = apply_list(&rec);
    j->seq = vd_max64(rec.end, rec.above);
    while (rec.list) {
        struct found *found = rec.list;
        rec.list = found->next;
        free_found(found);
    }
    if (rec.keys)
        vd_keys_give(rec.keys, rec.cipher);
    vd_keys_put(rec.keys);
    free(rec.window);
    return r;
}
