/* SPDX-License-Identifier: Apache-2.0 */
/* A block device that a drive is written onto; see outdevice.h. */
#include "outdevice.h"

#include "report.h"
#include "sizes.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int has_room(const char *path, int fd, uint64_t size)
{
    char size_text[SIZES_TEXT_BYTES], room_text[SIZES_TEXT_BYTES];
    uint64_t room = 0;

    if (ioctl(fd, BLKGETSIZE64, &room) < 0)
        return report(path, -errno, NULL);
    if (room < size)
        return report_text(path, -ENOSPC, "the device has %s, the drive %s",
                           sizes_text(room_text, room), sizes_text(size_text, size));
    return STATUS_DONE;
}

int outdevice_open(const char *path, uint64_t size, int *out)
{
    /* O_EXCL: not one that is mounted. */
    int fd = open(path, O_RDWR | O_EXCL | O_CLOEXEC | O_NOCTTY);
    int status;

    if (fd < 0)
        return report(path, errno == EBUSY ? VDISK_E_IN_USE : -errno, NULL);
    status = has_room(path, fd, size);
    if (status == STATUS_DONE)
        *out = fd;
    else
        close(fd);
    return status;
}

int outdevice_close(const char *path, int fd, int status)
{
    if (status == STATUS_DONE && fsync(fd) < 0)
        status = report(path, -errno, NULL);
    if (close(fd) < 0 && status == STATUS_DONE)
        status = report(path, -errno, NULL);
    return status;
}
