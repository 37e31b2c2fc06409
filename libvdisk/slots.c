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
    struct vd_keyslot made;
    unsigned number = 0;
    int r = writable(image);
    if (r)
        return r;
    while (number < VDISK_KEYSLOTS && image->header.slot[number].kind)
        number++;
    if (number == VDISK_KEYSLOTS)
        return vd_image_fail(image, VDISK_E_LIMIT, "all %u keyslots are taken", VDISK_KEYSLOTS);
    int64_t now = image->loop.io->ops->now(image->loop.io);
    r = vd_keyslot_wrap(&made, key, image->header.image_id, image->volume_key,
                        (uint64_t)(now / 1000000000), &image->error);
    if (!r)
        r = replace_slot(image, number, &made);
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
