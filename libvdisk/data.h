/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and changing the guest's data; all of it inside coroutines. */
#ifndef VD_DATA_H
#define VD_DATA_H

#include "image.h"

/* The most that is processed as one unit: bounds memory and ring space of a write. */
#define VD_PIECE_BLOCKS 512u

/* A state that can be read: its map and size, and what its holes show. */
struct vd_state {
    struct vdisk_image *image;
    struct vd_tree *map;
    uint64_t size;
};
struct vd_state vd_live_state(struct vdisk_image *image);
struct vd_state vd_snapshot_state(struct vdisk_snapshot *snapshot);

/* Whole guest blocks into 4096-aligned or any memory; past the state's size they are zeros. The
 * caller holds `states` and, for the live state, the range. On failure the memory is wiped. */
int vd_read_blocks(const struct vd_state *state, uint64_t first, uint32_t count, uint8_t *out);
/* The base's blocks: what a hole of an overlay shows. */
int vd_read_base(struct vdisk_image *image, uint64_t first, uint32_t count, uint8_t *out);

/* Bytes, with the locks. */
int vd_do_read(struct vdisk_image *image, struct vdisk_snapshot *snapshot, uint64_t offset,
               uint8_t *data, uint64_t length);
/* With `lead` the journal is written beside the data: a flush is about to follow. */
int vd_do_write(struct vdisk_image *image, uint64_t offset, const uint8_t *data, uint64_t length,
                bool lead);
int vd_do_clear(struct vdisk_image *image, uint64_t offset, uint64_t length, bool hole);

/* Writes whole blocks; the caller holds the range exclusively and nothing else. `lead` as above. */
int vd_write_piece(struct vdisk_image *image, uint64_t first, uint32_t count, const uint8_t *data,
                   bool lead);

#endif
