/* SPDX-License-Identifier: Apache-2.0 */
/* All names of a folder at once, in the order of their bytes, without "." and "..". */
#ifndef FUSE_EXT_LISTING_H
#define FUSE_EXT_LISTING_H

#include "ext_files.h"

#define EXT_LISTING_MAX (UINT32_C(1) << 22) /* names */

struct ext_listing_entry {
    char *name;
    uint32_t inode;
    unsigned char type; /* DT_ */
};

struct ext_listing {
    struct ext_listing_entry *entry;
    size_t count;
};

/* ext_listing_free() is due after success. Errors: those of ext_files_list(), -ENOMEM, and
 * VDISK_E_LIMIT: there are too many. */
int ext_listing_read(struct ext_files *files, uint32_t folder, struct ext_listing *out);
void ext_listing_free(struct ext_listing *listing);

#endif
