/* SPDX-License-Identifier: Apache-2.0 */
/* The keyslots of an open image, and the public header of a closed one. */
#include "error.h"
#include "open.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static unsigned list_slots(const struct vd_header *header,
                           struct vdisk_keyslot_info slots[VDISK_KEYSLOTS])
{
    unsigned n = 0;
    for (unsigned i = 0; i < VDISK_KEYSLOTS; i++) {
        if (header->slot[i].kind)
            vd_keyslot_info(&header->slot[i], i, &slots[n++]);
    }
    return n;
}

unsigned vdisk_key_list(struct vdisk_image *image, struct vdisk_keyslot_info slots[VDISK_KEYSLOTS])
{
    return list_slots(&image->header, slots);
}

int vdisk_key_slot_used(const struct vdisk_image *image)
{
    return image->slot_used;
}

struct wrapping {
    struct vd_group_job job;
    struct vd_keyslot slot;
    const struct vdisk_key *key;
    const uint8_t *image_id, *volume_key;
    uint64_t created;
    struct vdisk_error error;
    int result;
};

static void wrap(struct vdisk_job *job)
{
    struct wrapping *w = (struct wrapping *)job;
    w->result =
        vd_keyslot_wrap(&w->slot, w->key, w->image_id, w->volume_key, w->created, &w->error);
}

/* On a worker where there is one: it may take a second. */
static int wrap_entry(struct vdisk_image *image, void *arg)
{
    struct wrapping *w = arg;
    struct vd_group group;
    vd_group_init(&group, &image->loop);
    w->job.job.run = wrap;
    vd_group_job(&group, &w->job);
    (void)vd_group_wait(&group);
    if (w->result)
        image->error = w->error;
    return w->result;
}

static int store_entry(struct vdisk_image *image, void *arg)
{
    (void)arg;
    return vd_header_store(image);
}

/* Puts a slot in place, durably, or leaves everything as it was. */
static int replace_slot(struct vdisk_image *image, unsigned number, const struct vd_keyslot *slot)
{
    struct vd_keyslot before = image->header.slot[number];
    image->header.slot[number] = *slot;
    int r = vd_run(image, store_entry, NULL);
    if (r)
        image->header.slot[number] = before;
    return r;
}

static int writable(struct vdisk_image *image)
{
    if (image->read_only)
        return vd_image_fail(image, -EROFS, "the image is open read-only");
    return vd_image_explain(image, image->failed ? VDISK_E_FAILED : 0);
}

int vdisk_key_add(struct vdisk_image *image, const struct vdisk_key *key, unsigned *slot)
{
    unsigned number = 0;
    int r = writable(image);
    if (r)
        return r;
    struct wrapping wrapping = {
        .key = key,
        .image_id = image->header.image_id,
        .volume_key = image->volume_key,
        .created = (uint64_t)(image->loop.io->ops->now(image->loop.io) / 1000000000),
    };
    r = vd_run(image, wrap_entry, &wrapping);
    if (r)
        return r;
    while (number < VDISK_KEYSLOTS && image->header.slot[number].kind)
        number++;
    if (number == VDISK_KEYSLOTS)
        return vd_image_fail(image, VDISK_E_LIMIT, "all %u keyslots are taken", VDISK_KEYSLOTS);
    r = replace_slot(image, number, &wrapping.slot);
    if (!r && slot)
        *slot = number;
    return r;
}

int vdisk_key_remove(struct vdisk_image *image, unsigned slot)
{
    struct vdisk_keyslot_info slots[VDISK_KEYSLOTS];
    struct vd_keyslot empty;
    int r = writable(image);
    if (r)
        return r;
    if (slot >= VDISK_KEYSLOTS || !image->header.slot[slot].kind)
        return vd_image_fail(image, VDISK_E_NOT_FOUND, "keyslot %u is empty", slot);
    if (list_slots(&image->header, slots) == 1)
        return vd_image_fail(image, VDISK_E_LIMIT,
                             "keyslot %u is the last one: without it nobody could open the image",
                             slot);
    memset(&empty, 0, sizeof(empty));
    return replace_slot(image, slot, &empty);
}

/* --- without a key --- */

static int probe_entry(struct vdisk_image *image, void *arg)
{
    uint8_t *bytes = vd_buffer_new(VD_HEADER_BYTES);
    int r = bytes ? vd_header_load(image, bytes) : -ENOMEM;
    (void)arg;
    free(bytes);
    return r;
}

int vdisk_probe(const char *path, struct vdisk_public_info *info, struct vdisk_error *error)
{
    struct vdisk_io *io;
    int r = vdisk_io_plain_open(path, VDISK_OPEN_READ_ONLY | VDISK_OPEN_NO_LOCK, &io, error);
    if (r)
        return r;
    struct vdisk_image *image = vd_image_new(io, NULL, NULL, 0);
    if (!image) {
        io->ops->close(io);
        return vd_fail(error, -ENOMEM, "out of memory");
    }
    r = vd_run(image, probe_entry, NULL);
    const struct vd_header *h = &image->header;
    if (!r && h->split_bytes)
        r = io->ops->set_split(io, h->split_bytes, h->part_set);
    if (r) {
        if (error)
            *error = image->error;
        vd_image_free(image);
        return r;
    }
    *info = (struct vdisk_public_info){
        .version = 1,
        .cluster_bytes = UINT64_C(1) << h->cluster_log2,
        .journal_bytes = ((UINT64_C(1) << h->journal_log2) - 4) * VD_BLOCK,
        .split_bytes = h->split_bytes,
        .part_set = h->part_set,
        .header_damaged = image->header_damaged,
    };
    memcpy(info->image_id, h->image_id, VD_ID_BYTES);
    info->keyslots = list_slots(h, info->slot);
    if (io->ops->size(io, &info->file_bytes))
        info->file_bytes = 0;
    vd_image_free(image);
    return 0;
}
