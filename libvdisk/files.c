/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of an image: in one, in several, or a block device (SPEC.md 2). Opening, locking,
 * names, parts, and what was changed since the last sync.
 *
 * Invariants:
 * - Part n holds the bytes [n * split_bytes, (n + 1) * split_bytes). A part that does not exist
 *   reads as zeros; the layers above notice by their tags.
 * - A file that was changed is `dirty` until it is taken for an fdatasync; a directory in which a
 *   name came or went, until its fsync. Who opens files to write takes them for changed: a process
 *   that was killed may have written what the next one builds on.
 * - Read-only, there is no descriptor that could write.
 *
 * Only regular files and block devices are opened, and nothing else even for a moment if the
 * name does not change under us. The lock is flock() on part 0 and ends with the descriptor.
 */
#include "files.h"

#include "error.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct part {
    int fd; /* -1: not open yet, or there is none */
    bool exists;
    bool created; /* by us */
    bool dirty;
};

struct vdisk_files {
    const struct vd_file_calls *calls;
    char *path;       /* absolute where possible: a daemon may change its directory */
    const char *name; /* the last component of path */
    int cached;       /* part 0 through the page cache, to write; -1: none is needed, or there is */
    int directory;    /* -1 until names are needed */
    bool directory_dirty;
    bool read_only;
    bool direct;
    bool created;
    bool block_device;
    uint64_t split_bytes;
    uint32_t part_set;
    unsigned part_end; /* the highest existing part, plus one */
    struct part parts[VD_PARTS_MAX];
};

/* ---- opening ---- */

static int real_openat(int directory, const char *name, int flags, mode_t mode)
{
    return openat(directory, name, flags, mode);
}

static const struct vd_file_calls real_calls = {
    .pread = pread,
    .pwritev = pwritev,
    .fdatasync = fdatasync,
    .fsync = fsync,
    .fallocate = fallocate,
    .ftruncate = ftruncate,
    .openat = real_openat,
    .unlinkat = unlinkat,
};

/* In the directory of the image: 0 or -ENAMETOOLONG. */
static int part_name(const struct vdisk_files *files, unsigned part, char name[static NAME_MAX + 1])
{
    int length;

    if (part == 0)
        length = snprintf(name, NAME_MAX + 1, "%s", files->name);
    else
        length = snprintf(name, NAME_MAX + 1, "%s.%08" PRIx32 ".%03u", files->name, files->part_set,
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

/* Where the file system refuses, the page cache does. */
static void set_direct(const struct vdisk_files *files, int fd)
{
    if (files->direct)
        (void)fcntl(fd, F_SETFL, O_DIRECT);
}

/* Part 0 once more, without O_DIRECT, if the name still leads there. */
static void open_cached(struct vdisk_files *files, const char *path, const struct stat *first)
{
    struct stat status;

    if (!files->direct || files->read_only)
        return;
    files->cached = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (files->cached < 0)
        return;
    if (fstat(files->cached, &status) < 0 || status.st_dev != first->st_dev ||
        status.st_ino != first->st_ino) {
        close(files->cached);
        files->cached = -1;
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
static int open_first(struct vdisk_files *files, const char *path, int flags,
                      struct vdisk_error *error)
{
    bool create = flags & VDISK_OPEN_CREATE;
    int open_flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK; /* a pipe must not make us wait */
    struct stat status;
    int fd = -1;
    int result;

    if (!create) {
        if (stat(path, &status) < 0)
            return open_failed(errno, create, error);
        result = check_kind(&status, error);
        if (result)
            return result;
    }
    open_flags |= files->read_only ? O_RDONLY : O_RDWR;
    if (create)
        open_flags |= O_CREAT | O_EXCL;
    do {
        fd = open(path, open_flags, 0600);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return open_failed(errno, create, error);
    files->parts[0] =
        (struct part){.fd = fd, .exists = true, .created = create, .dirty = !files->read_only};
    files->created = create;
    if (fstat(fd, &status) < 0 || fcntl(fd, F_SETFL, 0) < 0)
        return open_failed(errno, create, error);
    set_direct(files, fd);
    result = check_kind(&status, error); /* the name may lead elsewhere by now */
    if (result)
        return result;
    files->block_device = S_ISBLK(status.st_mode);
    if (!(flags & VDISK_OPEN_NO_LOCK))
        result = lock(fd, files->read_only, error);
    if (result == 0)
        open_cached(files, path, &status);
    return result;
}

static int open_directory(struct vdisk_files *files)
{
    size_t length = (size_t)(files->name - files->path);
    char *directory = length ? strndup(files->path, length) : strdup(".");
    int result = 0;

    if (!directory)
        return -ENOMEM;
    /* A reader never syncs it and may lack the permission to list it. */
    files->directory =
        open(directory, (files->read_only ? O_PATH : O_RDONLY) | O_DIRECTORY | O_CLOEXEC);
    if (files->directory < 0)
        result = -errno;
    free(directory);
    return result;
}

static int remember_path(struct vdisk_files *files, const char *path)
{
    const char *slash;

    /* The parts lie beside the file itself, whatever symbolic link led to it. */
    files->path = realpath(path, NULL);
    if (!files->path)
        files->path = strdup(path);
    if (!files->path)
        return -ENOMEM;
    slash = strrchr(files->path, '/');
    files->name = slash ? slash + 1 : files->path;
    return 0;
}

int vdisk_files_open(const char *path, int flags, struct vdisk_files **out,
                     struct vdisk_error *error)
{
    struct vdisk_files *files;
    int result;

    if ((flags & VDISK_OPEN_CREATE) && (flags & (VDISK_OPEN_READ_ONLY | VDISK_OPEN_NO_LOCK)))
        return vd_fail(error, -EINVAL, "cannot be created read-only");
    files = calloc(1, sizeof(*files));
    if (!files)
        return vd_fail(error, -ENOMEM, "out of memory");
    files->calls = &real_calls;
    files->directory = files->cached = -1;
    files->part_end = 1;
    files->direct = flags & VDISK_OPEN_DIRECT;
    files->read_only = flags & (VDISK_OPEN_READ_ONLY | VDISK_OPEN_NO_LOCK);
    for (unsigned i = 0; i < VD_PARTS_MAX; i++)
        files->parts[i].fd = -1;

    result = open_first(files, path, flags, error);
    if (result)
        goto fail;
    result = remember_path(files, path);
    if (result == 0 && files->created)
        result = open_directory(files);
    if (result) {
        vd_fail(error, result, "its directory cannot be opened: %s", vdisk_strerror(result));
        goto fail;
    }
    files->directory_dirty = files->created;
    *out = files;
    return 0;

fail:
    if (files->created)
        unlink(path);
    vdisk_files_close(files);
    return result;
}

int vdisk_files_set_split(struct vdisk_files *files, uint64_t split_bytes, uint32_t part_set)
{
    char name[NAME_MAX + 1];
    struct stat status;
    int result;

    if (split_bytes == files->split_bytes && (split_bytes == 0 || part_set == files->part_set))
        return 0;
    if (files->split_bytes || files->block_device || split_bytes % 4096 ||
        split_bytes > INT64_MAX / VD_PARTS_MAX)
        return -EINVAL;
    result = files->directory < 0 ? open_directory(files) : 0;
    if (result)
        return result;
    files->part_set = part_set;
    for (unsigned i = 1; i < VD_PARTS_MAX; i++) {
        result = part_name(files, i, name);
        if (result)
            goto fail;
        if (fstatat(files->directory, name, &status, 0) < 0) {
            if (errno == ENOENT)
                continue;
            result = -errno;
            goto fail;
        }
        /* A new image has no parts: these are another's. */
        result = files->created ? VDISK_E_EXISTS : S_ISREG(status.st_mode) ? 0 : -EINVAL;
        if (result)
            goto fail;
        files->parts[i].exists = true;
        files->part_end = i + 1;
    }
    files->split_bytes = split_bytes;
    files->directory_dirty = !files->read_only;
    return 0;

fail:
    for (unsigned i = 1; i < VD_PARTS_MAX; i++)
        files->parts[i].exists = false;
    files->part_end = 1;
    return result;
}

/* ---- parts ---- */

/* -EFBIG past the last part there can be. */
static int part_of(const struct vdisk_files *files, uint64_t offset, unsigned *part)
{
    if (files->split_bytes && offset / files->split_bytes >= VD_PARTS_MAX)
        return -EFBIG;
    *part = files->split_bytes ? (unsigned)(offset / files->split_bytes) : 0;
    return 0;
}

/* Opens the part if need be. Where there is none: creates it, or without `create` gives -1. */
static int part_open(struct vdisk_files *files, unsigned number, bool create, int *fd)
{
    struct part *part = &files->parts[number];
    char name[NAME_MAX + 1];
    int flags = (files->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY;
    int result;

    if (part->fd >= 0 || (!part->exists && !create)) {
        *fd = part->fd;
        return 0;
    }
    result = part_name(files, number, name);
    if (result)
        return result;
    if (!part->exists)
        flags |= O_CREAT | O_EXCL;
    do {
        part->fd = files->calls->openat(files->directory, name, flags, 0600);
    } while (part->fd < 0 && errno == EINTR);
    if (part->fd < 0)
        return -errno;
    set_direct(files, part->fd);
    part->dirty = !files->read_only;
    if (!part->exists) {
        part->exists = part->created = true;
        files->directory_dirty = true;
        if (number >= files->part_end)
            files->part_end = number + 1;
    }
    *fd = part->fd;
    return 0;
}

static int part_unlink(struct vdisk_files *files, unsigned number)
{
    struct part *part = &files->parts[number];
    char name[NAME_MAX + 1];
    int result = part_name(files, number, name);

    if (result)
        return result;
    if (files->calls->unlinkat(files->directory, name, 0) < 0 && errno != ENOENT)
        return -errno;
    if (part->fd >= 0)
        close(part->fd);
    *part = (struct part){.fd = -1};
    files->directory_dirty = true;
    return 0;
}

int vdisk_files_piece(struct vdisk_files *files, uint64_t offset, uint64_t length, bool change,
                      struct vdisk_piece *piece)
{
    uint64_t split = files->split_bytes, room;
    unsigned part;
    int fd = -1;
    int result = part_of(files, offset, &part);

    if (result == 0 && change && files->read_only)
        result = -EROFS;
    if (result == 0)
        result = part_open(files, part, change, &fd);
    if (result)
        return result;
    if (change)
        files->parts[part].dirty = true;
    room = split ? split - offset % split : length;
    *piece = (struct vdisk_piece){
        .fd = fd,
        .offset = split ? offset % split : offset,
        .length = length < room ? length : room,
    };
    return 0;
}

uint64_t vdisk_files_span(const struct vdisk_files *files, uint64_t offset, uint64_t length)
{
    uint64_t end = files->split_bytes * files->part_end;

    if (!files->split_bytes)
        return length;
    if (offset >= end)
        return 0;
    return length < end - offset ? length : end - offset;
}

int vdisk_files_size(struct vdisk_files *files, uint64_t *bytes)
{
    unsigned last = files->part_end - 1;
    off_t end;
    int fd = -1;
    int result;

    while (!files->parts[last].exists) /* part 0 does */
        last--;
    result = part_open(files, last, false, &fd);
    if (result)
        return result;
    end = lseek(fd, 0, SEEK_END); /* knows block devices too */
    if (end < 0)
        return -errno;
    if (files->split_bytes && (uint64_t)end > files->split_bytes)
        end = (off_t)files->split_bytes; /* the rest of that file is not ours to show */
    *bytes = files->split_bytes * last + (uint64_t)end;
    return 0;
}

int vdisk_files_truncate(struct vdisk_files *files, uint64_t length)
{
    unsigned last = 0;
    uint64_t end = length; /* in the last part */
    uint64_t device_bytes = 0;
    int fd = -1;
    int result;

    if (files->block_device) {
        result = vdisk_files_size(files, &device_bytes);
        return result ? result : device_bytes < length ? -ENOSPC : 0;
    }
    if (files->split_bytes && length > 0) {
        result = part_of(files, length - 1, &last);
        if (result)
            return result;
        end = (length - 1) % files->split_bytes + 1;
    }
    /* From the end, so that a crash leaves no part behind a gap. */
    for (; files->part_end > last + 1; files->part_end--) {
        if (!files->parts[files->part_end - 1].exists)
            continue;
        result = part_unlink(files, files->part_end - 1);
        if (result)
            return result;
    }
    result = part_open(files, last, true, &fd);
    if (result)
        return result;
    files->parts[last].dirty = true;
    do {
        result = files->calls->ftruncate(fd, (off_t)end) < 0 ? -errno : 0;
    } while (result == -EINTR);
    return result;
}

int vdisk_files_cached(const struct vdisk_files *files)
{
    return files->cached;
}

bool vdisk_files_read_only(const struct vdisk_files *files)
{
    return files->read_only;
}

/* ---- syncing ---- */

int vdisk_files_take_changed(struct vdisk_files *files, unsigned *part)
{
    for (; *part < files->part_end; ++*part) {
        if (files->parts[*part].dirty) {
            files->parts[*part].dirty = false;
            return files->parts[(*part)++].fd;
        }
    }
    return -1;
}

int vdisk_files_sync_names(struct vdisk_files *files)
{
    int result;

    if (!files->directory_dirty)
        return 0;
    do {
        result = files->calls->fsync(files->directory) < 0 ? -errno : 0;
    } while (result == -EINTR);
    files->directory_dirty = false;
    /* Some filesystems have no fsync of directories and say so like this. */
    return result == -EINVAL ? 0 : result;
}

/* ---- the end ---- */

void vdisk_files_close(struct vdisk_files *files)
{
    for (unsigned i = 0; i < VD_PARTS_MAX; i++) {
        if (files->parts[i].fd >= 0)
            close(files->parts[i].fd);
    }
    if (files->cached >= 0)
        close(files->cached);
    if (files->directory >= 0)
        close(files->directory);
    free(files->path);
    free(files);
}

void vdisk_files_remove(struct vdisk_files *files)
{
    char name[NAME_MAX + 1];
    struct stat ours, named;

    for (unsigned i = 0; i < files->part_end; i++) {
        struct part *part = &files->parts[i];

        if (!part->created || part_name(files, i, name) < 0)
            continue;
        part->created = false;
        /* Somebody may have put another file in its place. */
        if (fstat(part->fd, &ours) == 0 &&
            fstatat(files->directory, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
            ours.st_dev == named.st_dev && ours.st_ino == named.st_ino)
            files->calls->unlinkat(files->directory, name, 0);
    }
}

const struct vd_file_calls *vd_files_calls(const struct vdisk_files *files)
{
    return files->calls;
}

void vd_files_set_calls(struct vdisk_files *files, const struct vd_file_calls *calls)
{
    files->calls = calls ? calls : &real_calls;
}
