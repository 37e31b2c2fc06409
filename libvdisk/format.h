/* SPDX-License-Identifier: Apache-2.0 */
/*
 * On-disk structures behind the seal (SPEC.md 8 to 14), decoded into host structs. Decoding
 * checks every bound; behind that door values are trusted.
 */
#ifndef VD_FORMAT_H
#define VD_FORMAT_H

#include "header.h"

#define VD_FANOUT            128u
#define VD_FANOUT_LOG2       7u
#define VD_LEAF_BLOCKS       512u /* guest blocks in a map leaf */
#define VD_LEAF_CLUSTERS_MAX 128u
#define VD_NODE_BLOCKS_MAX   8u
#define VD_PAGE_BLOCKS       8192u /* host blocks in an allocation leaf */
#define VD_USE_MAX           15u
#define VD_SALTS             128u
#define VD_SNAPS             16u /* ids in a snapshot leaf */
#define VD_HEIGHT_MAX        5u
#define VD_HOST_BLOCKS_MAX   (UINT64_C(1) << 48)
#define VD_RESERVE_RUNS      32u
#define VD_SUPER_BODY        4048u
#define VD_SUPER_BODY_AT     48u
#define VD_RECORD_HEAD       48u
#define VD_RECORD_BODY_HEAD  32u
#define VD_RECORD_BLOCKS_MAX 64u
#define VD_STAMP_COUNTER     40u
#define VD_EPOCH_MAX         ((1u << 24) - 1)
#define VD_SNAPSHOT_ID_MAX   (UINT64_C(0xffffffff))
#define VD_BASE_DEPTH_MAX    16u

enum vd_tree_type {
    VD_TREE_MAP = 1,
    VD_TREE_ALLOC = 2,
    VD_TREE_EPOCHS = 3,
    VD_TREE_SNAPS = 4,
};

static inline uint32_t vd_stamp_epoch(uint64_t stamp)
{
    return (uint32_t)(stamp >> VD_STAMP_COUNTER);
}

/* --- references (SPEC.md 9) --- */

struct vd_ref {
    uint64_t block;
    uint64_t stamp;
    uint8_t tag[VD_TAG_BYTES];
    uint8_t blocks; /* 0: a hole, or with hint 1 a zero subtree */
    uint8_t hint;
};
#define VD_REF_BYTES 32u

static inline bool vd_ref_is_node(const struct vd_ref *ref)
{
    return ref->blocks != 0;
}

static inline bool vd_ref_is_zero(const struct vd_ref *ref)
{
    return ref->blocks == 0 && ref->hint == 1;
}

static inline bool vd_ref_is_hole(const struct vd_ref *ref)
{
    return ref->blocks == 0 && ref->hint == 0;
}

static inline bool vd_ref_equal(const struct vd_ref *a, const struct vd_ref *b)
{
    return a->blocks == b->blocks && a->block == b->block && a->stamp == b->stamp &&
           (a->blocks || a->hint == b->hint);
}

int vd_ref_decode(struct vd_ref *ref, const uint8_t bytes[static VD_REF_BYTES],
                  enum vd_tree_type type);
void vd_ref_encode(const struct vd_ref *ref, uint8_t bytes[static VD_REF_BYTES]);

/* --- superblock (SPEC.md 8) --- */

struct vd_run {
    uint64_t block;
    uint32_t count;
};

struct vd_base_binding {
    uint8_t image_id[VD_ID_BYTES];
    uint8_t root_tag[VD_TAG_BYTES];
    uint64_t size;
    uint8_t volume_key[VD_KEY_BYTES];
    char snapshot[VDISK_NAME_MAX + 1];
    char path[VDISK_PATH_MAX + 1];
};

/* What the holes of an image show. Of a source the binding has the id (in image_id and root_tag),
 * the size, and its name as the path. */
enum vd_overlay {
    VD_OVERLAY_NONE = 0,
    VD_OVERLAY_IMAGE = 1,
    VD_OVERLAY_SOURCE = 2,
};

/* Holds a base's key: lives in locked memory. */
struct vd_superblock {
    uint64_t generation;
    uint64_t size;
    uint64_t last_stamp;
    uint32_t epoch;
    uint8_t height[5]; /* by enum vd_tree_type */
    uint8_t epoch_salt[VD_SALT_BYTES];
    struct vd_ref root[5]; /* by enum vd_tree_type */
    uint64_t host_blocks, used_blocks;
    uint64_t journal_seq;
    uint32_t journal_pos;
    uint8_t journal_prev_tag[VD_TAG_BYTES];
    uint8_t codec;
    int8_t level;
    uint64_t parent, parent_stamp;
    uint64_t next_snapshot_id, snapshot_count;
    uint64_t deleting, delete_cursor;
    int64_t created;
    uint32_t reserve_count;
    struct vd_run reserve[VD_RESERVE_RUNS];
    uint8_t overlay; /* enum vd_overlay */
    struct vd_base_binding base;
};

int vd_superblock_decode(struct vd_superblock *super, const uint8_t body[static VD_SUPER_BODY],
                         const struct vd_header *header, struct vdisk_error *error);
void vd_superblock_encode(const struct vd_superblock *super, uint8_t body[static VD_SUPER_BODY]);

/* --- map leaf (SPEC.md 10) --- */

enum vd_block_kind {
    VD_BLOCK_NONE = 0, /* the cluster's zstd extent, or a hole */
    VD_BLOCK_RAW = 1,
    VD_BLOCK_ZERO = 2,
};

struct vd_block {
    uint64_t where; /* kind << 60 | host block */
    uint64_t stamp;
    uint8_t tag[VD_TAG_BYTES];
};

static inline enum vd_block_kind vd_block_kind(const struct vd_block *block)
{
    return (enum vd_block_kind)(block->where >> 60);
}

static inline uint64_t vd_block_host(const struct vd_block *block)
{
    return block->where & ((UINT64_C(1) << 60) - 1);
}

struct vd_zstd {
    uint64_t block;
    uint64_t stamp;
    uint8_t tag[VD_TAG_BYTES];
    uint32_t length; /* compressed bytes; 0: none */
    uint8_t offset16;
};

static inline uint32_t vd_round16(uint32_t bytes)
{
    return (bytes + 15u) & ~15u;
}

/* Host blocks that the extent touches. */
static inline uint32_t vd_zstd_blocks(const struct vd_zstd *extent)
{
    return (extent->offset16 * 16u + vd_round16(extent->length) + VD_BLOCK - 1) / VD_BLOCK;
}

struct vd_map_leaf {
    struct vd_block *blocks; /* VD_LEAF_BLOCKS, or NULL: all VD_BLOCK_NONE */
    struct vd_zstd *zstd;    /* one for each cluster, or NULL: none */
    uint16_t raws, zeros, zstds;
};

void vd_map_leaf_release(struct vd_map_leaf *leaf);
/* Makes both arrays present. -ENOMEM. */
int vd_map_leaf_prepare(struct vd_map_leaf *leaf, uint8_t cluster_log2);
/* `leaf` must be empty; it is left releasable also on failure. VDISK_E_MALFORMED, -ENOMEM. */
int vd_map_leaf_decode(struct vd_map_leaf *leaf, const uint8_t *bytes, size_t length,
                       uint8_t cluster_log2);
/* Bytes that vd_map_leaf_encode needs, a multiple of VD_BLOCK; 0 for an empty leaf. */
size_t vd_map_leaf_size(const struct vd_map_leaf *leaf);
void vd_map_leaf_encode(const struct vd_map_leaf *leaf, uint8_t cluster_log2, uint8_t *bytes,
                        size_t length);

/* --- snapshot leaf (SPEC.md 13) --- */

struct vd_snap {
    uint64_t id; /* 0: none */
    uint64_t parent;
    uint64_t stamp;
    uint64_t size;
    int64_t created;
    struct vd_ref root;
    uint8_t height;
    bool deleting;
    uint8_t name_bytes;
    char name[VDISK_NAME_MAX + 1];
};

struct vd_snap_leaf {
    struct vd_snap *snap[VD_SNAPS]; /* by id % VD_SNAPS; NULL: none */
};

void vd_snap_leaf_release(struct vd_snap_leaf *leaf);
int vd_snap_leaf_decode(struct vd_snap_leaf *leaf, const uint8_t *bytes, size_t length,
                        uint64_t index);
size_t vd_snap_leaf_size(const struct vd_snap_leaf *leaf);
void vd_snap_leaf_encode(const struct vd_snap_leaf *leaf, uint8_t *bytes, size_t length);
/* Whether the name obeys SPEC.md 13. */
bool vd_snap_name_valid(const char *name, size_t length);

/* --- journal operations (SPEC.md 14) --- */

enum vd_op_type {
    VD_OP_RAW = 1,
    VD_OP_ZSTD = 2,
    VD_OP_ZERO = 3,
    VD_OP_HOLE = 4,
};

struct vd_op {
    enum vd_op_type type;
    uint64_t first; /* guest block */
    uint64_t count; /* guest blocks */
    uint64_t block; /* host block: raw, zstd */
    uint64_t stamp;
    uint32_t length; /* zstd: compressed bytes */
    uint8_t offset16;
    const uint8_t *tags; /* raw: count tags; zstd: one; points into the record */
};

/* Reads one operation at *at and advances it. `guest_blocks` is the drive's size rounded up to a
 * cluster. VDISK_E_MALFORMED. */
int vd_op_decode(struct vd_op *op, const uint8_t *bytes, size_t length, size_t *at,
                 uint8_t cluster_log2, uint64_t guest_blocks);
size_t vd_op_size(const struct vd_op *op);
void vd_op_encode(const struct vd_op *op, uint8_t *bytes);

struct vd_record {
    uint8_t prev_tag[VD_TAG_BYTES];
    uint64_t durable;
    uint32_t op_bytes, op_count;
};
int vd_record_decode(struct vd_record *record, const uint8_t *body, size_t length);
void vd_record_encode(const struct vd_record *record, uint8_t *body);

/* --- tree geometry --- */

/* Leaves below one node of that level. */
static inline uint64_t vd_span(unsigned level)
{
    return UINT64_C(1) << (VD_FANOUT_LOG2 * level);
}

/* The lowest height whose tree has that many leaves. */
static inline uint8_t vd_height_for(uint64_t leaves)
{
    uint8_t height = 0;
    while (vd_span(height) < leaves)
        height++;
    return height;
}

#endif
