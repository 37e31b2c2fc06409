/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host blocks that are written with zeros before their use. What is written where the host's file
 * has nothing yet changes the file's own metadata, and each sync after that has to write those too.
 * So single blocks come from a stretch that was written in one go.
 */
#ifndef VD_BLANK_H
#define VD_BLANK_H

#include "alloc.h"

#define VD_BLANK_SMALL 4u /* blocks; larger writes go where there is room */

/* Writes zeros to blocks that nothing refers to. May wait. */
int vd_blank_write(struct vdisk_image *image, uint64_t block, uint64_t count);
/* As vd_alloc_take(want, 1), for a small write. May wait. */
int vd_blank_take(struct vdisk_image *image, uint32_t want, struct vd_run *run);
/* Gives back what is left of the stretch. */
void vd_blank_drop(struct vdisk_image *image);

#endif
