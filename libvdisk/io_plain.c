/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plain backend: an image in one file, in several, or on a block device (SPEC.md, "Files").
 *
 * submit() only queues. poll() carries out the queue in order with blocking system calls and
 * then runs the completions, so a completion that submits more never makes poll() endless.
 *
 * Invariants:
 * - Part n holds the bytes [n * split_bytes, (n + 1) * split_bytes). A part that does not exist
 *   reads as zeros; the layers above notice by their tags.
 * - A file that was changed is `dirty` until an fdatasync of it has succeeded; a directory in
 *   which a name came or went, until its fsync has.
 * - After a failed sync the kernel may have dropped the pages, so every later one fails as well.
 * - A read-only io has no descriptor that could write.
 *
 * A block device keeps its length: TRUNCATE succeeds when the device is long enough.
 */
#include "io_plain_impl.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* As much of a range as lies in one part. */
struct piece {
    unsigned part;
    off_t offset; /* in the part */
    uint64_t length;
};

/* ---- parts ---- */

/* -EFBIG when the range begins past the last part there can be. */
static int first_piece(const struct vd_plain *plain, uint64_t offset, uint64_t length,
                       struct piece *piece)
{
    uint64_t room;

    if (plain->split_bytes == 0) {
        *piece = (struct piece){0, (off_t)offset, length};
        return 0;
    }
    if (offset / plain->split_bytes >= VD_PLAIN_PARTS_MAX)
        return -EFBIG;
    room = plain->split_bytes - offset % plain->split_bytes;
    *piece = (struct piece){
        .part = (unsigned)(offset / plain->split_bytes),
        .offset = (off_t)(offset % plain->split_bytes),
        .length = length < room ? length : room,
    };
    return 0;
}

/* Opens the part if need be. Where there is none: creates it, or without `create` gives -1. */
static int part_open(struct vd_plain *plain, unsigned number, bool create, int *fd)
{
    struct vd_plain_part *part = &plain->parts[number];
    char name[NAME_MAX + 1];
    int flags = (plain->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY;
    int result;

    if (part->fd >= 0 || (!part->exists && !create)) {
        *fd = part->fd;
        return 0;
    }
    result = vd_plain_part_name(plain, number, name);
    if (result)
        return result;
    if (!part->exists)
        flags |= O_CREAT | O_EXCL;
    do {
        part->fd = plain->calls->openat(plain->directory, name, flags, 0600);
    } while (part->fd < 0 && errno == EINTR);
    if (part->fd < 0)
        return -errno;
    if (!part->exists) {
        part->exists = part->created = part->dirty = true;
        plain->directory_dirty = true;
        if (number >= plain->part_end)
            plain->part_end = number + 1;
    }
    *fd = part->fd;
    return 0;
}

static int part_unlink(struct vd_plain *plain, unsigned number)
{
    struct vd_plain_part *part = &plain->parts[number];
    char name[NAME_MAX + 1];
    int result = vd_plain_part_name(plain, number, name);

    if (result)
        return result;
    if (plain->calls->unlinkat(plain->directory, name, 0) < 0 && errno != ENOENT)
        return -errno;
    if (part->fd >= 0)
        close(part->fd);
    *part = (struct vd_plain_part){.fd = -1};
    plain->directory_dirty = true;
    return 0;
}

/* ---- the operations, each on the whole range of a request ---- */

static int read_piece(struct vd_plain *plain, int fd, uint8_t *data, uint64_t length, off_t offset)
{
    while (length > 0) {
        ssize_t count = plain->calls->pread(fd, data, length, offset);

        if (count < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        if (count == 0) /* the end of the file */
            break;
        data += count;
        offset += count;
        length -= (uint64_t)count;
    }
    memset(data, 0, length);
    return 0;
}

static int read_range(struct vd_plain *plain, uint64_t offset, uint8_t *data, uint64_t length)
{
    while (length > 0) {
        struct piece piece;
        int fd;
        int result;

        if (first_piece(plain, offset, length, &piece) < 0) {
            memset(data, 0, length);
            break;
        }
        result = part_open(plain, piece.part, false, &fd);
        if (result)
            return result;
        if (fd < 0)
            memset(data, 0, piece.length);
        else
            result = read_piece(plain, fd, data, piece.length, piece.offset);
        if (result)
            return result;
        data += piece.length;
        offset += piece.length;
        length -= piece.length;
    }
    return 0;
}

/* The buffers of contiguous requests from `skip` bytes into the first, at most `room` bytes. */
static int gather(struct vd_plain *plain, const struct vdisk_io_request *request, uint64_t skip,
                  uint64_t room)
{
    int count = 0;

    for (; room > 0 && count < IOV_MAX; request = request->next) {
        uint64_t length = request->length - skip;

        if (length > room)
            length = room;
        plain->vectors[count].iov_base = (uint8_t *)request->data + skip;
        plain->vectors[count].iov_len = length;
        count++;
        room -= length;
        skip = 0;
    }
    return count;
}

/* Writes `length` bytes: `request` and the contiguous ones behind it. `written` counts what
 * reached the files, also on failure. */
static int write_run(struct vd_plain *plain, const struct vdisk_io_request *request,
                     uint64_t length, uint64_t *written)
{
    uint64_t skip = 0;
    uint64_t offset = request->offset;

    *written = 0;
    while (*written < length) {
        struct piece piece;
        ssize_t count;
        int fd;
        int result = first_piece(plain, offset + *written, length - *written, &piece);

        if (result == 0)
            result = part_open(plain, piece.part, true, &fd);
        if (result)
            return result;
        plain->parts[piece.part].dirty = true;
        count = plain->calls->pwritev(fd, plain->vectors,
                                      gather(plain, request, skip, piece.length), piece.offset);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return count < 0 ? -errno : -EIO;
        *written += (uint64_t)count;
        for (skip += (uint64_t)count; *written < length && skip >= request->length;
             request = request->next)
            skip -= request->length;
    }
    return 0;
}

/* PUNCH and ALLOCATE. */
static int fallocate_range(struct vd_plain *plain, int mode, uint64_t offset, uint64_t length)
{
    while (length > 0) {
        struct piece piece;
        int fd;
        int result = first_piece(plain, offset, length, &piece);

        if (result == 0)
            result = part_open(plain, piece.part, mode == 0, &fd);
        if (result)
            return result;
        if (fd >= 0) {
            plain->parts[piece.part].dirty = true;
            do {
                result = plain->calls->fallocate(fd, mode, piece.offset, (off_t)piece.length) < 0
                             ? -errno
                             : 0;
            } while (result == -EINTR);
        }
        if (result)
            return result;
        offset += piece.length;
        length -= piece.length;
    }
    return 0;
}

static int punch_range(struct vd_plain *plain, uint64_t offset, uint64_t length)
{
    int result;

    /* Where no part can be there is nothing to give back. */
    if (plain->split_bytes && offset / plain->split_bytes >= plain->part_end)
        return 0;
    if (plain->split_bytes && offset + length > plain->split_bytes * plain->part_end)
        length = plain->split_bytes * plain->part_end - offset;
    result = fallocate_range(plain, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
    return result == -EOPNOTSUPP || result == -ENOSYS ? 0 : result;
}

static int plain_size(struct vdisk_io *io, uint64_t *bytes);

static int truncate_image(struct vd_plain *plain, uint64_t length)
{
    struct piece last = {0, (off_t)length, 0}; /* its offset is where the image ends */
    uint64_t device_bytes;
    int fd;
    int result;

    if (plain->block_device) {
        result = plain_size(&plain->io, &device_bytes);
        return result ? result : device_bytes < length ? -ENOSPC : 0;
    }
    if (plain->split_bytes && length > 0) {
        result = first_piece(plain, length - 1, 1, &last);
        if (result)
            return result;
        last.offset++;
    }
    /* From the end, so that a crash leaves no part behind a gap. */
    for (; plain->part_end > last.part + 1; plain->part_end--) {
        if (!plain->parts[plain->part_end - 1].exists)
            continue;
        result = part_unlink(plain, plain->part_end - 1);
        if (result)
            return result;
    }
    result = part_open(plain, last.part, true, &fd);
    if (result)
        return result;
    plain->parts[last.part].dirty = true;
    do {
        result = plain->calls->ftruncate(fd, last.offset) < 0 ? -errno : 0;
    } while (result == -EINTR);
    return result;
}

static int sync_fd(int (*call)(int fd), int fd)
{
    while (call(fd) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

static int sync_image(struct vd_plain *plain)
{
    for (unsigned i = 0; i < plain->part_end && !plain->sync_error; i++) {
        struct vd_plain_part *part = &plain->parts[i];

        if (!part->dirty)
            continue;
        plain->sync_error = sync_fd(plain->calls->fdatasync, part->fd);
        part->dirty = false;
    }
    if (!plain->sync_error && plain->directory_dirty) {
        int result = sync_fd(plain->calls->fsync, plain->directory);

        /* Some filesystems have no fsync of directories and say so like this. */
        if (result != -EINVAL)
            plain->sync_error = result;
        plain->directory_dirty = false;
    }
    return plain->sync_error;
}

/* ---- the queue ---- */

static bool valid(const struct vd_plain *plain, const struct vdisk_io_request *request, int *result)
{
    uint64_t length = request->op == VDISK_IO_TRUNCATE ? 0 : request->length;

    if (request->op == VDISK_IO_SYNC)
        return true;
    if (request->op != VDISK_IO_READ && plain->read_only)
        *result = -EROFS;
    else if (request->offset > INT64_MAX || length > INT64_MAX - request->offset)
        *result = -EFBIG;
    else
        return true;
    return false;
}

/* Carries out a write and those behind it that continue it; returns the first that does not. */
static struct vdisk_io_request *execute_writes(struct vd_plain *plain,
                                               struct vdisk_io_request *first)
{
    struct vdisk_io_request *end = first->next;
    struct vdisk_io_request *request;
    uint64_t length = first->length;
    uint64_t written;
    uint64_t position = 0;
    int ignored;
    int result;

    while (end && end->op == VDISK_IO_WRITE && end->offset == first->offset + length &&
           valid(plain, end, &ignored)) {
        length += end->length;
        end = end->next;
    }
    result = write_run(plain, first, length, &written);
    for (request = first; request != end; request = request->next) {
        uint64_t alone;

        position += request->length;
        if (position <= written)
            request->result = 0;
        else if (first->next == end)
            request->result = result;
        else /* the failure belongs to one of them: let each have its own result */
            request->result = write_run(plain, request, request->length, &alone);
    }
    return end;
}

/* Returns the request to go on with. */
static struct vdisk_io_request *execute(struct vd_plain *plain, struct vdisk_io_request *request)
{
    if (!valid(plain, request, &request->result))
        return request->next;
    switch (request->op) {
    case VDISK_IO_READ:
        request->result = read_range(plain, request->offset, request->data, request->length);
        break;
    case VDISK_IO_WRITE:
        return execute_writes(plain, request);
    case VDISK_IO_SYNC:
        request->result = sync_image(plain);
        break;
    case VDISK_IO_PUNCH:
        request->result = punch_range(plain, request->offset, request->length);
        break;
    case VDISK_IO_ALLOCATE:
        request->result = fallocate_range(plain, 0, request->offset, request->length);
        break;
    case VDISK_IO_TRUNCATE:
        request->result = truncate_image(plain, request->offset);
        break;
    default:
        request->result = -EINVAL;
        break;
    }
    return request->next;
}

static void plain_submit(struct vdisk_io *io, struct vdisk_io_request *request)
{
    struct vd_plain *plain = (struct vd_plain *)io;

    request->next = NULL;
    *plain->tail = request;
    plain->tail = &request->next;
}

static int plain_poll(struct vdisk_io *io, bool wait)
{
    struct vd_plain *plain = (struct vd_plain *)io;
    struct vdisk_io_request *head = plain->head;
    struct vdisk_io_request *request;
    int count = 0;

    (void)wait;
    plain->head = NULL;
    plain->tail = &plain->head;
    for (request = head; request;)
        request = execute(plain, request);
    while (head) {
        request = head;
        head = request->next;
        request->done(request); /* may free it */
        count++;
    }
    return count;
}

static int plain_size(struct vdisk_io *io, uint64_t *bytes)
{
    struct vd_plain *plain = (struct vd_plain *)io;
    unsigned last = plain->part_end - 1;
    off_t end;
    int fd;
    int result;

    while (!plain->parts[last].exists) /* part 0 does */
        last--;
    result = part_open(plain, last, false, &fd);
    if (result)
        return result;
    end = lseek(fd, 0, SEEK_END); /* knows block devices too */
    if (end < 0)
        return -errno;
    if (plain->split_bytes && (uint64_t)end > plain->split_bytes)
        end = (off_t)plain->split_bytes; /* the rest of that file is not ours to show */
    *bytes = plain->split_bytes * last + (uint64_t)end;
    return 0;
}

static int64_t plain_now(struct vdisk_io *io)
{
    struct timespec now;

    (void)io;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void plain_close(struct vdisk_io *io)
{
    struct vd_plain *plain = (struct vd_plain *)io;

    assert(!plain->head);
    for (unsigned i = 0; i < VD_PLAIN_PARTS_MAX; i++) {
        if (plain->parts[i].fd >= 0)
            close(plain->parts[i].fd);
    }
    if (plain->directory >= 0)
        close(plain->directory);
    free(plain->path);
    free(plain);
}

const struct vdisk_io_ops vd_plain_ops = {
    .submit = plain_submit,
    .poll = plain_poll,
    .size = plain_size,
    .now = plain_now,
    .close = plain_close,
};
