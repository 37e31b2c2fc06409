/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys of images, from files and descriptors: never from arguments or the environment. Everything
 * here blocks; a task calls it by apart_call().
 */
#ifndef VDISKD_KEY_H
#define VDISKD_KEY_H

#include "vdisk/vdisk.h"

#include <stdbool.h>

struct key_source {
    enum vdisk_key_kind kind;
    const char *file; /* NULL: fd */
    int fd;           /* stays the caller's; -1: none */
    bool may_wait;    /* a pipe will do, and is read to its end */
};

struct key_held {
    struct vdisk_key key;
    uint8_t *bytes; /* vdisk_secret_alloc() */
};

/* At most 1 MiB. The text forms of key pairs become their 32 bytes; a passphrase loses its newline.
 * After any result key_release() is due. -EINVAL, -errno. */
int key_load(const struct key_source *source, struct key_held *held, struct vdisk_error *error);
void key_release(struct key_held *held);

/* What the key opens of the image. The errors of vdisk_unlock(), too. */
int key_unlock(const struct key_source *source, const char *image, struct vdisk_unlocked **out,
               struct vdisk_error *error);

#endif
