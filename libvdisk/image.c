/* SPDX-License-Identifier: Apache-2.0 */
/* Small things that every module of an open image uses. */
#include "image.h"

#include "bytes.h"
#include "clusters.h"
#include "error.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int vd_image_fail(struct vdisk_image *image, int code, const char *format, ...)
{
    char text[VDISK_ERROR_TEXT_BYTES];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    return vd_fail(&image->error, code, "%s", text);
}

int vd_image_corrupt(struct vdisk_image *image, int code, const char *format, ...)
{
    char text[VDISK_ERROR_TEXT_BYTES];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    return vd_corrupt(&image->error, code, "%s", text);
}

int vd_image_latch(struct vdisk_image *image, int code, const char *what)
{
    if (!image->failed)
        image->failed = code;
    return vd_image_fail(image, code, "%s: %s; what was flushed is safe, open the image again",
                         what, vdisk_strerror(code));
}

int vd_image_explain(struct vdisk_image *image, int code)
{
    if (code && image->error.code != code)
        vd_image_fail(image, code, "%s", vdisk_strerror(code));
    return code;
}

uint64_t vd_stamp_take(struct vdisk_image *image, uint64_t count)
{
    uint64_t first = image->stamp + 1;
    image->stamp += count;
    return first;
}

void *vd_buffer_new(size_t bytes)
{
    void *p;
    return posix_memalign(&p, VD_BLOCK, bytes ? bytes : VD_BLOCK) ? NULL : p;
}

struct run {
    struct vdisk_image *image;
    int (*entry)(struct vdisk_image *image, void *arg);
    void *arg;
    int result;
    bool done;
};

static void run_entry(void *arg)
{
    struct run *run = arg;
    run->result = run->entry(run->image, run->arg);
    run->done = true;
}

int vd_run(struct vdisk_image *image, int (*entry)(struct vdisk_image *image, void *arg), void *arg)
{
    if (image->loop.root->current)
        return vd_image_explain(image, entry(image, arg));
    struct run run = {.image = image, .entry = entry, .arg = arg};
    int r = vd_loop_spawn(&image->loop, run_entry, &run);
    if (r)
        return vd_image_fail(image, r, "out of memory");
    while (!run.done) {
        bool more = vd_loop_step(&image->loop, true);
        assert(more || run.done);
        (void)more;
    }
    return vd_image_explain(image, run.result);
}

int vdisk_spawn(struct vdisk_image *image, void (*entry)(void *opaque), void *opaque)
{
    return vd_loop_spawn(&image->loop, entry, opaque);
}

uint64_t vdisk_size(const struct vdisk_image *image)
{
    return image->size;
}

int vdisk_failed(const struct vdisk_image *image)
{
    return image->failed;
}

const struct vdisk_error *vdisk_last_error(const struct vdisk_image *image)
{
    return &image->error;
}

void vdisk_get_info(struct vdisk_image *image, struct vdisk_info *info)
{
    const struct vd_superblock *super = image->super;
    *info = (struct vdisk_info){
        .size = image->size,
        .cluster_bytes = vd_cluster_bytes(image),
        .split_bytes = image->header.split_bytes,
        .generation = super->generation,
        .used_bytes = image->alloc.used_blocks * VD_BLOCK,
        .epoch = super->epoch,
        .snapshots = super->snapshot_count,
        .compress = super->codec != 0,
        .compress_level = super->level,
        .read_only = image->read_only,
        .recovered = image->recovered,
        .header_damaged = image->header_damaged,
        .superblock_damaged = image->superblock_damaged,
        .has_base = super->overlay == VD_OVERLAY_IMAGE,
        .has_source = super->overlay == VD_OVERLAY_SOURCE,
    };
    memcpy(info->image_id, image->header.image_id, VD_ID_BYTES);
    memcpy(info->root_tag, super->root[VD_TREE_MAP].tag, VD_TAG_BYTES);
    if (image->loop.io->ops->size(image->loop.io, &info->file_bytes))
        info->file_bytes = 0;
    if (info->has_source) {
        memcpy(info->source_id, super->base.image_id, VD_ID_BYTES);
        memcpy(info->source_id + VD_ID_BYTES, super->base.root_tag, VD_TAG_BYTES);
        memcpy(info->source_name, super->base.path, sizeof(info->source_name));
    }
    if (info->has_base) {
        memcpy(info->base_id, super->base.image_id, VD_ID_BYTES);
        memcpy(info->base_path, super->base.path, sizeof(info->base_path));
        memcpy(info->base_snapshot, super->base.snapshot, sizeof(info->base_snapshot));
    }
}

void vdisk_get_figures(const struct vdisk_image *image, struct vdisk_figures *figures)
{
    *figures = (struct vdisk_figures){
        .journal_bytes = (uint64_t)image->journal.ring_blocks * VD_BLOCK,
        .journal_used_bytes = (uint64_t)image->journal.used * VD_BLOCK,
        .journal_records = image->journal.records,
        .journal_syncs = image->journal.syncs,
        .checkpoints = image->checkpoints_done,
    };
    for (; image; image = image->base) {
        figures->nodes.bytes += image->cache.bytes;
        figures->nodes.limit_bytes += image->cache.limit;
        figures->nodes.hits += image->cache.hits;
        figures->nodes.misses += image->cache.misses;
        figures->dirty_bytes += image->cache.dirty_bytes;
        vd_clusters_count(image->clusters, &figures->clusters);
    }
}
