/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making a backup (SPEC.md B11); see backup_create.h.
 *
 * The drive's spans are collected leaf by leaf; a leaf's chunks go to the threads as tasks, and
 * when all are back the leaf is encoded and packed. Some leaves are under way at once. The inner
 * nodes are made at the end, level by level, from the list of leaves that are new.
 *
 * Order on disk: packs and the index objects that name them, then, after a sync, the manifest.
 */
#include "create_impl.h"

#include "lease.h"
#include "mark.h"
#include "report.h"
#include "tree_path.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define JOBS          4u   /* leaves under way */
#define WAIT_MS       100u /* for a task, before looking at signals */
#define PACKS_INDEXED 16u  /* so many are put before an index object names them */

struct new_node {
    uint64_t index;
    struct vb_id id; /* zero: nothing is there any more */
};

struct new_nodes {
    struct new_node *list;
    size_t count, room;
};

/* Packs that no index object names yet; filled by a packer's thread. */
struct packed {
    pthread_mutex_t mutex;
    struct vb_pack *pack;
    size_t count, room;
    struct vb_idset names; /* of all that were put */
};

struct creating {
    const struct vb_create_options *options;
    struct vb_repo *repo;
    struct vb_drive *drive;
    struct vb_manifest *manifest;
    struct vdisk_error *error;
    struct chunk_shared shared;
    struct vb_crew *crew;
    struct vb_packer *tree_packer;
    struct packed data_packed, tree_packed;
    struct vb_index *tree;
    uint8_t *tree_used; /* packs of it that nodes were taken from */
    bool moved;         /* packs out of the trash, not yet synced */
    struct vb_idset fresh_nodes;
    struct vb_reader *reader;
    struct vb_sealer *sealer;
    struct vb_path *before; /* NULL: there is no base */
    struct vb_lease lease;
    bool leased;
    struct vb_span span; /* not handed out yet; length 0: none is left */
    uint64_t done;       /* of the drive */
    int64_t chunks;      /* that are not zero, more than in the base */
    struct new_nodes leaves;
    struct leaf_job job[JOBS];
};

static int fail(struct creating *creating, int result)
{
    if (creating->error->code != result)
        error_set(creating->error, result, "%s", vdisk_strerror(result));
    return result;
}

/* --- nodes -------------------------------------------------------------------------------- */

static int note_node(struct new_nodes *nodes, uint64_t index, const struct vb_id *id)
{
    if (nodes->count == nodes->room) {
        size_t room = nodes->room ? 2 * nodes->room : 256;
        struct new_node *list = reallocarray(nodes->list, room, sizeof(*list));

        if (!list)
            return -ENOMEM;
        nodes->list = list;
        nodes->room = room;
    }
    nodes->list[nodes->count++] = (struct new_node){.index = index, .id = *id};
    return 0;
}

static int compare_nodes(const void *a, const void *b)
{
    const struct new_node *x = a, *y = b;

    return x->index < y->index ? -1 : x->index > y->index;
}

/* Its id; zero for one without entries. Stored unless it is there. */
static int store_node(struct creating *creating, const struct vb_node *node, struct vb_id *id)
{
    uint8_t bytes[VB_NODE_MAX];
    struct vb_found found;
    size_t length;
    int wanted;

    memset(id, 0, sizeof(*id));
    if (vb_node_count(node) == 0)
        return 0;
    length = vb_node_encode(node, bytes);
    vb_id_of(creating->repo->keys->node_key, bytes, length, id);
    if (vb_index_find_trusted(creating->tree, VB_RECORD_NODE, id, &found)) {
        creating->tree_used[vb_index_pack_number(creating->tree, &found)] = 1;
        return 0;
    }
    wanted = vb_idset_add(&creating->fresh_nodes, id);
    if (wanted <= 0)
        return wanted;
    return vb_packer_add(creating->tree_packer, creating->sealer, VB_RECORD_NODE, id, bytes,
                         length);
}

/* From the new nodes of one level to those of the next. */
static int build_level(struct creating *creating, unsigned level, const struct new_nodes *below,
                       struct new_nodes *above)
{
    for (size_t i = 0; i < below->count;) {
        uint64_t index = below->list[i].index / VB_NODE_CHILDREN;
        struct vb_node node = {.level = (uint8_t)level};
        struct vb_id id;
        int result = 0;

        if (creating->before) {
            const struct vb_node *old;

            result = vb_path_node(creating->before, level, index, &old, creating->error);
            if (result)
                return result;
            node = *old;
        }
        for (; i < below->count && below->list[i].index / VB_NODE_CHILDREN == index; i++) {
            struct vb_node_entry *entry = &node.entry[below->list[i].index % VB_NODE_CHILDREN];

            entry->id = below->list[i].id;
            entry->state = vb_id_is_zero(&entry->id) ? VB_NODE_ZERO : VB_NODE_CHILD;
        }
        result = store_node(creating, &node, &id);
        if (result == 0)
            result = note_node(above, index, &id);
        if (result)
            return result;
    }
    return 0;
}

static int build_tree(struct creating *creating)
{
    struct vb_manifest *manifest = creating->manifest;
    struct new_nodes nodes = creating->leaves, above = {0};
    int result = 0;

    memset(&creating->leaves, 0, sizeof(creating->leaves));
    manifest->level = (uint8_t)vb_tree_level(manifest->size);
    if (nodes.count == 0 && creating->before) { /* the same, but perhaps under a higher root */
        struct vb_id first;

        result = vb_path_id(creating->before, 0, 0, &first, creating->error);
        if (result == 0)
            result = note_node(&nodes, 0, &first);
    }
    if (nodes.count)
        qsort(nodes.list, nodes.count, sizeof(*nodes.list), compare_nodes);
    for (unsigned level = 1; level <= manifest->level && result == 0; level++) {
        result = build_level(creating, level, &nodes, &above);
        free(nodes.list);
        nodes = above;
        memset(&above, 0, sizeof(above));
    }
    memset(&manifest->root, 0, sizeof(manifest->root));
    if (result == 0 && nodes.count)
        manifest->root = nodes.list[0].id;
    free(nodes.list);
    return result;
}

/* --- leaves ------------------------------------------------------------------------------- */

static void mark(struct leaf_job *job, const struct vb_span *span, uint64_t drive_size)
{
    uint64_t leaf = job->index * LEAF_BYTES, end = span->offset + span->length;
    uint64_t first = (span->offset - leaf) / VB_BLOCK_BYTES;
    uint64_t last = (end - leaf + VB_BLOCK_BYTES - 1) / VB_BLOCK_BYTES;

    for (uint64_t block = first; block < last; block++) {
        struct chunk_task *task = &job->task[block / VB_CHUNK_BLOCKS];
        unsigned bit = (unsigned)(block % VB_CHUNK_BLOCKS);
        uint64_t from = leaf + block * VB_BLOCK_BYTES, to = from + VB_BLOCK_BYTES;
        /* A part of a block says nothing of the rest. */
        bool whole = from >= span->offset && (to <= end || end == drive_size);

        task->touched = true;
        set_bit(task->changed, bit);
        if (!span->is_zero || !whole)
            set_bit(task->data, bit);
    }
}

static int next_span(struct creating *creating, uint64_t from)
{
    struct vb_span *span = &creating->span;

    *span = (struct vb_span){0};
    if (from >= creating->drive->size)
        return 0;
    return creating->drive->ops->next(creating->drive, from, span, creating->error);
}

/* All spans of the leaf that the next one is in. */
static int collect(struct creating *creating, struct leaf_job *job)
{
    struct vb_span *span = &creating->span;
    uint64_t end;
    int result = 0;

    memset(job->task, 0, sizeof(job->task));
    job->index = span->offset / LEAF_BYTES;
    end = (job->index + 1) * LEAF_BYTES;
    while (result == 0 && span->length && span->offset < end) {
        struct vb_span part = *span;

        if (part.offset + part.length > end)
            part.length = end - part.offset;
        mark(job, &part, creating->drive->size);
        span->offset += part.length;
        span->length -= part.length;
        if (span->length == 0)
            result = next_span(creating, span->offset);
    }
    return result;
}

static int finish_leaf(struct creating *creating, struct leaf_job *job)
{
    struct vb_id id;
    int result = store_node(creating, &job->node, &id);

    job->used = false;
    return result ? result : note_node(&creating->leaves, job->index, &id);
}

static int start_leaf(struct creating *creating, struct leaf_job *job)
{
    int result = collect(creating, job);

    if (result)
        return result;
    memset(&job->node, 0, sizeof(job->node));
    if (creating->before) {
        const struct vb_node *old;

        result = vb_path_node(creating->before, 0, job->index, &old, creating->error);
        if (result)
            return result;
        job->node = *old;
    }
    job->used = true;
    job->pending = 0;
    for (unsigned i = 0; i < VB_NODE_CHILDREN; i++)
        job->pending += job->task[i].touched;
    for (unsigned i = 0; i < VB_NODE_CHILDREN; i++) {
        struct chunk_task *task = &job->task[i];

        if (!task->touched)
            continue;
        task->job = job;
        task->slot = i;
        task->before = job->node.entry[i];
        vb_crew_submit(creating->crew, &task->task);
    }
    return 0;
}

static int take_back(struct creating *creating, struct chunk_task *task)
{
    struct leaf_job *job = task->job;
    uint64_t end = job->index * LEAF_BYTES + (uint64_t)(task->slot + 1) * VB_CHUNK_BYTES;

    if (task->result) {
        *creating->error = creating->shared.error;
        return task->result;
    }
    creating->chunks += (task->after.state != VB_NODE_ZERO) - (task->before.state != VB_NODE_ZERO);
    job->node.entry[task->slot] = task->after;
    creating->done = end > creating->done ? end : creating->done;
    return --job->pending ? 0 : finish_leaf(creating, job);
}

/* --- packs, index ------------------------------------------------------------------------- */

static int keep_packed(void *opaque, struct vb_pack *pack)
{
    struct packed *packed = opaque;
    int result = 0;

    pthread_mutex_lock(&packed->mutex);
    if (packed->count == packed->room) {
        size_t room = packed->room + 2 * (size_t)PACKS_INDEXED;
        struct vb_pack *list = reallocarray(packed->pack, room, sizeof(*list));

        if (list) {
            packed->pack = list;
            packed->room = room;
        }
    }
    if (packed->count < packed->room && vb_idset_add(&packed->names, &pack->name) >= 0)
        packed->pack[packed->count++] = *pack;
    else
        result = -ENOMEM;
    pthread_mutex_unlock(&packed->mutex);
    if (result)
        vb_pack_release(pack);
    return result;
}

static void forget_packed(struct packed *packed)
{
    for (size_t i = 0; i < packed->count; i++)
        vb_pack_release(&packed->pack[i]);
    free(packed->pack);
    vb_idset_release(&packed->names);
}

static bool is_due(struct packed *packed, unsigned many)
{
    bool due;

    pthread_mutex_lock(&packed->mutex);
    due = packed->count >= many;
    pthread_mutex_unlock(&packed->mutex);
    return due;
}

static int put_index(struct creating *creating, struct packed *packed, enum vb_place place)
{
    int result = 0;

    pthread_mutex_lock(&packed->mutex);
    while (result == 0 && packed->count) {
        size_t count = vb_index_fitting(packed->pack, packed->count);

        result = vb_index_put(creating->repo, place, packed->pack, count);
        for (size_t i = 0; i < count; i++)
            vb_pack_release(&packed->pack[i]);
        packed->count -= count;
        memmove(packed->pack, packed->pack + count, packed->count * sizeof(packed->pack[0]));
    }
    pthread_mutex_unlock(&packed->mutex);
    return result;
}

/* What is stored until now is found by the next backup, should this one be interrupted. */
static int put_indexes(struct creating *creating)
{
    struct vb_store *store = creating->repo->store;
    int result = put_index(creating, &creating->data_packed, VB_INDEX_DATA);

    if (result == 0)
        result = put_index(creating, &creating->tree_packed, VB_INDEX_TREE);
    return result ? result : store->ops->sync(store);
}

/* --- what others may have taken away -------------------------------------------------------------
 */

static int check_pack(struct creating *creating, const struct vb_id *name)
{
    struct vb_store *store = creating->repo->store;
    uint64_t bytes;

    if (store->ops->length(store, VB_PACKS, name, &bytes) == 0)
        return 0;
    creating->moved = true;
    if (store->ops->untrash(store, VB_PACKS, name) == 0)
        return 0;
    return error_set(creating->error, -ESTALE,
                     "a pack was removed while the backup was made; make it again");
}

static int check_index(struct creating *creating, const struct vb_index *index, const uint8_t *used)
{
    int result = 0;

    for (size_t i = 0; index && i < vb_index_packs(index) && result == 0; i++) {
        uint64_t bytes;
        const struct vb_pack *pack = vb_index_pack(index, i, &bytes);

        if (used[i])
            result = check_pack(creating, &pack->name);
    }
    return result;
}

static int check_made(struct creating *creating, const struct vb_idset *names)
{
    int result = 0;

    for (size_t i = 0; i < names->room && result == 0; i++) {
        if (!vb_id_is_zero(&names->slot[i]))
            result = check_pack(creating, &names->slot[i]);
    }
    return result;
}

/* Each pack that is the backup's own, or that records were taken from, is there; if need be, again.
 */
static int check_used(struct creating *creating)
{
    const struct chunk_shared *shared = &creating->shared;
    struct vb_store *store = creating->repo->store;
    int result = check_index(creating, shared->data, shared->pack_used);

    if (result == 0)
        result = check_index(creating, creating->tree, creating->tree_used);
    if (result == 0)
        result = check_made(creating, &creating->data_packed.names);
    if (result == 0)
        result = check_made(creating, &creating->tree_packed.names);
    if (result == 0 && creating->moved)
        result = store->ops->sync(store);
    creating->moved = false;
    return result;
}

/* With the manifest put. What it shares with its base is safe with that; if the base was pruned
 * meanwhile, all of it is looked at. */
static int check_base(struct creating *creating, const struct vb_id *name)
{
    struct vb_store *store = creating->repo->store;
    const struct vb_backup *base = creating->drive->base;
    struct vb_backup backup = {
        .name = *name,
        .signer = creating->repo->keys->sign_public,
        .manifest = *creating->manifest,
    };
    uint64_t bytes;

    if (!base || store->ops->length(store, VB_BACKUPS, &base->name, &bytes) == 0)
        return 0;
    return vb_backup_secure(creating->repo, &backup, creating->error);
}

/* --- all of it ---------------------------------------------------------------------------- */

static int keep_alive(struct creating *creating)
{
    const struct vb_create_options *options = creating->options;

    if (options->progress &&
        !options->progress(options->opaque,
                           creating->done < creating->drive->size ? creating->done
                                                                  : creating->drive->size,
                           creating->drive->size))
        return error_set(creating->error, -ECANCELED, "%s", vdisk_strerror(-ECANCELED));
    return vb_lease_beat(creating->repo, &creating->lease);
}

static struct leaf_job *find_job(struct creating *creating, bool used)
{
    for (unsigned i = 0; i < JOBS; i++) {
        if (creating->job[i].used == used)
            return &creating->job[i];
    }
    return NULL;
}

static int run(struct creating *creating)
{
    int result = next_span(creating, 0);

    while (result == 0) {
        struct leaf_job *job = find_job(creating, false);
        struct vb_task *task;

        if (job && creating->span.length) {
            result = start_leaf(creating, job);
            continue;
        }
        if (!find_job(creating, true))
            return 0;
        task = vb_crew_take(creating->crew, WAIT_MS);
        if (task)
            result = take_back(creating, (struct chunk_task *)task);
        if (result == 0)
            result = keep_alive(creating);
        if (result == 0 && is_due(&creating->data_packed, PACKS_INDEXED))
            result = put_indexes(creating);
    }
    return result;
}

static int begin(struct creating *creating)
{
    struct vb_repo *repo = creating->repo;
    const struct vb_backup *base = creating->drive->base;
    int result = vb_lease_begin(repo, &creating->lease);

    creating->leased = result == 0;
    if (result == 0)
        result = vb_index_load(repo, VB_INDEX_TREE, NULL, NULL, &creating->tree);
    if (result == 0)
        result = vb_reader_new(repo, &creating->reader);
    if (result == 0) {
        creating->tree_used = calloc(vb_index_packs(creating->tree) + 1, 1);
        result = creating->tree_used ? 0 : -ENOMEM;
    }
    if (result == 0)
        result = vb_sealer_new(repo->config.repo_id, &creating->sealer);
    if (result == 0 && base)
        result = vb_path_new(creating->reader, creating->tree, &base->manifest.root,
                             base->manifest.level, &creating->before);
    if (result == 0)
        result = vb_packer_open(repo, false, keep_packed, &creating->data_packed,
                                &creating->shared.packer);
    if (result == 0)
        result =
            vb_packer_open(repo, true, keep_packed, &creating->tree_packed, &creating->tree_packer);
    if (result == 0) {
        result = vb_crew_start(creating->options->threads, &vb_chunk_ops, &creating->shared,
                               &creating->crew);
        if (result && creating->shared.error.code)
            *creating->error = creating->shared.error;
    }
    return result;
}

static void fill_in(struct creating *creating)
{
    struct vb_manifest *manifest = creating->manifest;
    const struct vb_backup *base = creating->drive->base;
    int64_t chunks = creating->chunks;

    if (base)
        chunks += (int64_t)(base->manifest.bytes_data / VB_CHUNK_BYTES);
    creating->shared.counts.bytes_stored =
        vb_packer_bytes(creating->shared.packer) + vb_packer_bytes(creating->tree_packer);
    manifest->bytes_read = creating->shared.counts.bytes_read;
    manifest->bytes_stored = creating->shared.counts.bytes_stored;
    manifest->bytes_data = chunks > 0 ? (uint64_t)chunks * VB_CHUNK_BYTES : 0;
}

static int publish(struct creating *creating, struct vb_id *name)
{
    struct vb_store *store = creating->repo->store;
    int result = vb_packer_flush(creating->shared.packer);

    if (result == 0)
        result = vb_packer_flush(creating->tree_packer);
    if (result == 0)
        result = put_indexes(creating);
    if (result == 0)
        result = check_used(creating);
    if (result)
        return result;
    fill_in(creating);
    result = vb_manifest_put(creating->repo, creating->manifest, name);
    if (result == 0)
        result = store->ops->sync(store);
    if (result)
        return result;
    result = check_used(creating);
    if (result == 0)
        result = check_base(creating, name);
    if (result)
        store->ops->remove(store, VB_BACKUPS, name, false);
    return result;
}

static void end(struct creating *creating)
{
    vb_crew_close(creating->crew);
    vb_packer_close(creating->shared.packer);
    vb_packer_close(creating->tree_packer);
    forget_packed(&creating->data_packed);
    forget_packed(&creating->tree_packed);
    vb_path_free(creating->before);
    vb_reader_free(creating->reader);
    vb_sealer_free(creating->sealer);
    vb_index_free(creating->tree);
    vb_index_free(creating->shared.data);
    vb_idset_release(&creating->shared.fresh);
    vb_idset_release(&creating->fresh_nodes);
    free(creating->shared.pack_used);
    free(creating->tree_used);
    free(creating->leaves.list);
    if (creating->leased)
        vb_lease_end(creating->repo, &creating->lease);
    pthread_mutex_destroy(&creating->shared.mutex);
    pthread_mutex_destroy(&creating->shared.zero_mutex);
    pthread_mutex_destroy(&creating->data_packed.mutex);
    pthread_mutex_destroy(&creating->tree_packed.mutex);
    free(creating);
}

int vb_create(const struct vb_create_options *options, struct vb_manifest *manifest,
              struct vb_create_result *out, struct vdisk_error *error)
{
    struct creating *creating;
    struct vb_id name;
    int result;

    if (options->repo->keys->role == VB_ROLE_MAINTAIN)
        return error_set(error, VDISK_E_WRONG_KEY,
                         "this key prunes and copies; backups are made with one of role put or "
                         "read");
    creating = calloc(1, sizeof(*creating));
    if (!creating)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    creating->options = options;
    creating->repo = creating->shared.repo = options->repo;
    creating->drive = creating->shared.drive = options->drive;
    creating->manifest = manifest;
    creating->error = error;
    pthread_mutex_init(&creating->shared.zero_mutex, NULL);
    pthread_mutex_init(&creating->shared.mutex, NULL); /* none of these can fail on Linux */
    pthread_mutex_init(&creating->data_packed.mutex, NULL);
    pthread_mutex_init(&creating->tree_packed.mutex, NULL);
    result = begin(creating);
    if (result == 0)
        result = run(creating);
    if (result == 0)
        result = build_tree(creating);
    if (result == 0)
        result = publish(creating, &name);
    if (result) {
        fail(creating, result);
    } else {
        *out = creating->shared.counts;
        out->name = name;
    }
    end(creating);
    return result;
}
