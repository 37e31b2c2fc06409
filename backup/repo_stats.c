/* SPDX-License-Identifier: Apache-2.0 */
/* Figures; see repo_stats.h. Each backup is walked by itself, each of its nodes read once. */
#include "repo_stats.h"

#include "report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NOBODY UINT32_MAX
#define MANY   (UINT32_MAX - 1)

/* Records of one index: whose each is, and who was there last. */
struct side {
    struct vb_index *index;
    uint32_t *owner; /* number of the only backup that needs it, or NOBODY, MANY */
    uint32_t *last;  /* backup that needed it last, or NOBODY */
};

struct counting {
    struct vb_repo *repo;
    struct side data, tree;
    struct vb_reader *reader;
    struct vb_stats *stats;
    uint32_t backup; /* its number */
    int result;
};

static int load(struct vb_repo *repo, enum vb_place place, struct side *side)
{
    size_t count;
    int result = vb_index_load(repo, place, NULL, NULL, &side->index);

    if (result)
        return result;
    count = vb_index_entries(side->index) + 1;
    side->owner = malloc(count * sizeof(*side->owner));
    side->last = malloc(count * sizeof(*side->last));
    if (!side->owner || !side->last)
        return -ENOMEM;
    memset(side->owner, 0xff, count * sizeof(*side->owner));
    memset(side->last, 0xff, count * sizeof(*side->last));
    return 0;
}

static void release(struct side *side)
{
    vb_index_free(side->index);
    free(side->owner);
    free(side->last);
}

/* Counts a record for this backup; false: it has had it before. */
static bool count(struct counting *counting, struct side *side, enum vb_record_kind kind,
                  const struct vb_id *id, uint64_t plain_bytes)
{
    struct vb_backup_stats *backup = &counting->stats->backup[counting->backup];
    struct vb_stats *stats = counting->stats;
    struct vb_found found;
    size_t number;
    uint32_t length;

    if (vb_index_count(side->index, kind, id) == 0) {
        counting->result = VDISK_E_DAMAGED;
        return false;
    }
    vb_index_get(side->index, kind, id, 0, &found);
    number = vb_index_number(side->index, &found);
    length = found.entry->length;
    if (side->last[number] == counting->backup)
        return false;
    side->last[number] = counting->backup;
    backup->stored += length;
    if (side->owner[number] == NOBODY) {
        side->owner[number] = counting->backup;
        backup->unique += length;
        stats->stored_bytes += length;
        stats->node_bytes += kind == VB_RECORD_NODE ? length : 0;
        stats->unique_bytes += plain_bytes;
        stats->records++;
    } else if (side->owner[number] != MANY) {
        stats->backup[side->owner[number]].unique -= length;
        side->owner[number] = MANY;
    }
    return true;
}

static bool enter(void *opaque, const struct vb_id *id, unsigned level, uint64_t index)
{
    struct counting *counting = opaque;

    (void)level, (void)index;
    return count(counting, &counting->tree, VB_RECORD_NODE, id, 0);
}

static int leaf(void *opaque, uint64_t index, const struct vb_node *node)
{
    struct counting *counting = opaque;

    (void)index;
    for (unsigned i = 0; i < VB_NODE_CHILDREN; i++) {
        const struct vb_node_entry *entry = &node->entry[i];

        if (entry->state == VB_NODE_ZERO)
            continue;
        count(counting, &counting->data, VB_RECORD_BASE, &entry->id, VB_CHUNK_BYTES);
        if (entry->state == VB_NODE_PATCHED)
            count(counting, &counting->data, VB_RECORD_PATCH, &entry->patch,
                  (uint64_t)vb_bitmap_count(entry->bitmap) * VB_BLOCK_BYTES);
    }
    return counting->result;
}

static int count_backup(struct counting *counting, const struct vb_backup *backup,
                        struct vdisk_error *error)
{
    const struct vb_walk walk = {.leaf = leaf, .enter = enter, .opaque = counting};
    char text[VB_NAME_TEXT_BYTES];
    int result = vb_tree_walk(counting->reader, counting->tree.index, &backup->manifest.root,
                              backup->manifest.level, &walk, error);

    if (result == 0)
        result = counting->result;
    return result == VDISK_E_DAMAGED
               ? error_set(error, result,
                           "backup %.16s lacks data; `vdisk backup verify` says what is damaged",
                           vb_id_text(text, &backup->name))
               : result;
}

struct sum {
    uint64_t count, bytes;
};

static bool add(void *opaque, const struct vb_id *name, uint64_t bytes)
{
    struct sum *sum = opaque;

    (void)name;
    sum->count++;
    sum->bytes += bytes;
    return true;
}

static int count_files(struct vb_store *store, const struct vb_backups *backups,
                       struct vb_stats *stats)
{
    struct sum packs = {0}, trash = {0}, index = {0}, manifests = {0};
    int result = store->ops->list(store, VB_PACKS, false, add, &packs);

    for (unsigned place = VB_PACKS; place <= VB_BACKUPS && result == 0; place++)
        result = store->ops->list(store, (enum vb_place)place, true, add, &trash);
    if (result == 0)
        result = store->ops->list(store, VB_INDEX_DATA, false, add, &index);
    if (result == 0)
        result = store->ops->list(store, VB_INDEX_TREE, false, add, &index);
    if (result == 0)
        result = store->ops->list(store, VB_BACKUPS, false, add, &manifests);
    stats->packs = packs.count;
    stats->pack_bytes = packs.bytes;
    stats->trash_bytes = trash.bytes;
    stats->index_objects = index.count;
    if (manifests.count > backups->count + backups->bad_count)
        stats->prune_records = manifests.count - backups->count - backups->bad_count;
    return result;
}

int vb_stats_load(struct vb_repo *repo, const struct vb_backups *backups,
                  bool (*go_on)(void *opaque), void *opaque, struct vb_stats *stats,
                  struct vdisk_error *error)
{
    struct vb_stats made = {.backups = backups->count};
    struct counting counting = {.repo = repo, .stats = &made};
    int result = 0;

    made.backup = calloc(backups->count + 1, sizeof(*made.backup));
    result = made.backup ? load(repo, VB_INDEX_DATA, &counting.data) : -ENOMEM;
    if (result == 0)
        result = load(repo, VB_INDEX_TREE, &counting.tree);
    if (result == 0)
        result = vb_reader_new(repo, &counting.reader);
    for (size_t i = 0; i < backups->count && result == 0; i++) {
        const struct vb_manifest *manifest = &backups->backup[i].manifest;

        counting.backup = (uint32_t)i;
        made.size_bytes += manifest->size;
        made.data_bytes += manifest->bytes_data;
        made.drives += i == 0 || memcmp(manifest->drive, backups->backup[i - 1].manifest.drive,
                                        VB_DRIVE_ID_BYTES) != 0;
        result = go_on && !go_on(opaque) ? -ECANCELED
                                         : count_backup(&counting, &backups->backup[i], error);
    }
    if (result == 0)
        result = count_files(repo->store, backups, &made);
    vb_reader_free(counting.reader);
    release(&counting.data);
    release(&counting.tree);
    if (result) {
        free(made.backup);
        return error->code == result ? result
                                     : error_set(error, result, "%s", vdisk_strerror(result));
    }
    *stats = made;
    return 0;
}
