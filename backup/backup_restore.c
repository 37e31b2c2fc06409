/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Restoring (SPEC.md B12); see backup_restore.h.
 *
 * The main thread walks the tree; the chunks of each leaf go to the threads, in the order in which
 * they are in the packs. A thread fetches, opens and verifies a chunk, and writes it where the
 * target takes that; else the main thread does.
 *
 * Of a target that has something already the main thread reads a chunk, a thread computes its id,
 * and only one that differs is fetched. What the id of a patched chunk would be nobody knows: those
 * are fetched, and compared. The main thread writes the blocks that differ.
 */
#include "backup_restore.h"

#include "crew.h"
#include "report.h"
#include "zeros.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define BUFFERS   16u /* chunks under way */
#define WAIT_MS   100u
#define ALIGNMENT 4096u

struct chunk_task {
    struct vb_task task; /* first */
    struct chunk_task *next_free;
    uint64_t offset; /* in the drive */
    size_t length;
    struct vb_node_entry entry;
    uint8_t *buffer;
    uint8_t *present; /* what the target has there; NULL where it has no read() */
    bool is_unknown;  /* that could not be read */
    bool is_same;
    int result;
};

struct restoring {
    const struct vb_restore_options *options;
    struct vb_index *tree, *data;
    struct vb_reader *reader; /* of nodes */
    struct vb_crew *crew;
    struct vdisk_error *error;
    pthread_mutex_t mutex;
    struct vdisk_error task_error; /* of the first that failed */
    struct chunk_task task[BUFFERS];
    struct chunk_task *free_task;
    unsigned under_way;
    uint64_t done; /* of the drive, given out or zeros */
    struct vb_restore_result counts;
    uint8_t *memory;
};

static uint64_t drive_size(const struct restoring *restoring)
{
    return restoring->options->backup->manifest.size;
}

/* --- a thread ----------------------------------------------------------------------------- */

static int begin(void *opaque, void **state)
{
    struct restoring *restoring = opaque;

    return vb_reader_new(restoring->options->repo, (struct vb_reader **)state);
}

static void end(void *opaque, void *state)
{
    (void)opaque;
    vb_reader_free(state);
}

/* The same bytes have the same id (SPEC.md B3), and no others do. */
static bool is_there(const struct restoring *restoring, const struct chunk_task *task)
{
    struct vb_id id;

    if (!task->present || task->is_unknown || task->entry.state != VB_NODE_BASE)
        return false;
    vb_id_of(restoring->options->repo->keys->chunk_key, task->present, VB_CHUNK_BYTES, &id);
    return vb_id_equal(&id, &task->entry.id);
}

static void work(void *opaque, void *state, struct vb_task *vb_task)
{
    struct chunk_task *task = (struct chunk_task *)vb_task;
    struct restoring *restoring = opaque;
    struct vb_target *target = restoring->options->target;
    struct vdisk_error error = {0};

    task->result = 0;
    task->is_same = is_there(restoring, task);
    if (task->is_same)
        return;
    task->result = vb_chunk_read(state, restoring->data, &task->entry, task->buffer, &error);
    if (task->result == 0 && target->any_thread)
        task->result = target->write(target, task->offset, task->buffer, task->length, &error);
    if (task->result == 0)
        return;
    if (error.code != task->result)
        error_set(&error, task->result, "%s", vdisk_strerror(task->result));
    pthread_mutex_lock(&restoring->mutex);
    if (restoring->task_error.code == 0)
        restoring->task_error = error;
    pthread_mutex_unlock(&restoring->mutex);
}

static const struct vb_crew_ops crew_ops = {.begin = begin, .work = work, .end = end};

/* --- the main thread ---------------------------------------------------------------------- */

static int look_around(struct restoring *restoring)
{
    const struct vb_restore_options *options = restoring->options;

    if (options->progress &&
        !options->progress(options->opaque, restoring->done, drive_size(restoring)))
        return error_set(restoring->error, -ECANCELED, "%s", vdisk_strerror(-ECANCELED));
    return 0;
}

/* What is to be done with a block: nothing, where it is as it should be. */
enum block_need {
    BLOCK_SAME,
    BLOCK_ZEROS,
    BLOCK_DATA,
};

static enum block_need need_of(const struct chunk_task *task, size_t at, size_t length)
{
    if (!task->is_unknown && memcmp(task->buffer + at, task->present + at, length) == 0)
        return BLOCK_SAME;
    return zeros_is_all(task->buffer + at, length) ? BLOCK_ZEROS : BLOCK_DATA;
}

static int write_run(struct restoring *restoring, const struct chunk_task *task,
                     enum block_need need, size_t from, size_t to)
{
    struct vb_target *target = restoring->options->target;

    if (need == BLOCK_SAME)
        return 0;
    restoring->counts.bytes_written += to - from;
    return need == BLOCK_ZEROS
               ? target->zeros(target, task->offset + from, to - from, restoring->error)
               : target->write(target, task->offset + from, task->buffer + from, to - from,
                               restoring->error);
}

static int write_differences(struct restoring *restoring, const struct chunk_task *task)
{
    struct vb_target *target = restoring->options->target;
    enum block_need before = BLOCK_SAME;
    size_t from = 0;
    int result = 0;

    /* What is damaged goes as a whole: nothing of it has to be read then. */
    if (task->is_unknown)
        result = target->zeros(target, task->offset, task->length, restoring->error);
    for (size_t at = 0; at < task->length && result == 0; at += VB_BLOCK_BYTES) {
        size_t left = task->length - at;
        enum block_need need = need_of(task, at, left < VB_BLOCK_BYTES ? left : VB_BLOCK_BYTES);

        if (need == before)
            continue;
        result = write_run(restoring, task, before, from, at);
        before = need;
        from = at;
    }
    return result ? result : write_run(restoring, task, before, from, task->length);
}

static int write_out(struct restoring *restoring, const struct chunk_task *task)
{
    struct vb_target *target = restoring->options->target;

    restoring->counts.chunks++;
    restoring->counts.bytes_data += task->length;
    if (target->read)
        return write_differences(restoring, task);
    return target->any_thread
               ? 0
               : target->write(target, task->offset, task->buffer, task->length, restoring->error);
}

static int take_back(struct restoring *restoring, struct chunk_task *task)
{
    int result;

    restoring->under_way--;
    if (task->result) {
        *restoring->error = restoring->task_error;
        return task->result;
    }
    result = task->is_same ? 0 : write_out(restoring, task);
    if (result)
        return result;
    task->next_free = restoring->free_task;
    restoring->free_task = task;
    if (task->offset + task->length > restoring->done)
        restoring->done = task->offset + task->length;
    return 0;
}

static int wait_for_one(struct restoring *restoring)
{
    struct vb_task *task = vb_crew_take(restoring->crew, WAIT_MS);
    int result = task ? take_back(restoring, (struct chunk_task *)task) : 0;

    return result ? result : look_around(restoring);
}

static int read_present(struct restoring *restoring, struct chunk_task *task)
{
    struct vb_target *target = restoring->options->target;
    int result;

    if (!target->read)
        return 0;
    result = target->read(target, task->offset, task->present, task->length, restoring->error);
    task->is_unknown = result == VDISK_E_NOT_AUTHENTIC;
    if (result && !task->is_unknown)
        return result;
    memset(task->present + task->length, 0, VB_CHUNK_BYTES - task->length);
    restoring->counts.bytes_compared += task->length;
    return 0;
}

static int submit(struct restoring *restoring, uint64_t offset, const struct vb_node_entry *entry)
{
    struct chunk_task *task;
    int result = 0;

    while (!restoring->free_task && result == 0)
        result = wait_for_one(restoring);
    if (result)
        return result;
    task = restoring->free_task;
    restoring->free_task = task->next_free;
    task->offset = offset;
    task->length = VB_CHUNK_BYTES;
    if (drive_size(restoring) - offset < VB_CHUNK_BYTES)
        task->length = (size_t)(drive_size(restoring) - offset);
    task->entry = *entry;
    result = read_present(restoring, task);
    if (result)
        return result;
    restoring->under_way++;
    vb_crew_submit(restoring->crew, &task->task);
    return 0;
}

/* A chunk of a leaf, and where its base is. */
struct place {
    unsigned slot;
    const struct vb_pack *pack;
    uint32_t offset;
};

static int compare_places(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    if (x->pack != y->pack)
        return x->pack < y->pack ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static bool is_wanted(const struct restoring *restoring, uint64_t chunk, uint64_t count)
{
    const struct vb_chunk_set *where = restoring->options->where;

    return !where || vb_chunk_set_touch(where, chunk, chunk + count);
}

static int restore_leaf(void *opaque, uint64_t index, const struct vb_node *leaf)
{
    struct restoring *restoring = opaque;
    uint64_t start = index * VB_NODE_CHILDREN * VB_CHUNK_BYTES;
    struct place place[VB_NODE_CHILDREN];
    unsigned count = 0;
    int result = 0;

    for (unsigned i = 0; i < VB_NODE_CHILDREN; i++) {
        const struct vb_node_entry *entry = &leaf->entry[i];
        struct vb_found found;

        if (entry->state == VB_NODE_ZERO || !is_wanted(restoring, index * VB_NODE_CHILDREN + i, 1))
            continue;
        if (start + (uint64_t)i * VB_CHUNK_BYTES >= drive_size(restoring))
            return error_set(restoring->error, VDISK_E_MALFORMED,
                             "the tree goes on behind the end of the drive");
        place[count] = (struct place){.slot = i};
        if (vb_index_count(restoring->data, VB_RECORD_BASE, &entry->id)) {
            vb_index_get(restoring->data, VB_RECORD_BASE, &entry->id, 0, &found);
            place[count].pack = found.pack;
            place[count].offset = found.entry->offset;
        }
        count++;
    }
    qsort(place, count, sizeof(*place), compare_places);
    for (unsigned i = 0; i < count && result == 0; i++)
        result = submit(restoring, start + (uint64_t)place[i].slot * VB_CHUNK_BYTES,
                        &leaf->entry[place[i].slot]);
    return result;
}

/* --- zeros, where the target does not have them ----------------------------------------------- */

struct zeroing {
    struct restoring *restoring;
    uint64_t at; /* up to here all is done */
};

static int zero(struct restoring *restoring, uint64_t from, uint64_t to)
{
    struct vb_target *target = restoring->options->target;

    return target->zeros(target, from, to - from, restoring->error);
}

static int zero_up_to(struct zeroing *zeroing, uint64_t offset)
{
    const struct vb_chunk_set *where = zeroing->restoring->options->where;
    uint64_t at = zeroing->at;
    int result = 0;

    if (!where && offset > at)
        result = zero(zeroing->restoring, at, offset);
    while (where && at < offset && result == 0) {
        const struct vb_range *range = vb_chunk_set_from(where, at / VB_CHUNK_BYTES);
        uint64_t from = range ? range->first * VB_CHUNK_BYTES : offset, to;

        if (from >= offset)
            break;
        from = from > at ? from : at;
        to = range->end * VB_CHUNK_BYTES < offset ? range->end * VB_CHUNK_BYTES : offset;
        result = zero(zeroing->restoring, from, to);
        at = to;
    }
    zeroing->at = offset;
    return result;
}

static int zero_leaf(void *opaque, uint64_t index, const struct vb_node *leaf)
{
    struct zeroing *zeroing = opaque;
    uint64_t size = drive_size(zeroing->restoring);
    int result = 0;

    for (unsigned i = 0; i < VB_NODE_CHILDREN && result == 0; i++) {
        uint64_t offset = (index * VB_NODE_CHILDREN + i) * VB_CHUNK_BYTES;

        if (leaf->entry[i].state == VB_NODE_ZERO || offset >= size)
            continue;
        result = zero_up_to(zeroing, offset);
        zeroing->at = size - offset < VB_CHUNK_BYTES ? size : offset + VB_CHUNK_BYTES;
    }
    return result;
}

struct steps {
    struct restoring *restoring;
    int (*leaf)(void *opaque, uint64_t index, const struct vb_node *leaf);
    void *opaque;
};

static bool enter(void *opaque, const struct vb_id *id, unsigned level, uint64_t index)
{
    const struct steps *steps = opaque;
    uint64_t count = vb_tree_span(level) * VB_NODE_CHILDREN;

    (void)id;
    return is_wanted(steps->restoring, index * count, count);
}

static int step_on_leaf(void *opaque, uint64_t index, const struct vb_node *leaf)
{
    const struct steps *steps = opaque;

    return steps->leaf(steps->opaque, index, leaf);
}

static int walk(struct restoring *restoring,
                int (*leaf)(void *opaque, uint64_t index, const struct vb_node *leaf), void *opaque)
{
    const struct vb_manifest *manifest = &restoring->options->backup->manifest;
    struct steps steps = {.restoring = restoring, .leaf = leaf, .opaque = opaque};
    const struct vb_walk walk = {.leaf = step_on_leaf, .enter = enter, .opaque = &steps};

    return vb_tree_walk(restoring->reader, restoring->tree, &manifest->root, manifest->level, &walk,
                        restoring->error);
}

static int write_zeros(struct restoring *restoring)
{
    struct zeroing zeroing = {.restoring = restoring};
    int result;

    if (!restoring->options->target->zeros)
        return 0;
    result = walk(restoring, zero_leaf, &zeroing);
    return result ? result : zero_up_to(&zeroing, drive_size(restoring));
}

/* ------------------------------------------------------------------------------------------ */

static int prepare(struct restoring *restoring)
{
    struct vb_repo *repo = restoring->options->repo;
    size_t pieces;
    int result = vb_index_load(repo, VB_INDEX_TREE, NULL, NULL, &restoring->tree);

    if (result == 0)
        result = vb_index_load(repo, VB_INDEX_DATA, NULL, NULL, &restoring->data);
    if (result == 0)
        result = vb_reader_new(repo, &restoring->reader);
    if (result)
        return result;
    pieces = restoring->options->target->read ? 2 : 1;
    restoring->memory = aligned_alloc(ALIGNMENT, pieces * BUFFERS * VB_CHUNK_BYTES);
    if (!restoring->memory)
        return -ENOMEM;
    for (unsigned i = 0; i < BUFFERS; i++) {
        struct chunk_task *task = &restoring->task[i];

        task->buffer = restoring->memory + i * pieces * VB_CHUNK_BYTES;
        task->present = pieces == 2 ? task->buffer + VB_CHUNK_BYTES : NULL;
        task->next_free = restoring->free_task;
        restoring->free_task = task;
    }
    return vb_crew_start(restoring->options->threads, &crew_ops, restoring, &restoring->crew);
}

int vb_restore_allowed(const struct vb_repo *repo, struct vdisk_error *error)
{
    if (repo->keys->role == VB_ROLE_READ)
        return 0;
    return error_set(error, VDISK_E_WRONG_KEY,
                     "this key has the role %s and cannot read data: it takes one of role read",
                     vb_role_name(repo->keys->role));
}

int vb_restore(const struct vb_restore_options *options, struct vb_restore_result *out,
               struct vdisk_error *error)
{
    struct restoring *restoring;
    int result = vb_restore_allowed(options->repo, error);

    if (result)
        return result;
    restoring = calloc(1, sizeof(*restoring));
    if (!restoring)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    restoring->options = options;
    restoring->error = error;
    pthread_mutex_init(&restoring->mutex, NULL); /* cannot fail on Linux */
    result = prepare(restoring);
    if (result == 0)
        result = write_zeros(restoring);
    if (result == 0)
        result = walk(restoring, restore_leaf, restoring);
    while (result == 0 && restoring->under_way)
        result = wait_for_one(restoring);
    if (result == 0)
        *out = restoring->counts;
    else if (error->code != result)
        error_set(error, result, "%s", vdisk_strerror(result));
    vb_crew_close(restoring->crew);
    vb_reader_free(restoring->reader);
    vb_index_free(restoring->tree);
    vb_index_free(restoring->data);
    pthread_mutex_destroy(&restoring->mutex);
    free(restoring->memory);
    free(restoring);
    return result;
}
