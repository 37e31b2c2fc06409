/* SPDX-License-Identifier: Apache-2.0 */
/* Making an image. */
#include "blank.h"
#include "bytes.h"
#include "checkpoint.h"
#include "error.h"
#include "open.h"
#include "snapshot.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <zstd.h>

struct creation {
    const char *path;
    const struct vdisk_create_options *options;
    const struct vdisk_key *key;
};

/* 1/128 of the drive, from 2 to 8 MiB: a larger journal has fewer checkpoints, but its space is
 * taken from the start. */
static uint32_t journal_log2(const struct vdisk_create_options *o)
{
    uint32_t log2 = VD_DEFAULT_JOURNAL_LOG2_MIN;
    uint64_t size = o->size     ? o->size
                    : o->source ? o->source->size
                                : VDISK_SIZE_MAX; /* the base's */
    if (o->journal_log2)
        return o->journal_log2;
    while (log2 < VD_DEFAULT_JOURNAL_LOG2_MAX && size / 128 >= (UINT64_C(2) << log2) * VD_BLOCK)
        log2++;
    return log2;
}

static int check_geometry(const struct vdisk_create_options *o, struct vdisk_error *error)
{
    uint64_t cluster = o->cluster_bytes ? o->cluster_bytes : VD_DEFAULT_CLUSTER_BYTES;
    uint32_t log2 = journal_log2(o);
    if (o->size == 0 && !o->base_path && !o->source)
        return vd_fail(error, -EINVAL, "the size of the drive must not be 0");
    if (o->size % 512)
        return vd_fail(error, -EINVAL, "the size of the drive must be a multiple of 512 bytes");
    if (o->size > VDISK_SIZE_MAX)
        return vd_fail(error, -EINVAL, "the drive can have at most 64 PiB");
    if ((cluster & (cluster - 1)) || cluster < (1u << VD_CLUSTER_LOG2_MIN) ||
        cluster > (1u << VD_CLUSTER_LOG2_MAX))
        return vd_fail(error, -EINVAL, "the cluster size must be 16K, 32K, ... or 1M");
    if (log2 < VD_JOURNAL_LOG2_MIN || log2 > VD_JOURNAL_LOG2_MAX)
        return vd_fail(error, -EINVAL, "the journal cannot have that size");
    if (o->split_bytes && (o->split_bytes % VD_SPLIT_UNIT || o->split_bytes < VD_SPLIT_MIN ||
                           o->split_bytes < ((UINT64_C(2) << log2) * VD_BLOCK)))
        return vd_fail(error, -EINVAL, "parts must be multiples of 1M, of at least 16M");
    if (o->base_path && strlen(o->base_path) > VDISK_PATH_MAX)
        return vd_fail(error, -ENAMETOOLONG, "the path of the base is too long");
    if (o->compress && (o->compress_level < -7 || o->compress_level > 19))
        return vd_fail(error, -EINVAL, "the compression level must be from -7 to 19");
    return 0;
}

static void fill_header(struct vdisk_image *image, const struct vdisk_create_options *o,
                        const struct vdisk_image *like)
{
    struct vd_header *h = &image->header;
    uint64_t cluster = o->cluster_bytes ? o->cluster_bytes : VD_DEFAULT_CLUSTER_BYTES;
    *h = (struct vd_header){
        .cluster_log2 = (uint8_t)__builtin_ctzll(cluster),
        .journal_log2 = (uint8_t)journal_log2(o),
        .split_bytes = o->split_bytes,
    };
    if (like)
        memcpy(h->image_id, like->header.image_id, VD_ID_BYTES);
    else
        randombytes_buf(h->image_id, VD_ID_BYTES);
    h->part_set = randombytes_random();
    randombytes_buf(image->volume_key, VD_KEY_BYTES);
    vd_key_commitment(image->volume_key, h->image_id, h->commitment);
}

/* Records the state that will be the base, which must be readable now. */
static int bind_base(struct vdisk_image *image, const struct creation *c)
{
    const struct vdisk_create_options *o = c->options;
    struct vd_superblock *super = image->super;
    struct vdisk_open_options open = {.struct_bytes = sizeof(open), .read_only = true};
    struct vdisk_image *base = NULL;
    struct vdisk_snapshot *snapshot = NULL;
    struct vdisk_error error = {0};
    int r = vdisk_open(o->base_path, &open, o->base_key, &base, &error);
    if (r)
        return vd_image_fail(image, r, "the base %.100s: %.380s", o->base_path, error.text);
    if (o->base_snapshot)
        r = vdisk_snapshot_open(base, o->base_snapshot, &snapshot);
    if (!r)
        r = vd_base_identity(base, snapshot, &super->base);
    if (r) {
        vd_image_fail(image, r, "the base %.100s: %.380s", o->base_path, base->error.text);
    } else {
        char *absolute = o->base_path[0] == '/' ? NULL : realpath(o->base_path, NULL);
        const char *path = absolute ? absolute : o->base_path;
        super->overlay = true;
        if (strlen(path) > VDISK_PATH_MAX)
            r = vd_image_fail(image, -ENAMETOOLONG, "the path of the base is too long");
        else
            memcpy(super->base.path, path, strlen(path) + 1);
        if (o->base_snapshot)
            memcpy(super->base.snapshot, o->base_snapshot, strlen(o->base_snapshot) + 1);
        free(absolute);
    }
    vdisk_snapshot_close(snapshot);
    vdisk_close(base, NULL);
    return r;
}

static void fill_superblock(struct vdisk_image *image, const struct vdisk_create_options *o,
                            int64_t now)
{
    struct vd_superblock *s = image->super;
    s->size = o->size ? o->size : s->base.size;
    s->height[VD_TREE_MAP] = vd_height_for(vd_div_up(s->size, VD_LEAF_BLOCKS * VD_BLOCK));
    s->codec = o->compress;
    s->level = o->compress ? (int8_t)o->compress_level : 0;
    if (o->compress && s->level == 0)
        s->level = VD_DEFAULT_LEVEL;
    s->next_snapshot_id = 1;
    s->created = now;
    s->journal_seq = 1;
    s->host_blocks = 0;
}

/* The blocks that are never handed out. */
static int count_fixed(struct vdisk_image *image)
{
    for (uint64_t block = 0; block < vd_data_start(image); block++) {
        int r = vd_alloc_hold(image, block, 1);
        if (r)
            return r;
        vd_alloc_use(image, block, 1);
    }
    return 0;
}

static int create_entry(struct vdisk_image *image, void *arg)
{
    const struct creation *c = arg;
    struct vdisk_io *io = image->loop.io;
    int64_t now = io->ops->now(io);
    fill_superblock(image, c->options, now);
    int r = vd_keyslot_wrap(&image->header.slot[0], c->key, image->header.image_id,
                            image->volume_key, (uint64_t)(now / 1000000000), &image->error);
    if (!r)
        r = vd_image_unlock(image);
    if (!r)
        r = vd_image_set_up(image);
    if (!r)
        r = count_fixed(image);
    if (!r) /* a flush must not fail for want of space in the ring */
        r = vd_blank_write(image, 0, vd_data_start(image));
    if (!r)
        r = vd_begin_writing(image);
    /* Last: until the header is there the file is no image. */
    if (!r)
        r = vd_header_store(image);
    if (!r && image->super->overlay == VD_OVERLAY_IMAGE)
        r = vd_base_open(image, c->path, NULL);
    return r;
}

int vdisk_create(const char *path, const struct vdisk_create_options *options,
                 const struct vdisk_key *key, struct vdisk_image **out, struct vdisk_error *error)
{
    return vd_create(path, options, key, NULL, out, error);
}

int vd_create(const char *path, const struct vdisk_create_options *options,
              const struct vdisk_key *key, const struct vdisk_image *like, struct vdisk_image **out,
              struct vdisk_error *error)
{
    struct vdisk_io *io = options->io;
    bool plain = !io;
    int r = check_geometry(options, error);
    if (!r && plain)
        r = vdisk_io_plain_open(path, VDISK_OPEN_CREATE, &io, error);
    if (r) {
        if (!plain)
            io->ops->close(io);
        return r;
    }
    struct vdisk_image *image = vd_image_new(io, options->workers, NULL, 0);
    if (!image) {
        if (plain)
            io->ops->remove(io);
        io->ops->close(io);
        return vd_fail(error, -ENOMEM, "out of memory");
    }
    struct creation creation = {path, options, key};
    fill_header(image, options, like);
    if (like && like->super->overlay) {
        image->super->overlay = true;
        image->super->base = like->super->base;
    } else if (options->base_path) {
        r = bind_base(image, &creation);
    } else if (options->source) {
        r = vd_source_bind(image, options->source);
    }
    if (!r && options->split_bytes && io->ops->set_split)
        r = io->ops->set_split(io, options->split_bytes, image->header.part_set);
    if (!r)
        r = vd_run(image, create_entry, &creation);
    if (r) {
        if (error) {
            *error = image->error;
            error->code = r;
        }
        if (plain)
            io->ops->remove(io);
        vd_image_free(image);
        return r;
    }
    image->slot_used = 0;
    *out = image;
    return 0;
}
