/* SPDX-License-Identifier: Apache-2.0 */
/* The header of an image, and the keys behind it (SPEC.md 6 and 7). */
#include "bytes.h"
#include "error.h"
#include "open.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>

/* --- two copies --- */

static int read_copy(struct vdisk_image *image, uint64_t block, uint8_t *bytes,
                     struct vd_header *header, struct vdisk_error *error)
{
    int r = vd_io(&image->loop, VDISK_IO_READ, block * VD_BLOCK, bytes, VD_HEADER_BYTES);
    if (r)
        return vd_fail(error, r, "cannot read the image file: %s", vdisk_strerror(r));
    return vd_header_decode(header, bytes, error);
}

/* Copy B where copy A is destroyed: its place depends on the size of the journal. */
static int find_copy_b(struct vdisk_image *image, uint8_t *bytes, struct vd_header *header)
{
    struct vdisk_error ignored;
    int r = VDISK_E_MALFORMED;
    for (unsigned k = VD_JOURNAL_LOG2_MIN; k <= VD_JOURNAL_LOG2_MAX && r; k++) {
        r = read_copy(image, UINT64_C(1) << k, bytes, header, &ignored);
        if (!r && header->journal_log2 != k)
            r = VDISK_E_MALFORMED;
    }
    return r;
}

int vd_header_load(struct vdisk_image *image, uint8_t *bytes)
{
    struct vdisk_error error_a = {0}, error_b = {0};
    struct vd_header *b = calloc(1, sizeof(*b));
    uint8_t *bytes_b = vd_buffer_new(VD_HEADER_BYTES);
    int ra = -ENOMEM, rb = -ENOMEM;
    if (b && bytes_b) {
        ra = read_copy(image, 0, bytes, &image->header, &error_a);
        if (ra)
            rb = find_copy_b(image, bytes_b, b);
        else
            rb = read_copy(image, UINT64_C(1) << image->header.journal_log2, bytes_b, b, &error_b);
        image->header_damaged = ra || rb || memcmp(bytes, bytes_b, VD_HEADER_BYTES) != 0;
        image->header_b_first = !ra && (rb || b->generation < image->header.generation);
    }
    if (!rb && (ra || b->generation > image->header.generation)) {
        memcpy(bytes, bytes_b, VD_HEADER_BYTES);
        image->header = *b;
        ra = 0;
    }
    if (ra)
        image->error = error_a;
    free(b);
    free(bytes_b);
    return ra;
}

int vd_header_store(struct vdisk_image *image)
{
    uint8_t *bytes = vd_buffer_new(VD_HEADER_BYTES);
    if (!bytes)
        return -ENOMEM;
    vd_lock_exclusive(&image->loop, &image->header_lock);
    image->header.generation++;
    vd_header_encode(&image->header, image->master->header, bytes);
    uint64_t place[2] = {0, (UINT64_C(1) << image->header.journal_log2) * VD_BLOCK};
    int r = 0;
    for (unsigned i = 0; i < 2 && !r; i++) {
        r = vd_io(&image->loop, VDISK_IO_WRITE, place[i ^ image->header_b_first], bytes,
                  VD_HEADER_BYTES);
        if (!r)
            r = vd_io(&image->loop, VDISK_IO_SYNC, 0, NULL, 0);
    }
    free(bytes);
    if (r)
        r = vd_image_latch(image, r, "the header cannot be written");
    else
        image->header_damaged = image->header_b_first = false;
    vd_unlock_exclusive(&image->loop, &image->header_lock);
    return r;
}

/* --- unlocking --- */

int vd_image_unlock(struct vdisk_image *image)
{
    uint8_t secret[VD_KEY_BYTES];
    vd_master_derive(image->master, image->volume_key);
    vd_epoch_table_secret(image->master, image->header.image_id, secret);
    image->table_cipher = vd_cipher_new(secret);
    sodium_memzero(secret, sizeof(secret));
    return image->table_cipher ? 0 : -ENOMEM;
}

static int unlock_header(struct vdisk_image *image, const struct vdisk_key *key,
                         const uint8_t *volume_key, const uint8_t *bytes)
{
    unsigned slot;
    if (volume_key) {
        uint8_t commitment[32];
        memcpy(image->volume_key, volume_key, VD_KEY_BYTES);
        vd_key_commitment(volume_key, image->header.image_id, commitment);
        if (sodium_memcmp(commitment, image->header.commitment, 32) != 0)
            return image->depth
                       ? vd_image_fail(image, VDISK_E_BASE_CHANGED,
                                       "the base has another volume key than the overlay recorded")
                       : vd_image_fail(image, VDISK_E_WRONG_KEY,
                                       "the image has another volume key by now");
    } else {
        int r = vd_header_unlock(&image->header, key, &slot, image->volume_key, &image->error);
        if (r)
            return r;
        image->slot_used = (int)slot;
    }
    int r = vd_image_unlock(image);
    if (!r && vd_header_verify(bytes, image->master->header))
        r = vd_image_corrupt(image, VDISK_E_NOT_AUTHENTIC, "the header is not authentic");
    return r;
}

/* The other copy in the place of the chosen one, which does not open: everybody can make a
 * checksum right, and a generation high. */
static int load_other(struct vdisk_image *image, uint8_t *bytes)
{
    struct vdisk_error ignored;
    struct vd_header *header = calloc(1, sizeof(*header));
    uint8_t *copy = vd_buffer_new(VD_HEADER_BYTES);
    int r = -ENOMEM;
    if (header && copy) {
        r = read_copy(image, 0, copy, header, &ignored);
        image->header_b_first = !r && memcmp(copy, bytes, VD_HEADER_BYTES) != 0;
        if (!image->header_b_first)
            r = find_copy_b(image, copy, header);
    }
    if (!r) {
        memcpy(bytes, copy, VD_HEADER_BYTES);
        image->header = *header;
    }
    free(header);
    free(copy);
    return r;
}

static int unlock_either(struct vdisk_image *image, const struct vdisk_key *key,
                         const uint8_t *volume_key, uint8_t *bytes)
{
    int r = unlock_header(image, key, volume_key, bytes);
    if (!r || r == -ENOMEM || !image->header_damaged)
        return r;
    struct vdisk_error error = image->error;
    vd_cipher_free(image->table_cipher);
    image->table_cipher = NULL;
    if (load_other(image, bytes) == 0 && unlock_header(image, key, volume_key, bytes) == 0)
        return 0;
    image->error = error;
    return r;
}

int vd_header_open(struct vdisk_image *image, const struct vdisk_key *key,
                   const uint8_t *volume_key)
{
    uint8_t *bytes = vd_buffer_new(VD_HEADER_BYTES);
    if (!bytes)
        return -ENOMEM;
    int r = vd_header_load(image, bytes);
    if (!r)
        r = unlock_either(image, key, volume_key, bytes);
    free(bytes);
    return r;
}

/* --- apart from opening --- */

static int unlock_entry(struct vdisk_image *image, void *arg)
{
    return vd_header_open(image, arg, NULL);
}

int vdisk_unlock(const char *path, const struct vdisk_key *key, struct vdisk_unlocked **out,
                 struct vdisk_error *error)
{
    struct vdisk_io *io;
    struct vdisk_image *image = NULL;
    struct vdisk_unlocked *unlocked = NULL;
    int r = vdisk_io_plain_open(path, VDISK_OPEN_READ_ONLY | VDISK_OPEN_NO_LOCK, &io, error);
    if (r)
        return r;
    image = vd_image_new(io, NULL, NULL, 0);
    if (!image)
        io->ops->close(io);
    else
        unlocked = vdisk_secret_alloc(sizeof(*unlocked));
    if (!unlocked) {
        r = vd_fail(error, -ENOMEM, "out of memory");
        goto out;
    }
    r = vd_run(image, unlock_entry, (void *)(uintptr_t)key);
    if (r) {
        if (error) {
            *error = image->error;
            error->code = r;
        }
        goto out;
    }
    memcpy(unlocked->volume_key, image->volume_key, VD_KEY_BYTES);
    unlocked->slot = image->slot_used;
    *out = unlocked;
    unlocked = NULL;
out:
    vdisk_secret_free(unlocked);
    vd_image_free(image);
    return r;
}

struct vdisk_unlocked *vdisk_unlocked_copy(const struct vdisk_unlocked *unlocked)
{
    struct vdisk_unlocked *copy = vdisk_secret_alloc(sizeof(*copy));
    if (copy)
        memcpy(copy, unlocked, sizeof(*copy));
    return copy;
}

struct vdisk_unlocked *vdisk_unlocked_of(const struct vdisk_image *image)
{
    struct vdisk_unlocked *unlocked = vdisk_secret_alloc(sizeof(*unlocked));
    if (unlocked) {
        memcpy(unlocked->volume_key, image->volume_key, VD_KEY_BYTES);
        unlocked->slot = image->slot_used;
    }
    return unlocked;
}

void vdisk_unlocked_free(struct vdisk_unlocked *unlocked)
{
    vdisk_secret_free(unlocked);
}
