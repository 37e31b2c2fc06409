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

/* What a block of a leaf is, as far as its content is concerned. */
enum vd_presence {
    VD_IS_STORED,
    VD_IS_ZERO,
    VD_IS_HOLE,
};
static inline enum vd_presence vd_leaf_presence(const struct vdisk_image *image,
                                                const struct vd_node *leaf, unsigned i)
{
    enum vd_block_kind kind =
        leaf->map.blocks ? vd_block_kind(&leaf->map.blocks[i]) : VD_BLOCK_NONE;
    if (kind != VD_BLOCK_NONE)
        return kind == VD_BLOCK_ZERO ? VD_IS_ZERO : VD_IS_STORED;
    return leaf->map.zstd && leaf->map.zstd[i / vd_cluster_blocks(image)].length ? VD_IS_STORED
                                                                                 : VD_IS_HOLE;
}

/* Whole guest blocks into 4096-aligned or any memory; past the state's size they are zeros. The
 * caller holds `states` and, for the live state, the range. On failure the memory is wiped. */
int vd_read_blocks(const struct vd_state *state, uint64_t first, uint32_t count, uint8_t *out);
/* The blocks of the base or the source: what a hole shows. For a base the caller holds `states`. */
int vd_read_base(struct vdisk_image *image, uint64_t first, uint32_t count, uint8_t *out);
/* The same for a source alone. */
int vd_read_source(struct vdisk_image *image, uint64_t first, uint32_t count, uint8_t *out);
/* The first blocks at or after `first` that the source may have more than zeros in; *from ==
 * UINT64_MAX: none. May wait. */
int vd_source_next(struct vdisk_image *image, uint64_t first, uint64_t *from, uint64_t *to);

/* --- fill.c --- */
/* The first leaf after `leaf`, which is absent, that may not be absent in the same way. May wait.
 */
int vd_absent_end(struct vd_tree *map, uint64_t leaf, uint64_t *end);
/* The first holes of a state in [first, end); *from == end: none. The caller holds `states`. May
 * wait. */
int vd_hole_next(const struct vd_state *state, uint64_t first, uint64_t end, uint64_t *from,
                 uint64_t *to);
/* The first blocks at or after `at` that are holes and show more than zeros of the base or the
 * source; *from == UINT64_MAX: none. The caller holds `states`. May wait. */
int vd_shown_next(const struct vd_state *state, uint64_t at, uint64_t *from, uint64_t *to);
/* After blocks of the live state were read some of which were missing: what the source has fetched
 * for that is kept, beside the caller, as far as there is memory for it. Never waits. */
void vd_fill_behind(struct vdisk_image *image, uint64_t first, uint64_t end);

/* --- walk.c --- */
/* As vd_source_next, of the base or the source, whichever there is. The caller holds `states`. */
int vd_base_next(struct vdisk_image *image, uint64_t first, uint64_t *from, uint64_t *to);

/* What lies past the end of the drive in blocks of what is below becomes zeros (SPEC.md 10). */
void vd_end_drive(const struct vdisk_image *image, uint64_t first, uint32_t count, uint8_t *data);

/* Bytes, with the locks. */
int vd_do_read(struct vdisk_image *image, struct vdisk_snapshot *snapshot, uint64_t offset,
               uint8_t *data, uint64_t length);
/* With `lead` the journal is written beside the data: a flush is about to follow. */
int vd_do_write(struct vdisk_image *image, uint64_t offset, const uint8_t *data, uint64_t length,
                bool lead);
int vd_do_clear(struct vdisk_image *image, uint64_t offset, uint64_t length, bool hole);

/* Pieces shrink with the ring: a quarter of it must hold the operations of one. */
uint32_t vd_piece_blocks(const struct vdisk_image *image);
/* Writes whole blocks; the caller holds the range exclusively and nothing else. `lead` as above. */
int vd_write_piece(struct vdisk_image *image, uint64_t first, uint32_t count, const uint8_t *data,
                   bool lead);

#endif
