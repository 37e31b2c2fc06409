/* SPDX-License-Identifier: Apache-2.0 */
/* Overlays (SPEC.md 17): the base, opened read-only on the overlay's loop. */
#include "bytes.h"
#include "data.h"
#include "open.h"
#include "snapshot.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>

int vd_base_identity(struct vdisk_image *base, struct vdisk_snapshot *snapshot,
                     struct vd_base_binding *binding)
{
    struct vd_tree *map = snapshot ? &snapshot->map : &base->map;
    if (map->root && map->root->dirty)
        return vd_image_fail(base, VDISK_E_BASE_CHANGED,
                             "the base was not closed cleanly; open it once for writing");
    const struct vd_ref *root = vd_tree_root_ref(map);
    memcpy(binding->image_id, base->header.image_id, VD_ID_BYTES);
    memcpy(binding->root_tag, root->tag, VD_TAG_BYTES);
    binding->size = snapshot ? snapshot->snap.size : base->super->size;
    memcpy(binding->volume_key, base->volume_key, VD_KEY_BYTES);
    return 0;
}

static int join_path(const char *overlay, const char *base, char *out, size_t room)
{
    const char *slash = base[0] == '/' || !overlay ? NULL : strrchr(overlay, '/');
    int n = slash ? snprintf(out, room, "%.*s/%s", (int)(slash - overlay), overlay, base)
                  : snprintf(out, room, "%s", base);
    return n < 0 || (size_t)n >= room ? -ENAMETOOLONG : 0;
}

static int same_identity(struct vdisk_image *image)
{
    const struct vd_base_binding *want = &image->super->base;
    struct vd_base_binding *have = vdisk_secret_alloc(sizeof(*have));
    if (!have)
        return -ENOMEM;
    int r = vd_base_identity(image->base, image->base_snapshot, have);
    if (r)
        image->error = image->base->error;
    else if (memcmp(have->image_id, want->image_id, VD_ID_BYTES) != 0)
        r = vd_image_fail(image, VDISK_E_BASE_CHANGED, "%s is another image than its base",
                          want->path);
    else if (memcmp(have->root_tag, want->root_tag, VD_TAG_BYTES) != 0 || have->size != want->size)
        r = vd_image_fail(image, VDISK_E_BASE_CHANGED,
                          "its base %s was changed since the overlay was made", want->path);
    vdisk_secret_free(have);
    return r;
}

int vd_base_open(struct vdisk_image *image, const char *overlay_path, const char *base_path)
{
    const struct vd_base_binding *want = &image->super->base;
    size_t room = VDISK_PATH_MAX + (overlay_path ? strlen(overlay_path) : 0) + 2;
    char *path = malloc(room);
    struct vdisk_io *io;
    int r = path ? join_path(base_path ? NULL : overlay_path, base_path ? base_path : want->path,
                             path, room)
                 : -ENOMEM;
    if (!r && image->depth + 1 >= VD_BASE_DEPTH_MAX)
        r = vd_image_fail(image, VDISK_E_LIMIT, "the chain of base images is too long");
    if (!r) {
        struct vdisk_error error = {0};
        const struct vdisk_opener *opener = image->opener;
        r = opener ? opener->open(opener, path, VDISK_OPEN_READ_ONLY, &io, &error)
                   : vdisk_io_plain_open(path, VDISK_OPEN_READ_ONLY, &io, &error);
        if (r)
            vd_image_fail(image, r, "its base %s: %.400s", want->path, error.text);
    }
    if (r)
        goto out;
    struct vdisk_image *base = vd_image_new(io, image->loop.workers, image, image->cache_bytes);
    if (!base) {
        io->ops->close(io);
        r = -ENOMEM;
        goto out;
    }
    base->read_only = true;
    base->opener = image->opener;
    image->base = base;
    vd_cache_limit(image, image->cache_bytes);
    r = vd_image_load(base, NULL, want->volume_key, path, NULL);
    if (!r && want->snapshot[0])
        r = vd_snapshot_open(base, want->snapshot, &image->base_snapshot);
    if (r)
        vd_image_fail(image, r == VDISK_E_NOT_FOUND ? VDISK_E_BASE_CHANGED : r,
                      "its base %s: %.400s", want->path, base->error.text);
    else
        r = same_identity(image);
out:
    free(path);
    return r == VDISK_E_NOT_FOUND ? VDISK_E_BASE_CHANGED : r;
}

void vd_base_close(struct vdisk_image *image)
{
    vdisk_snapshot_close(image->base_snapshot);
    vd_image_free(image->base);
    image->base_snapshot = NULL;
    image->base = NULL;
}

int vd_read_base(struct vdisk_image *image, uint64_t first, uint32_t count, uint8_t *out)
{
    if (image->super->overlay == VD_OVERLAY_SOURCE)
        return vd_read_source(image, first, count, out);
    struct vd_state state =
        image->base_snapshot ? vd_snapshot_state(image->base_snapshot) : vd_live_state(image->base);
    /* The base is read-only: nothing to lock. */
    int r = vd_read_blocks(&state, first, count, out);
    if (r)
        vd_image_fail(image, r, "its base %s: %.400s", image->super->base.path,
                      image->base->error.text);
    return r;
}
