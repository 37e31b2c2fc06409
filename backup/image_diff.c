/* SPDX-License-Identifier: Apache-2.0 */
/* Where an image and a backup may differ, without reading either; see backup_drive.h. */
#include "backup_drive.h"
#include "report.h"
#include "tree_diff.h"

#include <errno.h>

#define SECTOR_BYTES UINT64_C(512)

uint64_t vb_image_size(uint64_t drive_bytes)
{
    return (drive_bytes + SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES;
}

struct collecting {
    struct vb_chunk_set *chunks;
    int result;
};

static bool collect(struct collecting *collecting, uint64_t offset, uint64_t length)
{
    collecting->result = vb_chunk_set_add(collecting->chunks, offset, length);
    return collecting->result == 0;
}

static bool take_extent(void *opaque, const struct vdisk_extent *extent)
{
    return collect(opaque, extent->offset, extent->length);
}

static bool take_range(void *opaque, uint64_t offset, uint64_t length, bool is_zero)
{
    (void)is_zero;
    return collect(opaque, offset, length);
}

static int changes_since(struct vdisk_image *image, const char *name, struct collecting *collecting)
{
    uint64_t size = vdisk_size(image), reached = 0;
    struct vdisk_snapshot *snapshot;
    int result = vdisk_snapshot_open(image, name, &snapshot);

    if (result)
        return result;
    while (reached < size && result == 0) {
        const struct vdisk_range range = {.offset = reached, .length = size - reached};

        result = vdisk_diff_part(image, snapshot, &range, take_extent, collecting, &reached);
        result = collecting->result ? collecting->result : result;
    }
    vdisk_snapshot_close(snapshot);
    return result;
}

int vb_image_differences(struct vdisk_image *image, struct vb_repo *repo,
                         const struct vb_backup *base, const struct vb_backup *backup,
                         struct vb_chunk_set *chunks, struct vdisk_error *error)
{
    struct collecting collecting = {.chunks = chunks};
    int result = changes_since(image, base->manifest.snapshot_name, &collecting);

    if (result) {
        const struct vdisk_error *last = vdisk_last_error(image);

        return error_set(error, result, "%s",
                         last->code == result ? last->text : vdisk_strerror(result));
    }
    result = vb_tree_diff(repo, base, backup, take_range, &collecting, error);
    if (collecting.result)
        result = error_set(error, collecting.result, "%s", vdisk_strerror(collecting.result));
    if (result == 0)
        vb_chunk_set_settle(chunks);
    return result;
}
