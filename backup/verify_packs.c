/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every byte of the packs; see verify_impl.h.
 *
 * A pack whose bytes have its name is what was written. With a key of role read each of its records
 * is opened, too, so that also what a writer did wrong comes to light. Of a pack that has changed
 * the records are looked at one by one; without that key all of them count as bad.
 */
#include "verify_impl.h"

#include "crew.h"
#include "record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define THREADS_MAX 3u /* each has a pack in memory */
#define WAIT_MS     100u

struct pack_task {
    struct vb_task task; /* first */
    struct verify_side *side;
    size_t which;
    const struct vb_pack *pack;
    uint64_t stored;
    int result;     /* of reading it; VDISK_E_NOT_AUTHENTIC: it is not what its name says */
    uint32_t wrong; /* records */
};

struct lane {
    struct vb_reader *reader;
    uint8_t *bytes;
    size_t room;
};

static int begin(void *opaque, void **state)
{
    struct verifying *verifying = opaque;
    struct lane *lane = calloc(1, sizeof(*lane));
    int result = lane ? vb_reader_new(verifying->repo, &lane->reader) : -ENOMEM;

    if (result)
        free(lane);
    else
        *state = lane;
    return result;
}

static void end(void *opaque, void *state)
{
    struct lane *lane = state;

    (void)opaque;
    vb_reader_free(lane->reader);
    free(lane->bytes);
    free(lane);
}

/* The whole pack into the lane's memory. */
static int fetch(struct verifying *verifying, struct lane *lane, const struct pack_task *task)
{
    struct vb_store *store = verifying->repo->store;
    struct vb_id name;
    int result;

    if (task->stored > VB_PACK_MAX)
        return VDISK_E_MALFORMED;
    if (lane->room < task->stored) {
        free(lane->bytes);
        lane->bytes = malloc(task->stored);
        lane->room = lane->bytes ? task->stored : 0;
        if (!lane->bytes)
            return -ENOMEM;
    }
    result = store->ops->get(store, VB_PACKS, &task->pack->name, 0, lane->bytes, task->stored);
    if (result)
        return result;
    vb_object_name(lane->bytes, task->stored, &name);
    return vb_id_equal(&name, &task->pack->name) ? 0 : VDISK_E_NOT_AUTHENTIC;
}

static bool can_open(const struct verifying *verifying, const struct vb_entry *entry)
{
    return verifying->repo->keys->role == VB_ROLE_READ || entry->kind == VB_RECORD_NODE;
}

static void work(void *opaque, void *state, struct vb_task *vb_task)
{
    struct pack_task *task = (struct pack_task *)vb_task;
    struct verifying *verifying = opaque;
    struct verify_side *side = task->side;
    struct lane *lane = state;
    size_t first = vb_index_pack_first(side->index, task->which);

    task->result = fetch(verifying, lane, task);
    if (task->result == -ENOMEM)
        return;
    for (uint32_t i = 0; i < task->pack->entry_count; i++) {
        const uint8_t *data;
        struct vb_found found;
        size_t length;
        bool right;

        vb_index_entry(side->index, first + i, &found);
        if ((task->result && task->result != VDISK_E_NOT_AUTHENTIC) ||
            found.entry->offset + (uint64_t)found.entry->length > task->stored)
            right = false; /* it could not be read, or was cut off */
        else if (can_open(verifying, found.entry))
            right = vb_record_read_at(lane->reader, &found, lane->bytes + found.entry->offset,
                                      &data, &length) == 0;
        else
            right = task->result == 0;
        if (!right) {
            side->bad[first + i] = 1;
            task->wrong++;
        }
    }
}

static const struct vb_crew_ops crew_ops = {.begin = begin, .work = work, .end = end};

/* --- the main thread ---------------------------------------------------------------------- */

static int take_back(struct verifying *verifying, struct pack_task *task, uint64_t total)
{
    const struct vb_verify_options *options = verifying->options;
    char text[VB_NAME_TEXT_BYTES];

    if (task->result == -ENOMEM)
        return -ENOMEM;
    vb_id_text(text, &task->pack->name);
    verifying->counts.packs++;
    verifying->counts.bytes += task->stored;
    if (task->result == VDISK_E_NOT_AUTHENTIC)
        vb_verify_find(verifying, "packs/%.2s/%s: was changed; %u of %u records are lost", text,
                       text, task->wrong, task->pack->entry_count);
    else if (task->result)
        vb_verify_find(verifying, "packs/%.2s/%s: cannot be read: %s", text, text,
                       vdisk_strerror(task->result));
    else if (task->wrong)
        vb_verify_find(verifying, "packs/%.2s/%s: %u of %u records are not what they should be",
                       text, text, task->wrong, task->pack->entry_count);
    if (options->progress && !options->progress(options->opaque, verifying->counts.bytes, total))
        return -ECANCELED;
    return 0;
}

/* Those that are there. */
static size_t list_tasks(struct verify_side *side, struct pack_task *tasks, uint64_t *total)
{
    size_t count = 0;

    for (size_t i = 0; i < vb_index_packs(side->index); i++) {
        struct pack_task task = {.side = side, .which = i};

        task.pack = vb_index_pack(side->index, i, &task.stored);
        if (!task.stored)
            continue;
        if (tasks)
            tasks[count] = task;
        *total += task.stored;
        count++;
    }
    return count;
}

int vb_verify_packs(struct verifying *verifying)
{
    struct vb_crew *crew = NULL;
    struct pack_task *tasks;
    uint64_t total = 0, ignored = 0;
    size_t data = list_tasks(&verifying->data, NULL, &total);
    size_t count = data + list_tasks(&verifying->tree, NULL, &total);
    int result;

    tasks = calloc(count ? count : 1, sizeof(*tasks));
    if (!tasks)
        return -ENOMEM;
    list_tasks(&verifying->data, tasks, &ignored);
    list_tasks(&verifying->tree, tasks + data, &ignored);
    result = vb_crew_start(THREADS_MAX, &crew_ops, verifying, &crew);
    for (size_t i = 0; i < count && result == 0; i++)
        vb_crew_submit(crew, &tasks[i].task);
    while (count > 0 && result == 0) {
        struct vb_task *task = vb_crew_take(crew, WAIT_MS);

        if (task) {
            result = take_back(verifying, (struct pack_task *)task, total);
            count--;
        } else if (verifying->options->progress &&
                   !verifying->options->progress(verifying->options->opaque,
                                                 verifying->counts.bytes, total)) {
            result = -ECANCELED;
        }
    }
    vb_crew_close(crew);
    free(tasks);
    return result;
}
