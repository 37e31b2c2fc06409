/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Restoring (SPEC.md B12); see backup_restore.h.
 *
 * The main thread walks the tree; the chunks of each leaf go to the threads, in the order in which
 * they are in the packs. A thread fetches, opens and verifies a chunk, and writes it where the
 * target takes that; else the main thread does.
 */
#include "backup_restore.h"

#include "crew.h"
#include "report.h"

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

static void work(void *opaque, void *state, struct vb_task *vb_task)
{
    struct chunk_task *task = (struct chunk_task *)vb_task;
    struct restoring *restoring = opaque;
    struct vb_target *target = restoring->options->target;
    struct vdisk_error error = {0};

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

static int take_back(struct restoring *restoring, struct chunk_task *task)
{
    struct vb_target *target = restoring->options->target;

    restoring->under_way--;
    if (task->result) {
        *restoring->error = restoring->task_error;
        return task->result;
    }
    if (!target->any_thread) {
        int result =
            target->write(target, task->offset, task->buffer, task->length, restoring->error);

        if (result)
            return result;
    }
    restoring->counts.chunks++;
    restoring->counts.bytes_data += task->length;
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

        if (entry->state == VB_NODE_ZERO)
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

static int zero_up_to(struct zeroing *zeroing, uint64_t offset)
{
    struct vb_target *target = zeroing->restoring->options->target;
    int result = 0;

    if (offset > zeroing->at)
        result =
            target->zeros(target, zeroing->at, offset - zeroing->at, zeroing->restoring->error);
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

static int walk(struct restoring *restoring,
                int (*leaf)(void *opaque, uint64_t index, const struct vb_node *leaf), void *opaque)
{
    const struct vb_manifest *manifest = &restoring->options->backup->manifest;
    const struct vb_walk walk = {.leaf = leaf, .opaque = opaque};

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
    int result = vb_index_load(repo, VB_INDEX_TREE, NULL, NULL, &restoring->tree);

    if (result == 0)
        result = vb_index_load(repo, VB_INDEX_DATA, NULL, NULL, &restoring->data);
    if (result == 0)
        result = vb_reader_new(repo, &restoring->reader);
    if (result)
        return result;
    restoring->memory = aligned_alloc(ALIGNMENT, (size_t)BUFFERS * VB_CHUNK_BYTES);
    if (!restoring->memory)
        return -ENOMEM;
    for (unsigned i = 0; i < BUFFERS; i++) {
        struct chunk_task *task = &restoring->task[i];

        task->buffer = restoring->memory + (size_t)i * VB_CHUNK_BYTES;
        task->next_free = restoring->free_task;
        restoring->free_task = task;
    }
    return vb_crew_start(restoring->options->threads, &crew_ops, restoring, &restoring->crew);
}

int vb_restore(const struct vb_restore_options *options, struct vb_restore_result *out,
               struct vdisk_error *error)
{
    struct restoring *restoring;
    int result;

    if (options->repo->keys->role != VB_ROLE_READ)
        return error_set(error, VDISK_E_WRONG_KEY,
                         "this key has the role %s and cannot read data: it takes one of role read",
                         vb_role_name(options->repo->keys->role));
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
