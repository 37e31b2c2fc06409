/* SPDX-License-Identifier: Apache-2.0 */
/* An image in which nothing of its base or source shows any more becomes one of its own. */
#include "bytes.h"
#include "checkpoint.h"
#include "data.h"
#include "open.h"
#include "snapshot.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>

struct states {
    struct vd_snap *snap;
    size_t count, room;
};

static int collect(void *arg, struct vd_node *leaf, struct vd_snap *snap)
{
    struct states *states = arg;
    (void)leaf;
    if (snap->deleting) /* is never read */
        return 0;
    if (states->count == states->room) {
        size_t room = states->room ? states->room * 2 : 16;
        struct vd_snap *grown = realloc(states->snap, room * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        states->snap = grown;
        states->room = room;
    }
    states->snap[states->count++] = *snap;
    return 0;
}

static int check_state(struct vdisk_image *image, const struct vd_state *state, const char *name)
{
    uint64_t from, to;
    int r = vd_shown_next(state, 0, &from, &to);
    if (r || from == UINT64_MAX)
        return r;
    if (name)
        return vd_image_fail(image, VDISK_E_UNFILLED,
                             "the snapshot \"%s\" shows the base: delete it first", name);
    return vd_image_fail(image, VDISK_E_UNFILLED, "the image is not filled at offset %llu",
                         (unsigned long long)from * VD_BLOCK);
}

static int check_snapshot(struct vdisk_image *image, const struct vd_snap *snap)
{
    struct vdisk_snapshot *snapshot;
    int r = vd_snapshot_open_record(image, snap, &snapshot);
    if (r)
        return r;
    struct vd_state state = vd_snapshot_state(snapshot);
    r = check_state(image, &state, snap->name);
    vdisk_snapshot_close(snapshot);
    return r;
}

/* All states at once, so that none comes back in between: with `states` shared there is no
 * rollback, and a snapshot made later is of a live state that was looked at. */
static int check_all(struct vdisk_image *image)
{
    struct states states = {0};
    vd_lock_shared(&image->loop, &image->states);
    struct vd_state live = vd_live_state(image);
    int r = check_state(image, &live, NULL);
    if (!r)
        r = vd_snap_each(image, collect, &states);
    for (size_t i = 0; i < states.count && !r; i++)
        r = check_snapshot(image, &states.snap[i]);
    vd_unlock_shared(&image->loop, &image->states);
    free(states.snap);
    return r;
}

/* No reader is inside of the base now. */
static int apply_detach(struct vdisk_image *image, void *arg, bool *changed)
{
    (void)arg;
    *changed = true;
    image->super->overlay = VD_OVERLAY_NONE;
    sodium_memzero(&image->super->base, sizeof(image->super->base));
    image->source = NULL;
    vd_base_close(image);
    vd_cache_limit(image, image->cache_bytes);
    return 0;
}

static int detach_entry(struct vdisk_image *image, void *arg)
{
    struct vd_change change = {.apply = apply_detach, .states = true, .relief = true};
    struct vd_range range;
    (void)arg;
    vd_range_lock(&image->loop, &image->filling, &range, 0, UINT64_MAX, true);
    int r = image->super->overlay ? check_all(image) : 0;
    if (!r && image->super->overlay)
        r = vd_checkpoint(image, &change);
    vd_range_unlock(&image->loop, &image->filling, &range);
    return r;
}

int vdisk_detach(struct vdisk_image *image)
{
    if (image->read_only)
        return vd_image_fail(image, -EROFS, "the image is open read-only");
    return vd_run(image, detach_entry, NULL);
}
