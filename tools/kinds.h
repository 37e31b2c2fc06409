/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The words for what the library counts off: extents and keys.
 */
#ifndef TOOLS_KINDS_H
#define TOOLS_KINDS_H

#include "vdisk/vdisk.h"

/* "hole", "zero", "raw", "zstd", "patched". */
const char *kinds_extent(enum vdisk_extent_kind kind);

/* "passphrase", "key-file", "recipient", "identity". */
const char *kinds_key(enum vdisk_key_kind kind);

#endif
