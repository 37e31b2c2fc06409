/* SPDX-License-Identifier: Apache-2.0 */
/* A folder's names; see ext_listing.h. */
#include "ext_listing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 32u

struct gathering {
    struct ext_listing *out;
    size_t capacity;
    int result;
};

static int add(struct gathering *gathering, const char *name, uint32_t inode, unsigned char type)
{
    struct ext_listing *out = gathering->out;
    struct ext_listing_entry *entry;

    if (out->count == EXT_LISTING_MAX)
        return VDISK_E_LIMIT;
    if (out->count == gathering->capacity) {
        size_t capacity = gathering->capacity ? 2 * gathering->capacity : FIRST_CAPACITY;

        entry = reallocarray(out->entry, capacity, sizeof(*entry));
        if (!entry)
            return -ENOMEM;
        out->entry = entry;
        gathering->capacity = capacity;
    }
    entry = &out->entry[out->count];
    *entry = (struct ext_listing_entry){.name = strdup(name), .inode = inode, .type = type};
    if (!entry->name)
        return -ENOMEM;
    out->count++;
    return 0;
}

static bool take(void *opaque, const char *name, uint32_t inode, unsigned char type)
{
    struct gathering *gathering = opaque;

    if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
        gathering->result = add(gathering, name, inode, type);
    return gathering->result == 0;
}

static int compare(const void *a, const void *b)
{
    const struct ext_listing_entry *x = a, *y = b;

    return strcmp(x->name, y->name);
}

int ext_listing_read(struct ext_files *files, uint32_t folder, struct ext_listing *out)
{
    struct gathering gathering = {.out = out};
    int result;

    memset(out, 0, sizeof(*out));
    result = ext_files_list(files, folder, take, &gathering);
    if (result == 0)
        result = gathering.result;
    if (result)
        ext_listing_free(out);
    else if (out->count > 0)
        qsort(out->entry, out->count, sizeof(*out->entry), compare);
    return result;
}

void ext_listing_free(struct ext_listing *listing)
{
    for (size_t i = 0; i < listing->count; i++)
        free(listing->entry[i].name);
    free(listing->entry);
    memset(listing, 0, sizeof(*listing));
}
