/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sources of source.h.
 */
#include "source.h"

#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define STATE_STEP (UINT32_C(1) << 30) /* asked about at once */
#define STATE_UNIT UINT32_C(65536)

void source_close(struct source *source)
{
    if (source->ops)
        source->ops->close(source);
    source->ops = NULL;
}

/* --- a file ------------------------------------------------------------------------------- */

static int file_range(struct source *source, uint64_t offset, uint64_t *length, bool *is_zero)
{
    off_t data, end;

    *length = source->size - offset;
    *is_zero = false;
    if (!source->has_holes)
        return 0;
    data = lseek(source->fd, (off_t)offset, SEEK_DATA);
    if (data < 0 && errno == ENXIO) { /* nothing but a hole up to the end */
        *is_zero = true;
        return 0;
    }
    end = data < 0 ? -1 : lseek(source->fd, data, SEEK_HOLE);
    if (end < 0) { /* the file system cannot tell, so all is data */
        source->has_holes = false;
        return 0;
    }
    if ((uint64_t)data > offset) {
        *is_zero = true;
        end = data;
    }
    if ((uint64_t)end < source->size)
        *length = (uint64_t)end - offset;
    return 0;
}

static int file_start(struct source *source, struct nbd_read *read)
{
    uint8_t *to = read->data;
    uint64_t at = read->offset;
    uint32_t left = read->length;

    while (left > 0) {
        ssize_t got = pread(source->fd, to, left, (off_t)at);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_set(&source->error, -errno, "reading failed at %llu: %s",
                             (unsigned long long)at, vdisk_strerror(-errno));
        if (got == 0)
            return error_set(&source->error, -EIO, "became shorter while it was read");
        to += got;
        at += (uint64_t)got;
        left -= (uint32_t)got;
    }
    read->result = 0;
    read->is_done = true;
    return 0;
}

static int file_wait(struct source *source)
{
    (void)source;
    return 0;
}

static void file_close(struct source *source)
{
    close(source->fd);
}

static int file_size(struct source *source)
{
    struct stat status;

    if (fstat(source->fd, &status) < 0)
        return error_set(&source->error, -errno, "%s", vdisk_strerror(-errno));
    if (S_ISREG(status.st_mode)) {
        source->size = (uint64_t)status.st_size;
        source->has_holes = true;
        return 0;
    }
    if (S_ISDIR(status.st_mode))
        return error_set(&source->error, -EISDIR, "is a directory, not a drive");
    if (!S_ISBLK(status.st_mode))
        return error_set(&source->error, -EINVAL, "is neither a file nor a block device");
    if (ioctl(source->fd, BLKGETSIZE64, &source->size) < 0)
        return error_set(&source->error, -errno, "its size is not to be had: %s",
                         vdisk_strerror(-errno));
    return 0;
}

int source_open_file(struct source *source, const char *path)
{
    static const struct source_ops ops = {
        .range = file_range,
        .start = file_start,
        .wait = file_wait,
        .close = file_close,
    };
    int result;

    memset(source, 0, sizeof(*source));
    source->name = path;
    /* A pipe must not make us wait. */
    source->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (source->fd < 0)
        return error_set(&source->error, -errno, "%s", vdisk_strerror(-errno));
    result = file_size(source);
    if (result) {
        close(source->fd);
        return result;
    }
    posix_fadvise(source->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    source->ops = &ops;
    return 0;
}

/* --- NBD ---------------------------------------------------------------------------------- */

static int nbd_fail(struct source *source, int code)
{
    source->error = *nbd_client_error(source->client);
    return code;
}

/* Only the first range, with those that follow and are alike. */
static bool take_state(void *opaque, uint64_t offset, uint64_t length, uint32_t state)
{
    struct source *source = opaque;
    bool is_zero = state & NBD_STATE_ZERO;

    if (source->known_end != offset ||
        (offset > source->known_offset && is_zero != source->known_zero))
        return false;
    source->known_zero = is_zero;
    source->known_end = offset + length;
    return true;
}

static int nbd_range(struct source *source, uint64_t offset, uint64_t *length, bool *is_zero)
{
    uint64_t left = source->size - offset;

    *length = left;
    *is_zero = false;
    if (!nbd_client_has_context(source->client, 0))
        return 0;
    if (offset < source->known_offset || offset >= source->known_end) {
        uint32_t step = left < STATE_STEP ? (uint32_t)left : STATE_STEP;
        int result;

        source->known_offset = source->known_end = offset;
        result = nbd_client_state(source->client, 0, offset, step, take_state, source);
        if (result)
            return nbd_fail(source, result);
        if (source->known_end == offset) { /* it did not say: read it */
            source->known_end = offset + (step < STATE_UNIT ? step : STATE_UNIT);
            source->known_zero = false;
        }
    }
    if (source->known_end - offset < left)
        *length = source->known_end - offset;
    *is_zero = source->known_zero;
    return 0;
}

static int nbd_start(struct source *source, struct nbd_read *read)
{
    int result = nbd_client_read(source->client, read);

    return result ? nbd_fail(source, result) : 0;
}

static int nbd_wait(struct source *source)
{
    int result = nbd_client_wait(source->client);

    /* Without a result it may yet have been about a read that failed. */
    if (nbd_client_error(source->client)->code)
        source->error = *nbd_client_error(source->client);
    return result;
}

static void nbd_close(struct source *source)
{
    nbd_client_close(source->client);
}

int source_open_nbd(struct source *source, const char *name, const struct nbd_address *address)
{
    static const struct source_ops ops = {
        .range = nbd_range,
        .start = nbd_start,
        .wait = nbd_wait,
        .close = nbd_close,
    };
    static const char *const context[NBD_CONTEXTS_MAX] = {NBD_CONTEXT_ALLOCATION};
    int result;

    memset(source, 0, sizeof(*source));
    source->name = name;
    source->fd = -1;
    result = nbd_client_open(address, context, &source->client, &source->error);
    if (result)
        return result;
    source->size = nbd_client_size(source->client);
    source->ops = &ops;
    return 0;
}
