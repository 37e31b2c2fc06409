/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a drive must hold: plain bytes in memory, to compare an image with.
 *
 * A drive can be large; only a few windows of it are ever written, at places where the map tree
 * has its seams. Everything outside of them is zeros.
 */
#ifndef DRIVE_MODEL_H
#define DRIVE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#define DRIVE_BLOCK   4096u
#define DRIVE_WINDOWS 3u

struct drive_window {
    uint64_t offset, bytes; /* multiples of 2 MiB and of 1 MiB */
    uint64_t at;            /* where its bytes begin in drive_state.bytes */
};
extern const struct drive_window drive_window[DRIVE_WINDOWS];
#define DRIVE_BYTES   (UINT64_C(8) << 20) /* of all windows together */
#define DRIVE_BLOCKS  ((unsigned)(DRIVE_BYTES / DRIVE_BLOCK))
#define DRIVE_TOP     ((UINT64_C(32) << 30) + (UINT64_C(1) << 20)) /* where the last one ends */

#define DRIVE_UNKNOWN UINT32_MAX /* a change whose number is not known */

struct drive_state {
    uint64_t size;
    uint8_t *bytes;
    uint32_t *changed; /* for each block, the number of the last change */
};

/* All zeros, or the content of `below` as far as it goes. They assert that there is memory. */
struct drive_state *drive_new(uint64_t size, const struct drive_state *below);
struct drive_state *drive_copy(const struct drive_state *from);
void drive_free(struct drive_state *state);

/* Bytes of any range; what lies outside of the windows, or past the size, is zeros. */
void drive_read(const struct drive_state *state, uint64_t offset, void *out, uint64_t length);
/* data NULL: zeros. Bytes outside of the windows must be zeros. */
void drive_write(struct drive_state *state, uint64_t offset, const void *data, uint64_t length,
                 uint32_t change);
void drive_resize(struct drive_state *state, uint64_t size, uint32_t change);

/* The drive's block that is number i of the model, and back: false outside of the windows. */
uint64_t drive_block(unsigned i);
bool drive_index(uint64_t block, unsigned *i);
/* Whether these bytes, clipped to the windows and the size, are those of `other`, or (NULL) zeros.
 */
bool drive_same(const struct drive_state *state, const struct drive_state *other, uint64_t offset,
                uint64_t length);

#endif
