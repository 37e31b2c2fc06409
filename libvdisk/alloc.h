/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host blocks: who may use which (SPEC.md 11, 16).
 *
 * Invariants:
 *  1. Between two waits, the counts in the pages equal what the trees in memory refer to, plus
 *     what waits in `frees`.
 *  2. A block is handed out only if its count is 0 in memory and it is not held. Held are blocks
 *     handed out and not yet in use, blocks of the reserve, and blocks freed since the last durable
 *     checkpoint: state on disk may still need those.
 */
#ifndef VD_ALLOC_H
#define VD_ALLOC_H

#include "tree.h"

struct vd_runs {
    struct vd_run *run;
    size_t count, room;
};
/* Makes room for `more` runs. -ENOMEM. */
int vd_runs_reserve(struct vd_runs *runs, size_t more);
/* Appends, merging with the last run where it continues it. Room must be there. */
void vd_runs_add(struct vd_runs *runs, uint64_t block, uint32_t count);
void vd_runs_release(struct vd_runs *runs);

/* Smaller holes cost more than they give: the host's file system waits for all that is in flight
 * in the file to make one, and then to fill it again. So what becomes free in smaller pieces is
 * kept for writes to come, as long as it is not more than this share of the file. */
#define VD_PUNCH_BLOCKS 16u
#define VD_KEEP_SHARE   4u

struct vd_alloc {
    struct vd_tree tree;
    uint64_t host_blocks; /* all from here on are free */
    uint64_t used_blocks; /* count is not 0 */
    uint64_t held_blocks;
    uint64_t kept_blocks; /* about: free, but not given back to the host */
    uint64_t rover;
    struct vd_run
        blank[2];         /* held and written, for small writes: this one, and the next (blank.h) */
    bool blank_busy;      /* the next is being written */
    struct vd_runs frees; /* counts to lower at the next checkpoint */
    struct vd_runs reserve; /* held, and allocated in the host's file */
    uint64_t reserve_blocks;
    uint64_t promised_blocks; /* nodes that changes in flight may dirty */
};

/* Hands out between `min` and `want` neighbouring blocks, held. At most a page. May wait. */
int vd_alloc_take(struct vdisk_image *image, uint32_t want, uint32_t min, struct vd_run *run);
/* The host had no space for blocks that were taken. If they would have made the file longer, the
 * next are looked for from its start on, where what became free may have kept its space. */
void vd_alloc_refused(struct vdisk_image *image, const struct vd_run *run);
/* Holds blocks that are free. VDISK_E_MALFORMED when they are not. May wait. */
int vd_alloc_hold(struct vdisk_image *image, uint64_t block, uint32_t count);
/* Gives held blocks back unused; those whose count rose meanwhile just stop being held. */
void vd_alloc_unhold(struct vdisk_image *image, uint64_t block, uint32_t count);
/* The same for blocks that nothing on disk needs any more, and gives them back to the host or keeps
 * them. May wait. */
void vd_alloc_give_back(struct vdisk_image *image, const struct vd_run *run);
/* Raises the counts by one. The pages must be loaded: the blocks are held. */
void vd_alloc_use(struct vdisk_image *image, uint64_t block, uint32_t count);
/* The same for blocks that were not taken (journal replay). May wait. */
int vd_alloc_use_load(struct vdisk_image *image, uint64_t block, uint32_t count);
/* The count of a block, and (check --repair) setting it to what the trees say. May wait. */
int vd_alloc_get_count(struct vdisk_image *image, uint64_t block, unsigned *count);
int vd_alloc_set_count(struct vdisk_image *image, uint64_t block, unsigned count);
/* Punches what is neither in use nor held, and cuts the file behind the last block that is. The
 * caller holds the gate exclusively. May wait. */
int vd_alloc_trim(struct vdisk_image *image);
/* Notes that counts are to be lowered by one. Room was made (vd_runs_reserve on frees). */
void vd_alloc_free(struct vdisk_image *image, uint64_t block, uint32_t count);
/* Lowers the counts of `frees`; blocks that reach 0 become held and are added to `freed`. Waits. */
int vd_alloc_apply_frees(struct vdisk_image *image, struct vd_runs *freed);

#define VD_CHECKPOINT_BLOCKS 64u /* asked for by each checkpoint */

/* Who asks: on a full disk each leaves the reserve that those before it in the list will need. */
enum vd_reserve_use {
    VD_FOR_CHECKPOINT, /* also one that gives space back */
    VD_FOR_DISCARD,
    VD_FOR_WRITE,
};
/* Sees to it that the next checkpoint has a reserve even if the caller dirties nodes of so many
 * blocks in all; on success vd_reserve_settle ends the promise. -ENOSPC, -ENOMEM or an I/O error.
 * May wait. */
int vd_reserve_promise(struct vdisk_image *image, uint64_t blocks, enum vd_reserve_use use);
/* What a step that frees many extents should ask for. */
uint64_t vd_reserve_relief(const struct vdisk_image *image);
void vd_reserve_settle(struct vdisk_image *image, uint64_t blocks);
/* Takes blocks for a node: from the reserve, else fresh. Held. May wait. */
int vd_reserve_take(struct vdisk_image *image, uint32_t blocks, uint64_t *block);
/* Before the superblock is sealed: moves what the reserve has beyond its need to `freed`. A block
 * must not be in the reserve that a superblock names and be used by what is journalled after it. */
void vd_reserve_shed(struct vdisk_image *image, struct vd_runs *freed);
/* After a checkpoint: keeps what the reserve lacks, punches and releases the rest. Waits. */
void vd_reserve_recycle(struct vdisk_image *image, struct vd_runs *freed);
/* The largest runs of the reserve, for the superblock. */
uint32_t vd_reserve_runs(const struct vdisk_image *image, struct vd_run runs[VD_RESERVE_RUNS]);
/* Takes over the reserve that the superblock names. Waits. */
int vd_reserve_adopt(struct vdisk_image *image, const struct vd_run *runs, uint32_t count);

#endif
