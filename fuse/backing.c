/* SPDX-License-Identifier: Apache-2.0 */
/* What the kinds of backings have in common; see backing.h. */
#include "backing.h"

#include "imageinfo.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS_MIN 4u /* some wait for a disk */
#define THREADS_MAX 16u

int backing_add(struct backing *backing, const char *name, uint64_t size, int64_t created)
{
    struct backing_state *more =
        reallocarray(backing->state, backing->count + 1u, sizeof(*backing->state));

    if (!more)
        return -ENOMEM;
    backing->state = more;
    more += backing->count++;
    *more = (struct backing_state){.size = size, .created = created};
    (void)snprintf(more->name, sizeof(more->name), "%s", name);
    return 0;
}

struct adding {
    struct backing *backing;
    int result;
};

static bool add_snapshot(void *opaque, const struct vdisk_snapshot_info *info)
{
    struct adding *adding = opaque;

    adding->result = backing_add(adding->backing, info->name, info->size, info->created);
    return adding->result == 0;
}

int backing_add_snapshots(struct backing *backing, struct vdisk_image *image)
{
    struct adding adding = {.backing = backing};
    int result = vdisk_snapshot_list(image, add_snapshot, &adding);

    return result ? result : adding.result;
}

int backing_describe(const char *path, const struct vdisk_public_info *public_info,
                     const struct vdisk_info *info, char **text)
{
    size_t length = 0;
    char *made = NULL;
    FILE *out = open_memstream(&made, &length);
    bool failed;

    if (!out)
        return -ENOMEM;
    imageinfo_json(out, path, public_info, info);
    failed = ferror(out);
    if (fclose(out) || failed) {
        free(made);
        return -ENOMEM;
    }
    *text = made;
    return 0;
}

bool backing_map_extent(void *opaque, const struct vdisk_extent *extent)
{
    const struct backing_mapping *mapping = opaque;
    bool is_zero = extent->kind == VDISK_EXTENT_HOLE || extent->kind == VDISK_EXTENT_ZERO;

    return mapping->each(mapping->opaque, extent->offset, extent->length, is_zero);
}

unsigned backing_reading_threads(void)
{
    cpu_set_t set;
    unsigned count = 1;

    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        count = (unsigned)CPU_COUNT(&set);
    count *= 2;
    return count < THREADS_MIN ? THREADS_MIN : count < THREADS_MAX ? count : THREADS_MAX;
}
