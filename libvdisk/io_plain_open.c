/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plain backend: opening, locking, the names of parts, removal after a failed create.
 *
 * Only regular files and block devices are opened, and nothing else even for a moment if the
 * name does not change under us. The lock is flock() on part 0 and ends with the descriptor.
 */
#include "io_plain_impl.h"

#include "error.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int real_openat(int directory, const char *name, int flags, mode_t mode)
{
    return openat(directory, name, flags, mode);
}

static const struct vd_plain_calls vd_plain_real_calls = {
    .pread = pread,
    .pwritev = pwritev,
    .fdatasync = fdatasync,
    .fsync = fsync,
    .fallocate = fallocate,
    .ftruncate = ftruncate,
    .openat = real_openat,
    .unlinkat = unlinkat,
};

int vd_plain_part_name(const struct vd_plain *plain, unsigned part, char name[static NAME_MAX + 1])
{
    int length;

    if (part == 0)
        length = snprintf(name, NAME_MAX + 1, "%s", plain->name);
    else
        length = snprintf(name, NAME_MAX + 1, "%s.%08" PRIx32 ".%03u", plain->name, plain->part_set,
                          part);
    return length > NAME_MAX ? -ENAMETOOLONG : 0;
}

/* Only what keeps bytes: opening a terminal or a watchdog has effects. */
static int check_kind(const struct stat *status, struct vdisk_error *error)
{
    if (S_ISREG(status->st_mode) || S_ISBLK(status->st_mode))
        return 0;
    if (S_ISDIR(status->st_mode))
        return vd_fail(error, -EISDIR, "is a directory");
    return vd_fail(error, -EINVAL, "is %s, not a regular file or a block device",
                   S_ISFIFO(status->st_mode)   ? "a named pipe"
                   : S_ISSOCK(status->st_mode) ? "a socket"
                                               : "a character device");
}

static int open_failed(int number, bool create, struct vdisk_error *error)
{
    switch (number) {
    case EEXIST:
        return vd_fail(error, VDISK_E_EXISTS, "already exists");
    case ENOENT:
        return vd_fail(error, -number, create ? "the directory does not exist" : "no such file");
    case EROFS:
        return vd_fail(error, -number, "the filesystem is read-only");
    default:
        return vd_fail(error, -number, "%s", vdisk_strerror(-number));
    }
}

static int lock(int fd, bool shared, struct vdisk_error *error)
{
    int result;

    do {
        result = flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB);
    } while (result < 0 && errno == EINTR);
    if (result == 0)
        return 0;
    if (errno == EWOULDBLOCK)
        return vd_fail(error, VDISK_E_IN_USE, "in use by another process");
    return vd_fail(error, -errno, "cannot be locked: %s", vdisk_strerror(-errno));
}

/* Opens part 0 with all checks and the lock. */
static int open_first(struct vd_plain *plain, const char *path, int flags,
                      struct vdisk_error *error)
{
    bool create = flags & VDISK_OPEN_CREATE;
    int open_flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK; /* a pipe must not make us wait */
    struct stat status;
    int fd;
    int result;

    if (!create) {
        if (stat(path, &status) < 0)
            return open_failed(errno, create, error);
        result = check_kind(&status, error);
        if (result)
            return result;
    }
    open_flags |= plain->read_only ? O_RDONLY : O_RDWR;
    if (create)
        open_flags |= O_CREAT | O_EXCL;
    do {
        fd = open(path, open_flags, 0600);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return open_failed(errno, create, error);
    plain->parts[0] =
        (struct vd_plain_part){.fd = fd, .exists = true, .created = create, .dirty = create};
    plain->created = create;
    if (fstat(fd, &status) < 0 || fcntl(fd, F_SETFL, 0) < 0)
        return open_failed(errno, create, error);
    result = check_kind(&status, error); /* the name may lead elsewhere by now */
    if (result)
        return result;
    plain->block_device = S_ISBLK(status.st_mode);
    if (flags & VDISK_OPEN_NO_LOCK)
        return 0;
    return lock(fd, plain->read_only, error);
}

static int open_directory(struct vd_plain *plain)
{
    size_t length = (size_t)(plain->name - plain->path);
    char *directory = length ? strndup(plain->path, length) : strdup(".");
    int result = 0;

    if (!directory)
        return -ENOMEM;
    /* A reader never syncs it and may lack the permission to list it. */
    plain->directory =
        open(directory, (plain->read_only ? O_PATH : O_RDONLY) | O_DIRECTORY | O_CLOEXEC);
    if (plain->directory < 0)
        result = -errno;
    free(directory);
    return result;
}

static int remember_path(struct vd_plain *plain, const char *path)
{
    const char *slash;

    /* The parts lie beside the file itself, whatever symbolic link led to it. */
    plain->path = realpath(path, NULL);
    if (!plain->path)
        plain->path = strdup(path);
    if (!plain->path)
        return -ENOMEM;
    slash = strrchr(plain->path, '/');
    plain->name = slash ? slash + 1 : plain->path;
    return 0;
}

int vdisk_io_plain_open(const char *path, int flags, struct vdisk_io **io,
                        struct vdisk_error *error)
{
    struct vd_plain *plain;
    int result;

    if ((flags & VDISK_OPEN_CREATE) && (flags & (VDISK_OPEN_READ_ONLY | VDISK_OPEN_NO_LOCK)))
        return vd_fail(error, -EINVAL, "cannot be created read-only");
    plain = calloc(1, sizeof(*plain));
    if (!plain)
        return vd_fail(error, -ENOMEM, "out of memory");
    plain->io.ops = &vd_plain_ops;
    plain->calls = &vd_plain_real_calls;
    plain->tail = &plain->head;
    plain->directory = -1;
    plain->part_end = 1;
    plain->read_only = flags & (VDISK_OPEN_READ_ONLY | VDISK_OPEN_NO_LOCK);
    for (unsigned i = 0; i < VD_PLAIN_PARTS_MAX; i++)
        plain->parts[i].fd = -1;

    result = open_first(plain, path, flags, error);
    if (result)
        goto fail;
    result = remember_path(plain, path);
    if (result == 0 && plain->created)
        result = open_directory(plain);
    if (result) {
        vd_fail(error, result, "its directory cannot be opened: %s", vdisk_strerror(result));
        goto fail;
    }
    plain->directory_dirty = plain->created;
    *io = &plain->io;
    return 0;

fail:
    if (plain->created)
        unlink(path);
    plain->io.ops->close(&plain->io);
    return result;
}

int vdisk_io_plain_set_split(struct vdisk_io *io, uint64_t split_bytes, uint32_t part_set)
{
    struct vd_plain *plain = (struct vd_plain *)io;
    char name[NAME_MAX + 1];
    struct stat status;
    int result;

    assert(io->ops == &vd_plain_ops && !plain->head);
    if (split_bytes == plain->split_bytes && (split_bytes == 0 || part_set == plain->part_set))
        return 0;
    if (plain->split_bytes || plain->block_device || split_bytes % 4096 ||
        split_bytes > INT64_MAX / VD_PLAIN_PARTS_MAX)
        return -EINVAL;
    result = plain->directory < 0 ? open_directory(plain) : 0;
    if (result)
        return result;
    plain->part_set = part_set;
    for (unsigned i = 1; i < VD_PLAIN_PARTS_MAX; i++) {
        result = vd_plain_part_name(plain, i, name);
        if (result)
            goto fail;
        if (fstatat(plain->directory, name, &status, 0) < 0) {
            if (errno == ENOENT)
                continue;
            result = -errno;
            goto fail;
        }
        /* A new image has no parts: these are another's. */
        result = plain->created ? VDISK_E_EXISTS : S_ISREG(status.st_mode) ? 0 : -EINVAL;
        if (result)
            goto fail;
        plain->parts[i].exists = true;
        plain->part_end = i + 1;
    }
    plain->split_bytes = split_bytes;
    return 0;

fail:
    for (unsigned i = 1; i < VD_PLAIN_PARTS_MAX; i++)
        plain->parts[i].exists = false;
    plain->part_end = 1;
    return result;
}

void vdisk_io_plain_remove(struct vdisk_io *io)
{
    struct vd_plain *plain = (struct vd_plain *)io;
    char name[NAME_MAX + 1];
    struct stat ours, named;

    assert(io->ops == &vd_plain_ops);
    for (unsigned i = 0; i < plain->part_end; i++) {
        struct vd_plain_part *part = &plain->parts[i];

        if (!part->created || vd_plain_part_name(plain, i, name) < 0)
            continue;
        part->created = false;
        /* Somebody may have put another file in its place. */
        if (fstat(part->fd, &ours) == 0 &&
            fstatat(plain->directory, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
            ours.st_dev == named.st_dev && ours.st_ino == named.st_ino)
            plain->calls->unlinkat(plain->directory, name, 0);
    }
}

void vd_io_plain_set_calls(struct vdisk_io *io, const struct vd_plain_calls *calls)
{
    struct vd_plain *plain = (struct vd_plain *)io;

    assert(io->ops == &vd_plain_ops);
    plain->calls = calls ? calls : &vd_plain_real_calls;
}
