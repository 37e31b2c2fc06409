/* SPDX-License-Identifier: Apache-2.0 */
/* Reading records (SPEC.md B12); see record.h. */
#include "record.h"

#include "node.h"
#include "report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SEGMENTS_KEPT 16u

struct kept_segment {
    const uint8_t *header; /* in the index: that is what it goes by */
    struct vb_segment *segment;
    int result;
};

struct vb_reader {
    struct vb_repo *repo;
    struct vb_segment_keys keys;
    struct vb_sealer *sealer;
    uint8_t *sealed; /* VB_RECORD_MAX */
    struct kept_segment kept[SEGMENTS_KEPT];
    unsigned next;
    struct vb_id zero_base; /* all zeros: not yet known */
};

int vb_reader_new(struct vb_repo *repo, struct vb_reader **out)
{
    struct vb_reader *reader = calloc(1, sizeof(*reader));
    int result;

    if (!reader)
        return -ENOMEM;
    reader->repo = repo;
    vb_repo_segment_keys(repo, &reader->keys);
    reader->sealed = malloc(VB_RECORD_MAX);
    result = reader->sealed ? vb_sealer_new(repo->config.repo_id, &reader->sealer) : -ENOMEM;
    if (result) {
        vb_reader_free(reader);
        return result;
    }
    *out = reader;
    return 0;
}

void vb_reader_free(struct vb_reader *reader)
{
    if (!reader)
        return;
    for (unsigned i = 0; i < SEGMENTS_KEPT; i++)
        vb_segment_free(reader->kept[i].segment);
    vb_sealer_free(reader->sealer);
    free(reader->sealed);
    free(reader);
}

/* Its key, from the last ones used, or from its header. */
static int find_segment(struct vb_reader *reader, const uint8_t *header,
                        const struct vb_segment **out)
{
    struct kept_segment *kept;

    for (unsigned i = 0; i < SEGMENTS_KEPT; i++) {
        kept = &reader->kept[i];
        if (kept->header == header) {
            *out = kept->segment;
            return kept->result;
        }
    }
    kept = &reader->kept[reader->next++ % SEGMENTS_KEPT];
    vb_segment_free(kept->segment);
    kept->segment = NULL;
    kept->header = header;
    kept->result = vb_segment_open(&reader->keys, header, &kept->segment);
    *out = kept->segment;
    return kept->result;
}

static const uint8_t *id_key(const struct vb_reader *reader, enum vb_record_kind kind)
{
    const struct vb_keys *keys = reader->repo->keys;

    return kind == VB_RECORD_BASE    ? keys->chunk_key
           : kind == VB_RECORD_PATCH ? keys->patch_key
                                     : keys->node_key;
}

static bool length_right(enum vb_record_kind kind, size_t length)
{
    switch (kind) {
    case VB_RECORD_BASE:
        return length == VB_CHUNK_BYTES;
    case VB_RECORD_PATCH:
        return length > 0 && length <= VB_CHUNK_BYTES && length % VB_BLOCK_BYTES == 0;
    default:
        return length <= VB_NODE_MAX;
    }
}

int vb_record_read_at(struct vb_reader *reader, const struct vb_found *found, const uint8_t *sealed,
                      const uint8_t **data, size_t *length)
{
    const struct vb_entry *entry = found->entry;
    const struct vb_record_context context = {
        .number = entry->number, .kind = (enum vb_record_kind)entry->kind, .id = entry->id};
    struct vb_store *store = reader->repo->store;
    const struct vb_segment *segment;
    struct vb_id id;
    int result = find_segment(
        reader, found->pack->segments + (size_t)entry->segment * VB_SEGMENT_BYTES, &segment);

    if (result)
        return result;
    if (!sealed) {
        result = store->ops->get(store, VB_PACKS, &found->pack->name, entry->offset, reader->sealed,
                                 entry->length);
        if (result)
            return result;
        sealed = reader->sealed;
    }
    result = vb_sealer_open(reader->sealer, segment, &context, sealed, entry->length,
                            VB_CHUNK_BYTES, data, length);
    if (result)
        return result;
    if (!length_right(context.kind, *length))
        return VDISK_E_MALFORMED;
    vb_id_of(id_key(reader, context.kind), *data, *length, &id);
    return vb_id_equal(&id, &entry->id) ? 0 : VDISK_E_NOT_AUTHENTIC;
}

static const char *kind_name(enum vb_record_kind kind)
{
    return kind == VB_RECORD_NODE ? "a node of the tree" : "data";
}

static int explain(const struct vb_found *found, enum vb_record_kind kind, int result,
                   struct vdisk_error *error)
{
    char text[VB_NAME_TEXT_BYTES];

    if (result == VDISK_E_WRONG_KEY)
        return error_set(error, result, "this key cannot read data: it takes one of role read");
    return error_set(error, result, "pack %.16s: %s at %u cannot be used: %s",
                     vb_id_text(text, &found->pack->name), kind_name(kind), found->entry->offset,
                     result == -ENOENT ? "the pack is gone" : vdisk_strerror(result));
}

int vb_record_read(struct vb_reader *reader, const struct vb_index *index, enum vb_record_kind kind,
                   const struct vb_id *id, const uint8_t **data, size_t *length,
                   struct vdisk_error *error)
{
    unsigned count = vb_index_count(index, kind, id);
    char text[VB_NAME_TEXT_BYTES];
    int result = VDISK_E_NOT_FOUND;

    for (unsigned i = 0; i < count; i++) {
        struct vb_found found;

        vb_index_get(index, kind, id, i, &found);
        result = vb_record_read_at(reader, &found, NULL, data, length);
        if (result == 0)
            return 0;
        explain(&found, kind, result, error);
    }
    if (count == 0)
        error_set(error, result, "%s (%.16s) is missing", kind_name(kind), vb_id_text(text, id));
    return result;
}

/* --- chunks ------------------------------------------------------------------------------- */

static int apply_patch(const uint8_t bitmap[static VB_BITMAP_BYTES], const uint8_t *blocks,
                       size_t length, uint8_t *chunk)
{
    size_t at = 0;

    if (length != (size_t)vb_bitmap_count(bitmap) * VB_BLOCK_BYTES)
        return VDISK_E_MALFORMED;
    for (unsigned block = 0; block < VB_CHUNK_BLOCKS; block++) {
        if (!(bitmap[block / 8] >> (block % 8) & 1))
            continue;
        memcpy(chunk + (size_t)block * VB_BLOCK_BYTES, blocks + at, VB_BLOCK_BYTES);
        at += VB_BLOCK_BYTES;
    }
    return 0;
}

/* True: it is zeros but for a patch, or all of it, and the chunk is. Many patches may have this
 * base, which is known without being fetched. */
static bool make_zeros(struct vb_reader *reader, const struct vb_node_entry *entry, uint8_t *chunk)
{
    if (entry->state == VB_NODE_BASE)
        return false;
    memset(chunk, 0, VB_CHUNK_BYTES);
    if (entry->state == VB_NODE_ZERO)
        return true;
    if (vb_id_is_zero(&reader->zero_base))
        vb_id_of(id_key(reader, VB_RECORD_BASE), chunk, VB_CHUNK_BYTES, &reader->zero_base);
    return vb_id_equal(&entry->id, &reader->zero_base);
}

static int read_base(struct vb_reader *reader, const struct vb_index *data,
                     const struct vb_node_entry *entry, uint8_t *chunk, struct vdisk_error *error)
{
    const uint8_t *bytes;
    size_t length;
    int result;

    vb_sealer_into(reader->sealer, chunk, VB_CHUNK_BYTES);
    result = vb_record_read(reader, data, VB_RECORD_BASE, &entry->id, &bytes, &length, error);
    vb_sealer_into(reader->sealer, NULL, 0);
    if (result == 0 && bytes != chunk)
        memcpy(chunk, bytes, VB_CHUNK_BYTES);
    return result;
}

int vb_chunk_read(struct vb_reader *reader, const struct vb_index *data,
                  const struct vb_node_entry *entry, uint8_t *chunk, struct vdisk_error *error)
{
    const uint8_t *bytes;
    size_t length;
    int result = 0;

    if (!make_zeros(reader, entry, chunk))
        result = read_base(reader, data, entry, chunk, error);
    if (result || entry->state != VB_NODE_PATCHED)
        return result;
    result = vb_record_read(reader, data, VB_RECORD_PATCH, &entry->patch, &bytes, &length, error);
    if (result == 0) {
        result = apply_patch(entry->bitmap, bytes, length, chunk);
        if (result)
            error_set(error, result, "a patch does not have the blocks that it should");
    }
    return result;
}
