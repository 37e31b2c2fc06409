/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints (SPEC.md 16): the trees on disk become what they are in memory.
 *
 * A checkpoint freezes the state while it holds the gate (computing, hardly any I/O), and writes
 * it beside new requests. Changes that are not journalled (snapshots, size, deletions) are made
 * inside one.
 */
#ifndef VD_CHECKPOINT_H
#define VD_CHECKPOINT_H

#include "image.h"

/* A change to be made when the live map is frozen: its root reference is current, all trees may be
 * changed. An error before anything was changed leaves the image as it was and is returned;
 * `*changed` must be set by then otherwise. */
struct vd_change {
    int (*apply)(struct vdisk_image *image, void *arg, bool *changed);
    void *arg;
    bool states;             /* it replaces or frees trees: no reader may be inside */
    bool relief;             /* it will give space back: may use all of the reserve */
    uint64_t reserve_blocks; /* nodes it may dirty, in blocks */
};

/* One whole checkpoint; with `change` (may be NULL). Durable when it returns 0. Waits. */
int vd_checkpoint(struct vdisk_image *image, const struct vd_change *change);
/* Waits for the one that runs, or runs one where none does or that one failed. */
int vd_checkpoint_join(struct vdisk_image *image);
/* Starts one beside the caller if the journal or the memory is half full. Never waits. */
void vd_checkpoint_kick(struct vdisk_image *image);
/* Before the first change after opening: a checkpoint under a new epoch. Waits. */
int vd_begin_writing(struct vdisk_image *image);

#endif
