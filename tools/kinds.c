/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Words for kinds; see kinds.h. They are part of the JSON output: never changed, only added to.
 */
#include "kinds.h"

const char *kinds_extent(enum vdisk_extent_kind kind)
{
    switch (kind) {
    case VDISK_EXTENT_HOLE:
        return "hole";
    case VDISK_EXTENT_ZERO:
        return "zero";
    case VDISK_EXTENT_RAW:
        return "raw";
    case VDISK_EXTENT_ZSTD:
        return "zstd";
    case VDISK_EXTENT_PATCHED:
        return "patched";
    case VDISK_EXTENT_MISSING:
        return "missing";
    }
    return "unknown";
}

const char *kinds_key(enum vdisk_key_kind kind)
{
    switch (kind) {
    case VDISK_KEY_PASSPHRASE:
        return "passphrase";
    case VDISK_KEY_FILE:
        return "key-file";
    case VDISK_KEY_RECIPIENT:
        return "recipient";
    case VDISK_KEY_IDENTITY:
        return "identity";
    }
    return "unknown";
}
