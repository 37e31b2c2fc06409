/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copying a repository; see copy.h.
 *
 * Packs, then index objects, then manifests, with a sync in between. The manifests are listed
 * first, so that what they need is among the packs that are listed later; what a collection takes
 * away meanwhile makes it begin again. In the second repository it works like a backup: with a
 * lease, and a last look at the packs behind the manifests.
 */
#include "copy.h"

#include "idset.h"
#include "lease.h"
#include "mark.h"
#include "report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TRIES        5u
#define SYNC_BYTES   (256u << 20) /* of packs, before they are synced */
#define LEFT_OUT     "left out of a copy"
#define OBJECT_LIMIT (64u << 20)

struct item {
    struct vb_id name; /* first, for vb_id_compare */
    uint64_t bytes;
};

struct items {
    struct item *list;
    size_t count, room;
    bool no_memory;
};

struct copying {
    const struct vb_copy_options *options;
    struct vb_repo *from;
    struct vb_repo view; /* of the second repository, with the keys of the first */
    struct vb_store *to;
    struct vb_copy_result *result;
    struct vdisk_error *error;
    struct vb_lease lease;
    struct items manifests, packs, index_data, index_tree;
    struct vb_idset bad; /* packs that are not what their names say */
    struct vb_backups backups;
    uint64_t done, total; /* bytes */
};

static int fail(struct copying *copying, int result)
{
    if (result && result != -EAGAIN && copying->error->code != result)
        error_set(copying->error, result, "%s", vdisk_strerror(result));
    return result;
}

/* --- lists -------------------------------------------------------------------------------- */

static bool add(void *opaque, const struct vb_id *name, uint64_t bytes)
{
    struct items *items = opaque;

    if (items->count == items->room) {
        size_t room = items->room ? 2 * items->room : 256;
        struct item *list = reallocarray(items->list, room, sizeof(*list));

        items->no_memory = !list;
        if (!list)
            return false;
        items->list = list;
        items->room = room;
    }
    items->list[items->count++] = (struct item){.name = *name, .bytes = bytes};
    return true;
}

static int list(struct vb_store *store, enum vb_place place, struct items *items)
{
    int result = store->ops->list(store, place, false, add, items);

    return items->no_memory ? -ENOMEM : result;
}

static void forget(struct items *items)
{
    free(items->list);
    memset(items, 0, sizeof(*items));
}

/* --- one object --------------------------------------------------------------------------- */

/* The object's bytes, which have its name: free() *bytes. VDISK_E_DAMAGED; -EAGAIN: it has gone. */
static int fetch(struct copying *copying, enum vb_place place, const struct item *item,
                 uint8_t **out)
{
    struct vb_store *store = copying->from->store;
    struct vb_id name;
    uint8_t *bytes;
    int result;

    if (item->bytes > OBJECT_LIMIT)
        return VDISK_E_DAMAGED;
    bytes = malloc(item->bytes ? (size_t)item->bytes : 1);
    if (!bytes)
        return -ENOMEM;
    result = store->ops->get(store, place, &item->name, 0, bytes, (size_t)item->bytes);
    if (result == 0) {
        vb_object_name(bytes, (size_t)item->bytes, &name);
        if (!vb_id_equal(&name, &item->name))
            result = VDISK_E_DAMAGED;
    }
    if (result) {
        free(bytes);
        return result == -ENOENT ? -EAGAIN : result == -ENODATA ? VDISK_E_DAMAGED : result;
    }
    *out = bytes;
    return 0;
}

/* 1: the second repository has it, whole. */
static int is_there(struct copying *copying, enum vb_place place, const struct item *item)
{
    struct vb_store *to = copying->to;
    uint64_t bytes;
    int result = to->ops->length(to, place, &item->name, &bytes);

    if (result == -ENOENT) {
        result = to->ops->untrash(to, place, &item->name);
        if (result)
            return result == -ENOENT ? 0 : result;
        result = to->ops->length(to, place, &item->name, &bytes);
    }
    if (result || bytes == item->bytes)
        return result ? result : 1;
    result = to->ops->trash(to, place, &item->name); /* a piece of it */
    return result;
}

/* Copies what is not there. A damaged one is counted, and noted where `bad` is set. 1: copied. */
static int copy_item(struct copying *copying, enum vb_place place, const struct item *item,
                     struct vb_idset *bad)
{
    struct vb_store *to = copying->to;
    uint8_t *bytes = NULL;
    char text[VB_NAME_TEXT_BYTES];
    int result = is_there(copying, place, item);

    if (result)
        return result > 0 ? 0 : result;
    result = fetch(copying, place, item, &bytes);
    if (result == VDISK_E_DAMAGED) {
        copying->result->damaged_objects++;
        error_set(copying->error, result, "%s/%s is not what its name says, and was not copied",
                  vb_place_name(place), vb_id_text(text, &item->name));
        result = bad ? vb_idset_add(bad, &item->name) : 0;
        return result < 0 ? result : 0;
    }
    if (result)
        return result;
    result = to->ops->put(to, place, &item->name, bytes, (size_t)item->bytes);
    free(bytes);
    return result ? result : 1;
}

static int copy_items(struct copying *copying, enum vb_place place, const struct items *items)
{
    int result = 0;

    for (size_t i = 0; i < items->count && result >= 0; i++)
        result = copy_item(copying, place, &items->list[i], NULL);
    return result < 0 ? result : 0;
}

static int copy_place(struct copying *copying, enum vb_place place)
{
    struct items items = {0};
    int result = list(copying->from->store, place, &items);

    if (result == 0)
        result = copy_items(copying, place, &items);
    forget(&items);
    return result;
}

/* --- config, keys ------------------------------------------------------------------------- */

static int read_config(struct vb_store *store, struct vb_object *object)
{
    static const struct vb_id any;

    return vb_object_get(store, VB_CONFIG, &any, NULL, VB_OBJECT_CONFIG, object);
}

/* First, so that whatever comes after it is recognized as part of this repository. */
static int copy_config(struct copying *copying)
{
    struct vb_store *to = copying->to;
    struct vb_object ours, theirs;
    int result = read_config(copying->from->store, &ours);

    if (result)
        return result;
    result = read_config(to, &theirs);
    if (result == 0) {
        if (!vb_id_equal(&ours.name, &theirs.name))
            result = error_set(copying->error, VDISK_E_EXISTS,
                               "the place of the copy has another repository");
        vb_object_release(&theirs);
    } else if (result == -ENOENT) {
        result = vb_object_put(to, VB_CONFIG, &ours);
        if (result == 0)
            result = to->ops->sync(to);
    }
    vb_object_release(&ours);
    return result;
}

static int copy_keys(struct copying *copying)
{
    int result = copy_place(copying, VB_WRITERS);

    if (result == 0)
        result = copy_place(copying, VB_KEYS);
    return result ? result : copying->to->ops->sync(copying->to);
}

/* --- what is to be copied -----------------------------------------------------------------------
 */

static int list_all(struct copying *copying)
{
    struct vb_store *store = copying->from->store;
    int result = list(store, VB_BACKUPS, &copying->manifests);

    if (result == 0)
        result = list(store, VB_PACKS, &copying->packs);
    if (result == 0)
        result = list(store, VB_INDEX_DATA, &copying->index_data);
    if (result == 0)
        result = list(store, VB_INDEX_TREE, &copying->index_tree);
    return result;
}

/* Of the index objects that name needed packs, those that say something new there. */
static int list_index(struct copying *copying, enum vb_place place, const struct vb_idset *needed,
                      struct items *items)
{
    struct items all = {0};
    struct vb_idset known = {0};
    struct vb_index *index = NULL;
    int result = list(copying->from->store, place, &all);

    if (result == 0)
        result = vb_index_load(&copying->view, place, NULL, NULL, &index);
    for (size_t i = 0; result >= 0 && index && i < vb_index_packs(index); i++) {
        uint64_t stored;

        result = vb_idset_add(&known, &vb_index_pack(index, i, &stored)->name);
    }
    result = result < 0 ? result : 0;
    for (size_t i = 0; i < all.count && result == 0; i++) {
        struct vb_pack *packs;
        struct vb_id signer;
        size_t count;
        bool wanted = false;

        result = vb_index_read(copying->from, place, &all.list[i].name, &signer, &packs, &count);
        if (result)
            break;
        for (size_t k = 0; k < count; k++) {
            wanted |= vb_idset_has(needed, &packs[k].name) && !vb_idset_has(&known, &packs[k].name);
            vb_pack_release(&packs[k]);
        }
        free(packs);
        if (wanted && !add(items, &all.list[i].name, all.list[i].bytes))
            result = -ENOMEM;
    }
    vb_index_free(index);
    vb_idset_release(&known);
    forget(&all);
    return result == -ENOENT ? -EAGAIN : result;
}

static int list_packs(struct copying *copying, const struct vb_marks *marks, enum vb_place place,
                      struct vb_idset *needed)
{
    const struct vb_index *index = vb_marks_index(marks, place);
    uint8_t *used = vb_marks_packs(marks, place);
    int result = used ? 0 : -ENOMEM;

    for (size_t i = 0; i < vb_index_packs(index) && result >= 0; i++) {
        uint64_t stored;
        const struct vb_pack *pack = vb_index_pack(index, i, &stored);

        if (!used[i])
            continue;
        result = vb_idset_add(needed, &pack->name);
        if (result > 0 && !add(&copying->packs, &pack->name, pack->length))
            result = -ENOMEM;
    }
    free(used);
    return result < 0 ? result : 0;
}

static bool is_chosen(const struct copying *copying, const struct vb_id *name)
{
    const struct vb_copy_options *options = copying->options;

    for (size_t i = 0; i < options->count && options->backups; i++) {
        if (vb_id_equal(&options->backups[i]->name, name))
            return true;
    }
    return !options->backups;
}

static int add_manifest(struct copying *copying, const struct vb_id *name)
{
    struct vb_store *store = copying->from->store;
    uint64_t bytes;
    int result = store->ops->length(store, VB_BACKUPS, name, &bytes);

    if (result)
        return result == -ENOENT ? -EAGAIN : result;
    return add(&copying->manifests, name, bytes) ? 0 : -ENOMEM;
}

/* All prune records: they explain what is not there. */
static int list_records(struct copying *copying)
{
    struct items all = {0};
    int result = list(copying->from->store, VB_BACKUPS, &all);

    for (size_t i = 0; i < all.count && result == 0; i++) {
        bool is_other = vb_backups_find(&copying->backups, &all.list[i].name) != NULL;

        for (size_t k = 0; k < copying->backups.bad_count; k++)
            is_other |= vb_id_equal(&copying->backups.bad[k].name, &all.list[i].name);
        if (!is_other)
            result = add_manifest(copying, &all.list[i].name);
    }
    forget(&all);
    return result;
}

static int list_chosen(struct copying *copying)
{
    struct vb_idset needed = {0};
    struct vb_marks *marks = NULL;
    int result = vb_backups_load(copying->from, &copying->backups, copying->error);

    if (result == 0)
        result = list_records(copying);
    if (result == 0)
        result = vb_marks_new(copying->from, &marks, copying->error);
    for (size_t i = 0; i < copying->backups.count && result == 0; i++) {
        const struct vb_backup *backup = &copying->backups.backup[i];

        if (!is_chosen(copying, &backup->name))
            continue;
        result = vb_marks_add(marks, backup, copying->error);
        if (result == 0)
            result = add_manifest(copying, &backup->name);
        else if (result == VDISK_E_DAMAGED) {
            copying->result->withheld_backups++;
            result = 0;
        }
    }
    if (result == 0)
        result = list_packs(copying, marks, VB_INDEX_DATA, &needed);
    if (result == 0)
        result = list_packs(copying, marks, VB_INDEX_TREE, &needed);
    if (result == 0)
        result = list_index(copying, VB_INDEX_DATA, &needed, &copying->index_data);
    if (result == 0)
        result = list_index(copying, VB_INDEX_TREE, &needed, &copying->index_tree);
    vb_marks_free(marks);
    vb_idset_release(&needed);
    return result;
}

/* --- packs -------------------------------------------------------------------------------- */

static int tell(struct copying *copying)
{
    const struct vb_copy_options *options = copying->options;

    if (options->progress &&
        !options->progress(options->opaque, copying->done, copying->total ? copying->total : 1))
        return -ECANCELED;
    return vb_lease_beat(&copying->view, &copying->lease);
}

static int copy_packs(struct copying *copying)
{
    struct vb_store *to = copying->to;
    uint64_t unsynced = 0;
    int result = 0;

    copying->done = copying->total = 0;
    for (size_t i = 0; i < copying->packs.count; i++)
        copying->total += copying->packs.list[i].bytes;
    for (size_t i = 0; i < copying->packs.count && result == 0; i++) {
        const struct item *item = &copying->packs.list[i];
        int copied = copy_item(copying, VB_PACKS, item, &copying->bad);

        copying->done += item->bytes;
        if (copied < 0) {
            result = copied;
        } else if (copied > 0) {
            copying->result->packs++;
            copying->result->bytes += item->bytes;
            unsynced += item->bytes;
        } else {
            copying->result->packs_there++;
        }
        if (result == 0 && unsynced >= SYNC_BYTES) {
            result = to->ops->sync(to);
            unsynced = 0;
        }
        if (result == 0)
            result = tell(copying);
    }
    return result ? result : to->ops->sync(to);
}

/* What a collection there has taken away since, and forgotten in its index. */
static int look_again(struct copying *copying)
{
    const struct vb_copy_result before = *copying->result;
    int result = 0;

    for (size_t i = 0; i < copying->packs.count && result >= 0; i++) {
        if (!vb_idset_has(&copying->bad, &copying->packs.list[i].name))
            result = copy_item(copying, VB_PACKS, &copying->packs.list[i], &copying->bad);
    }
    if (result >= 0)
        result = copy_items(copying, VB_INDEX_DATA, &copying->index_data);
    if (result == 0)
        result = copy_items(copying, VB_INDEX_TREE, &copying->index_tree);
    copying->result->damaged_objects = before.damaged_objects;
    return result ? result : copying->to->ops->sync(copying->to);
}

/* --- manifests ------------------------------------------------------------------------------- */

/* Does it need a pack that is not to be had? */
static int needs_bad(struct copying *copying, const struct vb_backup *backup, bool *needs)
{
    static const enum vb_place places[] = {VB_INDEX_DATA, VB_INDEX_TREE};
    struct vb_marks *marks;
    int result = vb_marks_new(copying->from, &marks, copying->error);

    *needs = false;
    if (result)
        return result;
    result = vb_marks_add(marks, backup, copying->error);
    for (unsigned p = 0; p < 2 && result == 0; p++) {
        const struct vb_index *index = vb_marks_index(marks, places[p]);
        uint8_t *used = vb_marks_packs(marks, places[p]);

        for (size_t i = 0; used && i < vb_index_packs(index); i++) {
            uint64_t stored;

            *needs |=
                used[i] && vb_idset_has(&copying->bad, &vb_index_pack(index, i, &stored)->name);
        }
        result = used ? 0 : -ENOMEM;
        free(used);
    }
    vb_marks_free(marks);
    return result;
}

static int may_copy(struct copying *copying, const struct vb_id *name, bool *may)
{
    const struct vb_backup *backup;
    bool needs;
    int result;

    *may = copying->bad.count == 0;
    if (*may || !copying->from->keys)
        return 0;
    backup = vb_backups_find(&copying->backups, name);
    if (!backup) { /* a prune record */
        *may = true;
        return 0;
    }
    result = needs_bad(copying, backup, &needs);
    *may = !needs;
    return result;
}

/* With a key: a manifest whose forerunner was left out is no sign of tampering. */
static int explain_gaps(struct copying *copying)
{
    const struct vb_backups *backups = &copying->backups;
    struct vb_pruned *removed = calloc(backups->count + 1, sizeof(*removed));
    struct vb_prune record = {.when = (uint64_t)time(NULL), .removed = removed};
    struct vb_backups there = {0};
    struct vb_id name;
    int result = removed ? vb_backups_load(&copying->view, &there, copying->error) : -ENOMEM;

    for (size_t i = 0; i < there.count && result == 0; i++) {
        const struct vb_id *previous = &there.backup[i].manifest.previous;
        const struct vb_backup *left_out = vb_backups_find(backups, previous);

        if (!left_out || vb_backups_find(&there, previous) ||
            vb_backups_is_pruned(&there, previous) || record.count == VB_PRUNE_ENTRIES_MAX)
            continue;
        removed[record.count].name = *previous;
        memcpy(removed[record.count].drive, left_out->manifest.drive, VB_DRIVE_ID_BYTES);
        removed[record.count].sequence = left_out->manifest.sequence;
        strcpy(removed[record.count++].reason, LEFT_OUT);
    }
    if (result == 0 && record.count)
        result = vb_prune_put(&copying->view, &record, &name);
    free(removed);
    vb_backups_release(&there);
    return result;
}

static int copy_manifests(struct copying *copying)
{
    struct vb_store *to = copying->to;
    int result = 0;

    for (size_t i = 0; i < copying->manifests.count && result >= 0; i++) {
        const struct item *item = &copying->manifests.list[i];
        uint64_t bytes;
        bool may;

        if (to->ops->length(to, VB_BACKUPS, &item->name, &bytes) == 0)
            continue;
        result = may_copy(copying, &item->name, &may);
        if (result)
            break;
        if (may) {
            result = copy_item(copying, VB_BACKUPS, item, NULL);
            copying->result->backups += result > 0;
        } else {
            copying->result->withheld_backups++;
        }
    }
    if (result >= 0)
        result = to->ops->sync(to);
    if (result == 0 && copying->options->backups)
        result = explain_gaps(copying);
    return result ? result : to->ops->sync(to);
}

/* --- all of it ---------------------------------------------------------------------------- */

static int copy_once(struct copying *copying)
{
    struct vb_store *to = copying->to;
    int result = copying->from->keys ? list_chosen(copying) : list_all(copying);

    if (result == 0)
        result = copy_packs(copying);
    if (result == 0)
        result = copy_items(copying, VB_INDEX_DATA, &copying->index_data);
    if (result == 0)
        result = copy_items(copying, VB_INDEX_TREE, &copying->index_tree);
    if (result == 0)
        result = to->ops->sync(to);
    if (result == 0)
        result = copy_manifests(copying);
    if (result == 0)
        result = look_again(copying);
    forget(&copying->manifests);
    forget(&copying->packs);
    forget(&copying->index_data);
    forget(&copying->index_tree);
    vb_backups_release(&copying->backups);
    vb_idset_release(&copying->bad);
    return result;
}

static int copy(struct copying *copying)
{
    int result = copy_config(copying);

    if (result == 0)
        result = copy_keys(copying);
    if (result == 0)
        result = vb_lease_begin(&copying->view, &copying->lease);
    if (result)
        return result;
    result = -EAGAIN;
    for (unsigned i = 0; i < TRIES && result == -EAGAIN; i++) {
        memset(copying->result, 0, sizeof(*copying->result));
        result = copy_once(copying);
    }
    vb_lease_end(&copying->view, &copying->lease);
    return result;
}

int vb_copy(const struct vb_copy_options *options, struct vb_copy_result *result,
            struct vdisk_error *error)
{
    const struct vb_keys *keys = options->from->keys;
    struct copying copying = {
        .options = options,
        .from = options->from,
        .view = *options->from,
        .to = options->to,
        .result = result,
        .error = error,
    };
    int outcome;

    memset(result, 0, sizeof(*result));
    if (keys && keys->role == VB_ROLE_PUT)
        return error_set(error, -EPERM,
                         "copies are made with a key of role maintain or read, or with none");
    if (!keys && options->backups)
        return error_set(error, -EPERM, "single backups are copied with a key");
    copying.view.store = options->to;
    outcome = fail(&copying, copy(&copying));
    if (outcome == -EAGAIN)
        outcome = error_set(error, -ESTALE,
                            "the repository changes all the time; try again when it does not");
    if (outcome == 0 && (result->damaged_objects || result->withheld_backups))
        outcome = VDISK_E_DAMAGED;
    return outcome;
}
