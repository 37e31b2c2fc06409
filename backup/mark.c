/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Marking (SPEC.md B13); see mark.h.
 *
 * Who cannot read data cannot tell which of two records with one id is right. So for a backup those
 * count first that its own writer stored, then one that everybody trusts, then all there are.
 */
#include "mark.h"

#include "report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct vb_marks {
    struct vb_repo *repo;
    struct vb_index *tree, *data;
    uint8_t *tree_used, *data_used;
    uint8_t *seen; /* entries of the tree index: nodes that this writer's trees have had */
    struct vb_id writer;
    const struct vb_backup *backup; /* that is being marked */
    struct vb_reader *reader;
    struct vb_node node[VB_LEVEL_MAX + 1]; /* the path to where it is */
    struct vdisk_error *error;
};

static bool get_bit(const uint8_t *bits, size_t bit)
{
    return bits[bit / 8] >> (bit % 8) & 1;
}

static void put_bit(uint8_t *bits, size_t bit)
{
    bits[bit / 8] |= (uint8_t)(1u << (bit % 8));
}

static uint8_t *new_bits(const struct vb_index *index)
{
    return calloc(vb_index_entries(index) / 8 + 1, 1);
}

/* --- opening ------------------------------------------------------------------------------ */

struct bad_index {
    unsigned count;
    enum vb_place place;
    struct vb_id name;
};

static void note_bad(void *opaque, enum vb_place place, const struct vb_id *object, int error)
{
    struct bad_index *bad = opaque;

    (void)error;
    bad->count++;
    bad->place = place;
    bad->name = *object;
}

static int load(struct vb_repo *repo, enum vb_place place, struct vb_index **out,
                struct vdisk_error *error)
{
    struct bad_index bad = {0};
    char text[VB_NAME_TEXT_BYTES];
    int result = vb_index_load(repo, place, note_bad, &bad, out);

    if (result)
        return error_set(error, result, "%s", vdisk_strerror(result));
    if (bad.count)
        return error_set(error, VDISK_E_DAMAGED,
                         "%s/%s cannot be used, so that nobody knows what is needed; `vdisk backup "
                         "verify` says more",
                         vb_place_name(bad.place), vb_id_text(text, &bad.name));
    return 0;
}

int vb_marks_new(struct vb_repo *repo, struct vb_marks **out, struct vdisk_error *error)
{
    struct vb_marks *marks = calloc(1, sizeof(*marks));
    int result;

    if (!marks)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    marks->repo = repo;
    result = load(repo, VB_INDEX_DATA, &marks->data, error);
    if (result == 0)
        result = load(repo, VB_INDEX_TREE, &marks->tree, error);
    if (result == 0) {
        marks->tree_used = new_bits(marks->tree);
        marks->data_used = new_bits(marks->data);
        marks->seen = new_bits(marks->tree);
        result = marks->tree_used && marks->data_used && marks->seen
                     ? vb_reader_new(repo, &marks->reader)
                     : -ENOMEM;
        if (result)
            error_set(error, result, "%s", vdisk_strerror(result));
    }
    if (result) {
        vb_marks_free(marks);
        return result;
    }
    *out = marks;
    return 0;
}

void vb_marks_free(struct vb_marks *marks)
{
    if (!marks)
        return;
    vb_reader_free(marks->reader);
    vb_index_free(marks->tree);
    vb_index_free(marks->data);
    free(marks->tree_used);
    free(marks->data_used);
    free(marks->seen);
    free(marks);
}

/* --- data --------------------------------------------------------------------------------- */

static int missing(struct vb_marks *marks, const char *what)
{
    char text[VB_NAME_TEXT_BYTES];

    return error_set(marks->error, VDISK_E_DAMAGED,
                     "backup %.16s lacks %s; `vdisk backup verify` says what is damaged",
                     vb_id_text(text, &marks->backup->name), what);
}

/* The whole pack is there. */
static bool is_usable(const struct vb_index *index, const struct vb_found *found)
{
    uint64_t stored;
    const struct vb_pack *pack = vb_index_pack(index, vb_index_pack_number(index, found), &stored);

    return stored == pack->length;
}

/* The same sealed bytes, in another place. */
static bool is_copy(const struct vb_found *a, const struct vb_found *b)
{
    return a->entry->number == b->entry->number && a->entry->length == b->entry->length &&
           memcmp(a->pack->segments + (size_t)a->entry->segment * VB_SEGMENT_BYTES,
                  b->pack->segments + (size_t)b->entry->segment * VB_SEGMENT_BYTES,
                  VB_SEGMENT_BYTES) == 0;
}

enum choice {
    OF_WRITER,
    TRUSTED,
    ANY,
    NONE,
};

static enum choice rank(const struct vb_marks *marks, const struct vb_found *found)
{
    return vb_id_equal(&found->pack->origin, &marks->writer) ? OF_WRITER
           : found->trusted                                  ? TRUSTED
                                                             : ANY;
}

static bool is_known_copy(const struct vb_marks *marks, enum vb_record_kind kind,
                          const struct vb_id *id, unsigned before, const struct vb_found *found)
{
    for (unsigned i = 0; i < before; i++) {
        struct vb_found other;

        vb_index_get(marks->data, kind, id, i, &other);
        if (get_bit(marks->data_used, vb_index_number(marks->data, &other)) &&
            is_copy(&other, found))
            return true;
    }
    return false;
}

static int mark_data(struct vb_marks *marks, enum vb_record_kind kind, const struct vb_id *id)
{
    unsigned count = vb_index_count(marks->data, kind, id);
    enum choice best = NONE;
    bool in_trash = false; /* all of the best are; packs that are there come first */
    struct vb_found found;

    for (unsigned i = 0; i < count; i++) {
        enum choice this_rank;

        vb_index_get(marks->data, kind, id, i, &found);
        this_rank = is_usable(marks->data, &found) ? rank(marks, &found) : NONE;
        if (this_rank < best) {
            best = this_rank;
            in_trash = found.pack->in_trash;
        }
    }
    if (best == NONE)
        return missing(marks, "data");
    for (unsigned i = 0; i < count; i++) {
        size_t number;

        vb_index_get(marks->data, kind, id, i, &found);
        if (!is_usable(marks->data, &found) || rank(marks, &found) != best ||
            found.pack->in_trash != in_trash)
            continue;
        number = vb_index_number(marks->data, &found);
        if (!get_bit(marks->data_used, number) && is_known_copy(marks, kind, id, i, &found))
            continue;
        put_bit(marks->data_used, number);
        if (found.trusted)
            break;
    }
    return 0;
}

static int mark_leaf(struct vb_marks *marks, const struct vb_node *leaf)
{
    int result = 0;

    for (unsigned i = 0; i < VB_NODE_CHILDREN && result == 0; i++) {
        const struct vb_node_entry *entry = &leaf->entry[i];

        if (entry->state == VB_NODE_ZERO)
            continue;
        result = mark_data(marks, VB_RECORD_BASE, &entry->id);
        if (result == 0 && entry->state == VB_NODE_PATCHED)
            result = mark_data(marks, VB_RECORD_PATCH, &entry->patch);
    }
    return result;
}

/* --- nodes -------------------------------------------------------------------------------- */

/* The first record of a node that is right; 1: this writer's trees had it before. */
static int read_node(struct vb_marks *marks, const struct vb_id *id, unsigned level)
{
    unsigned count = vb_index_count(marks->tree, VB_RECORD_NODE, id);

    for (unsigned i = 0; i < count; i++) {
        struct vb_found found;
        const uint8_t *bytes;
        size_t length, number;

        vb_index_get(marks->tree, VB_RECORD_NODE, id, i, &found);
        number = vb_index_number(marks->tree, &found);
        if (get_bit(marks->seen, number))
            return 1;
        if (vb_record_read_at(marks->reader, &found, NULL, &bytes, &length) ||
            vb_node_decode(&marks->node[level], bytes, length) || marks->node[level].level != level)
            continue;
        put_bit(marks->seen, number);
        put_bit(marks->tree_used, number);
        return 0;
    }
    return missing(marks, "a node of its tree");
}

static int mark_node(struct vb_marks *marks, const struct vb_id *id, unsigned level)
{
    const struct vb_node *node = &marks->node[level];
    int result = read_node(marks, id, level);

    if (result)
        return result < 0 ? result : 0;
    if (level == 0)
        return mark_leaf(marks, node);
    for (unsigned i = 0; i < VB_NODE_CHILDREN && result == 0; i++) {
        if (node->entry[i].state == VB_NODE_CHILD)
            result = mark_node(marks, &node->entry[i].id, level - 1);
    }
    return result;
}

int vb_marks_add(struct vb_marks *marks, const struct vb_backup *backup, struct vdisk_error *error)
{
    const struct vb_manifest *manifest = &backup->manifest;

    if (!vb_id_equal(&marks->writer, &backup->signer)) {
        marks->writer = backup->signer;
        memset(marks->seen, 0, vb_index_entries(marks->tree) / 8 + 1);
    }
    marks->backup = backup;
    marks->error = error;
    return vb_id_is_zero(&manifest->root) ? 0 : mark_node(marks, &manifest->root, manifest->level);
}

static int compare_signers(const void *a, const void *b)
{
    const struct vb_backup *const *x = a, *const *y = b;

    return vb_id_compare(&(*x)->signer, &(*y)->signer);
}

int vb_marks_add_all(struct vb_marks *marks, const struct vb_backups *backups,
                     int (*beat)(void *opaque), void *opaque, struct vdisk_error *error)
{
    const struct vb_backup **order;
    int result = 0;

    order = calloc(backups->count + 1, sizeof(order[0])); /* NOLINT(bugprone-sizeof-expression) */
    if (!order)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    for (size_t i = 0; i < backups->count; i++)
        order[i] = &backups->backup[i];
    qsort(order, backups->count, sizeof(order[0]), /* NOLINT(bugprone-sizeof-expression) */
          compare_signers);
    for (size_t i = 0; i < backups->count && result == 0; i++) {
        result = vb_marks_add(marks, order[i], error);
        if (result == 0 && beat) {
            result = beat(opaque);
            if (result)
                error_set(error, result, "%s", vdisk_strerror(result));
        }
    }
    free(order);
    return result;
}

/* --- what is marked ----------------------------------------------------------------------- */

const struct vb_index *vb_marks_index(const struct vb_marks *marks, enum vb_place place)
{
    return place == VB_INDEX_DATA ? marks->data : marks->tree;
}

bool vb_marks_has(const struct vb_marks *marks, enum vb_place place, size_t number)
{
    return get_bit(place == VB_INDEX_DATA ? marks->data_used : marks->tree_used, number);
}

uint8_t *vb_marks_packs(const struct vb_marks *marks, enum vb_place place)
{
    const struct vb_index *index = vb_marks_index(marks, place);
    uint8_t *packs = calloc(vb_index_packs(index) + 1, 1);

    for (size_t i = 0; packs && i < vb_index_entries(index); i++) {
        struct vb_found found;

        vb_index_entry(index, i, &found);
        if (vb_marks_has(marks, place, vb_index_number(index, &found)))
            packs[vb_index_pack_number(index, &found)] = 1;
    }
    return packs;
}

int vb_marks_bring_back(const struct vb_marks *marks, uint64_t *count)
{
    static const enum vb_place places[] = {VB_INDEX_DATA, VB_INDEX_TREE};
    struct vb_store *store = marks->repo->store;
    int result = 0;

    for (unsigned p = 0; p < 2 && result == 0; p++) {
        const struct vb_index *index = vb_marks_index(marks, places[p]);
        uint8_t *packs = vb_marks_packs(marks, places[p]);

        if (!packs)
            return -ENOMEM;
        for (size_t i = 0; i < vb_index_packs(index) && result == 0; i++) {
            uint64_t bytes;
            const struct vb_pack *pack = vb_index_pack(index, i, &bytes);

            if (!packs[i] || !pack->in_trash)
                continue;
            result = store->ops->untrash(store, VB_PACKS, &pack->name);
            if (result == -ENOENT) /* another one has done it */
                result = store->ops->length(store, VB_PACKS, &pack->name, &bytes);
            else if (result == 0)
                (*count)++;
        }
        free(packs);
    }
    return result;
}

int vb_backup_secure(struct vb_repo *repo, const struct vb_backup *backup,
                     struct vdisk_error *error)
{
    struct vb_marks *marks = NULL;
    uint64_t count = 0;
    int result = vb_marks_new(repo, &marks, error);

    if (result || !marks)
        return result;
    result = vb_marks_add(marks, backup, error);
    if (result == 0) {
        result = vb_marks_bring_back(marks, &count);
        if (result == 0 && count)
            result = repo->store->ops->sync(repo->store);
        if (result)
            error_set(error, result, "%s", vdisk_strerror(result));
    }
    vb_marks_free(marks);
    return result;
}
