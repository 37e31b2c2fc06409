/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Garbage collection (SPEC.md B13); see gc.h.
 *
 * 1. Lease, then the leases of others: what was put since the first of those alive began is not
 *    looked at, nor what is younger than the grace time.
 * 2. Mark. What is needed and in the trash comes back.
 * 3. Packs with little left are written anew: packs, index, sync.
 * 4. Packs without marks go to the trash, and small index objects become one; sync.
 * 5. Mark again; what is needed comes back. What has been in the trash for the grace time, and
 * since before anybody began who is at work, is deleted: none of these can have counted on it.
 * 6. Index objects forget packs that have gone.
 *
 * Between any two of these it may end: each leaves a repository in which all backups restore. All
 * times are those of the store, so that the clocks of hosts do not matter.
 */
#include "gc.h"

#include "index_merge.h"
#include "lease.h"
#include "repack.h"
#include "report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SMALL_BYTES    (8u << 20) /* a pack */
#define SMALL_SEGMENTS 32u
#define SMALL_MANY     16u
#define LEASE_OLD_S    (24 * 3600)

/* What is in packs/, by name. */
struct there {
    struct vb_id name; /* first, for vb_id_compare */
    uint64_t bytes;
    bool is_needed; /* something marked is in it */
    bool is_spent;  /* all that is marked in it has another place */
    bool is_kept;   /* an index names it, and not all of that was written anew */
    bool is_rewritten;
};

struct collection {
    const struct vb_gc_options *options;
    struct vb_repo *repo;
    struct vb_store *store;
    struct vb_gc_result *result;
    struct vdisk_error *error;
    struct vb_lease lease;
    struct vb_backups backups;
    struct vb_marks *marks;
    struct there *there;
    size_t there_count, there_room;
    bool no_memory;
    int64_t now;     /* seconds since 1970 */
    int64_t horizon; /* what was put at or after it stays */
    int64_t others;  /* when the first began of those who are at work; INT64_MAX: nobody is */
};

static int fail(struct collection *collection, int result)
{
    if (result && collection->error->code != result)
        error_set(collection->error, result, "%s", vdisk_strerror(result));
    return result;
}

static int beat(void *opaque)
{
    struct collection *collection = opaque;
    const struct vb_gc_options *options = collection->options;

    if (options->go_on && !options->go_on(options->opaque))
        return -ECANCELED;
    return vb_lease_beat(collection->repo, &collection->lease);
}

/* --- leases ------------------------------------------------------------------------------- */

/* Our own lease, given anew, tells what time it is there. */
static int read_clock(struct collection *collection)
{
    struct vb_store *store = collection->store;
    int result;

    collection->lease.alive = 0;
    result = vb_lease_beat(collection->repo, &collection->lease);
    if (result == 0)
        result =
            store->ops->when(store, VB_LEASES, &collection->lease.name, false, &collection->now);
    return fail(collection, result);
}

/* A lease that is alive, of another one; `begun` by the clock of the store. */
static bool is_alive(struct collection *collection, const struct vb_id *name, int64_t *begun)
{
    struct vb_store *store = collection->store;
    uint8_t bytes[VB_LEASE_BYTES];
    struct vb_lease lease;
    int64_t alive;

    if (vb_id_equal(name, &collection->lease.name) ||
        store->ops->when(store, VB_LEASES, name, false, &alive))
        return false;
    *begun = alive;
    if (store->ops->get(store, VB_LEASES, name, 0, bytes, sizeof(bytes)) == 0 &&
        vb_lease_decode(collection->repo, &lease, bytes, sizeof(bytes)) == 0 &&
        lease.alive >= lease.begun && lease.alive - lease.begun <= (uint64_t)alive)
        *begun = alive - (int64_t)(lease.alive - lease.begun);
    return alive + VB_LEASE_EXPIRE_S > collection->now;
}

static int look_at_leases(struct collection *collection)
{
    struct vb_store *store = collection->store;
    struct vb_id *names = NULL;
    size_t count = 0;
    int result = vb_store_names(store, VB_LEASES, false, &names, &count);

    collection->result->at_work = 0;
    collection->others = INT64_MAX;
    for (size_t i = 0; i < count && result == 0; i++) {
        int64_t begun, alive;

        if (is_alive(collection, &names[i], &begun)) {
            collection->result->at_work++;
            if (begun < collection->others)
                collection->others = begun;
        } else if (!vb_id_equal(&names[i], &collection->lease.name) &&
                   store->ops->when(store, VB_LEASES, &names[i], false, &alive) == 0 &&
                   alive + LEASE_OLD_S < collection->now) {
            store->ops->remove(store, VB_LEASES, &names[i], false);
        }
    }
    free(names);
    if (collection->others < collection->horizon)
        collection->horizon = collection->others;
    return fail(collection, result);
}

static int begin(struct collection *collection)
{
    int64_t grace =
        collection->options->grace > INT32_MAX ? INT32_MAX : (int64_t)collection->options->grace;
    int result = fail(collection, vb_lease_begin(collection->repo, &collection->lease));

    if (result == 0)
        result = read_clock(collection);
    if (result)
        return result;
    collection->horizon = collection->now - (grace > 0 ? grace - 1 : 0);
    return look_at_leases(collection);
}

/* --- marking ------------------------------------------------------------------------------ */

/* What a revoked key has signed since, and which counts for nothing. */
static bool is_revoked(struct collection *collection, const struct vb_id *name)
{
    static const enum vb_object_kind kinds[] = {VB_OBJECT_MANIFEST, VB_OBJECT_PRUNE};
    struct vb_repo *repo = collection->repo;
    bool revoked = false;

    for (unsigned i = 0; i < 2 && !revoked; i++) {
        struct vb_object object;

        if (vb_object_get(repo->store, VB_BACKUPS, name, repo->config.repo_id, kinds[i], &object))
            continue;
        revoked = vb_repo_revocation(repo, &object.signer) != NULL;
        vb_object_release(&object);
    }
    return revoked;
}

/* Manifests come into the trash by a prune record alone. */
static int untrash_manifests(struct collection *collection)
{
    struct vb_store *store = collection->store;
    struct vb_id *names = NULL;
    size_t count = 0;
    int result = vb_store_names(store, VB_BACKUPS, true, &names, &count);
    uint64_t before = collection->result->brought_back;

    for (size_t i = 0; i < count && result == 0; i++) {
        if (vb_backups_is_pruned(&collection->backups, &names[i]))
            continue;
        result = store->ops->untrash(store, VB_BACKUPS, &names[i]);
        collection->result->brought_back += result == 0;
        result = result == -ENOENT ? 0 : result;
    }
    free(names);
    if (result == 0 && collection->result->brought_back != before) {
        result = store->ops->sync(store);
        if (result == 0)
            result = vb_backups_refresh(collection->repo, &collection->backups, collection->error);
    }
    return result;
}

static int load_backups(struct collection *collection)
{
    char text[VB_NAME_TEXT_BYTES];
    int result;

    vb_backups_release(&collection->backups);
    result = vb_backups_load(collection->repo, &collection->backups, collection->error);
    if (result == 0 && !collection->options->dry_run)
        result = untrash_manifests(collection);
    if (result)
        return result;
    for (size_t i = 0; i < collection->backups.bad_count; i++) {
        const struct vb_bad_backup *bad = &collection->backups.bad[i];

        if (!is_revoked(collection, &bad->name))
            return error_set(
                collection->error, VDISK_E_DAMAGED,
                "backups/%s: %s; nothing is collected while nobody knows what it needs",
                vb_id_text(text, &bad->name), bad->reason);
    }
    return 0;
}

static int mark(struct collection *collection)
{
    uint64_t *brought_back = &collection->result->brought_back, before;
    int result = load_backups(collection);

    vb_marks_free(collection->marks);
    collection->marks = NULL;
    if (result == 0)
        result = vb_marks_new(collection->repo, &collection->marks, collection->error);
    if (result == 0)
        result = vb_marks_add_all(collection->marks, &collection->backups, beat, collection,
                                  collection->error);
    if (result || collection->options->dry_run)
        return result;
    before = *brought_back;
    result = vb_marks_bring_back(collection->marks, brought_back);
    if (result == 0 && *brought_back != before)
        result = collection->store->ops->sync(collection->store);
    return result;
}

/* --- what is there, and what of it is needed ------------------------------------------------- */

static bool note_there(void *opaque, const struct vb_id *name, uint64_t bytes)
{
    struct collection *collection = opaque;

    if (collection->there_count == collection->there_room) {
        size_t room = collection->there_room ? 2 * collection->there_room : 1024;
        struct there *list = reallocarray(collection->there, room, sizeof(*list));

        collection->no_memory = !list;
        if (!list)
            return false;
        collection->there = list;
        collection->there_room = room;
    }
    collection->there[collection->there_count++] = (struct there){.name = *name, .bytes = bytes};
    return true;
}

static int list_there(struct collection *collection)
{
    int result =
        collection->store->ops->list(collection->store, VB_PACKS, false, note_there, collection);

    if (result == 0 && collection->no_memory)
        result = -ENOMEM;
    if (result == 0 && collection->there_count)
        qsort(collection->there, collection->there_count, sizeof(*collection->there),
              vb_id_compare);
    return result;
}

static struct there *find_there(struct collection *collection, const struct vb_id *name)
{
    return collection->there_count ? bsearch(name, collection->there, collection->there_count,
                                             sizeof(*collection->there), vb_id_compare)
                                   : NULL;
}

/* Put long enough ago, and before anybody began who is at work. */
static bool is_old(const struct collection *collection, const struct vb_id *name)
{
    int64_t when;

    return collection->store->ops->when(collection->store, VB_PACKS, name, false, &when) == 0 &&
           when < collection->horizon;
}

static int note_needed(struct collection *collection, enum vb_place place)
{
    const struct vb_index *index = vb_marks_index(collection->marks, place);
    uint8_t *needed = vb_marks_packs(collection->marks, place);

    if (!needed)
        return -ENOMEM;
    for (size_t i = 0; i < vb_index_packs(index); i++) {
        uint64_t stored;
        struct there *there =
            needed[i] ? find_there(collection, &vb_index_pack(index, i, &stored)->name) : NULL;

        if (there)
            there->is_needed = true;
    }
    free(needed);
    return 0;
}

/* --- packs with little left in them ------------------------------------------------------------
 */

struct use {
    uint64_t bytes, live_bytes; /* of records */
};

static struct use use_of(const struct collection *collection, enum vb_place place, size_t which)
{
    const struct vb_index *index = vb_marks_index(collection->marks, place);
    size_t first = vb_index_pack_first(index, which);
    uint64_t stored;
    const struct vb_pack *pack = vb_index_pack(index, which, &stored);
    struct use use = {0};

    for (uint32_t i = 0; stored && i < pack->entry_count; i++) {
        struct vb_found found;

        vb_index_entry(index, first + i, &found);
        use.bytes += found.entry->length;
        if (vb_marks_has(collection->marks, place, first + i))
            use.live_bytes += found.entry->length;
    }
    return use;
}

static bool is_small(const struct vb_pack *pack)
{
    return pack->length < SMALL_BYTES && pack->segment_count <= SMALL_SEGMENTS;
}

/* A byte for each pack of the index. */
static uint8_t *choose(struct collection *collection, enum vb_place place)
{
    const struct vb_index *index = vb_marks_index(collection->marks, place);
    size_t count = vb_index_packs(index), small = 0;
    uint8_t *chosen = calloc(count + 1, 1);

    for (size_t i = 0; chosen && i < count; i++) {
        uint64_t stored;
        const struct vb_pack *pack = vb_index_pack(index, i, &stored);
        struct use use = use_of(collection, place, i);

        if (use.live_bytes == 0 || pack->in_trash || stored != pack->length ||
            !is_old(collection, &pack->name))
            continue;
        if (use.live_bytes < use.bytes / 2)
            chosen[i] = 1;
        else if (is_small(pack)) {
            chosen[i] = 2;
            small++;
        }
    }
    for (size_t i = 0; chosen && i < count && small < SMALL_MANY; i++)
        chosen[i] &= 1;
    return chosen;
}

/* A pack is spent when all that its marks are in, in whatever index object, was written anew. */
static void note_spent(struct collection *collection, enum vb_place place, const uint8_t *done)
{
    const struct vb_index *index = vb_marks_index(collection->marks, place);

    for (size_t i = 0; i < vb_index_packs(index); i++) {
        uint64_t stored;
        const struct vb_pack *pack = vb_index_pack(index, i, &stored);
        struct there *there = find_there(collection, &pack->name);

        if (there && done[i])
            there->is_spent = true;
        else if (there && use_of(collection, place, i).live_bytes)
            there->is_kept = true;
    }
}

static int rewrite(struct collection *collection, enum vb_place place)
{
    const struct vb_index *index = vb_marks_index(collection->marks, place);
    uint8_t *chosen = choose(collection, place);
    uint8_t *done = calloc(vb_index_packs(index) + 1, 1);
    struct vb_repacking repacking = {
        .repo = collection->repo,
        .marks = collection->marks,
        .chosen = chosen,
        .done = done,
        .beat = beat,
        .opaque = collection,
    };
    bool any = false;
    int result = chosen && done ? 0 : -ENOMEM;

    for (size_t i = 0; result == 0 && i < vb_index_packs(index); i++)
        any |= chosen[i] != 0;
    if (result == 0 && any && collection->options->dry_run)
        memcpy(done, chosen, vb_index_packs(index));
    else if (result == 0 && any)
        result = place == VB_INDEX_DATA ? vb_repack_data(&repacking) : vb_repack_tree(&repacking);
    if (result == 0)
        note_spent(collection, place, done);
    collection->result->written_bytes += repacking.bytes;
    free(chosen);
    free(done);
    return result;
}

/* --- away with it ------------------------------------------------------------------------- */

static int trash_packs(struct collection *collection)
{
    struct vb_gc_result *counts = collection->result;
    struct vb_store *store = collection->store;
    int result = 0;

    for (size_t i = 0; i < collection->there_count && result == 0; i++) {
        const struct there *there = &collection->there[i];
        bool rewritten = there->is_spent && !there->is_kept;

        if (there->is_needed && !rewritten) {
            counts->packs++;
            counts->bytes += there->bytes;
            continue;
        }
        if (!is_old(collection, &there->name)) {
            counts->packs++;
            counts->bytes += there->bytes;
            counts->young_bytes += there->bytes;
            continue;
        }
        if (!collection->options->dry_run)
            result = store->ops->trash(store, VB_PACKS, &there->name);
        if (result == -ENOENT) { /* another one has done it */
            result = 0;
            continue;
        }
        counts->trashed += !rewritten;
        counts->trashed_bytes += rewritten ? 0 : there->bytes;
        counts->rewritten += rewritten;
        counts->rewritten_bytes += rewritten ? there->bytes : 0;
        if (i % 64 == 0 && result == 0)
            result = beat(collection);
    }
    return result;
}

static int sweep(struct collection *collection)
{
    struct vb_gc_result *counts = collection->result;
    struct vb_store *store = collection->store;
    bool change = !collection->options->dry_run;
    int result = list_there(collection);

    if (result == 0)
        result = note_needed(collection, VB_INDEX_DATA);
    if (result == 0)
        result = note_needed(collection, VB_INDEX_TREE);
    if (result == 0)
        result = rewrite(collection, VB_INDEX_DATA);
    if (result == 0)
        result = rewrite(collection, VB_INDEX_TREE);
    if (result == 0 && change)
        result = store->ops->sync(store);
    if (result == 0)
        result = trash_packs(collection);
    counts->bytes += counts->written_bytes;
    if (result == 0 && change)
        result = vb_index_merge(collection->repo, VB_INDEX_DATA, &counts->merged);
    if (result == 0 && change)
        result = vb_index_merge(collection->repo, VB_INDEX_TREE, &counts->merged);
    if (result == 0 && change)
        result = store->ops->sync(store);
    return result;
}

/* --- for ever ----------------------------------------------------------------------------- */

struct trashed {
    struct vb_id name;
    uint64_t bytes;
};

struct trash {
    struct collection *collection;
    enum vb_place place;
    struct trashed *old; /* that have been there long enough */
    size_t count, room;
};

static bool note_trash(void *opaque, const struct vb_id *name, uint64_t bytes)
{
    struct trash *trash = opaque;
    struct collection *collection = trash->collection;
    uint64_t grace = collection->options->grace;
    int64_t when;

    if (collection->store->ops->when(collection->store, trash->place, name, true, &when))
        return true;
    if (when > collection->now || (uint64_t)(collection->now - when) < grace ||
        when >= collection->others) {
        collection->result->waiting++;
        collection->result->waiting_bytes += bytes;
        return true;
    }
    if (trash->count == trash->room) {
        size_t room = trash->room ? 2 * trash->room : 256;
        struct trashed *old = reallocarray(trash->old, room, sizeof(*old));

        if (!old)
            return false; /* the rest waits for the next time */
        trash->old = old;
        trash->room = room;
    }
    trash->old[trash->count++] = (struct trashed){.name = *name, .bytes = bytes};
    return true;
}

static int delete_old(struct collection *collection, struct trash *trash)
{
    struct vb_gc_result *counts = collection->result;
    struct vb_store *store = collection->store;
    int result = 0;

    for (size_t i = 0; i < trash->count && result == 0; i++) {
        result = store->ops->remove(store, trash->place, &trash->old[i].name, true);
        if (result == 0) {
            counts->deleted++;
            counts->deleted_bytes += trash->old[i].bytes;
        }
        result = result == -ENOENT ? 0 : result; /* it was fetched back */
    }
    return result;
}

static int empty_trash(struct collection *collection)
{
    static const enum vb_place places[] = {VB_PACKS, VB_INDEX_DATA, VB_INDEX_TREE, VB_BACKUPS};
    enum {
        PLACES = sizeof(places) / sizeof(places[0])
    };
    struct trash trash[PLACES];
    size_t count = 0;
    int result = read_clock(collection);

    if (result == 0)
        result = look_at_leases(collection);

    for (unsigned i = 0; i < PLACES; i++) {
        trash[i] = (struct trash){.collection = collection, .place = places[i]};
        if (result == 0)
            result = collection->store->ops->list(collection->store, places[i], true, note_trash,
                                                  &trash[i]);
        count += trash[i].count;
    }
    if (result == 0 && count)
        result = mark(collection);
    for (unsigned i = 0; i < PLACES; i++) {
        if (result == 0)
            result = delete_old(collection, &trash[i]);
        free(trash[i].old);
    }
    if (result == 0 && collection->result->deleted) {
        uint64_t merged = 0;

        result = vb_index_merge(collection->repo, VB_INDEX_DATA, &merged);
        if (result == 0)
            result = vb_index_merge(collection->repo, VB_INDEX_TREE, &merged);
        collection->result->merged += merged;
        collection->result->waiting += merged;
    }
    return result;
}

/* --- all of it ---------------------------------------------------------------------------- */

static int collect(struct collection *collection)
{
    struct vb_store *store = collection->store;
    int result = begin(collection);

    if (result == 0)
        result = mark(collection);
    if (result == 0)
        result = sweep(collection);
    if (result == 0 && !collection->options->dry_run)
        result = empty_trash(collection);
    if (result == 0 && !collection->options->dry_run) {
        int64_t day_ago = collection->now - LEASE_OLD_S;

        store->ops->tidy(store, day_ago < collection->horizon ? day_ago : collection->horizon);
        result = store->ops->sync(store);
    }
    return result;
}

int vb_gc(const struct vb_gc_options *options, struct vb_gc_result *result,
          struct vdisk_error *error)
{
    struct collection collection = {
        .options = options,
        .repo = options->repo,
        .store = options->repo->store,
        .result = result,
        .error = error,
    };
    int outcome;

    memset(result, 0, sizeof(*result));
    if (!options->repo->keys || options->repo->keys->role == VB_ROLE_PUT)
        return error_set(error, -EPERM, "garbage is collected with a key of role maintain or read");
    if (options->repo->bad_writers)
        return error_set(error, VDISK_E_DAMAGED,
                         "%u object(s) in writers/ cannot be used; nothing is collected while "
                         "nobody knows whose backups count",
                         options->repo->bad_writers);
    outcome = fail(&collection, collect(&collection));
    if (!vb_id_is_zero(&collection.lease.name))
        vb_lease_end(options->repo, &collection.lease);
    vb_marks_free(collection.marks);
    vb_backups_release(&collection.backups);
    free(collection.there);
    return outcome;
}
