/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merging index objects; see index_merge.h.
 *
 * Whose records they are stays with each pack, so that what a put host says of its packs does not
 * become what a maintainer says.
 */
#include "index_merge.h"

#include "idset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SMALL_ENTRIES (VB_INDEX_ENTRIES_MAX / 2)
#define SMALL_BYTES   (1u << 20) /* as stored: larger ones stay, too */
#define SMALL_MANY    4u

struct merging {
    struct vb_repo *repo;
    enum vb_place place;
    struct vb_id *names;
    size_t count;
    bool *chosen;          /* for each of the names */
    struct vb_idset packs; /* that are there or in the trash */
    struct vb_idset named; /* packs that the new objects name */
    struct vb_idset keys;  /* likewise, with their origins */
    bool no_memory;
    struct vb_pack *pack; /* of the next new object */
    size_t pack_count, pack_room;
};

static bool note_name(void *opaque, const struct vb_id *name, uint64_t bytes)
{
    struct merging *merging = opaque;

    (void)bytes;
    merging->no_memory = vb_idset_add(&merging->packs, name) < 0;
    return !merging->no_memory;
}

/* The trash last, too: what is moved meanwhile is seen. */
static int list_packs(struct merging *merging)
{
    static const bool trash[] = {true, false, true};
    struct vb_store *store = merging->repo->store;
    int result = 0;

    for (unsigned i = 0; i < 3 && result == 0; i++)
        result = store->ops->list(store, VB_PACKS, trash[i], note_name, merging);
    return merging->no_memory ? -ENOMEM : result;
}

static void release(struct vb_pack *packs, size_t count)
{
    for (size_t i = 0; i < count; i++)
        vb_pack_release(&packs[i]);
    free(packs);
}

/* Which ones to write anew. */
static int choose(struct merging *merging)
{
    struct vb_store *store = merging->repo->store;
    size_t small = 0;
    bool *is_small = calloc(merging->count + 1, sizeof(bool));
    int result = is_small ? 0 : -ENOMEM;

    for (size_t i = 0; i < merging->count && result == 0; i++) {
        struct vb_pack *packs;
        struct vb_id signer;
        size_t count;
        uint64_t bytes, entries = 0;

        if (store->ops->length(store, merging->place, &merging->names[i], &bytes))
            continue;
        result = vb_index_read(merging->repo, merging->place, &merging->names[i], &signer, &packs,
                               &count);
        if (result)
            break;
        for (size_t k = 0; k < count; k++) {
            entries += packs[k].entry_count;
            merging->chosen[i] |= !vb_idset_has(&merging->packs, &packs[k].name);
        }
        release(packs, count);
        is_small[i] = entries <= SMALL_ENTRIES && bytes <= SMALL_BYTES;
        small += is_small[i];
    }
    for (size_t i = 0; i < merging->count && small >= SMALL_MANY; i++)
        merging->chosen[i] |= is_small[i];
    free(is_small);
    return result;
}

static int put_some(struct merging *merging, bool all)
{
    size_t count = 0;
    int result = 0;

    while (result == 0 && merging->pack_count) {
        count = vb_index_fitting(merging->pack, merging->pack_count);
        if (count == merging->pack_count && !all)
            break;
        result = vb_index_put(merging->repo, merging->place, merging->pack, count);
        for (size_t i = 0; i < count; i++)
            vb_pack_release(&merging->pack[i]);
        merging->pack_count -= count;
        memmove(merging->pack, merging->pack + count, merging->pack_count * sizeof(*merging->pack));
    }
    return result;
}

/* Takes the pack over. No object names one twice: with another origin it gets its own. */
static int take(struct merging *merging, struct vb_pack *pack)
{
    int is_new = vb_idset_add(&merging->named, &pack->name);

    if (is_new <= 0)
        return is_new < 0 ? is_new : vb_index_put(merging->repo, merging->place, pack, 1);
    if (merging->pack_count == merging->pack_room) {
        size_t room = merging->pack_room ? 2 * merging->pack_room : 64;
        struct vb_pack *list = reallocarray(merging->pack, room, sizeof(*list));

        if (!list)
            return -ENOMEM;
        merging->pack = list;
        merging->pack_room = room;
    }
    merging->pack[merging->pack_count++] = *pack;
    memset(pack, 0, sizeof(*pack));
    return 0;
}

/* Name and origin: what one writer says of another's pack is not what that says. */
static void key_of(const struct vb_pack *pack, struct vb_id *key)
{
    uint8_t both[2 * VB_ID_BYTES];

    memcpy(both, pack->name.b, VB_ID_BYTES);
    memcpy(both + VB_ID_BYTES, pack->origin.b, VB_ID_BYTES);
    vb_object_name(both, sizeof(both), key);
}

static int merge_object(struct merging *merging, size_t which)
{
    struct vb_pack *packs;
    struct vb_id signer;
    size_t count;
    int result = vb_index_read(merging->repo, merging->place, &merging->names[which], &signer,
                               &packs, &count);

    if (result)
        return result;
    for (size_t k = 0; result == 0 && k < count; k++) {
        struct vb_id key;
        int is_new;

        if (!vb_idset_has(&merging->packs, &packs[k].name))
            continue;
        key_of(&packs[k], &key);
        is_new = vb_idset_add(&merging->keys, &key);
        result = is_new > 0 ? take(merging, &packs[k]) : is_new;
    }
    if (result == 0)
        result = put_some(merging, false);
    release(packs, count);
    return result;
}

static int replace(struct merging *merging, uint64_t *merged)
{
    struct vb_store *store = merging->repo->store;
    bool any = false;
    int result = 0;

    for (size_t i = 0; i < merging->count && result == 0; i++) {
        any |= merging->chosen[i];
        if (merging->chosen[i])
            result = merge_object(merging, i);
    }
    if (result || !any)
        return result;
    result = put_some(merging, true);
    if (result == 0)
        result = store->ops->sync(store);
    for (size_t i = 0; i < merging->count && result == 0; i++) {
        if (!merging->chosen[i])
            continue;
        result = store->ops->trash(store, merging->place, &merging->names[i]);
        *merged += result == 0;
        result = result == -ENOENT ? 0 : result; /* somebody else merges, too */
    }
    return result;
}

int vb_index_merge(struct vb_repo *repo, enum vb_place place, uint64_t *merged)
{
    struct merging merging = {.repo = repo, .place = place};
    /* Index objects first: a pack comes before the index that names it. */
    int result = vb_store_names(repo->store, place, false, &merging.names, &merging.count);

    if (result)
        return result;
    merging.chosen = calloc(merging.count + 1, sizeof(bool));
    result = merging.chosen ? list_packs(&merging) : -ENOMEM;
    if (result == 0)
        result = choose(&merging);
    if (result == 0)
        result = replace(&merging, merged);
    release(merging.pack, merging.pack_count);
    vb_idset_release(&merging.packs);
    vb_idset_release(&merging.named);
    vb_idset_release(&merging.keys);
    free(merging.names);
    free(merging.chosen);
    return result;
}
