/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an image that is being filled is filled from (SPEC.md 17): a source outside of the library,
 * whose functions may wait and are called on the workers.
 */
#include "bytes.h"
#include "data.h"
#include "open.h"

#include <errno.h>

int vd_source_bind(struct vdisk_image *image, struct vdisk_source *source)
{
    struct vd_base_binding *binding = &image->super->base;
    size_t name_bytes = strlen(source->name);
    if (source->size < 512 || source->size > VDISK_SIZE_MAX || name_bytes == 0)
        return vd_image_fail(image, -EINVAL, "the source is of no use");
    if (name_bytes > VDISK_PATH_MAX)
        return vd_image_fail(image, -ENAMETOOLONG, "the name of the source is too long");
    image->source = source;
    image->super->overlay = VD_OVERLAY_SOURCE;
    memcpy(binding->image_id, source->id, VD_ID_BYTES);
    memcpy(binding->root_tag, source->id + VD_ID_BYTES, VD_TAG_BYTES);
    binding->size = vd_div_up(source->size, 512) * 512;
    memcpy(binding->path, source->name, name_bytes + 1);
    return 0;
}

int vd_source_open(struct vdisk_image *image)
{
    const struct vd_base_binding *want = &image->super->base;
    const struct vdisk_source *source = image->source;
    if (!source && image->without_source)
        return 0;
    if (!source)
        return vd_image_fail(image, VDISK_E_UNFILLED,
                             "it is not yet filled from %s: serve or run that again with this "
                             "image, until it is",
                             want->path);
    if (memcmp(want->image_id, source->id, VD_ID_BYTES) != 0 ||
        memcmp(want->root_tag, source->id + VD_ID_BYTES, VD_TAG_BYTES) != 0 ||
        want->size != vd_div_up(source->size, 512) * 512)
        return vd_image_fail(image, VDISK_E_BASE_CHANGED,
                             "it was begun from %s, which is not what %s is", want->path,
                             source->name);
    return 0;
}

/* --- asking it --- */

struct question {
    struct vd_group_job job;
    struct vdisk_source *source;
    uint64_t offset, length; /* length 0: what is next */
    uint8_t *data;
    int result;
    uint64_t start, found;
    struct vdisk_error error;
};

static void answer(struct vdisk_job *job)
{
    struct question *q = (struct question *)job;
    struct vdisk_source *source = q->source;
    q->result = q->length ? source->read(source, q->offset, q->data, q->length, &q->error)
                          : source->next(source, q->offset, &q->start, &q->found, &q->error);
}

static int ask(struct vdisk_image *image, struct question *q)
{
    struct vd_group group;
    vd_group_init(&group, &image->loop);
    q->source = image->source;
    q->job.job.run = answer;
    q->job.job.blocks = true;
    vd_group_job(&group, &q->job);
    (void)vd_group_wait(&group);
    if (q->result)
        vd_image_fail(image, q->result, "its source %.200s: %.280s", image->super->base.path,
                      q->error.text[0] ? q->error.text : vdisk_strerror(q->result));
    return q->result;
}

static int missing(struct vdisk_image *image)
{
    return vd_image_fail(image, VDISK_E_UNFILLED, "that part is not yet filled from %s",
                         image->super->base.path);
}

int vd_read_source(struct vdisk_image *image, uint64_t first, uint32_t count, uint8_t *out)
{
    uint64_t from = first * VD_BLOCK, length = (uint64_t)count * VD_BLOCK, there = 0;
    if (!image->source)
        return missing(image);
    if (from < image->source->size)
        there = vd_min64(length, image->source->size - from);
    memset(out + there, 0, length - there);
    struct question q = {.offset = from, .length = there, .data = out};
    return there ? ask(image, &q) : 0;
}

int vd_source_next(struct vdisk_image *image, uint64_t first, uint64_t *from, uint64_t *to)
{
    struct question q = {.offset = first * VD_BLOCK};
    *from = *to = UINT64_MAX;
    if (!image->source)
        return missing(image);
    if (q.offset >= image->source->size)
        return 0;
    int r = ask(image, &q);
    if (r || q.found == 0)
        return r;
    if (q.start < q.offset || q.found > image->source->size ||
        q.start > image->source->size - q.found)
        return vd_image_fail(image, -EIO, "its source %.200s answers what was not asked",
                             image->super->base.path);
    *from = q.start / VD_BLOCK;
    *to = vd_div_up(q.start + q.found, VD_BLOCK);
    return 0;
}
