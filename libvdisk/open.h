/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of opening and creating that several modules share. */
#ifndef VD_OPEN_H
#define VD_OPEN_H

#include "image.h"

#define VD_DEFAULT_CACHE_BYTES      ((size_t)32 << 20)
#define VD_DEFAULT_JOURNAL_LOG2_MIN 9u
#define VD_DEFAULT_JOURNAL_LOG2_MAX 11u
#define VD_DEFAULT_CLUSTER_BYTES    (128u * 1024)
#define VD_DEFAULT_LEVEL            4

struct vdisk_unlocked { /* in locked memory */
    uint8_t volume_key[VD_KEY_BYTES];
    int slot;
};

/* An image without anything in it; takes the io over, unless it fails. `above` is the image
 * whose loop it shares (a base), or NULL. NULL without memory. */
struct vdisk_image *vd_image_new(struct vdisk_io *io, struct vdisk_workers *workers,
                                 struct vdisk_image *above, size_t cache_bytes);
/* Of the image and its bases: one that has a base leaves it half. */
void vd_cache_limit(struct vdisk_image *image, size_t bytes);
/* Frees everything without writing. NULL is allowed. */
void vd_image_free(struct vdisk_image *image);

/* Derives what hangs from image->volume_key. */
int vd_image_unlock(struct vdisk_image *image);
/* After header and superblock are in place: trees, journal, allocation. */
int vd_image_set_up(struct vdisk_image *image);
/* From the header on, with a key, or (a base) the volume key itself. Inside a coroutine. */
int vd_image_load(struct vdisk_image *image, const struct vdisk_key *key, const uint8_t *volume_key,
                  const char *path, const char *base_path);

/* Loads the header and unlocks what is behind it, with a key, or (volume_key not NULL) the volume
 * key itself. Inside a coroutine. */
int vd_header_open(struct vdisk_image *image, const struct vdisk_key *key,
                   const uint8_t *volume_key);
/* Both header copies: chooses, tells of damage. `bytes` (VD_HEADER_BYTES) gets the chosen one. */
int vd_header_load(struct vdisk_image *image, uint8_t *bytes);
/* Writes both copies, with the generation raised. Inside a coroutine. */
int vd_header_store(struct vdisk_image *image);

/* --- create.c --- */
/* vdisk_create, and with `like` (may be NULL) the identity and the base of another image. */
int vd_create(const char *path, const struct vdisk_create_options *options,
              const struct vdisk_key *key, const struct vdisk_image *like, struct vdisk_image **out,
              struct vdisk_error *error);

/* --- source.c --- */
/* Records what the image is filled from. -EINVAL. */
int vd_source_bind(struct vdisk_image *image, struct vdisk_source *source);
/* Compares the source that was given with the recorded one; VDISK_E_UNFILLED without one. */
int vd_source_open(struct vdisk_image *image);

/* --- base.c --- */
/* Opens the base of an overlay at `path`, relative to the folder of `overlay_path`, with its volume
 * key, and checks that it is the recorded one. Inside a coroutine. */
int vd_base_open(struct vdisk_image *image, const char *overlay_path, const char *base_path);
void vd_base_close(struct vdisk_image *image);
/* What identifies a state as a base. */
int vd_base_identity(struct vdisk_image *base, struct vdisk_snapshot *snapshot,
                     struct vd_base_binding *binding);

#endif
