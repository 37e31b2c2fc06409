/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Codes into words, and the two functions through which the library fails (error.h).
 */
#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The words of our own codes; NULL when it is not one of them. */
static const char *own_words(int code)
{
    switch (code) {
    case VDISK_E_WRONG_KEY:
        return "wrong key";
    case VDISK_E_NOT_AUTHENTIC:
        return "the data is not authentic";
    case VDISK_E_MALFORMED:
        return "not a valid vdisk image";
    case VDISK_E_UNSUPPORTED:
        return "made by a newer version or with an unknown feature";
    case VDISK_E_IN_USE:
        return "in use by another process";
    case VDISK_E_EXISTS:
        return "already exists";
    case VDISK_E_NOT_FOUND:
        return "not found";
    case VDISK_E_FAILED:
        return "an earlier write to storage failed; the image must be reopened";
    case VDISK_E_BASE_CHANGED:
        return "the base image is not the one this image was made on";
    case VDISK_E_LIMIT:
        return "a limit of the format would be passed";
    case VDISK_E_DAMAGED:
        return "the image is damaged";
    case VDISK_E_UNFILLED:
        return "the image is still being filled from elsewhere";
    default:
        return NULL;
    }
}

/* Lower case, without a path: they stand behind "PATH: ". */
static const char *errno_words(int number)
{
    switch (number) {
    case ENOENT:
        return "no such file";
    case EACCES:
    case EPERM:
        return "permission denied";
    case EEXIST:
        return "already exists";
    case EISDIR:
        return "is a directory";
    case ENOTDIR:
        return "a part of the path is not a directory";
    case EROFS:
        return "read-only";
    case EIO:
        return "input/output error";
    case ENOSPC:
        return "no space left on the device";
    case EDQUOT:
        return "the disk quota is used up";
    case EFBIG:
        return "larger than the filesystem or the format allows";
    case ENOMEM:
        return "out of memory";
    case EINVAL:
        return "invalid argument";
    case EOPNOTSUPP:
        return "not supported by the filesystem";
    case EMFILE:
    case ENFILE:
        return "too many open files";
    default:
        return NULL;
    }
}

const char *vdisk_strerror(int code)
{
    const char *words;

    if (code == 0)
        return "success";
    if (code > 0)
        return "unknown error";
    words = own_words(code);
    if (!words && code > VDISK_E_WRONG_KEY) {
        words = errno_words(-code);
        /* Unlike strerror() this is static storage in every thread, and untranslated. */
        if (!words)
            words = strerrordesc_np(-code);
    }
    return words ? words : "unknown error";
}

static void fill(struct vdisk_error *error, int code, const char *format, va_list arguments)
{
    if (!error)
        return;
    error->code = code;
    vsnprintf(error->text, sizeof(error->text), format, arguments);
}

int vd_fail(struct vdisk_error *error, int code, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fill(error, code, format, arguments);
    va_end(arguments);
    return code;
}

/* Out of line, so that the breakpoint exists. */
__attribute__((noinline)) int vd_corrupt(struct vdisk_error *error, int code, const char *format,
                                         ...)
{
    va_list arguments;

    va_start(arguments, format);
    fill(error, code, format, arguments);
    va_end(arguments);
    return code;
}
