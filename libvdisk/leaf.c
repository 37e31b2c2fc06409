/* SPDX-License-Identifier: Apache-2.0 */
/* Codec of map leaves and snapshot leaves (SPEC.md 10, 13). */
#include "bytes.h"
#include "format.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* A bounded reader: every field of a leaf is taken through it. */
struct cursor {
    const uint8_t *at, *end;
};

static const uint8_t *take(struct cursor *cursor, size_t length)
{
    if ((size_t)(cursor->end - cursor->at) < length)
        return NULL;
    const uint8_t *p = cursor->at;
    cursor->at += length;
    return p;
}

static bool rest_is_zero(const struct cursor *cursor)
{
    return vd_is_zero(cursor->at, (size_t)(cursor->end - cursor->at));
}

void vd_map_leaf_release(struct vd_map_leaf *leaf)
{
    free(leaf->blocks);
    free(leaf->zstd);
    *leaf = (struct vd_map_leaf){0};
}

static unsigned leaf_clusters(uint8_t cluster_log2)
{
    return VD_LEAF_BLOCKS >> (cluster_log2 - 12);
}

static int prepare_blocks(struct vd_map_leaf *leaf)
{
    if (!leaf->blocks)
        leaf->blocks = calloc(VD_LEAF_BLOCKS, sizeof(*leaf->blocks));
    return leaf->blocks ? 0 : -ENOMEM;
}

static int prepare_zstd(struct vd_map_leaf *leaf, uint8_t cluster_log2)
{
    if (!leaf->zstd)
        leaf->zstd = calloc(leaf_clusters(cluster_log2), sizeof(*leaf->zstd));
    return leaf->zstd ? 0 : -ENOMEM;
}

int vd_map_leaf_prepare(struct vd_map_leaf *leaf, uint8_t cluster_log2)
{
    int r = prepare_blocks(leaf);
    return r ? r : prepare_zstd(leaf, cluster_log2);
}

static int decode_zstds(struct vd_map_leaf *leaf, struct cursor *cursor, unsigned count,
                        uint8_t cluster_log2)
{
    int previous = -1;
    if (count && prepare_zstd(leaf, cluster_log2))
        return -ENOMEM;
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *p = take(cursor, 40);
        if (!p)
            return VDISK_E_MALFORMED;
        unsigned cluster = vd_get16(p);
        struct vd_zstd z = {
            .offset16 = p[3],
            .length = vd_get32(p + 4),
            .block = vd_get64(p + 8),
            .stamp = vd_get64(p + 16),
        };
        memcpy(z.tag, p + 24, VD_TAG_BYTES);
        if ((int)cluster <= previous || cluster >= leaf_clusters(cluster_log2) || p[2] != 1 ||
            z.length < 1 || z.length > (1u << cluster_log2) || z.block >= VD_HOST_BLOCKS_MAX ||
            z.stamp == 0)
            return VDISK_E_MALFORMED;
        previous = (int)cluster;
        leaf->zstd[cluster] = z;
        leaf->zstds++;
    }
    return 0;
}

static int decode_raw_run(struct vd_map_leaf *leaf, struct cursor *cursor, unsigned first,
                          unsigned count)
{
    const uint8_t *p = take(cursor, 16);
    const uint8_t *tags = p ? take(cursor, (size_t)count * VD_TAG_BYTES) : NULL;
    if (!tags)
        return VDISK_E_MALFORMED;
    uint64_t block = vd_get64(p), stamp = vd_get64(p + 8);
    if (block >= VD_HOST_BLOCKS_MAX || block + count > VD_HOST_BLOCKS_MAX || stamp == 0 ||
        stamp > UINT64_MAX - count)
        return VDISK_E_MALFORMED;
    for (unsigned i = 0; i < count; i++) {
        struct vd_block *b = &leaf->blocks[first + i];
        b->where = (uint64_t)VD_BLOCK_RAW << 60 | (block + i);
        b->stamp = stamp + i;
        memcpy(b->tag, tags + (size_t)i * VD_TAG_BYTES, VD_TAG_BYTES);
    }
    leaf->raws = (uint16_t)(leaf->raws + count);
    return 0;
}

static int decode_runs(struct vd_map_leaf *leaf, struct cursor *cursor, unsigned runs)
{
    unsigned next = 0;
    if (runs && prepare_blocks(leaf))
        return -ENOMEM;
    for (unsigned i = 0; i < runs; i++) {
        const uint8_t *p = take(cursor, 8);
        if (!p)
            return VDISK_E_MALFORMED;
        unsigned first = vd_get16(p), count = vd_get16(p + 2);
        if (first < next || count == 0 || first + count > VD_LEAF_BLOCKS || !vd_is_zero(p + 5, 3))
            return VDISK_E_MALFORMED;
        next = first + count;
        if (p[4] == VD_BLOCK_RAW) {
            int r = decode_raw_run(leaf, cursor, first, count);
            if (r)
                return r;
        } else if (p[4] == VD_BLOCK_ZERO) {
            for (unsigned b = first; b < next; b++)
                leaf->blocks[b].where = (uint64_t)VD_BLOCK_ZERO << 60;
            leaf->zeros = (uint16_t)(leaf->zeros + count);
        } else {
            return VDISK_E_MALFORMED;
        }
    }
    return 0;
}

int vd_map_leaf_decode(struct vd_map_leaf *leaf, const uint8_t *bytes, size_t length,
                       uint8_t cluster_log2)
{
    struct cursor cursor = {bytes, bytes + length};
    const uint8_t *p = take(&cursor, 8);
    if (!p || vd_get32(p + 4))
        return VDISK_E_MALFORMED;
    int r = decode_zstds(leaf, &cursor, vd_get16(p), cluster_log2);
    if (!r)
        r = decode_runs(leaf, &cursor, vd_get16(p + 2));
    if (!r && !rest_is_zero(&cursor))
        r = VDISK_E_MALFORMED;
    return r;
}

/* Length of the run that begins at `first`: same kind; raw also neighbours on disk and in time. */
static unsigned run_length(const struct vd_map_leaf *leaf, unsigned first)
{
    const struct vd_block *a = &leaf->blocks[first];
    unsigned n = 1;
    while (first + n < VD_LEAF_BLOCKS) {
        const struct vd_block *b = a + n;
        if (vd_block_kind(b) != vd_block_kind(a))
            break;
        if (vd_block_kind(a) == VD_BLOCK_RAW &&
            (b->where != a->where + n || b->stamp != a->stamp + n))
            break;
        n++;
    }
    return n;
}

size_t vd_map_leaf_size(const struct vd_map_leaf *leaf)
{
    if (leaf->raws + leaf->zeros + leaf->zstds == 0)
        return 0;
    size_t bytes = 8 + 40 * (size_t)leaf->zstds + VD_TAG_BYTES * (size_t)leaf->raws;
    for (unsigned b = 0; b < VD_LEAF_BLOCKS && leaf->raws + leaf->zeros;) {
        enum vd_block_kind kind = vd_block_kind(&leaf->blocks[b]);
        unsigned n = run_length(leaf, b);
        if (kind != VD_BLOCK_NONE)
            bytes += kind == VD_BLOCK_RAW ? 24 : 8;
        b += n;
    }
    return (bytes + VD_BLOCK - 1) / VD_BLOCK * VD_BLOCK;
}

static uint8_t *encode_run(const struct vd_map_leaf *leaf, unsigned first, unsigned count,
                           uint8_t *p)
{
    const struct vd_block *b = &leaf->blocks[first];
    vd_put16(p, (uint16_t)first);
    vd_put16(p + 2, (uint16_t)count);
    p[4] = (uint8_t)vd_block_kind(b);
    if (vd_block_kind(b) == VD_BLOCK_ZERO)
        return p + 8;
    vd_put64(p + 8, vd_block_host(b));
    vd_put64(p + 16, b->stamp);
    p += 24;
    for (unsigned i = 0; i < count; i++, p += VD_TAG_BYTES)
        memcpy(p, b[i].tag, VD_TAG_BYTES);
    return p;
}

void vd_map_leaf_encode(const struct vd_map_leaf *leaf, uint8_t cluster_log2, uint8_t *bytes,
                        size_t length)
{
    uint8_t *p = bytes + 8;
    unsigned runs = 0;
    memset(bytes, 0, length);
    for (unsigned c = 0; leaf->zstds && c < leaf_clusters(cluster_log2); c++) {
        const struct vd_zstd *z = &leaf->zstd[c];
        if (!z->length)
            continue;
        vd_put16(p, (uint16_t)c);
        p[2] = 1;
        p[3] = z->offset16;
        vd_put32(p + 4, z->length);
        vd_put64(p + 8, z->block);
        vd_put64(p + 16, z->stamp);
        memcpy(p + 24, z->tag, VD_TAG_BYTES);
        p += 40;
    }
    for (unsigned b = 0; b < VD_LEAF_BLOCKS && leaf->raws + leaf->zeros;) {
        unsigned n = run_length(leaf, b);
        if (vd_block_kind(&leaf->blocks[b]) != VD_BLOCK_NONE) {
            p = encode_run(leaf, b, n, p);
            runs++;
        }
        b += n;
    }
    assert((size_t)(p - bytes) <= length);
    vd_put16(bytes, leaf->zstds);
    vd_put16(bytes + 2, (uint16_t)runs);
}

/* --- snapshots --- */

/* Well-formed UTF-8 only, so that a name can be printed anywhere. Returns its length or 0. */
static size_t utf8_length(const uint8_t *p, size_t left)
{
    size_t n = p[0] < 0x80   ? 1
               : p[0] < 0xc2 ? 0
               : p[0] < 0xe0 ? 2
               : p[0] < 0xf0 ? 3
               : p[0] < 0xf5 ? 4
                             : 0;
    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    if (p[0] == 0xc2 && p[1] < 0xa0) /* C1 control characters */
        return 0;
    return n;
}

bool vd_snap_name_valid(const char *name, size_t length)
{
    const uint8_t *p = (const uint8_t *)name;
    if (length < 1 || length > VDISK_NAME_MAX)
        return false;
    for (size_t i = 0; i < length;) {
        size_t n = utf8_length(p + i, length - i);
        if (n == 0 || p[i] < 0x20 || p[i] == 0x7f || p[i] == '/' || p[i] == '@')
            return false;
        i += n;
    }
    return true;
}

void vd_snap_leaf_release(struct vd_snap_leaf *leaf)
{
    for (unsigned i = 0; i < VD_SNAPS; i++)
        free(leaf->snap[i]);
    *leaf = (struct vd_snap_leaf){0};
}

static size_t snap_bytes(const struct vd_snap *snap)
{
    return (80u + snap->name_bytes + 7u) & ~(size_t)7;
}

static int decode_snap(struct vd_snap *s, struct cursor *cursor)
{
    const uint8_t *p = take(cursor, 80);
    if (!p)
        return VDISK_E_MALFORMED;
    s->id = vd_get64(p);
    s->parent = vd_get64(p + 8);
    s->stamp = vd_get64(p + 16);
    s->size = vd_get64(p + 24);
    s->created = (int64_t)vd_get64(p + 32);
    s->height = p[72];
    s->deleting = p[73] & 1;
    s->name_bytes = p[74];
    const uint8_t *name = take(cursor, snap_bytes(s) - 80);
    if (!name || vd_ref_decode(&s->root, p + 40, VD_TREE_MAP) || p[73] > 1 ||
        !vd_is_zero(p + 75, 5) || s->height > VD_HEIGHT_MAX || s->parent >= s->id ||
        s->size < 512 || s->size > VDISK_SIZE_MAX || s->size % 512)
        return VDISK_E_MALFORMED;
    if (s->height < vd_height_for(vd_div_up(s->size, (uint64_t)VD_LEAF_BLOCKS * VD_BLOCK)))
        return VDISK_E_MALFORMED;
    if (!vd_is_zero(name + s->name_bytes, snap_bytes(s) - 80 - s->name_bytes))
        return VDISK_E_MALFORMED;
    if (s->deleting ? s->name_bytes != 0 : !vd_snap_name_valid((const char *)name, s->name_bytes))
        return VDISK_E_MALFORMED;
    memcpy(s->name, name, s->name_bytes);
    return 0;
}

int vd_snap_leaf_decode(struct vd_snap_leaf *leaf, const uint8_t *bytes, size_t length,
                        uint64_t index)
{
    struct cursor cursor = {bytes, bytes + length};
    const uint8_t *p = take(&cursor, 8);
    uint64_t previous = 0;
    if (!p || !vd_is_zero(p + 2, 6))
        return VDISK_E_MALFORMED;
    for (unsigned n = vd_get16(p); n; n--) {
        struct vd_snap *s = calloc(1, sizeof(*s));
        if (!s)
            return -ENOMEM;
        int r = decode_snap(s, &cursor);
        if (!r && (s->id <= previous || s->id / VD_SNAPS != index))
            r = VDISK_E_MALFORMED;
        if (r) {
            free(s);
            return r;
        }
        previous = s->id;
        leaf->snap[s->id % VD_SNAPS] = s;
    }
    return rest_is_zero(&cursor) ? 0 : VDISK_E_MALFORMED;
}

size_t vd_snap_leaf_size(const struct vd_snap_leaf *leaf)
{
    size_t bytes = 8;
    for (unsigned i = 0; i < VD_SNAPS; i++) {
        if (leaf->snap[i])
            bytes += snap_bytes(leaf->snap[i]);
    }
    return bytes == 8 ? 0 : (bytes + VD_BLOCK - 1) / VD_BLOCK * VD_BLOCK;
}

void vd_snap_leaf_encode(const struct vd_snap_leaf *leaf, uint8_t *bytes, size_t length)
{
    uint8_t *p = bytes + 8;
    uint16_t count = 0;
    memset(bytes, 0, length);
    for (unsigned i = 0; i < VD_SNAPS; i++) {
        const struct vd_snap *s = leaf->snap[i];
        if (!s)
            continue;
        vd_put64(p, s->id);
        vd_put64(p + 8, s->parent);
        vd_put64(p + 16, s->stamp);
        vd_put64(p + 24, s->size);
        vd_put64(p + 32, (uint64_t)s->created);
        vd_ref_encode(&s->root, p + 40);
        p[72] = s->height;
        p[73] = s->deleting;
        p[74] = s->name_bytes;
        memcpy(p + 80, s->name, s->name_bytes);
        p += snap_bytes(s);
        count++;
    }
    assert((size_t)(p - bytes) <= length);
    vd_put16(bytes, count);
}
