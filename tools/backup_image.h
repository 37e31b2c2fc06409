/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images out of backups: made as the one was that was backed up; and those that are filled from the
 * backup while they are used, for `vdisk backup serve` and `vdisk run`.
 */
#ifndef TOOLS_BACKUP_IMAGE_H
#define TOOLS_BACKUP_IMAGE_H

#include "backup_session.h"
#include "newimage.h"

/* As the image was that was backed up; a raw drive's gets what is usual. `create` has what else is
 * wanted. As newimage_make(). */
int backup_image_make(struct newimage *image, const char *path, const struct vb_manifest *manifest,
                      const struct vdisk_key *key, struct vdisk_create_options create);

/* What a new image is made with where no other KEY is named: that of the repository, of a key pair
 * the public half, which is put into `public_key`. */
struct vdisk_key backup_image_key(const struct vdisk_key *key,
                                  uint8_t public_key[VDISK_PUBLIC_KEY_BYTES]);

/* What is to be filled from what. Zeroed, then filled in as far as "whose result". */
struct backup_filling {
    struct backup_options options;
    const struct keyopt *image_key; /* NULL: the repository's KEY */
    const char *command, *repo, *backup, *drive;
    const char *to; /* NULL: named after the drive, in this folder */
    /* The result. */
    struct held_key repo_key;
    struct held_key own_key; /* of the image, where one was named */
    char *path;              /* of the image */
    char *source;            /* REPO::NAME for vdiskd */
};

/*
 * Makes the image, or, where it is there already, sees that it is being filled from that backup.
 * An exit status, having reported; release what it gave.
 */
int backup_filling_begin(struct backup_filling *filling);
void backup_filling_release(struct backup_filling *filling);
/* The key that opens the image. */
const struct vdisk_key *backup_filling_key(const struct backup_filling *filling);
/* What goes on with an export's text: ",source=...,source-key-fd=...", of a pipe with the key,
 * which is *fd, the caller's. To be freed; NULL after an error, reported. */
char *backup_filling_words(const struct backup_filling *filling, int *fd);

#endif
