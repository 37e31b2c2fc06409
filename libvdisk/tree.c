/* SPDX-License-Identifier: Apache-2.0 */
/* Lookup, loading, caching and growth of the trees; see tree.h for the invariants. */
#include "tree.h"

#include "bytes.h"
#include "image.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static const char *const tree_name[] = {"", "map", "allocation", "epoch", "snapshot"};

/* --- the cache's list --- */

static void unlist(struct vd_node_cache *cache, struct vd_node *node)
{
    if (!node->listed)
        return;
    if (node->older)
        node->older->newer = node->newer;
    else
        cache->oldest = node->newer;
    if (node->newer)
        node->newer->older = node->older;
    else
        cache->newest = node->older;
    node->older = node->newer = NULL;
    node->listed = false;
}

static void list_newest(struct vd_node_cache *cache, struct vd_node *node)
{
    assert(!node->listed);
    node->older = cache->newest;
    node->newer = NULL;
    if (cache->newest)
        cache->newest->newer = node;
    else
        cache->oldest = node;
    cache->newest = node;
    node->listed = true;
}

static size_t node_bytes(const struct vd_node *node)
{
    size_t bytes = sizeof(*node);
    if (node->level > 0)
        return bytes + sizeof(*node->inner);
    switch (node->tree->type) {
    case VD_TREE_MAP:
        return bytes + (node->map.blocks ? VD_LEAF_BLOCKS * sizeof(struct vd_block) : 0) +
               (node->map.zstd ? VD_LEAF_CLUSTERS_MAX * sizeof(struct vd_zstd) : 0);
    case VD_TREE_ALLOC:
        return bytes + sizeof(*node->page);
    case VD_TREE_EPOCHS:
        return bytes + VD_SALTS * VD_SALT_BYTES;
    default:
        return bytes + VD_SNAPS * sizeof(struct vd_snap);
    }
}

static void charge(struct vd_node *node)
{
    struct vd_node_cache *cache = &node->tree->image->cache;
    size_t bytes = node_bytes(node);
    cache->bytes += bytes - node->charged;
    if (node->dirty)
        cache->dirty_bytes += bytes - node->charged;
    node->charged = bytes;
}

/* --- life of a node --- */

static void node_free(struct vd_node *node)
{
    if (node->holder)
        *node->holder = NULL;
    node->tree->image->cache.bytes -= node->charged;
    if (node->level > 0) {
        free(node->inner);
    } else {
        switch (node->tree->type) {
        case VD_TREE_MAP:
            vd_map_leaf_release(&node->map);
            break;
        case VD_TREE_ALLOC:
            free(node->page);
            break;
        case VD_TREE_EPOCHS:
            free(node->salts);
            break;
        case VD_TREE_SNAPS:
            vd_snap_leaf_release(&node->snaps);
            break;
        }
    }
    free(node);
}

/* An empty node outside the tree, with one pin. */
static struct vd_node *node_new(struct vd_tree *tree, unsigned level, uint64_t index)
{
    struct vd_node *node = calloc(1, sizeof(*node));
    if (!node)
        return NULL;
    node->tree = tree;
    node->level = (uint8_t)level;
    node->index = index;
    node->pins = 1;
    bool ok = true;
    if (level > 0)
        ok = (node->inner = calloc(1, sizeof(*node->inner))) != NULL;
    else if (tree->type == VD_TREE_ALLOC)
        ok = (node->page = calloc(1, sizeof(*node->page))) != NULL;
    else if (tree->type == VD_TREE_EPOCHS)
        ok = (node->salts = calloc(VD_SALTS, VD_SALT_BYTES)) != NULL;
    if (!ok) {
        free(node);
        return NULL;
    }
    if (level == 0 && tree->type == VD_TREE_ALLOC)
        node->page->free = VD_PAGE_BLOCKS;
    charge(node);
    return node;
}

static unsigned slot_of(const struct vd_node *node)
{
    return (unsigned)(node->index % VD_FANOUT);
}

static void attach(struct vd_node *node, struct vd_node *parent)
{
    node->parent = parent;
    if (parent) {
        parent->inner->kid[slot_of(node)] = node;
        parent->pins++;
    } else {
        node->tree->root = node;
    }
}

/* Takes the node out of its tree; the parent keeps (or gets) its reference. */
static void detach(struct vd_node *node)
{
    struct vd_node *parent = node->parent;
    if (parent) {
        parent->inner->kid[slot_of(node)] = NULL;
        node->parent = NULL;
        vd_node_unpin(parent);
    } else {
        node->tree->root = NULL;
    }
}

static void evict(struct vd_node *node)
{
    unlist(&node->tree->image->cache, node);
    detach(node);
    node_free(node);
}

void vd_node_pin(struct vd_node *node)
{
    unlist(&node->tree->image->cache, node);
    node->pins++;
}

void vd_node_unpin(struct vd_node *node)
{
    if (!node)
        return;
    assert(node->pins > 0);
    if (--node->pins || node->dirty || node->loading)
        return;
    struct vd_node_cache *cache = &node->tree->image->cache;
    charge(node);
    list_newest(cache, node);
    vd_cache_trim(node->tree->image);
}

void vd_cache_trim(struct vdisk_image *image)
{
    struct vd_node_cache *cache = &image->cache;

    while (cache->bytes > cache->limit && cache->oldest)
        evict(cache->oldest); /* NOLINT(clang-analyzer-unix.Malloc): it takes itself off the list */
}

void vd_cache_drop(struct vdisk_image *image)
{
    while (image->cache.oldest)
        evict(image->cache.oldest); /* NOLINT(clang-analyzer-unix.Malloc): as above */
}

void vd_node_dirty(struct vd_node *node)
{
    for (; node && !node->dirty; node = node->parent) {
        unlist(&node->tree->image->cache, node);
        charge(node);
        node->dirty = true;
        node->tree->dirty_nodes++;
        node->tree->image->cache.dirty_bytes += node->charged;
    }
}

void vd_node_clean(struct vd_node *node)
{
    assert(node->dirty);
    node->dirty = false;
    node->placed = false;
    node->tree->dirty_nodes--;
    node->tree->image->cache.dirty_bytes -= node->charged;
    if (node->parent)
        node->parent->inner->ref[slot_of(node)] = node->ref;
    else
        node->tree->root_ref = node->ref;
    vd_node_pin(node);
    vd_node_unpin(node);
}

/* --- trees --- */

void vd_tree_init(struct vd_tree *tree, struct vdisk_image *image, enum vd_tree_type type,
                  uint8_t height, const struct vd_ref *root)
{
    *tree = (struct vd_tree){
        .image = image,
        .type = type,
        .height = height,
        .root_ref = *root,
    };
}

static void release_node(struct vd_node *node)
{
    if (node->level > 0) {
        for (unsigned i = 0; i < VD_FANOUT; i++) {
            if (node->inner->kid[i])
                release_node(node->inner->kid[i]);
        }
    }
    unlist(&node->tree->image->cache, node);
    if (node->dirty)
        node->tree->image->cache.dirty_bytes -= node->charged;
    node_free(node);
}

void vd_tree_release(struct vd_tree *tree)
{
    if (tree->root)
        release_node(tree->root);
    tree->root = NULL;
    tree->dirty_nodes = 0;
}

const struct vd_ref *vd_tree_root_ref(const struct vd_tree *tree)
{
    if (!tree->root)
        return &tree->root_ref;
    assert(!tree->root->dirty);
    return &tree->root->ref;
}

int vd_tree_grow(struct vd_tree *tree, uint8_t height)
{
    while (tree->root && tree->root->loading)
        vd_wait(&tree->image->loop, &tree->image->load_waiters);
    while (tree->height < height) {
        const struct vd_ref *ref = tree->root ? &tree->root->ref : &tree->root_ref;
        if (!tree->root && vd_ref_is_hole(ref)) {
            tree->height++;
            continue;
        }
        struct vd_node *top = node_new(tree, tree->height + 1u, 0);
        if (!top)
            return -ENOMEM;
        struct vd_node *old = tree->root;
        top->inner->ref[0] = *ref;
        if (old) {
            top->inner->kid[0] = old;
            old->parent = top;
            top->pins++;
        }
        tree->root = top;
        tree->root_ref = (struct vd_ref){0};
        tree->height++;
        vd_node_dirty(top);
        vd_node_unpin(top);
    }
    return 0;
}

/* --- loading --- */

int vd_node_fetch(struct vdisk_image *image, enum vd_tree_type type, unsigned level, uint64_t index,
                  const struct vd_ref *ref, uint8_t *bytes)
{
    uint32_t length = ref->blocks * VD_BLOCK;
    struct vd_epoch_keys *keys = NULL;
    struct vd_cipher *cipher = NULL;
    struct vd_seal_context context = {
        .image_id = image->header.image_id,
        .stamp = ref->stamp,
        .address = index,
        .length = length,
        .kind = type == VD_TREE_EPOCHS ? VD_SEAL_EPOCHS : VD_SEAL_NODE,
        .detail = (uint8_t)(type * 16 + level),
    };
    int r = vd_io(&image->loop, VDISK_IO_READ, ref->block * VD_BLOCK, bytes, length);
    if (r)
        return vd_image_fail(image, r, "cannot read the image file: %s", vdisk_strerror(r));
    if (type == VD_TREE_EPOCHS) {
        r = vd_verify(image->table_cipher, &context, bytes, ref->tag);
    } else {
        r = vd_keys_get(image, vd_stamp_epoch(ref->stamp), &keys);
        if (r)
            return r;
        cipher = vd_keys_take(keys);
        r = cipher ? vd_open(cipher, &context, bytes, bytes, ref->tag) : -ENOMEM;
        vd_keys_give(keys, cipher);
        vd_keys_put(keys);
    }
    if (r == VDISK_E_NOT_AUTHENTIC)
        return vd_image_corrupt(image, r, "%s node %llu at level %u is not authentic",
                                tree_name[type], (unsigned long long)index, level);
    return r;
}

static int decode_inner(struct vd_node *node, const uint8_t *bytes, size_t length)
{
    if (length != VD_FANOUT * VD_REF_BYTES)
        return VDISK_E_MALFORMED;
    for (unsigned i = 0; i < VD_FANOUT; i++) {
        int r = vd_ref_decode(&node->inner->ref[i], bytes + i * VD_REF_BYTES, node->tree->type);
        if (r)
            return r;
    }
    return 0;
}

static int decode_page(struct vd_page *page, const uint8_t *bytes, size_t length)
{
    if (length != sizeof(page->count))
        return VDISK_E_MALFORMED;
    memcpy(page->count, bytes, length);
    for (unsigned i = 0; i < VD_PAGE_BLOCKS; i++) {
        if (page->count[i / 2] >> (i % 2 * 4) & 15) {
            page->busy[i / 64] |= UINT64_C(1) << i % 64;
            page->free--;
        }
    }
    return 0;
}

static int node_decode(struct vd_node *node, const uint8_t *bytes, size_t length)
{
    if (node->level > 0)
        return decode_inner(node, bytes, length);
    switch (node->tree->type) {
    case VD_TREE_MAP:
        return vd_map_leaf_decode(&node->map, bytes, length,
                                  node->tree->image->header.cluster_log2);
    case VD_TREE_ALLOC:
        return decode_page(node->page, bytes, length);
    case VD_TREE_EPOCHS:
        if (length != VD_SALTS * VD_SALT_BYTES)
            return VDISK_E_MALFORMED;
        assert(node->salts);
        memcpy(node->salts, bytes, length);
        return 0;
    default:
        return vd_snap_leaf_decode(&node->snaps, bytes, length, node->index);
    }
}

static int node_load(struct vd_node *node)
{
    struct vdisk_image *image = node->tree->image;
    size_t length = node->ref.blocks * VD_BLOCK;
    uint8_t *bytes = vd_pool_take(&image->pool, length);
    if (!bytes)
        return -ENOMEM;
    int r = vd_node_fetch(image, node->tree->type, node->level, node->index, &node->ref, bytes);
    if (!r) {
        r = node_decode(node, bytes, length);
        if (r == VDISK_E_MALFORMED)
            vd_image_corrupt(image, r, "%s node %llu at level %u breaks a bound of the format",
                             tree_name[node->tree->type], (unsigned long long)node->index,
                             node->level);
    }
    vd_pool_give(&image->pool, bytes, length);
    return r;
}

/* What a node reads like where the reference is a zero subtree. */
static int fill_zero(struct vd_node *node)
{
    if (node->level > 0) {
        for (unsigned i = 0; i < VD_FANOUT; i++)
            node->inner->ref[i].hint = 1;
        return 0;
    }
    int r = vd_node_prepare(node);
    if (r)
        return r;
    for (unsigned i = 0; i < VD_LEAF_BLOCKS; i++)
        node->map.blocks[i].where = (uint64_t)VD_BLOCK_ZERO << 60;
    node->map.zeros = VD_LEAF_BLOCKS;
    return 0;
}

/* A node for `ref` is made and attached; on failure nothing changed. */
static int materialise(struct vd_tree *tree, struct vd_node *parent, unsigned level, uint64_t index,
                       struct vd_ref ref, struct vd_node **out)
{
    struct vd_node *node = node_new(tree, level, index);
    if (!node)
        return -ENOMEM;
    int r = 0;
    node->ref = ref;
    attach(node, parent);
    if (vd_ref_is_node(&ref)) {
        tree->image->cache.misses++;
        node->loading = true;
        r = node_load(node);
        node->loading = false;
        vd_wake_all(&tree->image->loop, &tree->image->load_waiters);
    } else if (vd_ref_is_zero(&ref)) {
        r = fill_zero(node);
    }
    if (r) {
        detach(node);
        node_free(node);
        return r;
    }
    charge(node);
    *out = node;
    return 0;
}

/* The root (parent NULL) or a child, pinned; NULL where there is none and !create. */
static int get_kid(struct vd_tree *tree, struct vd_node *parent, unsigned slot, bool create,
                   struct vd_node **out, enum vd_absent *absent)
{
    for (;;) {
        struct vd_node *kid = parent ? parent->inner->kid[slot] : tree->root;
        if (kid && kid->loading) {
            vd_wait(&tree->image->loop, &tree->image->load_waiters);
            continue;
        }
        if (kid) {
            tree->image->cache.hits++;
            vd_node_pin(kid);
            *out = kid;
            return 0;
        }
        struct vd_ref ref = parent ? parent->inner->ref[slot] : tree->root_ref;
        if (!vd_ref_is_node(&ref) && !create) {
            *absent = vd_ref_is_zero(&ref) ? VD_ABSENT_ZERO : VD_ABSENT_HOLE;
            return 0;
        }
        unsigned level = parent ? parent->level - 1u : tree->height;
        uint64_t index = parent ? parent->index * VD_FANOUT + slot : 0;
        return materialise(tree, parent, level, index, ref, out);
    }
}

int vd_tree_get(struct vd_tree *tree, unsigned level, uint64_t index, bool create,
                struct vd_node **out, enum vd_absent *absent)
{
    enum vd_absent ignored;
    struct vd_node *node = NULL;
    if (!absent)
        absent = &ignored;
    *absent = VD_ABSENT_HOLE;
    *out = NULL;
    if (level > tree->height || index >= vd_span(tree->height - level))
        return create ? -ERANGE : 0;
    int r = get_kid(tree, NULL, 0, create, &node, absent);
    while (!r && node && node->level > level) {
        struct vd_node *kid = NULL;
        unsigned slot =
            (unsigned)(index >> (VD_FANOUT_LOG2 * (node->level - 1u - level))) % VD_FANOUT;
        r = get_kid(tree, node, slot, create, &kid, absent);
        vd_node_unpin(node);
        node = kid;
    }
    if (!r)
        *out = node;
    return r;
}

int vd_tree_ref(struct vd_tree *tree, unsigned level, uint64_t index, struct vd_ref *ref,
                bool *known)
{
    struct vd_node *above = NULL;
    enum vd_absent absent;
    *ref = (struct vd_ref){0};
    *known = level <= tree->height || index != 0;
    if (level > tree->height || index >= vd_span(tree->height - level))
        return 0;
    if (level == tree->height) {
        *known = !tree->root || !tree->root->dirty;
        if (*known)
            *ref = *vd_tree_root_ref(tree);
        return 0;
    }
    int r = vd_tree_get(tree, level + 1, index / VD_FANOUT, false, &above, &absent);
    if (r)
        return r;
    if (above) {
        const struct vd_node *kid = above->inner->kid[index % VD_FANOUT];
        *known = !kid || !kid->dirty;
        *ref = above->inner->ref[index % VD_FANOUT];
    } else if (absent == VD_ABSENT_ZERO) {
        ref->hint = 1;
    }
    vd_node_unpin(above);
    return 0;
}

/* Looks for the next leaf inside `node`; *index moves to the end of what was searched. */
static int next_below(struct vd_node *node, uint64_t *index, bool *found)
{
    enum vd_absent absent = VD_ABSENT_HOLE;
    struct vd_tree *tree = node->tree;
    if (node->level == 0) {
        *found = true;
        return 0;
    }
    uint64_t span = vd_span(node->level - 1u);
    uint64_t first = node->index * VD_FANOUT;
    for (uint64_t at = *index / span; at < first + VD_FANOUT; at++) {
        struct vd_node *kid = NULL;
        unsigned slot = (unsigned)(at - first);
        *index = vd_max64(*index, at * span);
        if (node->level == 1 && !node->inner->kid[slot]) {
            *found = !vd_ref_is_hole(&node->inner->ref[slot]);
        } else {
            int r = get_kid(tree, node, slot, false, &kid, &absent);
            if (!r && kid)
                r = next_below(kid, index, found);
            else if (!r)
                *found = absent == VD_ABSENT_ZERO;
            vd_node_unpin(kid);
            if (r)
                return r;
        }
        if (*found)
            return 0;
    }
    *index = (first + VD_FANOUT) * span;
    return 0;
}

int vd_tree_next(struct vd_tree *tree, uint64_t *index, bool *found)
{
    struct vd_node *root = NULL;
    enum vd_absent absent = VD_ABSENT_HOLE;
    *found = false;
    if (*index >= vd_span(tree->height))
        return 0;
    int r = get_kid(tree, NULL, 0, false, &root, &absent);
    if (r || !root) {
        *found = !r && absent == VD_ABSENT_ZERO;
        return r;
    }
    r = next_below(root, index, found);
    vd_node_unpin(root);
    return r;
}

/* --- what a checkpoint asks of a node --- */

int vd_node_prepare(struct vd_node *node)
{
    int r = vd_map_leaf_prepare(&node->map, node->tree->image->header.cluster_log2);
    charge(node);
    return r;
}

static unsigned inner_blocks(const struct vd_inner *inner, bool *all_zero)
{
    unsigned holes = 0, zeros = 0;
    for (unsigned i = 0; i < VD_FANOUT; i++) {
        holes += vd_ref_is_hole(&inner->ref[i]);
        zeros += vd_ref_is_zero(&inner->ref[i]);
    }
    *all_zero = zeros == VD_FANOUT;
    return holes == VD_FANOUT || zeros == VD_FANOUT ? 0 : 1;
}

unsigned vd_node_blocks(const struct vd_node *node, bool *all_zero)
{
    *all_zero = false;
    if (node->level > 0)
        return inner_blocks(node->inner, all_zero);
    switch (node->tree->type) {
    case VD_TREE_MAP:
        if (node->map.zeros == VD_LEAF_BLOCKS && node->map.zstds == 0) {
            *all_zero = true;
            return 0;
        }
        return (unsigned)(vd_map_leaf_size(&node->map) / VD_BLOCK);
    case VD_TREE_SNAPS:
        return (unsigned)(vd_snap_leaf_size(&node->snaps) / VD_BLOCK);
    default:
        return 1;
    }
}

void vd_node_encode(const struct vd_node *node, uint8_t *bytes, size_t length)
{
    if (node->level > 0) {
        for (unsigned i = 0; i < VD_FANOUT; i++)
            vd_ref_encode(&node->inner->ref[i], bytes + i * VD_REF_BYTES);
        return;
    }
    switch (node->tree->type) {
    case VD_TREE_MAP:
        vd_map_leaf_encode(&node->map, node->tree->image->header.cluster_log2, bytes, length);
        break;
    case VD_TREE_ALLOC:
        memcpy(bytes, node->page->count, length);
        break;
    case VD_TREE_EPOCHS:
        memcpy(bytes, node->salts, length);
        break;
    case VD_TREE_SNAPS:
        vd_snap_leaf_encode(&node->snaps, bytes, length);
        break;
    }
}

static uint8_t free_class(uint32_t free_blocks)
{
    return free_blocks ? (uint8_t)(32 - __builtin_clz(free_blocks)) : 0;
}

uint8_t vd_node_hint(const struct vd_node *node)
{
    if (node->tree->type != VD_TREE_ALLOC)
        return 0;
    if (node->level == 0)
        return free_class(node->page->free + node->page->held);
    uint8_t hint = 0;
    for (unsigned i = 0; i < VD_FANOUT; i++) {
        const struct vd_ref *ref = &node->inner->ref[i];
        uint8_t h = vd_ref_is_hole(ref) ? free_class(VD_PAGE_BLOCKS) : ref->hint;
        hint = h > hint ? h : hint;
    }
    return hint;
}
