/* SPDX-License-Identifier: Apache-2.0 */
/* See kernel_mount.h. */
#include "kernel_mount.h"

#include "contents.h"
#include "probe.h"
#include "report.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#define LOOP_TRIES 16u

bool kernel_mount_may(void)
{
    return geteuid() == 0 && access("/dev/loop-control", R_OK | W_OK) == 0;
}

/* ---- a loop device ---- */

/* On an open file; goes away when nobody uses it. Its descriptor, or -errno. */
static int attach(int file, char path[32])
{
    struct loop_config config = {
        .fd = (uint32_t)file,
        .info = {.lo_flags = LO_FLAGS_AUTOCLEAR},
    };
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), rc = -EBUSY;

    if (control < 0)
        return -errno;
    /* Others may take the same one in between. */
    for (unsigned i = 0; i < LOOP_TRIES && rc == -EBUSY; i++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE), loop;

        (void)snprintf(path, 32, "/dev/loop%d", number);
        loop = number < 0 ? -1 : open(path, O_RDWR | O_CLOEXEC);
        if (loop < 0) {
            rc = -errno;
            break;
        }
        rc = ioctl(loop, LOOP_CONFIGURE, &config) < 0 ? -errno : loop;
        if (rc < 0)
            close(loop);
    }
    close(control);
    return rc;
}

/* ---- mounting ---- */

static int read_file(struct drive *drive, uint64_t offset, void *data, uint64_t length)
{
    ssize_t got = pread((int)drive->start, data, length, (off_t)offset);

    if (got < 0)
        return -errno;
    return (uint64_t)got == length ? 0 : -EIO;
}

static int kind_of(int file, struct probe *probe)
{
    struct drive drive = {.read = read_file, .start = (uint64_t)file};
    off_t size = lseek(file, 0, SEEK_END);

    if (size < 0)
        return -errno;
    drive.size = (uint64_t)size;
    return probe_drive(&drive, probe);
}

static int mount_file(int file, const char *kind, const char *point)
{
    /* Its copies may be mounted here as well. */
    const char *options = strcmp(kind, "xfs") == 0 ? "nouuid" : NULL;
    char device[32];
    int loop = attach(file, device), rc;

    if (loop < 0)
        return loop;
    rc = mount(device, point, kind, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, options) < 0
             ? -errno
             : 0;
    close(loop);
    return rc;
}

/* `name` is that of the folder in files/. */
static void mount_one(const char *folder, const char *name)
{
    bool is_drive = strcmp(name, "disk") == 0;
    char file[PATH_MAX], point[PATH_MAX];
    struct probe probe = {.kind = ""};
    int fd, rc;

    if (snprintf(point, sizeof(point), "%s/files/%s", folder, name) >= PATH_MAX ||
        snprintf(file, sizeof(file), "%s/" TREE_SCRATCH "/%s%s", folder,
                 is_drive ? "" : "partitions/", name) >= PATH_MAX)
        return;
    fd = open(file, O_RDWR | O_CLOEXEC);
    rc = fd < 0 ? -errno : kind_of(fd, &probe);
    if (rc == 0)
        rc = mount_file(fd, probe.kind, point);
    if (rc == -ENODEV)
        report_note(point, "this kernel has no %s", probe.kind);
    else if (rc)
        report_note(point, "%s could not be mounted: %s", probe.kind, vdisk_strerror(rc));
    if (fd >= 0)
        close(fd);
}

void kernel_mount_all(const char *folder)
{
    char path[PATH_MAX];
    struct dirent *entry;
    DIR *files;

    if (snprintf(path, sizeof(path), "%s/files", folder) >= PATH_MAX || !(files = opendir(path)))
        return;
    while ((entry = readdir(files))) {
        if (entry->d_name[0] != '.' && !contents_has(entry->d_ino))
            mount_one(folder, entry->d_name);
    }
    (void)closedir(files);
}
