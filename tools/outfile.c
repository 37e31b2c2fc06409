/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole or not at all; see outfile.h.
 */
#include "outfile.h"

#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int name_parts(struct outfile *file, bool own_directory, struct vdisk_error *error)
{
    const char *slash = strrchr(file->final_path, '/');
    const char *base = slash ? slash + 1 : file->final_path;
    int length;

    if (!base[0])
        return error_set(error, -EISDIR, "names a directory, not a file");
    if (!own_directory) {
        length = snprintf(file->path, sizeof(file->path), "%s.part", file->final_path);
    } else {
        file->has_directory = true;
        length = snprintf(file->directory, sizeof(file->directory), "%s.part", file->final_path);
        if (length < (int)sizeof(file->directory))
            length = snprintf(file->path, sizeof(file->path), "%s.part/%s", file->final_path, base);
    }
    if (length >= PATH_MAX)
        return error_set(error, -ENAMETOOLONG, "the name is too long");
    return 0;
}

static int not_made(const char *path, int number, struct vdisk_error *error)
{
    if (number == EEXIST)
        return error_set(error, VDISK_E_EXISTS,
                         "%s is there already, from another export that runs or was killed; "
                         "remove it if none runs",
                         path);
    if (number == ENOENT)
        return error_set(error, -number, "the directory does not exist");
    return error_set(error, -number, "cannot be made: %s", vdisk_strerror(-number));
}

int outfile_open(struct outfile *file, const char *path, bool may_replace, bool own_directory,
                 struct vdisk_error *error)
{
    struct stat status;
    int result;

    memset(file, 0, sizeof(*file));
    file->final_path = path;
    file->may_replace = may_replace;
    file->fd = -1;
    if (lstat(path, &status) == 0) {
        if (S_ISDIR(status.st_mode))
            return error_set(error, -EISDIR, "is a directory, not a file");
        if (!may_replace)
            return error_set(error, VDISK_E_EXISTS, "exists already, --force replaces it");
    }
    result = name_parts(file, own_directory, error);
    if (result)
        return result;
    if (own_directory && mkdir(file->directory, 0700) < 0)
        return not_made(file->directory, errno, error);
    file->fd = open(file->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0600);
    if (file->fd < 0) {
        result = not_made(file->path, errno, error);
        if (own_directory)
            rmdir(file->directory);
        return result;
    }
    return 0;
}

static int give_name(const struct outfile *file)
{
    if (file->may_replace)
        return rename(file->path, file->final_path) < 0 ? -errno : 0;
    if (renameat2(AT_FDCWD, file->path, AT_FDCWD, file->final_path, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno == EEXIST)
        return VDISK_E_EXISTS;
    if (errno != EINVAL && errno != ENOSYS)
        return -errno;
    /* A file system without that: link() does not replace either. */
    if (link(file->path, file->final_path) < 0)
        return errno == EEXIST ? VDISK_E_EXISTS : -errno;
    return unlink(file->path) < 0 ? -errno : 0;
}

/* So that the name is there after a power cut; file systems without it say EINVAL. */
static int sync_directory(const char *path)
{
    const char *slash = strrchr(path, '/');
    char directory[PATH_MAX];
    int fd, result = 0;

    snprintf(directory, sizeof(directory), "%.*s", slash ? (int)(slash - path) + 1 : 1,
             slash ? path : ".");
    fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return 0; /* one may be allowed to write in it and not to read it */
    if (fsync(fd) < 0 && errno != EINVAL)
        result = -errno;
    close(fd);
    return result;
}

int outfile_finish(struct outfile *file, struct vdisk_error *error)
{
    int result = fsync(file->fd) < 0 ? -errno : 0;

    if (close(file->fd) < 0 && result == 0)
        result = -errno;
    file->fd = -1;
    if (result == 0)
        result = give_name(file);
    if (result) {
        outfile_discard(file);
        return error_set(error, result, "%s", vdisk_strerror(result));
    }
    if (file->has_directory)
        rmdir(file->directory);
    result = sync_directory(file->final_path);
    return result ? error_set(error, result, "%s", vdisk_strerror(result)) : 0;
}

void outfile_discard(struct outfile *file)
{
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
    unlink(file->path);
    if (file->has_directory)
        rmdir(file->directory);
}
