/* SPDX-License-Identifier: Apache-2.0 */
/* Sharing computation out to the workers; see tasks.h. */
#include "tasks.h"

#include <errno.h>
#include <stdlib.h>

void vd_tasks_init(struct vd_tasks *tasks, struct vdisk_image *image)
{
    *tasks = (struct vd_tasks){.image = image};
    vd_group_init(&tasks->group, &image->loop);
}

static void run_job(struct vdisk_job *job)
{
    struct vd_task *task = (struct vd_task *)job;
    task->work(task);
}

static void finish(struct vd_tasks *tasks, struct vd_task *task)
{
    if (task->cipher)
        vd_keys_give(task->keys, task->cipher);
    vd_codec_give(tasks->image, task->codec);
    if (!tasks->result)
        tasks->result = task->result;
}

/* What the slice needs; -ENOMEM. */
static int equip(struct vd_tasks *tasks, struct vd_task *task, bool codec)
{
    if (task->keys && !(task->cipher = vd_keys_take(task->keys)))
        return -ENOMEM;
    if (codec && !(task->codec = vd_codec_take(tasks->image)))
        return -ENOMEM;
    return 0;
}

void vd_tasks_add(struct vd_tasks *tasks, unsigned from, unsigned to, unsigned grain, void *arg,
                  struct vd_epoch_keys *keys, bool codec, void (*work)(struct vd_task *task))
{
    struct vdisk_workers *workers = tasks->image->loop.workers;
    unsigned slices = workers ? workers->ops->count(workers) : 1;
    unsigned possible = (to - from + grain - 1) / grain;
    slices = slices < possible ? slices : possible;
    for (unsigned i = 0; i < slices; i++) {
        struct vd_task slice = {
            .from = from + (unsigned)((uint64_t)(to - from) * i / slices),
            .to = from + (unsigned)((uint64_t)(to - from) * (i + 1) / slices),
            .arg = arg,
            .keys = keys,
            .work = work,
        };
        struct vd_task *task = workers && to - from > grain / 2 ? malloc(sizeof(*task)) : NULL;
        struct vd_task *made = task ? task : &slice;
        if (task)
            *task = slice;
        made->result = equip(tasks, made, codec);
        if (made->result || !task) { /* too small to send away, or no memory to */
            if (!made->result)
                work(made);
            finish(tasks, made);
            free(task);
            continue;
        }
        task->next = tasks->list;
        tasks->list = task;
        task->job.job.run = run_job;
        vd_group_job(&tasks->group, &task->job);
    }
}

int vd_tasks_wait(struct vd_tasks *tasks)
{
    (void)vd_group_wait(&tasks->group);
    while (tasks->list) {
        struct vd_task *task = tasks->list;
        tasks->list = task->next;
        finish(tasks, task);
        free(task);
    }
    return tasks->result;
}
