/* SPDX-License-Identifier: Apache-2.0 */
/* Codec of references, the superblock and journal records (SPEC.md 8, 9, 14). */
#include "format.h"

#include "bytes.h"
#include "error.h"

#include <assert.h>

int vd_ref_decode(struct vd_ref *ref, const uint8_t bytes[static VD_REF_BYTES],
                  enum vd_tree_type type)
{
    struct vd_ref r = {
        .block = vd_get48(bytes),
        .blocks = bytes[6],
        .hint = bytes[7],
        .stamp = vd_get64(bytes + 8),
    };
    memcpy(r.tag, bytes + 16, VD_TAG_BYTES);
    if (r.blocks == 0) {
        if (r.block || r.stamp || !vd_is_zero(r.tag, VD_TAG_BYTES))
            return VDISK_E_MALFORMED;
        if (r.hint > (type == VD_TREE_MAP ? 1 : 0))
            return VDISK_E_MALFORMED;
    } else if (r.blocks > VD_NODE_BLOCKS_MAX || r.stamp == 0 ||
               (type != VD_TREE_ALLOC && r.hint != 0)) {
        return VDISK_E_MALFORMED;
    }
    *ref = r;
    return 0;
}

void vd_ref_encode(const struct vd_ref *ref, uint8_t bytes[static VD_REF_BYTES])
{
    assert(ref->blocks <= VD_NODE_BLOCKS_MAX && ref->block < VD_HOST_BLOCKS_MAX);
    vd_put48(bytes, ref->block);
    bytes[6] = ref->blocks;
    bytes[7] = ref->hint;
    vd_put64(bytes + 8, ref->stamp);
    memcpy(bytes + 16, ref->tag, VD_TAG_BYTES);
}

static int decode_reserve(struct vd_superblock *s, const uint8_t *body)
{
    s->reserve_count = vd_get32(body + 296);
    if (s->reserve_count > VD_RESERVE_RUNS)
        return VDISK_E_MALFORMED;
    for (unsigned i = 0; i < VD_RESERVE_RUNS; i++) {
        const uint8_t *p = body + 304 + 16 * i;
        struct vd_run run = {vd_get64(p), vd_get32(p + 8)};
        if (i >= s->reserve_count) {
            if (!vd_is_zero(p, 16))
                return VDISK_E_MALFORMED;
            continue;
        }
        if (run.block >= VD_HOST_BLOCKS_MAX || run.count == 0 || run.count > VD_PAGE_BLOCKS ||
            run.block + run.count > VD_HOST_BLOCKS_MAX || vd_get32(p + 12))
            return VDISK_E_MALFORMED;
        s->reserve[i] = run;
    }
    return 0;
}

static int decode_base(struct vd_superblock *s, const uint8_t *body)
{
    uint32_t overlay = vd_get32(body + 300);
    if (overlay > VD_OVERLAY_SOURCE)
        return VDISK_E_MALFORMED;
    s->overlay = (uint8_t)overlay;
    if (!overlay)
        return vd_is_zero(body + 816, 2176 - 816) ? 0 : VDISK_E_MALFORMED;
    memcpy(s->base.image_id, body + 816, VD_ID_BYTES);
    memcpy(s->base.root_tag, body + 832, VD_TAG_BYTES);
    s->base.size = vd_get64(body + 848);
    memcpy(s->base.volume_key, body + 856, VD_KEY_BYTES);
    uint16_t path_bytes = vd_get16(body + 888);
    uint8_t name_bytes = body[890];
    if (path_bytes == 0 || path_bytes > VDISK_PATH_MAX || !vd_is_zero(body + 891, 5))
        return VDISK_E_MALFORMED;
    if (!vd_is_zero(body + 896 + name_bytes, 256u - name_bytes) ||
        !vd_is_zero(body + 1152 + path_bytes, (size_t)(1024 - path_bytes)))
        return VDISK_E_MALFORMED;
    if (memchr(body + 1152, 0, path_bytes))
        return VDISK_E_MALFORMED;
    if (name_bytes && !vd_snap_name_valid((const char *)body + 896, name_bytes))
        return VDISK_E_MALFORMED;
    if (overlay == VD_OVERLAY_SOURCE && (name_bytes || !vd_is_zero(body + 856, VD_KEY_BYTES)))
        return VDISK_E_MALFORMED;
    memcpy(s->base.snapshot, body + 896, name_bytes);
    memcpy(s->base.path, body + 1152, path_bytes);
    return 0;
}

static bool superblock_in_bounds(const struct vd_superblock *s, const struct vd_header *header)
{
    static const uint8_t height_max[5] = {0, 5, 5, 3, 4};
    uint64_t leaves = vd_div_up(s->size, (uint64_t)VD_LEAF_BLOCKS * VD_BLOCK);
    for (unsigned t = VD_TREE_MAP; t <= VD_TREE_SNAPS; t++) {
        if (s->height[t] > height_max[t])
            return false;
    }
    return s->size >= 512 && s->size <= VDISK_SIZE_MAX && s->size % 512 == 0 &&
           s->height[VD_TREE_MAP] >= vd_height_for(leaves) && s->epoch >= 1 &&
           s->epoch <= VD_EPOCH_MAX && vd_stamp_epoch(s->last_stamp) <= s->epoch &&
           s->host_blocks <= VD_HOST_BLOCKS_MAX && s->used_blocks <= s->host_blocks &&
           s->host_blocks >= (UINT64_C(1) << header->journal_log2) + 4 &&
           s->journal_pos < (1u << header->journal_log2) - 4 && s->journal_seq >= 1 &&
           s->codec <= 1 && s->level >= -7 && s->level <= 19 && s->next_snapshot_id >= 1 &&
           s->next_snapshot_id <= VD_SNAPSHOT_ID_MAX + 1 && s->parent < s->next_snapshot_id &&
           (s->parent || !s->parent_stamp) && s->deleting < s->next_snapshot_id &&
           s->snapshot_count < s->next_snapshot_id && s->parent_stamp <= s->last_stamp;
}

int vd_superblock_decode(struct vd_superblock *super, const uint8_t body[static VD_SUPER_BODY],
                         const struct vd_header *header, struct vdisk_error *error)
{
    struct vd_superblock *s = super;
    memset(s, 0, sizeof(*s));
    s->generation = vd_get64(body);
    s->size = vd_get64(body + 8);
    s->last_stamp = vd_get64(body + 16);
    s->epoch = vd_get32(body + 24);
    memcpy(&s->height[VD_TREE_MAP], body + 28, 4);
    memcpy(s->epoch_salt, body + 32, VD_SALT_BYTES);
    for (unsigned t = VD_TREE_MAP; t <= VD_TREE_SNAPS; t++) {
        if (vd_ref_decode(&s->root[t], body + 32 + 32 * t, (enum vd_tree_type)t))
            goto malformed;
    }
    s->host_blocks = vd_get64(body + 192);
    s->used_blocks = vd_get64(body + 200);
    s->journal_seq = vd_get64(body + 208);
    s->journal_pos = vd_get32(body + 216);
    s->codec = body[220];
    s->level = (int8_t)body[221];
    memcpy(s->journal_prev_tag, body + 224, VD_TAG_BYTES);
    s->parent = vd_get64(body + 240);
    s->parent_stamp = vd_get64(body + 248);
    s->next_snapshot_id = vd_get64(body + 256);
    s->snapshot_count = vd_get64(body + 264);
    s->deleting = vd_get64(body + 272);
    s->delete_cursor = vd_get64(body + 280);
    s->created = (int64_t)vd_get64(body + 288);
    if (vd_get16(body + 222) || decode_reserve(s, body) || decode_base(s, body) ||
        !vd_is_zero(body + 2176, VD_SUPER_BODY - 2176) || !superblock_in_bounds(s, header))
        goto malformed;
    return 0;

malformed:
    return vd_corrupt(error, VDISK_E_MALFORMED, "the superblock breaks a bound of the format");
}

void vd_superblock_encode(const struct vd_superblock *super, uint8_t body[static VD_SUPER_BODY])
{
    const struct vd_superblock *s = super;
    memset(body, 0, VD_SUPER_BODY);
    vd_put64(body, s->generation);
    vd_put64(body + 8, s->size);
    vd_put64(body + 16, s->last_stamp);
    vd_put32(body + 24, s->epoch);
    memcpy(body + 28, &s->height[VD_TREE_MAP], 4);
    memcpy(body + 32, s->epoch_salt, VD_SALT_BYTES);
    for (unsigned t = VD_TREE_MAP; t <= VD_TREE_SNAPS; t++)
        vd_ref_encode(&s->root[t], body + 32 + 32 * t);
    vd_put64(body + 192, s->host_blocks);
    vd_put64(body + 200, s->used_blocks);
    vd_put64(body + 208, s->journal_seq);
    vd_put32(body + 216, s->journal_pos);
    body[220] = s->codec;
    body[221] = (uint8_t)s->level;
    memcpy(body + 224, s->journal_prev_tag, VD_TAG_BYTES);
    vd_put64(body + 240, s->parent);
    vd_put64(body + 248, s->parent_stamp);
    vd_put64(body + 256, s->next_snapshot_id);
    vd_put64(body + 264, s->snapshot_count);
    vd_put64(body + 272, s->deleting);
    vd_put64(body + 280, s->delete_cursor);
    vd_put64(body + 288, (uint64_t)s->created);
    vd_put32(body + 296, s->reserve_count);
    vd_put32(body + 300, s->overlay);
    for (unsigned i = 0; i < s->reserve_count; i++) {
        vd_put64(body + 304 + 16 * i, s->reserve[i].block);
        vd_put32(body + 304 + 16 * i + 8, s->reserve[i].count);
    }
    if (s->overlay) {
        size_t path_bytes = strlen(s->base.path), name_bytes = strlen(s->base.snapshot);
        memcpy(body + 816, s->base.image_id, VD_ID_BYTES);
        memcpy(body + 832, s->base.root_tag, VD_TAG_BYTES);
        vd_put64(body + 848, s->base.size);
        memcpy(body + 856, s->base.volume_key, VD_KEY_BYTES);
        vd_put16(body + 888, (uint16_t)path_bytes);
        body[890] = (uint8_t)name_bytes;
        memcpy(body + 896, s->base.snapshot, name_bytes);
        memcpy(body + 1152, s->base.path, path_bytes);
    }
}

int vd_record_decode(struct vd_record *record, const uint8_t *body, size_t length)
{
    memcpy(record->prev_tag, body, VD_TAG_BYTES);
    record->durable = vd_get64(body + 16);
    record->op_bytes = vd_get32(body + 24);
    record->op_count = vd_get32(body + 28);
    return record->op_bytes <= length - VD_RECORD_BODY_HEAD ? 0 : VDISK_E_MALFORMED;
}

void vd_record_encode(const struct vd_record *record, uint8_t *body)
{
    memcpy(body, record->prev_tag, VD_TAG_BYTES);
    vd_put64(body + 16, record->durable);
    vd_put32(body + 24, record->op_bytes);
    vd_put32(body + 28, record->op_count);
}

static bool zstd_in_bounds(const struct vd_op *op, uint8_t codec, uint8_t cluster_log2)
{
    uint64_t cluster_blocks = UINT64_C(1) << (cluster_log2 - 12);
    return codec == 1 && op->first % cluster_blocks == 0 && op->length >= 1 &&
           op->length <= (1u << cluster_log2) && op->block < VD_HOST_BLOCKS_MAX && op->stamp;
}

int vd_op_decode(struct vd_op *op, const uint8_t *bytes, size_t length, size_t *at,
                 uint8_t cluster_log2, uint64_t guest_blocks)
{
    if (length < *at || length - *at < 24)
        return VDISK_E_MALFORMED;
    const uint8_t *p = bytes + *at;
    size_t left = length - *at;
    *op = (struct vd_op){.type = (enum vd_op_type)p[0], .first = vd_get64(p + 8)};
    switch (op->type) {
    case VD_OP_RAW:
        op->count = vd_get32(p + 4);
        if (op->count == 0 || op->count > VD_LEAF_BLOCKS ||
            op->first % VD_LEAF_BLOCKS + op->count > VD_LEAF_BLOCKS ||
            left < 32 + VD_TAG_BYTES * op->count || !vd_is_zero(p + 1, 3))
            return VDISK_E_MALFORMED;
        op->block = vd_get64(p + 16);
        op->stamp = vd_get64(p + 24);
        op->tags = p + 32;
        if (op->block + op->count > VD_HOST_BLOCKS_MAX || op->block >= VD_HOST_BLOCKS_MAX ||
            op->stamp == 0)
            return VDISK_E_MALFORMED;
        break;
    case VD_OP_ZSTD:
        if (left < 48 || p[3])
            return VDISK_E_MALFORMED;
        op->count = UINT64_C(1) << (cluster_log2 - 12);
        op->offset16 = p[2];
        op->length = vd_get32(p + 4);
        op->block = vd_get64(p + 16);
        op->stamp = vd_get64(p + 24);
        op->tags = p + 32;
        if (!zstd_in_bounds(op, p[1], cluster_log2))
            return VDISK_E_MALFORMED;
        break;
    case VD_OP_ZERO:
    case VD_OP_HOLE:
        op->count = vd_get64(p + 16);
        if (op->count == 0 || !vd_is_zero(p + 1, 7))
            return VDISK_E_MALFORMED;
        break;
    default:
        return VDISK_E_MALFORMED;
    }
    if (op->first >= guest_blocks || op->count > guest_blocks - op->first)
        return VDISK_E_MALFORMED;
    *at += vd_op_size(op);
    return 0;
}

size_t vd_op_size(const struct vd_op *op)
{
    switch (op->type) {
    case VD_OP_RAW:
        return 32 + VD_TAG_BYTES * (size_t)op->count;
    case VD_OP_ZSTD:
        return 48;
    default:
        return 24;
    }
}

void vd_op_encode(const struct vd_op *op, uint8_t *bytes)
{
    memset(bytes, 0, 8);
    bytes[0] = (uint8_t)op->type;
    vd_put64(bytes + 8, op->first);
    switch (op->type) {
    case VD_OP_RAW:
        vd_put32(bytes + 4, (uint32_t)op->count);
        vd_put64(bytes + 16, op->block);
        vd_put64(bytes + 24, op->stamp);
        memcpy(bytes + 32, op->tags, VD_TAG_BYTES * (size_t)op->count);
        break;
    case VD_OP_ZSTD:
        bytes[1] = 1;
        bytes[2] = op->offset16;
        vd_put32(bytes + 4, op->length);
        vd_put64(bytes + 16, op->block);
        vd_put64(bytes + 24, op->stamp);
        memcpy(bytes + 32, op->tags, VD_TAG_BYTES);
        break;
    default:
        vd_put64(bytes + 16, op->count);
    }
}
