/* SPDX-License-Identifier: Apache-2.0 */
/* Creating, finding, opening and rolling back to snapshots (SPEC.md 13); reap.c deletes them. */
#include "snapshot.h"

#include "bytes.h"
#include "checkpoint.h"
#include "journal.h"

#include <errno.h>
#include <stdlib.h>

/* --- records --- */

int vd_snap_find_id(struct vdisk_image *image, uint64_t id, struct vd_node **leaf,
                    struct vd_snap **snap)
{
    int r = vd_tree_get(&image->snaps, 0, id / VD_SNAPS, false, leaf, NULL);
    if (r)
        return r;
    *snap = *leaf ? (*leaf)->snaps.snap[id % VD_SNAPS] : NULL;
    if (*snap)
        return 0;
    vd_node_unpin(*leaf);
    *leaf = NULL;
    return vd_image_fail(image, VDISK_E_NOT_FOUND, "snapshot %llu is not there",
                         (unsigned long long)id);
}

int vd_snap_each(struct vdisk_image *image,
                 int (*each)(void *arg, struct vd_node *leaf, struct vd_snap *snap), void *arg)
{
    uint64_t index = 0;
    bool found;
    for (;; index++) {
        struct vd_node *leaf = NULL;
        int r = vd_tree_next(&image->snaps, &index, &found);
        if (r || !found)
            return r;
        r = vd_tree_get(&image->snaps, 0, index, false, &leaf, NULL);
        for (unsigned i = 0; !r && leaf && i < VD_SNAPS; i++) {
            struct vd_snap *snap = leaf->snaps.snap[i];
            if (!snap)
                continue;
            if (snap->id >= image->super->next_snapshot_id)
                r = vd_image_corrupt(image, VDISK_E_MALFORMED, "a snapshot has an unknown id");
            else
                r = each(arg, leaf, snap);
        }
        vd_node_unpin(leaf);
        if (r)
            return r;
    }
}

struct by_name {
    const char *name;
    struct vd_snap *copy;
};

static int match_name(void *arg, struct vd_node *leaf, struct vd_snap *snap)
{
    struct by_name *by = arg;
    (void)leaf;
    if (snap->deleting || strcmp(snap->name, by->name) != 0)
        return 0;
    *by->copy = *snap;
    return 1;
}

static int find_name(struct vdisk_image *image, const char *name, struct vd_snap *copy)
{
    struct by_name by = {name, copy};
    int r = vd_snap_each(image, match_name, &by);
    if (r == 1)
        return 0;
    return r ? r : vd_image_fail(image, VDISK_E_NOT_FOUND, "there is no snapshot \"%.255s\"", name);
}

/* Adds a record that descends from the live state's parent; the live state then descends from it.
 */
static int add_record(struct vdisk_image *image, const char *name, bool *changed,
                      struct vd_snap **out)
{
    struct vd_superblock *super = image->super;
    struct vd_node *leaf = NULL;
    uint64_t id = super->next_snapshot_id;
    if (id > VD_SNAPSHOT_ID_MAX)
        return vd_image_fail(image, VDISK_E_LIMIT, "there were too many snapshots");
    struct vd_snap *snap = calloc(1, sizeof(*snap));
    int r = snap ? vd_tree_grow(&image->snaps, vd_height_for(id / VD_SNAPS + 1)) : -ENOMEM;
    if (!r)
        r = vd_tree_get(&image->snaps, 0, id / VD_SNAPS, true, &leaf, NULL);
    if (r) {
        free(snap);
        return r;
    }
    if (leaf->snaps.snap[id % VD_SNAPS]) {
        vd_node_unpin(leaf);
        free(snap);
        return vd_image_corrupt(image, VDISK_E_MALFORMED, "a snapshot has an unknown id");
    }
    *changed = true;
    /* The last one taken: in an epoch that begins with this change there is none yet. */
    if (image->stamp == (uint64_t)super->epoch << VD_STAMP_COUNTER)
        (void)vd_stamp_take(image, 1);
    *snap = (struct vd_snap){
        .id = id,
        .parent = super->parent,
        .stamp = image->stamp,
        .size = super->size,
        .created = image->clock ? image->clock : image->loop.io->ops->now(image->loop.io),
        .root = *vd_tree_root_ref(&image->map),
        .height = image->map.height,
        .name_bytes = (uint8_t)strlen(name),
    };
    memcpy(snap->name, name, strlen(name) + 1);
    leaf->snaps.snap[id % VD_SNAPS] = snap;
    vd_node_dirty(leaf);
    vd_node_unpin(leaf);
    super->parent = id;
    super->parent_stamp = snap->stamp;
    super->next_snapshot_id++;
    *out = snap;
    return 0;
}

/* --- create --- */

static int apply_create(struct vdisk_image *image, void *arg, bool *changed)
{
    const char *name = arg;
    if (image->super->overlay == VD_OVERLAY_SOURCE)
        return vd_image_fail(
            image, VDISK_E_UNFILLED,
            "the image is not yet filled from %s: there can be snapshots when it is",
            image->super->base.path);
    struct vd_snap *existing = malloc(sizeof(*existing));
    int r = existing ? find_name(image, name, existing) : -ENOMEM;
    free(existing);
    if (r == 0)
        return vd_image_fail(image, VDISK_E_EXISTS, "there is a snapshot \"%s\" already", name);
    if (r != VDISK_E_NOT_FOUND)
        return r;
    struct vd_snap *snap;
    r = add_record(image, name, changed, &snap);
    if (!r)
        image->super->snapshot_count++;
    return r;
}

static int create_entry(struct vdisk_image *image, void *arg)
{
    struct vd_change change = {.apply = apply_create, .arg = arg, .reserve_blocks = 16};
    return vd_checkpoint(image, &change);
}

static int check_name(struct vdisk_image *image, const char *name)
{
    if (vd_snap_name_valid(name, strlen(name)))
        return 0;
    return vd_image_fail(image, -EINVAL,
                         "a snapshot's name is 1 to 255 bytes of UTF-8 without control "
                         "characters, '/' and '@'");
}

int vdisk_snapshot_create(struct vdisk_image *image, const char *name)
{
    int r = check_name(image, name);
    return r ? r : vd_run(image, create_entry, (void *)(uintptr_t)name);
}

/* --- rollback --- */

static int apply_rollback(struct vdisk_image *image, void *arg, bool *changed)
{
    struct vd_superblock *super = image->super;
    struct vd_snap *old = NULL, *target = malloc(sizeof(*target));
    int r = target ? find_name(image, arg, target) : -ENOMEM;
    if (!r)
        r = add_record(image, "", changed, &old);
    if (!r && old) {
        old->deleting = true;
        vd_tree_release(&image->map);
        vd_tree_init(&image->map, image, VD_TREE_MAP, target->height, &target->root);
        super->size = target->size;
        super->parent = target->id;
        super->parent_stamp = target->stamp;
    }
    free(target);
    return r;
}

static int rollback_entry(struct vdisk_image *image, void *arg)
{
    struct vd_change change = {
        .apply = apply_rollback, .arg = arg, .states = true, .relief = true, .reserve_blocks = 16};
    struct vd_range range; /* what is being filled is a hole of this live state */
    vd_range_lock(&image->loop, &image->filling, &range, 0, UINT64_MAX, true);
    int r = vd_checkpoint(image, &change);
    vd_range_unlock(&image->loop, &image->filling, &range);
    if (r)
        return r;
    image->size = image->super->size;
    return vd_snapshot_reap(image);
}

int vdisk_snapshot_rollback(struct vdisk_image *image, const char *name)
{
    return vd_run(image, rollback_entry, (void *)(uintptr_t)name);
}

/* --- delete --- */

static int apply_mark(struct vdisk_image *image, void *arg, bool *changed)
{
    struct vd_node *leaf = NULL;
    struct vd_snap *snap = NULL, *copy = malloc(sizeof(*copy));
    int r = copy ? find_name(image, arg, copy) : -ENOMEM;
    for (struct vdisk_snapshot *s = image->snapshots; !r && s; s = s->next) {
        if (s->snap.id == copy->id)
            r = vd_image_fail(image, VDISK_E_IN_USE, "the snapshot \"%s\" is being read",
                              copy->name);
    }
    if (!r)
        r = vd_snap_find_id(image, copy->id, &leaf, &snap);
    if (!r && snap) {
        *changed = true;
        snap->deleting = true;
        snap->name_bytes = 0;
        memset(snap->name, 0, sizeof(snap->name));
        image->super->snapshot_count--;
        vd_node_dirty(leaf);
    }
    vd_node_unpin(leaf);
    free(copy);
    return r;
}

/* Marked, and begun with, in one checkpoint. */
static int apply_delete(struct vdisk_image *image, void *arg, bool *changed)
{
    bool more;
    int r = apply_mark(image, arg, changed);
    return r ? r : vd_snapshot_reap_step(image, &more);
}

static int delete_entry(struct vdisk_image *image, void *arg)
{
    struct vd_change change = {.apply = apply_delete,
                               .arg = arg,
                               .states = true,
                               .relief = true,
                               .reserve_blocks = vd_reserve_relief(image)};
    int r = vd_checkpoint(image, &change);
    return r ? r : vd_snapshot_reap(image);
}

int vdisk_snapshot_delete(struct vdisk_image *image, const char *name)
{
    return vd_run(image, delete_entry, (void *)(uintptr_t)name);
}

/* --- list, open --- */

static void fill_info(struct vdisk_snapshot_info *info, const struct vd_snap *snap)
{
    *info = (struct vdisk_snapshot_info){
        .id = snap->id,
        .parent = snap->parent,
        .size = snap->size,
        .created = snap->created,
    };
    memcpy(info->root_tag, snap->root.tag, VD_TAG_BYTES);
    memcpy(info->name, snap->name, sizeof(info->name));
}

struct listing {
    bool (*each)(void *opaque, const struct vdisk_snapshot_info *info);
    void *opaque;
};

static int list_one(void *arg, struct vd_node *leaf, struct vd_snap *snap)
{
    struct listing *listing = arg;
    struct vdisk_snapshot_info info;
    (void)leaf;
    if (snap->deleting)
        return 0;
    fill_info(&info, snap);
    return listing->each(listing->opaque, &info) ? 0 : 1;
}

static int list_entry(struct vdisk_image *image, void *arg)
{
    int r = vd_snap_each(image, list_one, arg);
    return r == 1 ? 0 : r;
}

int vdisk_snapshot_list(struct vdisk_image *image,
                        bool (*each)(void *opaque, const struct vdisk_snapshot_info *info),
                        void *opaque)
{
    struct listing listing = {each, opaque};
    return vd_run(image, list_entry, &listing);
}

int vd_snapshot_open_record(struct vdisk_image *image, const struct vd_snap *snap,
                            struct vdisk_snapshot **out)
{
    struct vdisk_snapshot *snapshot = calloc(1, sizeof(*snapshot));
    if (!snapshot)
        return -ENOMEM;
    snapshot->image = image;
    snapshot->snap = *snap;
    vd_tree_init(&snapshot->map, image, VD_TREE_MAP, snap->height, &snap->root);
    snapshot->next = image->snapshots;
    image->snapshots = snapshot;
    *out = snapshot;
    return 0;
}

int vd_snapshot_open(struct vdisk_image *image, const char *name, struct vdisk_snapshot **out)
{
    /* The nodes of one that is being made may not be on disk yet. */
    while (image->checkpoint_running)
        vd_wait(&image->loop, &image->checkpoint_waiters);
    struct vd_snap *snap = calloc(1, sizeof(*snap));
    int r = snap ? find_name(image, name, snap) : -ENOMEM;
    if (!r)
        r = vd_snapshot_open_record(image, snap, out);
    free(snap);
    return r;
}

struct open_args {
    const char *name;
    struct vdisk_snapshot **out;
};

static int open_entry(struct vdisk_image *image, void *arg)
{
    const struct open_args *args = arg;
    return vd_snapshot_open(image, args->name, args->out);
}

int vdisk_snapshot_open(struct vdisk_image *image, const char *name, struct vdisk_snapshot **out)
{
    struct open_args args = {name, out};
    return vd_run(image, open_entry, &args);
}

void vdisk_snapshot_close(struct vdisk_snapshot *snapshot)
{
    if (!snapshot)
        return;
    struct vdisk_snapshot **p = &snapshot->image->snapshots;
    while (*p != snapshot)
        p = &(*p)->next;
    *p = snapshot->next;
    vd_tree_release(&snapshot->map);
    free(snapshot);
}

void vdisk_snapshot_get_info(const struct vdisk_snapshot *snapshot,
                             struct vdisk_snapshot_info *info)
{
    fill_info(info, &snapshot->snap);
}
