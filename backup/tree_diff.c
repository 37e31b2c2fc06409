/* SPDX-License-Identifier: Apache-2.0 */
/* Comparing two trees; see tree_diff.h. */
#include "tree_diff.h"

#include "report.h"
#include "tree_path.h"

#include <errno.h>
#include <string.h>

struct comparing {
    struct vb_path *before, *after;
    uint64_t size;
    unsigned lower; /* level of the root that is lower */
    vb_diff_range *range;
    void *opaque;
    struct vdisk_error *error;
    uint64_t offset, length; /* a range that may go on; length 0: none */
    bool is_zero;
};

static int flush(struct comparing *comparing)
{
    uint64_t length = comparing->length;

    comparing->length = 0;
    if (length == 0 || comparing->offset >= comparing->size)
        return 0;
    if (length > comparing->size - comparing->offset)
        length = comparing->size - comparing->offset;
    return comparing->range(comparing->opaque, comparing->offset, length, comparing->is_zero)
               ? 0
               : -ECANCELED;
}

static int emit(struct comparing *comparing, uint64_t offset, uint64_t length, bool is_zero)
{
    int result = 0;

    if (comparing->length && comparing->is_zero == is_zero &&
        comparing->offset + comparing->length == offset) {
        comparing->length += length;
        return 0;
    }
    result = flush(comparing);
    comparing->offset = offset;
    comparing->length = length;
    comparing->is_zero = is_zero;
    return result;
}

static bool same_entry(const struct vb_node_entry *a, const struct vb_node_entry *b)
{
    if (a->state != b->state)
        return false;
    return a->state == VB_NODE_ZERO ||
           (vb_id_equal(&a->id, &b->id) &&
            (a->state != VB_NODE_PATCHED || (vb_id_equal(&a->patch, &b->patch) &&
                                             memcmp(a->bitmap, b->bitmap, VB_BITMAP_BYTES) == 0)));
}

/* One base for both: only what a patch of either has can differ. */
static int compare_patches(struct comparing *comparing, uint64_t offset,
                           const struct vb_node_entry *a, const struct vb_node_entry *b)
{
    int result = 0;

    for (unsigned block = 0; block < VB_CHUNK_BLOCKS && result == 0; block++) {
        unsigned in_a = a->state == VB_NODE_PATCHED && (a->bitmap[block / 8] >> (block % 8) & 1);
        unsigned in_b = b->state == VB_NODE_PATCHED && (b->bitmap[block / 8] >> (block % 8) & 1);

        if (in_a || in_b)
            result =
                emit(comparing, offset + (uint64_t)block * VB_BLOCK_BYTES, VB_BLOCK_BYTES, false);
    }
    return result;
}

static int compare_leaves(struct comparing *comparing, uint64_t index)
{
    const struct vb_node *before, *after;
    int result = vb_path_node(comparing->before, 0, index, &before, comparing->error);

    if (result == 0)
        result = vb_path_node(comparing->after, 0, index, &after, comparing->error);
    for (unsigned i = 0; i < VB_NODE_CHILDREN && result == 0; i++) {
        const struct vb_node_entry *a = &before->entry[i], *b = &after->entry[i];
        uint64_t offset = (index * VB_NODE_CHILDREN + i) * VB_CHUNK_BYTES;

        if (same_entry(a, b))
            continue;
        if (a->state != VB_NODE_ZERO && b->state != VB_NODE_ZERO && vb_id_equal(&a->id, &b->id))
            result = compare_patches(comparing, offset, a, b);
        else
            result = emit(comparing, offset, VB_CHUNK_BYTES, b->state == VB_NODE_ZERO);
    }
    return result;
}

static int compare(struct comparing *comparing, unsigned level, uint64_t index)
{
    struct vb_id before, after;
    int result = vb_path_id(comparing->before, level, index, &before, comparing->error);

    if (result == 0)
        result = vb_path_id(comparing->after, level, index, &after, comparing->error);
    /* Above its root a tree has no ids that could be compared. */
    if (result || (vb_id_equal(&before, &after) && (index > 0 || level <= comparing->lower)))
        return result;
    if (level == 0)
        return compare_leaves(comparing, index);
    for (unsigned i = 0; i < VB_NODE_CHILDREN && result == 0; i++)
        result = compare(comparing, level - 1, index * VB_NODE_CHILDREN + i);
    return result;
}

int vb_tree_diff(struct vb_repo *repo, const struct vb_backup *before,
                 const struct vb_backup *after, vb_diff_range *range, void *opaque,
                 struct vdisk_error *error)
{
    const struct vb_manifest *a = &before->manifest, *b = &after->manifest;
    struct comparing comparing = {.size = a->size > b->size ? a->size : b->size,
                                  .lower = a->level < b->level ? a->level : b->level,
                                  .range = range,
                                  .opaque = opaque,
                                  .error = error};
    struct vb_reader *reader = NULL;
    struct vb_index *tree = NULL;
    int result = vb_index_load(repo, VB_INDEX_TREE, NULL, NULL, &tree);

    if (result == 0)
        result = vb_reader_new(repo, &reader);
    if (result == 0)
        result = vb_path_new(reader, tree, &a->root, a->level, &comparing.before);
    if (result == 0)
        result = vb_path_new(reader, tree, &b->root, b->level, &comparing.after);
    if (result == 0)
        result = compare(&comparing, a->level > b->level ? a->level : b->level, 0);
    if (result == 0)
        result = flush(&comparing);
    vb_path_free(comparing.before);
    vb_path_free(comparing.after);
    vb_reader_free(reader);
    vb_index_free(tree);
    return result && error->code != result ? error_set(error, result, "%s", vdisk_strerror(result))
                                           : result;
}
