/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing packs anew; see repack.h.
 *
 * Records of one origin come together, so that the index can say whose they are. The buffer has
 * room in front for the most segment headers there can be; header and segments are put right before
 * the records when their number is known.
 */
#include "repack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FRONT_BYTES   (VB_HEADER_BYTES + VB_PACK_SEGMENTS * VB_SEGMENT_BYTES)
#define ENTRIES_MAX   16384u
#define BUFFER_BYTES  (FRONT_BYTES + (size_t)VB_PACK_TARGET + VB_RECORD_MAX + VB_DIRECTORY_ROOM)
#define PACKS_INDEXED 64u

/* Packs that are put and that no index object names yet. */
struct made {
    struct vb_pack *pack;
    size_t count;
};

struct copier {
    struct vb_repacking *repacking;
    const struct vb_index *index;
    struct vb_sealer *sealer;
    struct vb_id origin;
    uint8_t *old;    /* VB_PACK_MAX: the pack that is copied from */
    uint8_t *buffer; /* BUFFER_BYTES: the one that is made */
    size_t used;     /* bytes of records */
    uint8_t segments[VB_REPACK_SEGMENTS][VB_SEGMENT_BYTES];
    uint16_t segment_count;
    struct vb_entry *entries; /* offsets from the first record on */
    uint32_t count;
    struct made made;
};

/* --- index -------------------------------------------------------------------------------- */

static void forget_made(struct made *made)
{
    for (size_t i = 0; i < made->count; i++)
        vb_pack_release(&made->pack[i]);
    free(made->pack);
    memset(made, 0, sizeof(*made));
}

static int put_index(struct vb_repo *repo, enum vb_place place, struct made *made)
{
    size_t from = 0;
    int result = 0;

    while (from < made->count && result == 0) {
        size_t count = vb_index_fitting(made->pack + from, made->count - from);

        result = vb_index_put(repo, place, made->pack + from, count);
        from += count;
    }
    forget_made(made);
    return result;
}

/* Takes the pack over. */
static int note_made(struct made *made, struct vb_pack *pack)
{
    struct vb_pack *list = reallocarray(made->pack, made->count + 1, sizeof(*list));

    if (!list) {
        vb_pack_release(pack);
        return -ENOMEM;
    }
    made->pack = list;
    made->pack[made->count++] = *pack;
    return 0;
}

/* --- a new data pack ---------------------------------------------------------------------- */

static int describe(struct copier *copier, const uint8_t *bytes, size_t length,
                    struct vb_pack *pack)
{
    size_t segments = (copier->segment_count + (size_t)1) * VB_SEGMENT_BYTES;

    *pack = (struct vb_pack){
        .origin = copier->origin,
        .length = length,
        .segment_count = (uint16_t)(copier->segment_count + 1),
        .entry_count = copier->count,
        .segments = malloc(segments),
        .entries = malloc(copier->count * sizeof(*pack->entries)),
    };
    if (!pack->segments || !pack->entries) {
        vb_pack_release(pack);
        return -ENOMEM;
    }
    memcpy(pack->segments, bytes + VB_HEADER_BYTES, segments);
    memcpy(pack->entries, copier->entries, copier->count * sizeof(*pack->entries));
    vb_object_name(bytes, length, &pack->name);
    return 0;
}

/* Header, segments, directory; returns where it begins, and its length. */
static int complete(struct copier *copier, uint8_t **begin, size_t *length)
{
    struct vb_repo *repo = copier->repacking->repo;
    struct vb_header header = {.kind = VB_OBJECT_PACK,
                               .detail = (uint16_t)(copier->segment_count + 1)};
    size_t front = VB_HEADER_BYTES + (size_t)header.detail * VB_SEGMENT_BYTES;
    uint8_t *bytes = copier->buffer + FRONT_BYTES - front;
    struct vb_segment_keys keys;
    struct vb_segment *meta;
    int result;

    memcpy(header.repo_id, repo->config.repo_id, VB_REPO_ID_BYTES);
    vb_header_encode(&header, bytes);
    memcpy(bytes + VB_HEADER_BYTES, copier->segments,
           (size_t)copier->segment_count * VB_SEGMENT_BYTES);
    vb_repo_segment_keys(repo, &keys);
    result = vb_segment_make(&keys, VB_SEGMENT_META, bytes + front - VB_SEGMENT_BYTES, &meta);
    if (result)
        return result;
    for (uint32_t i = 0; i < copier->count; i++)
        copier->entries[i].offset += (uint32_t)front;
    *length = front + copier->used;
    result =
        vb_directory_append(copier->sealer, meta, repo->config.pad, copier->entries, copier->count,
                            bytes, BUFFER_BYTES - (FRONT_BYTES - front), length);
    vb_segment_free(meta);
    *begin = bytes;
    return result;
}

static int finish(struct copier *copier)
{
    struct vb_repacking *repacking = copier->repacking;
    struct vb_store *store = repacking->repo->store;
    struct vb_pack pack;
    size_t length;
    uint8_t *bytes;
    int result;

    if (copier->count == 0)
        return 0;
    result = complete(copier, &bytes, &length);
    if (result == 0)
        result = describe(copier, bytes, length, &pack);
    if (result)
        return result;
    result = store->ops->put(store, VB_PACKS, &pack.name, bytes, length);
    if (result == 0) {
        repacking->packs++;
        repacking->bytes += length;
        result = note_made(&copier->made, &pack);
    } else {
        vb_pack_release(&pack);
    }
    copier->used = copier->segment_count = 0;
    copier->count = 0;
    if (result == 0 && copier->made.count >= PACKS_INDEXED)
        result = put_index(repacking->repo, VB_INDEX_DATA, &copier->made);
    return result;
}

/* The number of a segment in the new pack; it has room for it. */
static uint16_t take_segment(struct copier *copier, const uint8_t *header)
{
    for (uint16_t i = 0; i < copier->segment_count; i++) {
        if (memcmp(copier->segments[i], header, VB_SEGMENT_BYTES) == 0)
            return i;
    }
    memcpy(copier->segments[copier->segment_count], header, VB_SEGMENT_BYTES);
    return copier->segment_count++;
}

static int copy_record(struct copier *copier, const struct vb_found *found)
{
    const struct vb_entry *entry = found->entry;
    struct vb_entry copy = *entry;

    if (copier->used + entry->length > VB_PACK_TARGET || copier->count == ENTRIES_MAX ||
        copier->segment_count == VB_REPACK_SEGMENTS) {
        int result = finish(copier);

        if (result)
            return result;
    }
    copy.segment =
        take_segment(copier, found->pack->segments + (size_t)entry->segment * VB_SEGMENT_BYTES);
    copy.offset = (uint32_t)copier->used;
    memcpy(copier->buffer + FRONT_BYTES + copier->used, copier->old + entry->offset, entry->length);
    copier->used += entry->length;
    copier->entries[copier->count++] = copy;
    return 0;
}

/* --- from old data packs ------------------------------------------------------------------ */

/* The whole pack, if it is what its name says. */
static bool read_old(struct copier *copier, const struct vb_pack *pack)
{
    struct vb_store *store = copier->repacking->repo->store;
    struct vb_id name;

    if (pack->length > VB_PACK_MAX ||
        store->ops->get(store, VB_PACKS, &pack->name, 0, copier->old, (size_t)pack->length))
        return false;
    vb_object_name(copier->old, (size_t)pack->length, &name);
    return vb_id_equal(&name, &pack->name);
}

static int copy_pack(struct copier *copier, size_t which)
{
    const struct vb_repacking *repacking = copier->repacking;
    size_t first = vb_index_pack_first(copier->index, which);
    uint64_t stored;
    const struct vb_pack *pack = vb_index_pack(copier->index, which, &stored);
    int result = 0;

    if (stored != pack->length || !read_old(copier, pack))
        return 0;
    for (uint32_t i = 0; i < pack->entry_count && result == 0; i++) {
        struct vb_found found;

        if (!vb_marks_has(repacking->marks, VB_INDEX_DATA, first + i))
            continue;
        vb_index_entry(copier->index, first + i, &found);
        result = copy_record(copier, &found);
    }
    if (result == 0)
        repacking->done[which] = 1;
    return result;
}

/* All chosen packs of the origin of `first`, which is the first of them. */
static int copy_origin(struct copier *copier, size_t first, uint8_t *seen)
{
    const struct vb_repacking *repacking = copier->repacking;
    uint64_t stored;
    int result = 0;

    copier->origin = vb_index_pack(copier->index, first, &stored)->origin;
    for (size_t i = first; i < vb_index_packs(copier->index) && result == 0; i++) {
        if (!repacking->chosen[i] || seen[i] ||
            !vb_id_equal(&vb_index_pack(copier->index, i, &stored)->origin, &copier->origin))
            continue;
        seen[i] = 1;
        result = copy_pack(copier, i);
        if (result == 0)
            result = repacking->beat(repacking->opaque);
    }
    return result ? result : finish(copier);
}

int vb_repack_data(struct vb_repacking *repacking)
{
    struct copier *copier = calloc(1, sizeof(*copier));
    uint8_t *seen = NULL;
    int result = -ENOMEM;

    if (!copier)
        return result;
    copier->repacking = repacking;
    copier->index = vb_marks_index(repacking->marks, VB_INDEX_DATA);
    copier->old = malloc(VB_PACK_MAX);
    copier->buffer = malloc(BUFFER_BYTES);
    copier->entries = calloc(ENTRIES_MAX, sizeof(*copier->entries));
    seen = calloc(vb_index_packs(copier->index) + 1, 1);
    if (copier->old && copier->buffer && copier->entries && seen)
        result = vb_sealer_new(repacking->repo->config.repo_id, &copier->sealer);
    for (size_t i = 0; i < vb_index_packs(copier->index) && result == 0; i++) {
        if (repacking->chosen[i] && !seen[i])
            result = copy_origin(copier, i, seen);
    }
    if (result == 0)
        result = put_index(repacking->repo, VB_INDEX_DATA, &copier->made);
    forget_made(&copier->made);
    vb_sealer_free(copier->sealer);
    free(copier->old);
    free(copier->buffer);
    free(copier->entries);
    free(seen);
    free(copier);
    return result;
}

/* --- trees -------------------------------------------------------------------------------- */

struct sealing {
    struct vb_repacking *repacking;
    const struct vb_index *index;
    struct vb_packer *packer;
    struct vb_reader *reader;
    struct vb_sealer *sealer;
    struct made made; /* filled by the packer's thread, until it is flushed */
};

static int keep_made(void *opaque, struct vb_pack *pack)
{
    struct sealing *sealing = opaque;

    sealing->repacking->packs++;
    sealing->repacking->bytes += pack->length;
    return note_made(&sealing->made, pack);
}

static int seal_pack(struct sealing *sealing, size_t which)
{
    const struct vb_repacking *repacking = sealing->repacking;
    size_t first = vb_index_pack_first(sealing->index, which);
    uint64_t stored;
    const struct vb_pack *pack = vb_index_pack(sealing->index, which, &stored);
    int result = 0;

    for (uint32_t i = 0; i < pack->entry_count && result == 0; i++) {
        struct vb_found found;
        const uint8_t *bytes;
        size_t length;

        if (!vb_marks_has(repacking->marks, VB_INDEX_TREE, first + i))
            continue;
        vb_index_entry(sealing->index, first + i, &found);
        /* It was right when it was marked. */
        result = vb_record_read_at(sealing->reader, &found, NULL, &bytes, &length);
        if (result == 0)
            result = vb_packer_add(sealing->packer, sealing->sealer, VB_RECORD_NODE,
                                   &found.entry->id, bytes, length);
    }
    if (result == 0)
        repacking->done[which] = 1;
    return result;
}

int vb_repack_tree(struct vb_repacking *repacking)
{
    struct sealing sealing = {.repacking = repacking,
                              .index = vb_marks_index(repacking->marks, VB_INDEX_TREE)};
    struct vb_repo *repo = repacking->repo;
    int result = vb_reader_new(repo, &sealing.reader);

    if (result == 0)
        result = vb_sealer_new(repo->config.repo_id, &sealing.sealer);
    if (result == 0)
        result = vb_packer_open(repo, true, keep_made, &sealing, &sealing.packer);
    for (size_t i = 0; i < vb_index_packs(sealing.index) && result == 0; i++) {
        if (!repacking->chosen[i])
            continue;
        result = seal_pack(&sealing, i);
        if (result == 0)
            result = repacking->beat(repacking->opaque);
    }
    if (result == 0)
        result = vb_packer_flush(sealing.packer);
    vb_packer_close(sealing.packer);
    if (result == 0)
        result = put_index(repo, VB_INDEX_TREE, &sealing.made);
    forget_made(&sealing.made);
    vb_sealer_free(sealing.sealer);
    vb_reader_free(sealing.reader);
    return result;
}
