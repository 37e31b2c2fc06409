/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for keys and passphrases: locked as far as the process may lock, kept out of core dumps,
 * between guard pages, wiped when freed. Each piece takes at least four pages: for keys, not for
 * data.
 */
#include "vdisk/vdisk.h"

#include <sodium.h>

/* A multiple of 16, so that the piece is aligned for any type: libsodium puts its end, not its
 * beginning, on a page boundary. */
void *vdisk_secret_alloc(size_t length)
{
    if (length > SIZE_MAX - 15)
        return NULL;
    return sodium_malloc((length + 15) / 16 * 16);
}

void vdisk_secret_free(void *secret)
{
    sodium_free(secret);
}
