/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Error codes of libvdisk.
 *
 * Every function that can fail returns 0 or a negative number: a negated errno
 * (-EIO, -ENOSPC, -EINVAL, -ENOMEM, -EROFS, ...) or one of the codes below. The sentence
 * for a person travels beside it in a struct vdisk_error, filled in once, where the
 * reason is known.
 */
#ifndef VDISK_ERROR_H
#define VDISK_ERROR_H

enum vdisk_error_code {
    VDISK_E_WRONG_KEY = -10001,     /* no keyslot opens with the key given */
    VDISK_E_NOT_AUTHENTIC = -10002, /* an authentication tag does not match */
    VDISK_E_MALFORMED = -10003,     /* not an image, or a structure breaks its bounds */
    VDISK_E_UNSUPPORTED = -10004,   /* a version or feature this build does not know */
    VDISK_E_IN_USE = -10005,        /* another process, or an open handle, holds it */
    VDISK_E_EXISTS = -10006,        /* the name or the file is taken */
    VDISK_E_NOT_FOUND = -10007,     /* no such snapshot, keyslot or file */
    VDISK_E_FAILED = -10008,        /* an earlier failed sync: reopen the image */
    VDISK_E_BASE_CHANGED = -10009,  /* the base image is not the one the overlay was made on */
    VDISK_E_LIMIT = -10010,         /* a documented limit would be passed */
    VDISK_E_DAMAGED = -10011,       /* check found damage */
    VDISK_E_UNFILLED = -10012,      /* the image is still being filled from a source */
};

#define VDISK_ERROR_TEXT_BYTES 512

/* Filled by the function that fails; text is one line without a newline. */
struct vdisk_error {
    int code;
    char text[VDISK_ERROR_TEXT_BYTES];
};

/* A short description of a code (or negated errno), never NULL; static storage. */
const char *vdisk_strerror(int code);

#endif
