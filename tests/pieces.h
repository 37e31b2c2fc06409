/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every sealed piece that an image holds now: what its trees refer to, its superblocks, and the
 * records in its ring (of the current epoch). From the library's own decoding of the trees.
 */
#ifndef PIECES_H
#define PIECES_H

#include "crypto.h"
#include "sim_io.h"
#include "vdisk/vdisk.h"

struct piece {
    struct vd_seal_context context; /* image_id is good while the image is open */
    uint8_t secret[VD_KEY_BYTES];
    uint8_t tag[VD_TAG_BYTES];
    uint64_t offset; /* of the sealed bytes in the file */
};

/* `each` is called once for each place where a piece is referred to. The image was just opened.
 * 0 or an error. */
int pieces_visit(struct vdisk_image *image, const struct sim *disk,
                 void (*each)(void *arg, const struct piece *piece), void *arg);
/* Of the record or superblock that begins there, without looking whether it is authentic. */
void piece_of_superblock(struct vdisk_image *image, const struct sim *disk, uint64_t block,
                         struct piece *piece);

#endif
