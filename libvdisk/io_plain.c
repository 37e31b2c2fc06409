/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plain backend: blocking system calls on the files of an image (files.c).
 *
 * submit() only queues. poll() carries out the queue in order and then runs the completions, so a
 * completion that submits more never makes poll() endless.
 *
 * After a failed sync the kernel may have dropped the pages, so every later one fails as well.
 */
#include "io_plain.h"

#include "error.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct plain {
    struct vdisk_io io;
    struct vdisk_files *files;
    int sync_error;
    struct vdisk_io_request *head, **tail;
    struct iovec vectors[IOV_MAX];
};

static const struct vd_file_calls *calls(const struct plain *plain)
{
    return vd_files_calls(plain->files);
}

/* ---- the operations, each on the whole range of a request ---- */

static int read_piece(struct plain *plain, int fd, uint8_t *data, uint64_t length, off_t offset)
{
    while (length > 0) {
        ssize_t count = calls(plain)->pread(fd, data, length, offset);

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

static int read_range(struct plain *plain, uint64_t offset, uint8_t *data, uint64_t length)
{
    while (length > 0) {
        struct vdisk_piece piece;
        int result = vdisk_files_piece(plain->files, offset, length, false, &piece);

        if (result == -EFBIG) {
            memset(data, 0, length);
            break;
        }
        if (result)
            return result;
        if (piece.fd < 0)
            memset(data, 0, piece.length);
        else
            result = read_piece(plain, piece.fd, data, piece.length, (off_t)piece.offset);
        if (result)
            return result;
        data += piece.length;
        offset += piece.length;
        length -= piece.length;
    }
    return 0;
}

/* The buffers of contiguous requests from `skip` bytes into the first, at most `room` bytes. */
static int gather(struct plain *plain, const struct vdisk_io_request *request, uint64_t skip,
                  uint64_t room)
{
    int count = 0;

    for (; request && room > 0 && count < IOV_MAX; request = request->next) {
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
static int write_run(struct plain *plain, const struct vdisk_io_request *request, uint64_t length,
                     uint64_t *written)
{
    uint64_t skip = 0;
    uint64_t offset = request->offset;

    *written = 0;
    while (*written < length) {
        struct vdisk_piece piece;
        ssize_t count;
        int result =
            vdisk_files_piece(plain->files, offset + *written, length - *written, true, &piece);

        if (result)
            return result;
        count =
            calls(plain)->pwritev(piece.fd, plain->vectors,
                                  gather(plain, request, skip, piece.length), (off_t)piece.offset);
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

/* PUNCH and ALLOCATE. A part that is not there has nothing to punch. */
static int fallocate_range(struct plain *plain, int mode, uint64_t offset, uint64_t length)
{
    while (length > 0) {
        struct vdisk_piece piece;
        int result = vdisk_files_piece(plain->files, offset, length, mode == 0, &piece);

        if (result == 0 && piece.fd >= 0) /* it is there: now it counts as changed */
            result = vdisk_files_piece(plain->files, offset, length, true, &piece);
        if (result)
            return result;
        if (piece.fd >= 0) {
            do {
                result = calls(plain)->fallocate(piece.fd, mode, (off_t)piece.offset,
                                                 (off_t)piece.length) < 0
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

static int punch_range(struct plain *plain, uint64_t offset, uint64_t length)
{
    int result = fallocate_range(plain, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                                 vdisk_files_span(plain->files, offset, length));

    return result == -EOPNOTSUPP || result == -ENOSYS ? 0 : result;
}

static int sync_image(struct plain *plain)
{
    unsigned part = 0;
    int fd;

    while (!plain->sync_error && (fd = vdisk_files_take_changed(plain->files, &part)) >= 0) {
        do {
            plain->sync_error = calls(plain)->fdatasync(fd) < 0 ? -errno : 0;
        } while (plain->sync_error == -EINTR);
    }
    if (!plain->sync_error)
        plain->sync_error = vdisk_files_sync_names(plain->files);
    return plain->sync_error;
}

/* ---- the queue ---- */

static bool valid(const struct plain *plain, const struct vdisk_io_request *request, int *result)
{
    uint64_t length = request->op == VDISK_IO_TRUNCATE ? 0 : request->length;

    if (request->op == VDISK_IO_SYNC)
        return true;
    if (request->op != VDISK_IO_READ && vdisk_files_read_only(plain->files))
        *result = -EROFS;
    else if (request->offset > INT64_MAX || length > INT64_MAX - request->offset)
        *result = -EFBIG;
    else
        return true;
    return false;
}

/* Carries out a write and those behind it that continue it; returns the first that does not. */
static struct vdisk_io_request *execute_writes(struct plain *plain, struct vdisk_io_request *first)
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
static struct vdisk_io_request *execute(struct plain *plain, struct vdisk_io_request *request)
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
        request->result = vdisk_files_truncate(plain->files, request->offset);
        break;
    default:
        request->result = -EINVAL;
        break;
    }
    return request->next;
}

static void plain_submit(struct vdisk_io *io, struct vdisk_io_request *request)
{
    struct plain *plain = (struct plain *)io;

    request->next = NULL;
    *plain->tail = request;
    plain->tail = &request->next;
}

static int plain_poll(struct vdisk_io *io, bool wait)
{
    struct plain *plain = (struct plain *)io;
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
    return vdisk_files_size(((struct plain *)io)->files, bytes);
}

static int plain_set_split(struct vdisk_io *io, uint64_t split_bytes, uint32_t part_set)
{
    struct plain *plain = (struct plain *)io;

    assert(!plain->head);
    return vdisk_files_set_split(plain->files, split_bytes, part_set);
}

static void plain_remove(struct vdisk_io *io)
{
    vdisk_files_remove(((struct plain *)io)->files);
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
    struct plain *plain = (struct plain *)io;

    assert(!plain->head);
    vdisk_files_close(plain->files);
    free(plain);
}

static const struct vdisk_io_ops plain_ops = {
    .submit = plain_submit,
    .poll = plain_poll,
    .size = plain_size,
    .now = plain_now,
    .set_split = plain_set_split,
    .remove = plain_remove,
    .close = plain_close,
};

int vdisk_io_plain_open(const char *path, int flags, struct vdisk_io **io,
                        struct vdisk_error *error)
{
    struct plain *plain = calloc(1, sizeof(*plain));
    int result;

    if (!plain)
        return vd_fail(error, -ENOMEM, "out of memory");
    result = vdisk_files_open(path, flags, &plain->files, error);
    if (result) {
        free(plain);
        return result;
    }
    plain->io.ops = &plain_ops;
    plain->tail = &plain->head;
    *io = &plain->io;
    return 0;
}

struct vdisk_files *vd_io_plain_files(struct vdisk_io *io)
{
    assert(io->ops == &plain_ops);
    return ((struct plain *)io)->files;
}
