/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The drives of drive.h.
 */
#include "drive.h"

#include <errno.h>
#include <string.h>

static int read_image(struct drive *drive, uint64_t offset, void *data, uint64_t length)
{
    if (drive->part)
        return vdisk_snapshot_read(drive->part, offset, data, length);
    return vdisk_read(drive->owner, offset, data, length);
}

void drive_of_image(struct drive *drive, struct vdisk_image *image, struct vdisk_snapshot *snapshot)
{
    struct vdisk_snapshot_info info;

    memset(drive, 0, sizeof(*drive));
    drive->read = read_image;
    drive->owner = image;
    drive->part = snapshot;
    drive->size = vdisk_size(image);
    if (snapshot) {
        vdisk_snapshot_get_info(snapshot, &info);
        drive->size = info.size;
    }
}

static int read_range(struct drive *drive, uint64_t offset, void *data, uint64_t length)
{
    return drive_get(drive->owner, drive->start + offset, data, length);
}

void drive_of_range(struct drive *drive, struct drive *whole, uint64_t offset, uint64_t length)
{
    memset(drive, 0, sizeof(*drive));
    drive->read = read_range;
    drive->owner = whole;
    drive->start = offset < whole->size ? offset : whole->size;
    drive->size = whole->size - drive->start;
    if (drive->size > length)
        drive->size = length;
}

int drive_get(struct drive *drive, uint64_t offset, void *data, uint64_t length)
{
    uint8_t *to = data;

    if (offset > drive->size || length > drive->size - offset)
        return -EINVAL;
    while (length > 0) {
        uint64_t step = length < VDISK_REQUEST_MAX ? length : VDISK_REQUEST_MAX;
        int result = drive->read(drive, offset, to, step);

        if (result)
            return result;
        to += step;
        offset += step;
        length -= step;
    }
    return 0;
}
