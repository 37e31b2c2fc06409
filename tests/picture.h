/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All that an image shows: every state's name, size, map and data, and how neighbouring states
 * differ. Taken once from a good image, then held against one that was tampered with: each answer
 * is either an error or the same.
 */
#ifndef PICTURE_H
#define PICTURE_H

#include "vdisk/vdisk.h"

#define PICTURE_STATES 8u

struct picture_extents {
    struct vdisk_extent *extent;
    size_t count, room;
};

struct picture_state {
    struct vdisk_snapshot_info info; /* the live state: only the size */
    struct picture_extents map;      /* through the base */
    struct picture_extents changes;  /* since the state before this one */
    uint8_t *data;                   /* what is no hole and not zero, one after the other */
    size_t data_bytes;
};

struct picture {
    unsigned states; /* the snapshots, then the live state */
    struct picture_state state[PICTURE_STATES];
};

/* Asserts that everything can be read. */
struct picture *picture_take(struct vdisk_image *image);
void picture_free(struct picture *picture);

enum {
    PICTURE_WHOLE = 1 << 0, /* holes and zeros are read, too */
    PICTURE_CHECK = 1 << 1, /* vdisk_check has to agree */
};
struct picture_result {
    bool wrong;      /* something that is neither right nor an error: see text */
    unsigned errors; /* answers that were errors */
    char text[160];
    char error[160];   /* the first */
    char finding[160]; /* the last one of the check */
};
/* Asks for everything, also after errors. */
struct picture_result picture_compare(const struct picture *picture, struct vdisk_image *image,
                                      int flags);

#endif
