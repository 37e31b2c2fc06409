/* SPDX-License-Identifier: Apache-2.0 */
/* Objects, trees and verdicts of a verification; see backup_verify.h. */
#include "verify_impl.h"

#include "idset.h"
#include "report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES 512u

__attribute__((format(printf, 2, 3))) void vb_verify_find(struct verifying *verifying,
                                                          const char *format, ...)
{
    char text[TEXT_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    verifying->counts.findings++;
    verifying->options->finding(verifying->options->opaque, text);
}

/* --- objects ------------------------------------------------------------------------------ */

static void index_bad(void *opaque, enum vb_place place, const struct vb_id *object, int result)
{
    char text[VB_NAME_TEXT_BYTES];

    vb_verify_find(opaque, "%s/%s: does not count: %s", vb_place_name(place),
                   vb_id_text(text, object), vdisk_strerror(result));
}

static void missing(void *opaque, const struct vb_backup *after)
{
    char text[VB_NAME_TEXT_BYTES], previous[VB_NAME_TEXT_BYTES];

    vb_verify_find(opaque,
                   "backups/%s: is missing, and no record says that it was pruned; backup %.16s "
                   "follows it",
                   vb_id_text(previous, &after->manifest.previous), vb_id_text(text, &after->name));
}

static int check_slots(struct verifying *verifying)
{
    struct vb_repo *repo = verifying->repo;
    struct vb_slot *slots;
    struct vb_id *good, *all = NULL;
    size_t good_count, count = 0;
    int result = vb_repo_slots(repo, &slots, &good, &good_count);

    if (result)
        return result;
    result = vb_store_names(repo->store, VB_KEYS, false, &all, &count);
    if (result == 0 && count != good_count)
        vb_verify_find(verifying, "keys/: %zu keyslot(s) do not count, changed or unsigned",
                       count - good_count);
    free(slots);
    free(good);
    free(all);
    return result;
}

static int check_objects(struct verifying *verifying)
{
    const struct vb_backups *backups = verifying->options->backups;
    char text[VB_NAME_TEXT_BYTES];

    if (verifying->repo->bad_writers)
        vb_verify_find(verifying, "writers/: %u object(s) do not count, changed or unsigned",
                       verifying->repo->bad_writers);
    for (size_t i = 0; i < backups->bad_count; i++)
        vb_verify_find(verifying, "backups/%s: does not count: %s",
                       vb_id_text(text, &backups->bad[i].name), backups->bad[i].reason);
    vb_backups_gaps(backups, missing, verifying);
    return check_slots(verifying);
}

/* Not damage by itself: a crash, a collection, a copy of some backups leave an index of packs that
 * nobody needs. */
static void remark_missing(struct verifying *verifying, const struct verify_side *side)
{
    for (size_t i = 0; i < vb_index_packs(side->index); i++) {
        uint64_t stored;
        const struct vb_pack *pack = vb_index_pack(side->index, i, &stored);
        char name[VB_NAME_TEXT_BYTES], text[TEXT_BYTES];

        if (stored)
            continue;
        vb_id_text(name, &pack->name);
        snprintf(text, sizeof(text), "packs/%.2s/%s: is missing; backups that need it are damaged",
                 name, name);
        verifying->options->finding(verifying->options->opaque, text);
    }
}

static int load_side(struct verifying *verifying, enum vb_place place, struct verify_side *side)
{
    int result = vb_index_load(verifying->repo, place, index_bad, verifying, &side->index);

    if (result)
        return result;
    side->bad = calloc(vb_index_entries(side->index) + 1, 1);
    if (!side->bad)
        return -ENOMEM;
    for (size_t i = 0; i < vb_index_packs(side->index); i++) {
        uint64_t stored;
        const struct vb_pack *pack = vb_index_pack(side->index, i, &stored);
        char text[VB_NAME_TEXT_BYTES];

        if (stored == pack->length || stored == 0)
            continue;
        vb_id_text(text, &pack->name);
        vb_verify_find(verifying, "packs/%.2s/%s: has %llu bytes, not %llu", text, text,
                       (unsigned long long)stored, (unsigned long long)pack->length);
        for (uint32_t k = 0; k < pack->entry_count; k++) {
            size_t number = vb_index_pack_first(side->index, i) + k;
            struct vb_found found;

            vb_index_entry(side->index, number, &found);
            side->bad[number] = found.entry->offset + (uint64_t)found.entry->length > stored;
        }
    }
    return 0;
}

/* --- trees -------------------------------------------------------------------------------- */

struct looking {
    struct verifying *verifying;
    const struct vb_backup *backup;
    struct vb_idset *good;              /* nodes below which all is well */
    uint64_t entered[VB_LEVEL_MAX + 1]; /* damaged bytes when it was */
    uint64_t damaged;                   /* bytes of the drive */
    char why[2 * TEXT_BYTES];           /* of the first */
    bool no_memory;
};

static uint64_t inside(const struct looking *looking, uint64_t offset, uint64_t length)
{
    uint64_t size = looking->backup->manifest.size;

    /* What is behind the end is wrong as well. */
    return offset >= size ? 1 : size - offset < length ? size - offset : length;
}

static void damage(struct looking *looking, uint64_t offset, uint64_t length, const char *why)
{
    if (!looking->damaged)
        snprintf(looking->why, sizeof(looking->why), "from %llu on, %s", (unsigned long long)offset,
                 why);
    looking->damaged += inside(looking, offset, length);
}

/* Where a record is, one of its places is good. */
static bool is_there(const struct verify_side *side, enum vb_record_kind kind,
                     const struct vb_id *id)
{
    unsigned count = vb_index_count(side->index, kind, id);

    for (unsigned i = 0; i < count; i++) {
        struct vb_found found;

        vb_index_get(side->index, kind, id, i, &found);
        if (!side->bad[vb_index_number(side->index, &found)])
            return true;
    }
    return false;
}

static int leaf(void *opaque, uint64_t index, const struct vb_node *node)
{
    struct looking *looking = opaque;
    const struct verify_side *side = &looking->verifying->data;

    for (unsigned i = 0; i < VB_NODE_CHILDREN; i++) {
        const struct vb_node_entry *entry = &node->entry[i];

        if (entry->state == VB_NODE_ZERO)
            continue;
        if (!is_there(side, VB_RECORD_BASE, &entry->id) ||
            (entry->state == VB_NODE_PATCHED && !is_there(side, VB_RECORD_PATCH, &entry->patch)))
            damage(looking, (index * VB_NODE_CHILDREN + i) * VB_CHUNK_BYTES, VB_CHUNK_BYTES,
                   "data is missing or damaged");
    }
    return 0;
}

static bool enter(void *opaque, const struct vb_id *id, unsigned level, uint64_t index)
{
    struct looking *looking = opaque;

    (void)index;
    looking->entered[level] = looking->damaged;
    return !vb_idset_has(looking->good, id);
}

static int bad(void *opaque, const struct vb_id *id, unsigned level, uint64_t index, int result,
               const struct vdisk_error *error)
{
    struct looking *looking = opaque;
    uint64_t length = vb_tree_span(level + 1) * VB_CHUNK_BYTES;

    (void)id;
    if (result == -ENOMEM)
        return result;
    damage(looking, index * length, length, error->text);
    return 0;
}

static void leave(void *opaque, const struct vb_id *id, unsigned level)
{
    struct looking *looking = opaque;

    if (looking->damaged == looking->entered[level])
        looking->no_memory |= vb_idset_add(looking->good, id) < 0;
}

static int check_backup(struct verifying *verifying, struct vb_reader *reader,
                        const struct vb_backup *backup, struct vb_idset *good)
{
    const struct vb_verify_options *options = verifying->options;
    struct looking looking = {.verifying = verifying, .backup = backup, .good = good};
    const struct vb_walk walk = {
        .leaf = leaf, .enter = enter, .bad = bad, .leave = leave, .opaque = &looking};
    struct vdisk_error error = {0};
    int result = vb_tree_walk(reader, verifying->tree.index, &backup->manifest.root,
                              backup->manifest.level, &walk, &error);

    if (result || looking.no_memory)
        return result ? result : -ENOMEM;
    verifying->counts.backups++;
    verifying->counts.damaged_backups += looking.damaged > 0;
    options->verdict(options->opaque, backup, looking.damaged, looking.why);
    if (options->progress && !options->progress(options->opaque, 0, 0))
        return -ECANCELED;
    return 0;
}

static int check_backups(struct verifying *verifying)
{
    const struct vb_backups *backups = verifying->options->backups;
    struct vb_idset good = {0};
    struct vb_reader *reader;
    int result = vb_reader_new(verifying->repo, &reader);

    if (result)
        return result;
    for (size_t i = 0; i < backups->count && result == 0; i++)
        result = check_backup(verifying, reader, &backups->backup[i], &good);
    vb_idset_release(&good);
    vb_reader_free(reader);
    return result;
}

int vb_verify(const struct vb_verify_options *options, struct vb_verify_result *out,
              struct vdisk_error *error)
{
    struct verifying verifying = {.options = options, .repo = options->repo};
    int result = check_objects(&verifying);

    if (result == 0)
        result = load_side(&verifying, VB_INDEX_DATA, &verifying.data);
    if (result == 0)
        result = load_side(&verifying, VB_INDEX_TREE, &verifying.tree);
    if (result == 0 && options->data)
        result = vb_verify_packs(&verifying);
    if (result == 0)
        result = check_backups(&verifying);
    if (result == 0 && verifying.counts.damaged_backups) {
        remark_missing(&verifying, &verifying.data);
        remark_missing(&verifying, &verifying.tree);
    }
    vb_index_free(verifying.data.index);
    vb_index_free(verifying.tree.index);
    free(verifying.data.bad);
    free(verifying.tree.bad);
    *out = verifying.counts;
    if (result == 0 && (out->findings || out->damaged_backups))
        result = VDISK_E_DAMAGED;
    return result ? error_set(error, result, "%s", vdisk_strerror(result)) : 0;
}
