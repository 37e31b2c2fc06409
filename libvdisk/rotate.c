/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Re-encryption to a new volume key: a copy under the new key, state by state along the line of
 * descent, so that what snapshots share stays shared; then a rename. The old image is whole until
 * the new one is durable, so there is nothing to recover after an interruption.
 */
#include "bytes.h"
#include "error.h"
#include "open.h"
#include "snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define COPY_BYTES (4u << 20)

struct rotation {
    struct vdisk_image *from, *to;
    uint64_t done, total; /* bytes */
    vdisk_progress *progress;
    void *opaque;
    uint8_t *buffer;
    struct vd_snap *snap; /* all that are not marked, by id */
    size_t snaps, room;
    struct vdisk_snapshot *source; /* of the copy that runs; NULL: the live state */
    int result;
};

/* --- copying --- */

static int copy_data(struct rotation *rot, uint64_t offset, uint64_t length)
{
    while (length) {
        uint64_t n = vd_min64(length, COPY_BYTES);
        int r = rot->source ? vdisk_snapshot_read(rot->source, offset, rot->buffer, n)
                            : vdisk_read(rot->from, offset, rot->buffer, n);
        if (r) {
            rot->to->error = rot->from->error;
            return r;
        }
        r = vdisk_write(rot->to, offset, rot->buffer, n);
        if (r)
            return r;
        offset += n;
        length -= n;
        rot->done += n;
        if (rot->progress &&
            !rot->progress(rot->opaque, vd_min64(rot->done, rot->total), rot->total))
            return vd_image_fail(rot->to, -ECANCELED, "cancelled");
    }
    return 0;
}

static bool copy_extent(void *opaque, const struct vdisk_extent *extent)
{
    struct rotation *rot = opaque;
    uint64_t size = rot->source ? rot->source->snap.size : rot->from->size;
    uint64_t end = vd_min64(extent->offset + extent->length, size);
    if (extent->offset >= end)
        return true;
    uint64_t length = end - extent->offset;
    if (extent->kind == VDISK_EXTENT_HOLE)
        rot->result =
            rot->from->super->overlay ? 0 : vdisk_discard(rot->to, extent->offset, length);
    else if (extent->kind == VDISK_EXTENT_ZERO)
        rot->result = vdisk_zero(rot->to, extent->offset, length);
    else
        rot->result = copy_data(rot, extent->offset, length);
    return rot->result == 0;
}

/* Makes the live state of `to`, which is that of `parent`, into `source`. */
static int copy_state(struct rotation *rot, struct vdisk_snapshot *parent,
                      struct vdisk_snapshot *source)
{
    uint64_t size = source ? source->snap.size : rot->from->size;
    rot->source = source;
    rot->result = 0;
    int r = vdisk_resize(rot->to, size, true);
    if (!r && parent)
        r = vdisk_diff(rot->from, parent, source, copy_extent, rot);
    else if (!r)
        r = vdisk_map(rot->from, source, 0, size, false, copy_extent, rot);
    return r ? r : rot->result;
}

static const struct vd_snap *find_snap(const struct rotation *rot, uint64_t id)
{
    for (size_t i = 0; i < rot->snaps; i++) {
        if (rot->snap[i].id == id)
            return &rot->snap[i];
    }
    return NULL;
}

/* The nearest ancestor that is not marked for deletion, or NULL. */
static const struct vd_snap *ancestor(const struct rotation *rot, uint64_t id)
{
    const struct vd_snap *snap = id ? find_snap(rot, id) : NULL;
    while (snap && snap->deleting)
        snap = snap->parent ? find_snap(rot, snap->parent) : NULL;
    return snap;
}

#define ORIGIN "vdisk.rotate.origin" /* the empty state, where several states descend from it */

static unsigned count_roots(const struct rotation *rot)
{
    unsigned roots = ancestor(rot, rot->from->super->parent) == NULL;
    for (size_t i = 0; i < rot->snaps; i++)
        roots += !rot->snap[i].deleting && !ancestor(rot, rot->snap[i].parent);
    return roots;
}

/* Brings `to` to the copy of `parent`, then to that of `snap` (NULL: the live state). */
static int copy_line(struct rotation *rot, const struct vd_snap *parent, const struct vd_snap *snap,
                     const struct vd_snap **at)
{
    struct vdisk_snapshot *old = NULL, *source = NULL;
    int r = 0;
    if (parent != *at)
        r = vdisk_snapshot_rollback(rot->to, parent ? parent->name : ORIGIN);
    if (!r && parent)
        r = vdisk_snapshot_open(rot->from, parent->name, &old);
    if (!r && snap)
        r = vdisk_snapshot_open(rot->from, snap->name, &source);
    if (!r)
        r = copy_state(rot, old, source);
    if (!r && snap) {
        rot->to->clock = snap->created;
        r = vdisk_snapshot_create(rot->to, snap->name);
        rot->to->clock = 0;
        *at = snap;
    }
    vdisk_snapshot_close(old);
    vdisk_snapshot_close(source);
    return r;
}

static int copy_all(struct rotation *rot)
{
    const struct vd_snap *at = NULL;
    bool origin = count_roots(rot) > 1;
    int r = origin ? vdisk_snapshot_create(rot->to, ORIGIN) : 0;
    for (size_t i = 0; i < rot->snaps && !r; i++) {
        const struct vd_snap *snap = &rot->snap[i];
        if (!snap->deleting)
            r = copy_line(rot, ancestor(rot, snap->parent), snap, &at);
    }
    if (!r)
        r = copy_line(rot, ancestor(rot, rot->from->super->parent), NULL, &at);
    if (!r && origin)
        r = vdisk_snapshot_delete(rot->to, ORIGIN);
    return r;
}

static int collect(void *arg, struct vd_node *leaf, struct vd_snap *snap)
{
    struct rotation *rot = arg;
    (void)leaf;
    if (rot->snaps == rot->room) {
        size_t room = rot->room ? rot->room * 2 : 16;
        struct vd_snap *grown = realloc(rot->snap, room * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        rot->snap = grown;
        rot->room = room;
    }
    rot->snap[rot->snaps++] = *snap;
    return 0;
}

static int collect_entry(struct vdisk_image *image, void *arg)
{
    return vd_snap_each(image, collect, arg);
}

/* --- keys --- */

/* Adds slots to `to` for the other keys and for all recipients of `from`. */
static int add_slots(struct rotation *rot, const struct vdisk_key *keys, unsigned key_count)
{
    int r = 0;
    for (unsigned i = 1; i < key_count && !r; i++)
        r = vdisk_key_add(rot->to, &keys[i], NULL);
    for (unsigned i = 0; i < VDISK_KEYSLOTS && !r; i++) {
        const struct vd_keyslot *slot = &rot->from->header.slot[i];
        struct vdisk_key key = {.kind = VDISK_KEY_RECIPIENT,
                                .bytes = slot->public_key,
                                .length = VDISK_PUBLIC_KEY_BYTES};
        /* The first key's slot was made with the image. */
        if (slot->kind == VDISK_KEY_RECIPIENT && (int)i != rot->from->slot_used)
            r = vdisk_key_add(rot->to, &key, NULL);
    }
    return r;
}

/* The key to make the first slot with: what opened a recipient's slot is its secret half. */
static struct vdisk_key first_key(const struct rotation *rot, const struct vdisk_key *key)
{
    const struct vd_keyslot *slot = &rot->from->header.slot[rot->from->slot_used];
    struct vdisk_key first = *key;
    if (key->kind == VDISK_KEY_IDENTITY) {
        first.kind = VDISK_KEY_RECIPIENT;
        first.bytes = slot->public_key;
        first.length = VDISK_PUBLIC_KEY_BYTES;
    }
    if (slot->passes && key->kind != VDISK_KEY_IDENTITY) {
        first.kdf_passes = slot->passes;
        first.kdf_kib = slot->kib;
    }
    return first;
}

/* Slots whose key nobody gave cannot be kept: a wrapped key can only be made with its secret. */
static int check_slots(struct rotation *rot, const struct vdisk_key *keys, unsigned key_count,
                       bool drop_others)
{
    uint8_t *volume_key = vdisk_secret_alloc(VD_KEY_BYTES);
    uint32_t kept = 1u << rot->from->slot_used;
    unsigned slot, lost = 0;
    int r = volume_key ? 0 : -ENOMEM;
    for (unsigned i = 1; i < key_count && !r; i++) {
        r = vd_header_unlock(&rot->from->header, &keys[i], &slot, volume_key, &rot->from->error);
        if (!r)
            kept |= 1u << slot;
    }
    vdisk_secret_free(volume_key);
    for (unsigned i = 0; i < VDISK_KEYSLOTS; i++) {
        uint8_t kind = rot->from->header.slot[i].kind;
        lost += kind && kind != VDISK_KEY_RECIPIENT && !(kept >> i & 1);
    }
    if (!r && lost && !drop_others)
        r = vd_image_fail(rot->from, VDISK_E_LIMIT,
                          "%u other keyslots would be lost: give their keys too, or drop them",
                          lost);
    return r;
}

/* --- files --- */

static void part_name(char *out, size_t room, const char *path, uint32_t set, unsigned n)
{
    snprintf(out, room, "%s.%08x.%03u", path, set, n);
}

/* Parts of the new image get the name they will have; their set is new, so nothing is replaced. */
static int rename_parts(const char *from, const char *to, uint32_t set)
{
    size_t room = strlen(from) + strlen(to) + 32;
    char *a = malloc(room), *b = malloc(room);
    int r = a && b ? 0 : -ENOMEM;
    for (unsigned n = 1; n < 1000 && !r; n++) {
        part_name(a, room, from, set, n);
        part_name(b, room, to, set, n);
        if (rename(a, b) && errno != ENOENT)
            r = -errno;
    }
    free(a);
    free(b);
    return r;
}

static void remove_parts(const char *path, uint32_t set)
{
    size_t room = strlen(path) + 32;
    char *name = malloc(room);
    for (unsigned n = 1; name && n < 1000; n++) {
        part_name(name, room, path, set, n);
        (void)unlink(name);
    }
    free(name);
}

static int sync_folder(const char *path)
{
    char *copy = strdup(path);
    int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int r = fd < 0 || fsync(fd) ? -errno : 0;
    if (fd >= 0)
        close(fd);
    free(copy);
    return r;
}

/* What an interrupted rotation left: a new image, or the one before, whose parts may have the names
 * beside `path` already, or still. */
static void remove_stale(const char *temporary, const char *path, uint32_t current_set)
{
    struct vdisk_public_info info;
    if (vdisk_probe(temporary, &info, NULL) == 0 && info.split_bytes) {
        remove_parts(temporary, info.part_set);
        if (info.part_set != current_set)
            remove_parts(path, info.part_set);
    }
    (void)unlink(temporary);
}

/* The two change places, where the file system can: then `temporary` tells, whenever we are killed,
 * which parts are to be removed. */
static int swap(const char *temporary, const char *path)
{
    if (renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_EXCHANGE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -errno;
    return rename(temporary, path) ? -errno : 0;
}

/* The new image, complete and durable, takes the place of the old one. */
static int put_in_place(const char *temporary, const char *path, bool split, uint32_t old_set,
                        uint32_t new_set)
{
    int r;
    if (!split) {
        if (rename(temporary, path) == 0)
            return sync_folder(path);
        r = -errno;
        (void)unlink(temporary);
        return r;
    }
    r = rename_parts(temporary, path, new_set);
    if (!r)
        r = swap(temporary, path);
    if (r) {
        remove_stale(temporary, path, old_set);
        return r;
    }
    r = sync_folder(path);
    if (!r) {
        remove_parts(path, old_set);
        (void)unlink(temporary);
    }
    return r;
}

/* --- the whole --- */

static int make_copy(struct rotation *rot, const char *path, const struct vdisk_key *keys,
                     unsigned key_count, struct vdisk_workers *workers, struct vdisk_error *error)
{
    const struct vdisk_image *from = rot->from;
    struct vdisk_key first = first_key(rot, &keys[0]);
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options),
        .size = from->size,
        .cluster_bytes = vd_cluster_bytes(from),
        .split_bytes = from->header.split_bytes,
        .journal_log2 = from->header.journal_log2,
        .compress = from->super->codec != 0,
        .compress_level = from->super->level,
        .workers = workers,
    };
    int r = vd_create(path, &options, &first, from, &rot->to, error);
    if (r)
        return r;
    rot->to->super->created = from->super->created;
    r = add_slots(rot, keys, key_count);
    if (!r)
        r = copy_all(rot);
    if (r)
        *error = rot->to->error;
    return r;
}

int vdisk_key_rotate(const char *path, const struct vdisk_key *keys, unsigned key_count,
                     bool drop_others, struct vdisk_workers *workers, vdisk_progress *progress,
                     void *opaque, struct vdisk_error *error)
{
    struct vdisk_open_options open_options = {.struct_bytes = sizeof(open_options),
                                              .workers = workers};
    struct vdisk_error ignored = {0};
    struct rotation rot = {.progress = progress, .opaque = opaque};
    char *temporary = NULL;
    error = error ? error : &ignored;
    int r = vdisk_open(path, &open_options, &keys[0], &rot.from, error);
    if (r)
        return r;
    uint32_t old_set = rot.from->header.part_set, new_set = 0;
    bool split = rot.from->header.split_bytes != 0;
    rot.total = rot.from->alloc.used_blocks * VD_BLOCK;
    rot.buffer = vd_buffer_new(COPY_BYTES);
    r = asprintf(&temporary, "%s.rotate", path) < 0 || !rot.buffer ? -ENOMEM : 0;
    if (!r)
        r = check_slots(&rot, keys, key_count, drop_others);
    if (!r)
        r = vd_run(rot.from, collect_entry, &rot);
    if (r)
        *error = rot.from->error;
    if (!r) {
        remove_stale(temporary, path, old_set);
        r = make_copy(&rot, temporary, keys, key_count, workers, error);
    }
    if (rot.to) {
        new_set = rot.to->header.part_set;
        int closed = vdisk_close(rot.to, r ? NULL : error);
        r = r ? r : closed;
        if (r) {
            remove_stale(temporary, path, old_set);
        } else {
            r = put_in_place(temporary, path, split, old_set, new_set);
            if (r)
                vd_fail(error, r, "cannot put the new image in place: %s", vdisk_strerror(r));
        }
    }
    if (r == -ENOMEM)
        vd_fail(error, r, "out of memory");
    error->code = r;
    vdisk_abandon(rot.from);
    free(rot.snap);
    free(rot.buffer);
    free(temporary);
    return r;
}
