/* SPDX-License-Identifier: Apache-2.0 */
/* A store in memory that crashes and fails; see backup_kit.h. */
#include "backup_kit.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct handle {
    struct vb_store store;
    struct kit_store *kit;
};

static struct kit_store *of(struct vb_store *store)
{
    return ((struct handle *)store)->kit;
}

static struct kit_object *find(struct kit_store *kit, enum vb_place place, const struct vb_id *name,
                               bool trash)
{
    for (size_t i = 0; i < kit->count; i++) {
        struct kit_object *object = &kit->object[i];

        if (!object->is_gone && !object->is_pending && object->place == place &&
            object->in_trash == trash && (place == VB_CONFIG || vb_id_equal(&object->name, name)))
            return object;
    }
    return NULL;
}

/* Lets others have a turn; takes the mutex. */
static void begin(struct kit_store *kit)
{
    if (kit->step && !__atomic_exchange_n(&kit->in_step, true, __ATOMIC_ACQ_REL)) {
        kit->step(kit->step_opaque);
        __atomic_store_n(&kit->in_step, false, __ATOMIC_RELEASE);
    }
    pthread_mutex_lock(kit->mutex);
}

/* Counts a change; whether it fails. With the mutex. */
static int change(struct kit_store *kit)
{
    kit->operations++;
    kit->now++;
    if (kit->fail_at &&
        (kit->fail_once ? kit->operations == kit->fail_at : kit->operations >= kit->fail_at))
        return kit->fail_with;
    return 0;
}

static void add(struct kit_store *kit, enum vb_place place, const struct vb_id *name,
                const void *data, size_t bytes, bool is_pending)
{
    if (kit->count == kit->room) {
        kit->room = kit->room ? 2 * kit->room : 64;
        kit->object = realloc(kit->object, kit->room * sizeof(*kit->object));
        assert_non_null(kit->object);
    }
    struct kit_object *object = &kit->object[kit->count++];

    *object = (struct kit_object){
        .place = place, .name = *name, .length = bytes, .is_pending = is_pending, .when = kit->now};
    object->bytes = malloc(bytes ? bytes : 1);
    assert_non_null(object->bytes);
    memcpy(object->bytes, data, bytes);
}

static int kit_list(struct vb_store *store, enum vb_place place, bool trash, vb_store_each *each,
                    void *opaque)
{
    struct kit_store *kit = of(store);
    bool more = true;

    pthread_mutex_lock(kit->mutex);
    for (size_t i = 0; i < kit->count && more; i++) {
        struct kit_object object = kit->object[i];

        if (object.is_gone || object.is_pending || object.place != place ||
            object.in_trash != trash)
            continue;
        pthread_mutex_unlock(kit->mutex);
        more = each(opaque, &object.name, object.length);
        pthread_mutex_lock(kit->mutex);
    }
    pthread_mutex_unlock(kit->mutex);
    return 0;
}

static int kit_length(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                      uint64_t *bytes)
{
    struct kit_store *kit = of(store);

    pthread_mutex_lock(kit->mutex);
    const struct kit_object *object = find(kit, place, name, false);
    if (object)
        *bytes = object->length;
    pthread_mutex_unlock(kit->mutex);
    return object ? 0 : -ENOENT;
}

static int kit_get(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                   uint64_t offset, void *data, size_t bytes)
{
    struct kit_store *kit = of(store);
    int result = 0;

    pthread_mutex_lock(kit->mutex);
    const struct kit_object *object = find(kit, place, name, false);
    if (!object && (place == VB_PACKS || place == VB_INDEX_DATA || place == VB_INDEX_TREE))
        object = find(kit, place, name, true);
    if (!object)
        result = -ENOENT;
    else if (offset > object->length || object->length - offset < bytes)
        result = -ENODATA;
    else
        memcpy(data, object->bytes + offset, bytes);
    kit->gets++;
    kit->get_bytes += bytes;
    pthread_mutex_unlock(kit->mutex);
    return result;
}

static int kit_put(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                   const void *data, size_t bytes)
{
    struct kit_store *kit = of(store);

    begin(kit);
    int result = change(kit);
    if (result == 0)
        add(kit, place, name, data, bytes, true);
    pthread_mutex_unlock(kit->mutex);
    return result;
}

static void publish(struct kit_store *kit, struct kit_object *object)
{
    if (find(kit, object->place, &object->name, false))
        object->is_gone = true; /* it is there already */
    object->is_pending = false;
}

static int kit_sync(struct vb_store *store)
{
    struct kit_store *kit = of(store);

    begin(kit);
    int result = change(kit);
    for (size_t i = 0; i < kit->count && result == 0; i++) {
        if (kit->object[i].is_pending && !kit->object[i].is_gone)
            publish(kit, &kit->object[i]);
        kit->object[i].is_moved = false;
    }
    pthread_mutex_unlock(kit->mutex);
    return result;
}

static int kit_replace(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                       const void *data, size_t bytes)
{
    struct kit_store *kit = of(store);

    begin(kit);
    int result = change(kit);
    if (result == 0) {
        struct kit_object *old = find(kit, place, name, false);

        if (old)
            old->is_gone = true;
        add(kit, place, name, data, bytes, false);
    }
    pthread_mutex_unlock(kit->mutex);
    return result;
}

static int with(struct vb_store *store, enum vb_place place, const struct vb_id *name, bool trash,
                bool is_gone, bool in_trash)
{
    struct kit_store *kit = of(store);

    begin(kit);
    int result = change(kit);
    struct kit_object *object = find(kit, place, name, trash);
    if (result == 0 && !object)
        result = -ENOENT;
    if (result == 0) {
        if (!object->is_moved) {
            object->is_moved = true;
            object->was_trash = object->in_trash;
        }
        object->is_gone = is_gone || (in_trash != trash && find(kit, place, name, in_trash));
        object->in_trash = in_trash;
        object->when = in_trash ? kit->now : object->when;
    }
    pthread_mutex_unlock(kit->mutex);
    return result;
}

static int kit_trash(struct vb_store *store, enum vb_place place, const struct vb_id *name)
{
    return with(store, place, name, false, false, true);
}

static int kit_untrash(struct vb_store *store, enum vb_place place, const struct vb_id *name)
{
    return with(store, place, name, true, false, false);
}

static int kit_remove(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                      bool trash)
{
    return with(store, place, name, trash, true, trash);
}

static int kit_when(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                    bool trash, int64_t *seconds)
{
    struct kit_store *kit = of(store);

    pthread_mutex_lock(kit->mutex);
    const struct kit_object *object = find(kit, place, name, trash);
    if (object)
        *seconds = object->when;
    pthread_mutex_unlock(kit->mutex);
    return object ? 0 : -ENOENT;
}

static int kit_tidy(struct vb_store *store, int64_t before)
{
    (void)store, (void)before;
    return 0;
}

static void kit_close(struct vb_store *store)
{
    free(store);
}

struct vb_store *kit_store_handle(struct kit_store *kit)
{
    static const struct vb_store_ops ops = {
        .list = kit_list,
        .length = kit_length,
        .get = kit_get,
        .put = kit_put,
        .sync = kit_sync,
        .replace = kit_replace,
        .trash = kit_trash,
        .untrash = kit_untrash,
        .remove = kit_remove,
        .when = kit_when,
        .tidy = kit_tidy,
        .close = kit_close,
    };
    struct handle *handle = calloc(1, sizeof(*handle));

    assert_non_null(handle);
    handle->store.ops = &ops;
    handle->kit = kit;
    return &handle->store;
}

struct kit_store *kit_store_new(uint64_t seed)
{
    struct kit_store *kit = calloc(1, sizeof(*kit));

    assert_non_null(kit);
    kit->mutex = calloc(1, sizeof(pthread_mutex_t));
    assert_non_null(kit->mutex);
    pthread_mutex_init(kit->mutex, NULL);
    sim_rng_seed(&kit->rng, seed);
    kit->fail_with = -EIO;
    kit->now = 1000000;
    return kit;
}

void kit_store_free(struct kit_store *kit)
{
    for (size_t i = 0; i < kit->count; i++)
        free(kit->object[i].bytes);
    free(kit->object);
    free(kit->mutex);
    free(kit);
}

struct kit_store *kit_store_copy(const struct kit_store *kit)
{
    struct kit_store *copy = kit_store_new(1);

    for (size_t i = 0; i < kit->count; i++) {
        const struct kit_object *object = &kit->object[i];

        if (object->is_gone || object->is_pending)
            continue;
        add(copy, object->place, &object->name, object->bytes, object->length, false);
        copy->object[copy->count - 1].in_trash = object->in_trash;
        copy->object[copy->count - 1].when = object->when;
    }
    copy->now = kit->now;
    return copy;
}

void kit_store_crash(struct kit_store *kit)
{
    kit->fail_at = 0;
    for (size_t i = 0; i < kit->count; i++) {
        struct kit_object *object = &kit->object[i];

        /* What replaced it may be there, too. */
        if (object->is_moved && sim_rng_chance(&kit->rng, 1, 2) &&
            !find(kit, object->place, &object->name, object->was_trash)) {
            object->is_gone = false;
            object->in_trash = object->was_trash;
        }
        object->is_moved = false;
        if (!object->is_pending || object->is_gone)
            continue;
        if (sim_rng_chance(&kit->rng, 1, 2))
            publish(kit, &kit->object[i]);
        else
            kit->object[i].is_gone = true;
        kit->object[i].is_pending = false;
    }
}

struct kit_object *kit_store_find(struct kit_store *kit, enum vb_place place, unsigned which)
{
    for (size_t i = 0; i < kit->count; i++) {
        struct kit_object *object = &kit->object[i];

        if (!object->is_gone && !object->is_pending && !object->in_trash &&
            object->place == place && which-- == 0)
            return object;
    }
    return NULL;
}

unsigned kit_store_count(const struct kit_store *kit, enum vb_place place)
{
    unsigned count = 0;

    for (size_t i = 0; i < kit->count; i++)
        count += !kit->object[i].is_gone && !kit->object[i].is_pending &&
                 !kit->object[i].in_trash && kit->object[i].place == place;
    return count;
}
