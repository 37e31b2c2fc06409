/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing an image (SPEC.md 15). */
#include "open.h"

#include "bytes.h"
#include "checkpoint.h"
#include "clusters.h"
#include "data.h"
#include "error.h"
#include "journal.h"
#include "snapshot.h"
#include "tasks.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>

/* --- memory --- */

void vd_cache_limit(struct vdisk_image *image, size_t bytes)
{
    size_t own = image->base ? bytes / 2 : bytes;
    size_t nodes = own / 4 * 3;

    image->cache_bytes = bytes;
    if (nodes != image->cache.limit) {
        struct vd_cluster_cache *clusters = NULL;

        image->cache.limit = nodes;
        vd_cache_trim(image);
        if (image->clusters)
            clusters = vd_clusters_new(nodes / 3, vd_cluster_bytes(image));
        if (clusters) { /* without memory for it, the old one does */
            vd_clusters_free(image->clusters);
            image->clusters = clusters;
        }
    }
    if (image->base)
        vd_cache_limit(image->base, bytes - own);
}

void vdisk_set_cache(struct vdisk_image *image, size_t bytes)
{
    vd_cache_limit(image, bytes);
}

struct vdisk_image *vd_image_new(struct vdisk_io *io, struct vdisk_workers *workers,
                                 struct vdisk_image *above, size_t cache_bytes)
{
    struct vdisk_image *image = calloc(1, sizeof(*image));
    if (!image || (!above && vd_loop_init(&image->loop, io, workers))) {
        free(image);
        return NULL;
    }
    if (above) {
        vd_loop_init_view(&image->loop, &above->loop, io);
        image->depth = above->depth + 1;
    }
    image->slot_used = -1;
    vd_cache_limit(image, cache_bytes ? cache_bytes : VD_DEFAULT_CACHE_BYTES);
    image->master = vdisk_secret_alloc(sizeof(*image->master));
    image->volume_key = vdisk_secret_alloc(VD_KEY_BYTES);
    image->super = vdisk_secret_alloc(sizeof(*image->super));
    if (!image->master || !image->volume_key || !image->super) {
        image->loop.io = NULL;
        vd_image_free(image);
        return NULL;
    }
    memset(image->super, 0, sizeof(*image->super));
    return image;
}

void vd_image_free(struct vdisk_image *image)
{
    if (!image)
        return;
    vd_base_close(image);
    vd_tree_release(&image->map);
    vd_tree_release(&image->epochs);
    vd_tree_release(&image->snaps);
    vd_tree_release(&image->alloc.tree);
    vd_runs_release(&image->alloc.frees);
    vd_runs_release(&image->alloc.reserve);
    free(image->journal.pending);
    vd_keyring_release(image);
    vd_cipher_free(image->table_cipher);
    vd_codecs_release(image);
    vd_pool_release(&image->pool);
    vd_clusters_free(image->clusters);
    vdisk_secret_free(image->master);
    vdisk_secret_free(image->volume_key);
    vdisk_secret_free(image->super);
    struct vdisk_io *io = image->loop.io;
    vd_loop_release(&image->loop);
    if (io)
        io->ops->close(io);
    free(image);
}

/* --- the superblock --- */

static int open_slot(struct vdisk_image *image, uint64_t block, struct vd_superblock *super)
{
    uint8_t secret[VD_KEY_BYTES];
    uint8_t *bytes = vd_buffer_new(VD_BLOCK);
    if (!bytes)
        return -ENOMEM;
    int r = vd_io(&image->loop, VDISK_IO_READ, block * VD_BLOCK, bytes, VD_BLOCK);
    if (!r) {
        struct vd_seal_context context = {
            .image_id = image->header.image_id,
            .length = VD_SUPER_BODY,
            .kind = VD_SEAL_SUPERBLOCK,
        };
        vd_superblock_secret(image->master, image->header.image_id, bytes, secret);
        struct vd_cipher *cipher = vd_cipher_new(secret);
        sodium_memzero(secret, sizeof(secret));
        uint8_t *body = bytes + VD_SUPER_BODY_AT;
        r = cipher ? vd_open(cipher, &context, body, body, bytes + VD_SALT_BYTES) : -ENOMEM;
        vd_cipher_free(cipher);
        if (!r)
            r = vd_superblock_decode(super, body, &image->header, &image->error);
        sodium_memzero(bytes, VD_BLOCK);
    }
    free(bytes);
    return r;
}

static int load_superblock(struct vdisk_image *image)
{
    uint64_t slot_b = (UINT64_C(1) << image->header.journal_log2) + 2;
    struct vd_superblock *b = vdisk_secret_alloc(sizeof(*b));
    if (!b)
        return -ENOMEM;
    int ra = open_slot(image, 2, image->super);
    int rb = open_slot(image, slot_b, b);
    image->superblock_damaged = ra || rb || b->generation != image->super->generation;
    image->superblock_behind = !ra && !rb && b->generation != image->super->generation;
    image->superblock_b_first = !ra && (rb || b->generation < image->super->generation);
    if (!rb && (ra || b->generation > image->super->generation)) {
        *image->super = *b;
        ra = 0;
    }
    vdisk_secret_free(b);
    if (ra == VDISK_E_NOT_AUTHENTIC)
        return vd_image_corrupt(image, ra, "neither copy of the superblock is authentic");
    return ra;
}

/* --- setting up --- */

int vd_image_set_up(struct vdisk_image *image)
{
    const struct vd_superblock *s = image->super;
    vd_tree_init(&image->map, image, VD_TREE_MAP, s->height[VD_TREE_MAP], &s->root[VD_TREE_MAP]);
    vd_tree_init(&image->alloc.tree, image, VD_TREE_ALLOC, s->height[VD_TREE_ALLOC],
                 &s->root[VD_TREE_ALLOC]);
    vd_tree_init(&image->epochs, image, VD_TREE_EPOCHS, s->height[VD_TREE_EPOCHS],
                 &s->root[VD_TREE_EPOCHS]);
    vd_tree_init(&image->snaps, image, VD_TREE_SNAPS, s->height[VD_TREE_SNAPS],
                 &s->root[VD_TREE_SNAPS]);
    image->alloc.host_blocks = s->host_blocks;
    image->alloc.used_blocks = s->used_blocks;
    image->alloc.rover = vd_data_start(image);
    image->journal.ring_blocks = (1u << image->header.journal_log2) - 4;
    image->journal.seq = s->journal_seq;
    image->journal.pos = s->journal_pos;
    memcpy(image->journal.prev_tag, s->journal_prev_tag, VD_TAG_BYTES);
    image->stamp = s->last_stamp;
    image->size = s->size;
    image->clusters = vd_clusters_new(image->cache.limit / 3, vd_cluster_bytes(image));
    return image->clusters ? 0 : -ENOMEM;
}

int vd_image_load(struct vdisk_image *image, const struct vdisk_key *key, const uint8_t *volume_key,
                  const char *path, const char *base_path)
{
    int r = vd_header_open(image, key, volume_key);
    struct vdisk_io *io = image->loop.io;
    if (!r && image->header.split_bytes && io->ops->set_split)
        r = io->ops->set_split(io, image->header.split_bytes, image->header.part_set);
    if (!r)
        r = load_superblock(image);
    if (!r)
        r = vd_image_set_up(image);
    if (!r)
        r = vd_snapshot_resume(image);
    if (!r)
        r = vd_journal_recover(image);
    if (!r && !image->read_only)
        r = vd_reserve_adopt(image, image->super->reserve, image->super->reserve_count);
    if (!r && image->super->overlay == VD_OVERLAY_IMAGE)
        r = vd_base_open(image, path, base_path);
    if (!r && image->super->overlay == VD_OVERLAY_SOURCE)
        r = vd_source_open(image);
    else if (!r)
        image->source = NULL; /* it is not the image's to look at */
    return r;
}

struct opening {
    const char *path;
    const struct vdisk_open_options *options;
    const struct vdisk_key *key;
};

static int load_entry(struct vdisk_image *image, void *arg)
{
    const struct opening *o = arg;
    const struct vdisk_unlocked *unlocked = o->options->unlocked;
    int r = vd_image_load(image, o->key, unlocked ? unlocked->volume_key : NULL, o->path,
                          o->options->base_path);
    if (unlocked)
        image->slot_used = unlocked->slot;
    return r;
}

static int open_io(const struct vdisk_opener *opener, const char *path, bool read_only,
                   struct vdisk_io **io, struct vdisk_error *error)
{
    int flags = read_only ? VDISK_OPEN_READ_ONLY : 0;
    return opener ? opener->open(opener, path, flags, io, error)
                  : vdisk_io_plain_open(path, flags, io, error);
}

int vdisk_open(const char *path, const struct vdisk_open_options *options,
               const struct vdisk_key *key, struct vdisk_image **out, struct vdisk_error *error)
{
    struct vdisk_open_options defaults = {.struct_bytes = sizeof(defaults)};
    struct vdisk_io *io = options ? options->io : NULL;
    options = options ? options : &defaults;
    int r = 0;
    if (!io)
        r = open_io(options->opener, path, options->read_only, &io, error);
    if (r)
        return r;
    struct vdisk_image *image = vd_image_new(io, options->workers, NULL, options->cache_bytes);
    if (!image) {
        io->ops->close(io);
        return vd_fail(error, -ENOMEM, "out of memory");
    }
    image->read_only = options->read_only;
    image->opener = options->opener;
    image->source = options->source;
    image->without_source = options->without_source;
    struct opening opening = {path, options, key};
    r = vd_run(image, load_entry, &opening);
    if (r) {
        if (error) {
            *error = image->error;
            error->code = r;
        }
        vd_image_free(image);
        return r;
    }
    *out = image;
    return 0;
}

/* --- closing --- */

static int finish(struct vdisk_image *image, void *arg)
{
    (void)arg;
    if (image->read_only || image->failed)
        return image->failed ? VDISK_E_FAILED : 0;
    if (image->recovered || image->header_damaged || image->superblock_damaged) {
        int r = vd_begin_writing(image);
        if (r)
            return r;
    }
    if (image->header_damaged) {
        int r = vd_header_store(image);
        if (r)
            return r;
    }
    bool dirty = image->map.dirty_nodes || image->alloc.tree.dirty_nodes || image->journal.used ||
                 image->journal.pending_bytes || image->alloc.frees.count;
    return image->epoch_begun && dirty ? vd_checkpoint(image, NULL) : 0;
}

static void drain(struct vdisk_image *image)
{
    while (image->requests || image->loop.coroutines)
        (void)vdisk_poll(image, true);
}

int vdisk_close(struct vdisk_image *image, struct vdisk_error *error)
{
    if (!image)
        return 0;
    drain(image);
    int r = vd_run(image, finish, NULL);
    drain(image);
    if (r && error) {
        *error = image->error;
        error->code = r;
    }
    vd_image_free(image);
    return r;
}

void vdisk_abandon(struct vdisk_image *image)
{
    if (!image)
        return;
    drain(image);
    vd_image_free(image);
}

static int checkpoint_entry(struct vdisk_image *image, void *arg)
{
    (void)arg;
    return vd_checkpoint(image, NULL);
}

int vdisk_checkpoint(struct vdisk_image *image)
{
    return vd_run(image, checkpoint_entry, NULL);
}
