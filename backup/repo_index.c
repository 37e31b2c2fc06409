/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index (SPEC.md B8); see repo_index.h.
 *
 * A million records are a terabyte: so rows are compact, and it is their numbers that are sorted.
 */
#include "repo_index.h"

#include "cursor.h"

#include <errno.h>
#include <stdlib.h>

#define PACK_HEAD_BYTES (2 * VB_ID_BYTES + 8u + 2u + 2u + 4u)
#define LOAD_TRIES      8u
#define OBJECT_TARGET   (6u << 20) /* bytes before compression */

/* --- codec -------------------------------------------------------------------------------- */

static size_t encoded_bytes(const struct vb_pack *pack)
{
    return PACK_HEAD_BYTES + (size_t)pack->segment_count * VB_SEGMENT_BYTES +
           (size_t)pack->entry_count * VB_ENTRY_BYTES;
}

static int compare_packs(const void *a, const void *b)
{
    const struct vb_pack *x = a, *y = b;

    return vb_id_compare(&x->name, &y->name);
}

static void encode_pack(struct vb_pen *pen, const struct vb_pack *pack)
{
    vb_write_bytes(pen, pack->name.b, VB_ID_BYTES);
    vb_write_bytes(pen, pack->origin.b, VB_ID_BYTES);
    vb_write_le(pen, pack->length, 8);
    vb_write_le(pen, pack->segment_count, 2);
    vb_write_zero(pen, 2);
    vb_write_le(pen, pack->entry_count, 4);
    vb_write_bytes(pen, pack->segments, (size_t)pack->segment_count * VB_SEGMENT_BYTES);
    for (uint32_t i = 0; i < pack->entry_count; i++) {
        uint8_t bytes[VB_ENTRY_BYTES];

        vb_entry_encode(&pack->entries[i], bytes);
        vb_write_bytes(pen, bytes, sizeof(bytes));
    }
}

int vb_index_encode(const struct vb_pack *packs, size_t count, uint8_t **payload, size_t *length)
{
    struct vb_pack *sorted = calloc(count ? count : 1, sizeof(*sorted));
    size_t bytes = 8, entries = 0;
    struct vb_pen pen;
    uint8_t *out;

    if (!sorted)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        bytes += encoded_bytes(&packs[i]);
        entries += packs[i].entry_count;
        sorted[i] = packs[i];
    }
    qsort(sorted, count, sizeof(*sorted), compare_packs);
    out = malloc(bytes);
    if (!out) {
        free(sorted);
        return -ENOMEM;
    }
    pen = (struct vb_pen){.at = out, .end = out + bytes};
    vb_write_le(&pen, count, 4);
    vb_write_le(&pen, entries, 4);
    for (size_t i = 0; i < count; i++)
        encode_pack(&pen, &sorted[i]);
    free(sorted);
    *payload = out;
    *length = bytes;
    return 0;
}

/* Leaves a pack that can be released, whatever the result. */
static int decode_pack(struct vb_cursor *cursor, struct vb_pack *pack, uint32_t entries_left)
{
    const uint8_t *segments;
    uint64_t end = 0;

    vb_take_bytes(cursor, pack->name.b, VB_ID_BYTES);
    vb_take_bytes(cursor, pack->origin.b, VB_ID_BYTES);
    pack->length = vb_take_le(cursor, 8);
    pack->segment_count = (uint16_t)vb_take_le(cursor, 2);
    vb_take_zero(cursor, 2);
    pack->entry_count = (uint32_t)vb_take_le(cursor, 4);
    segments = vb_take(cursor, (size_t)pack->segment_count * VB_SEGMENT_BYTES);
    if (cursor->failed || pack->segment_count < 1 || pack->segment_count > VB_PACK_SEGMENTS ||
        pack->length > VB_PACK_MAX || pack->entry_count > entries_left ||
        (size_t)(cursor->end - cursor->at) / VB_ENTRY_BYTES < pack->entry_count)
        return VDISK_E_MALFORMED;
    pack->segments = malloc((size_t)pack->segment_count * VB_SEGMENT_BYTES);
    pack->entries = calloc(pack->entry_count ? pack->entry_count : 1, sizeof(*pack->entries));
    if (!pack->segments || !pack->entries)
        return -ENOMEM;
    memcpy(pack->segments, segments, (size_t)pack->segment_count * VB_SEGMENT_BYTES);
    for (uint32_t i = 0; i < pack->entry_count; i++) {
        const uint8_t *bytes = vb_take(cursor, VB_ENTRY_BYTES);

        if (vb_entry_decode(&pack->entries[i], bytes, pack->length, pack->segment_count) ||
            pack->entries[i].offset < end)
            return VDISK_E_MALFORMED;
        end = (uint64_t)pack->entries[i].offset + pack->entries[i].length;
    }
    return 0;
}

int vb_index_decode(const uint8_t *payload, size_t length, struct vb_pack **packs, size_t *count)
{
    struct vb_cursor cursor = {.at = payload, .end = payload + length};
    uint32_t wanted = (uint32_t)vb_take_le(&cursor, 4), entries = (uint32_t)vb_take_le(&cursor, 4);
    struct vb_pack *list;
    uint32_t i, seen = 0;
    int result = 0;

    if (cursor.failed || entries > VB_INDEX_ENTRIES_MAX ||
        wanted > (size_t)(cursor.end - cursor.at) / PACK_HEAD_BYTES)
        return VDISK_E_MALFORMED;
    list = calloc(wanted ? wanted : 1, sizeof(*list));
    if (!list)
        return -ENOMEM;
    for (i = 0; i < wanted && result == 0; i++) {
        result = decode_pack(&cursor, &list[i], entries - seen);
        if (result == 0 && i > 0 && vb_id_compare(&list[i - 1].name, &list[i].name) >= 0)
            result = VDISK_E_MALFORMED;
        seen += list[i].entry_count;
    }
    if (result == 0 && (cursor.at != cursor.end || seen != entries))
        result = VDISK_E_MALFORMED;
    if (result) {
        while (i > 0)
            vb_pack_release(&list[--i]);
        free(list);
        return result;
    }
    *packs = list;
    *count = wanted;
    return 0;
}

/* --- in memory ---------------------------------------------------------------------------- */

struct row {
    struct vb_entry entry;
    uint32_t pack : 31;
    uint32_t trusted : 1;
};

struct stored {
    struct vb_id name; /* first, for vb_id_compare */
    bool in_trash;
    uint64_t bytes;
};

struct vb_index {
    struct vb_pack *packs; /* without entries */
    uint64_t *pack_stored; /* bytes of the pack in the store; 0: it is not there */
    size_t *pack_first;    /* number of its first row */
    size_t pack_count, pack_room;
    struct row *rows;
    size_t row_count, row_room;
    uint32_t *order;       /* of rows, by kind and id */
    struct stored *stored; /* packs in the store, by name; while loading */
    size_t stored_count, stored_room;
    bool listing_trash;
    bool no_memory;
};

/* A quarter at a time: realloc() moves pages, and what is not used is not there. */
static bool grow(void *list, size_t *room, size_t needed, size_t each)
{
    void **at = list;
    size_t wanted = *room + *room / 4 + 1024;
    void *bigger;

    if (needed <= *room)
        return true;
    wanted = wanted > needed ? wanted : needed;
    bigger = reallocarray(*at, wanted, each);
    if (!bigger)
        return false;
    *at = bigger;
    *room = wanted;
    return true;
}

static bool note_pack(void *opaque, const struct vb_id *name, uint64_t bytes)
{
    struct vb_index *index = opaque;

    index->no_memory =
        !grow(&index->stored, &index->stored_room, index->stored_count + 1, sizeof(struct stored));
    if (index->no_memory)
        return false;
    index->stored[index->stored_count++] =
        (struct stored){.name = *name, .in_trash = index->listing_trash, .bytes = bytes};
    return true;
}

static int compare_stored(const void *a, const void *b)
{
    const struct stored *x = a, *y = b;
    int order = vb_id_compare(&x->name, &y->name);

    return order ? order : (int)x->in_trash - (int)y->in_trash;
}

/* A pack that is moved meanwhile, either way, is seen in at least one of the places. */
static int list_packs(struct vb_repo *repo, struct vb_index *index)
{
    static const bool trash[] = {true, false, true};
    size_t kept = 0;
    int result = 0;

    for (unsigned i = 0; i < sizeof(trash) / sizeof(trash[0]) && result == 0; i++) {
        index->listing_trash = trash[i];
        result = repo->store->ops->list(repo->store, VB_PACKS, trash[i], note_pack, index);
        if (result == 0 && index->no_memory)
            result = -ENOMEM;
    }
    if (result || index->stored_count == 0)
        return result;
    qsort(index->stored, index->stored_count, sizeof(*index->stored), compare_stored);
    for (size_t i = 0; i < index->stored_count; i++) {
        if (i == 0 || !vb_id_equal(&index->stored[i].name, &index->stored[kept - 1].name))
            index->stored[kept++] = index->stored[i];
    }
    index->stored_count = kept;
    return 0;
}

/* Takes the pack over, also on failure. */
static int add_pack(struct vb_index *index, struct vb_pack *pack, bool trusted)
{
    const struct stored *stored = index->stored_count
                                      ? bsearch(&pack->name, index->stored, index->stored_count,
                                                sizeof(*stored), vb_id_compare)
                                      : NULL;
    size_t pack_room = index->pack_room, first_room = pack_room;

    if (!grow(&index->packs, &index->pack_room, index->pack_count + 1, sizeof(*index->packs)) ||
        !grow(&index->pack_stored, &pack_room, index->pack_count + 1,
              sizeof(*index->pack_stored)) ||
        !grow(&index->pack_first, &first_room, index->pack_count + 1, sizeof(*index->pack_first)) ||
        !grow(&index->rows, &index->row_room, index->row_count + pack->entry_count,
              sizeof(*index->rows))) {
        vb_pack_release(pack);
        return -ENOMEM;
    }
    index->pack_first[index->pack_count] = index->row_count;
    for (uint32_t i = 0; stored && i < pack->entry_count; i++)
        index->rows[index->row_count++] = (struct row){
            .entry = pack->entries[i],
            .pack = (uint32_t)index->pack_count & 0x7fffffff,
            .trusted = trusted,
        };
    free(pack->entries);
    pack->entries = NULL;
    pack->in_trash = stored && stored->in_trash;
    index->packs[index->pack_count] = *pack;
    index->pack_stored[index->pack_count++] = stored ? stored->bytes : 0;
    return 0;
}

/* Who a pack's records come from. What a revoked key says of others does not count. */
static int set_origins(const struct vb_repo *repo, const struct vb_id *signer,
                       struct vb_pack *packs, size_t count)
{
    const struct vb_writer *writer = vb_repo_writer(repo, signer);
    bool revoked = vb_repo_revocation(repo, signer) != NULL;

    for (size_t i = 0; i < count; i++) {
        struct vb_id *origin = &packs[i].origin;

        if (!vb_id_is_zero(origin) && !vb_id_equal(origin, signer) &&
            (!writer || writer->role == VB_ROLE_PUT))
            return VDISK_E_NOT_AUTHENTIC;
        if (revoked || vb_id_is_zero(origin))
            *origin = *signer;
    }
    return 0;
}

static int read_packs(struct vb_repo *repo, enum vb_place place, const struct vb_object *object,
                      struct vb_pack **packs, size_t *count)
{
    struct vb_segment_keys keys;
    uint8_t *payload;
    size_t length;
    int result;

    if (!vb_repo_may_sign(repo, &object->signer, VB_OBJECT_INDEX, &object->name))
        return VDISK_E_NOT_AUTHENTIC;
    if (object->header.detail != (place == VB_INDEX_DATA ? 1 : 2))
        return VDISK_E_MALFORMED;
    vb_repo_segment_keys(repo, &keys);
    result =
        vb_body_open(&keys, VB_RECORD_INDEX, object->body, object->body_bytes, &payload, &length);
    if (result)
        return result;
    result = vb_index_decode(payload, length, packs, count);
    free(payload);
    return result;
}

int vb_index_read(struct vb_repo *repo, enum vb_place place, const struct vb_id *name,
                  struct vb_id *signer, struct vb_pack **packs, size_t *count)
{
    struct vb_object object;
    struct vb_pack *read;
    size_t read_count;
    int result =
        vb_object_get(repo->store, place, name, repo->config.repo_id, VB_OBJECT_INDEX, &object);

    if (result)
        return result;
    *signer = object.signer;
    result = read_packs(repo, place, &object, &read, &read_count);
    vb_object_release(&object);
    if (result)
        return result;
    result = set_origins(repo, signer, read, read_count);
    if (result) {
        for (size_t i = 0; i < read_count; i++)
            vb_pack_release(&read[i]);
        free(read);
        return result;
    }
    *packs = read;
    *count = read_count;
    return 0;
}

static int load_object(struct vb_repo *repo, enum vb_place place, const struct vb_id *name,
                       struct vb_index *index)
{
    struct vb_pack *packs = NULL;
    struct vb_id signer = {0};
    size_t count = 0;
    int result = vb_index_read(repo, place, name, &signer, &packs, &count);
    bool trusted = vb_repo_trusts(repo, &signer);

    for (size_t i = 0; i < count; i++) {
        if (result == 0)
            result = add_pack(index, &packs[i], trusted && vb_repo_trusts(repo, &packs[i].origin));
        else
            vb_pack_release(&packs[i]);
    }
    free(packs);
    return result;
}

static int compare_entries(const struct vb_entry *a, const struct vb_entry *b)
{
    return a->kind != b->kind ? (int)a->kind - (int)b->kind : vb_id_compare(&a->id, &b->id);
}

static int compare_rows(const void *a, const void *b, void *opaque)
{
    const struct vb_index *index = opaque;
    const uint32_t *x = a, *y = b;
    const struct row *row_x = &index->rows[*x], *row_y = &index->rows[*y];
    const struct vb_pack *pack_x = &index->packs[row_x->pack], *pack_y = &index->packs[row_y->pack];
    int order = compare_entries(&row_x->entry, &row_y->entry);

    if (order == 0)
        order = (int)pack_x->in_trash - (int)pack_y->in_trash;
    if (order == 0)
        order = vb_id_compare(&pack_x->name, &pack_y->name);
    return order ? order : *x < *y ? -1 : *x > *y;
}

static int sort(struct vb_index *index)
{
    index->order = malloc((index->row_count ? index->row_count : 1) * sizeof(*index->order));
    if (!index->order)
        return -ENOMEM;
    for (size_t i = 0; i < index->row_count; i++)
        index->order[i] = (uint32_t)i;
    qsort_r(index->order, index->row_count, sizeof(*index->order), compare_rows, index);
    free(index->stored);
    index->stored = NULL;
    return 0;
}

/* -EAGAIN: an index object has gone or come meanwhile. */
static int load_once(struct vb_repo *repo, enum vb_place place, vb_index_bad *bad, void *opaque,
                     struct vb_index *index)
{
    struct vb_id *names = NULL, *after = NULL;
    size_t count = 0, after_count = 0;
    /* Index objects first: a pack comes before the index that names it. */
    int result = vb_store_names(repo->store, place, false, &names, &count);

    if (result == 0)
        result = list_packs(repo, index);
    for (size_t i = 0; i < count && result == 0; i++) {
        int wrong = load_object(repo, place, &names[i], index);

        if (wrong == -ENOMEM)
            result = wrong;
        else if (wrong == -ENOENT)
            result = -EAGAIN;
        else if (wrong && bad)
            bad(opaque, place, &names[i], wrong);
    }
    if (result == 0)
        result = vb_store_names(repo->store, place, false, &after, &after_count);
    if (result == 0 &&
        (count != after_count || (count && memcmp(names, after, count * sizeof(*names)) != 0)))
        result = -EAGAIN;
    free(names);
    free(after);
    return result;
}

int vb_index_load(struct vb_repo *repo, enum vb_place place, vb_index_bad *bad, void *opaque,
                  struct vb_index **out)
{
    int result = -EAGAIN;

    /* Packs written anew, and index objects merged, are there before the old ones go. */
    for (unsigned i = 0; i < LOAD_TRIES && result == -EAGAIN; i++) {
        struct vb_index *index = calloc(1, sizeof(*index));

        if (!index)
            return -ENOMEM;
        result = load_once(repo, place, bad, opaque, index);
        if (result == 0 || (result == -EAGAIN && i + 1 == LOAD_TRIES))
            result = sort(index);
        if (result == 0)
            *out = index;
        else
            vb_index_free(index);
    }
    return result;
}

void vb_index_free(struct vb_index *index)
{
    if (!index)
        return;
    for (size_t i = 0; i < index->pack_count; i++)
        vb_pack_release(&index->packs[i]);
    free(index->packs);
    free(index->pack_stored);
    free(index->pack_first);
    free(index->rows);
    free(index->order);
    free(index->stored);
    free(index);
}

/* --- looking up --------------------------------------------------------------------------- */

/* The first row in the order that is not before (kind, id). */
static size_t lower(const struct vb_index *index, enum vb_record_kind kind, const struct vb_id *id)
{
    const struct vb_entry wanted = {.id = *id, .kind = (uint8_t)kind};
    size_t from = 0, to = index->row_count;

    while (from < to) {
        size_t middle = from + (to - from) / 2;

        if (compare_entries(&index->rows[index->order[middle]].entry, &wanted) < 0)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

static bool is_it(const struct vb_index *index, size_t at, enum vb_record_kind kind,
                  const struct vb_id *id)
{
    const struct vb_entry *entry;

    if (at >= index->row_count)
        return false;
    entry = &index->rows[index->order[at]].entry;
    return entry->kind == kind && vb_id_equal(&entry->id, id);
}

unsigned vb_index_count(const struct vb_index *index, enum vb_record_kind kind,
                        const struct vb_id *id)
{
    size_t first = lower(index, kind, id);
    unsigned count = 0;

    while (is_it(index, first + count, kind, id))
        count++;
    return count;
}

void vb_index_entry(const struct vb_index *index, size_t number, struct vb_found *found)
{
    const struct row *row = &index->rows[number];

    *found = (struct vb_found){
        .pack = &index->packs[row->pack], .entry = &row->entry, .trusted = row->trusted};
}

void vb_index_get(const struct vb_index *index, enum vb_record_kind kind, const struct vb_id *id,
                  unsigned which, struct vb_found *found)
{
    vb_index_entry(index, index->order[lower(index, kind, id) + which], found);
}

bool vb_index_find_trusted(const struct vb_index *index, enum vb_record_kind kind,
                           const struct vb_id *id, struct vb_found *found)
{
    for (size_t at = lower(index, kind, id); is_it(index, at, kind, id); at++) {
        vb_index_entry(index, index->order[at], found);
        if (found->trusted && !found->pack->in_trash)
            return true;
    }
    return false;
}

size_t vb_index_pack_number(const struct vb_index *index, const struct vb_found *found)
{
    return (size_t)(found->pack - index->packs);
}

size_t vb_index_packs(const struct vb_index *index)
{
    return index->pack_count;
}

const struct vb_pack *vb_index_pack(const struct vb_index *index, size_t which, uint64_t *stored)
{
    *stored = index->pack_stored[which];
    return &index->packs[which];
}

size_t vb_index_entries(const struct vb_index *index)
{
    return index->row_count;
}

size_t vb_index_number(const struct vb_index *index, const struct vb_found *found)
{
    const struct row *row = (const struct row *)(const void *)((const char *)found->entry -
                                                               offsetof(struct row, entry));

    return (size_t)(row - index->rows);
}

size_t vb_index_pack_first(const struct vb_index *index, size_t which)
{
    return index->pack_first[which];
}

size_t vb_index_fitting(const struct vb_pack *packs, size_t count)
{
    size_t fits = 0, bytes = 0, entries = 0;

    while (fits < count) {
        bytes += encoded_bytes(&packs[fits]);
        entries += packs[fits].entry_count;
        if (fits && (entries > VB_INDEX_ENTRIES_MAX || bytes > OBJECT_TARGET))
            break;
        fits++;
    }
    return fits;
}

/* --- putting ------------------------------------------------------------------------------ */

int vb_index_put(struct vb_repo *repo, enum vb_place place, const struct vb_pack *packs,
                 size_t count)
{
    struct vb_header header = {.kind = VB_OBJECT_INDEX, .detail = place == VB_INDEX_DATA ? 1 : 2};
    struct vb_segment_keys keys;
    struct vb_object object = {0};
    uint8_t *payload = NULL, *body = NULL;
    size_t length, body_bytes;
    int result = vb_index_encode(packs, count, &payload, &length);

    vb_repo_segment_keys(repo, &keys);
    memcpy(header.repo_id, repo->config.repo_id, VB_REPO_ID_BYTES);
    if (result == 0)
        result = vb_body_seal(&keys, VB_RECORD_INDEX, payload, length, repo->config.pad, &body,
                              &body_bytes);
    if (result == 0)
        result = vb_object_make(&header, repo->keys->sign_seed, body, body_bytes, &object);
    if (result == 0)
        result = vb_object_put(repo->store, place, &object);
    vb_object_release(&object);
    free(body);
    free(payload);
    return result;
}
