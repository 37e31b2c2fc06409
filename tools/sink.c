/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sinks of sink.h.
 */
#include "sink.h"

#include "interrupt.h"
#include "nbd_client.h"
#include "report.h"
#include "zeros.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define ZERO_PIECE_BYTES (256u * 1024)
#define DIRECT_MIN       (128u * 1024) /* shorter ones would be waited for, one by one */
#define DIRECT_ALIGNMENT 4096u

static const uint8_t zero_piece[ZERO_PIECE_BYTES];

static int fail(struct sink *sink, int code)
{
    if (code == -EPIPE)
        return error_set(&sink->error, code, "whoever reads it has gone away");
    return error_set(&sink->error, code, "%s", vdisk_strerror(code));
}

/* --- a stream ----------------------------------------------------------------------------- */

static int stream_data(struct sink *sink, uint64_t offset, const void *data, uint64_t length)
{
    const uint8_t *at = data;

    (void)offset; /* in order, from the first */
    while (length > 0) {
        ssize_t put = write(sink->fd, at, length);

        if (interrupt_pending())
            return -ECANCELED;
        if (put < 0 && errno != EINTR)
            return fail(sink, -errno);
        if (put > 0) {
            at += put;
            length -= (uint64_t)put;
        }
    }
    return 0;
}

static int stream_zeros(struct sink *sink, uint64_t offset, uint64_t length)
{
    while (length > 0) {
        uint64_t piece = length < ZERO_PIECE_BYTES ? length : ZERO_PIECE_BYTES;
        int result = stream_data(sink, offset, zero_piece, piece);

        if (result)
            return result;
        length -= piece;
    }
    return 0;
}

void sink_stream(struct sink *sink, const char *name, int fd)
{
    static const struct sink_ops ops = {.data = stream_data, .zeros = stream_zeros};

    *sink = (struct sink){.ops = &ops, .name = name, .fd = fd, .direct_fd = -1};
}

/* --- a block device ----------------------------------------------------------------------- */

/* Lets the disk begin, so that it works beside the processors and not after them, in fsync(). That
 * also reports what fails here. */
static void begin_writeback(struct sink *sink, uint64_t offset, uint64_t length)
{
    (void)sync_file_range(sink->fd, (off_t)offset, (off_t)length, SYNC_FILE_RANGE_WRITE);
}

static int write_run(struct sink *sink, uint64_t offset, const void *data, uint64_t length)
{
    const uint8_t *at = data;

    while (length > 0) {
        ssize_t put = pwrite(sink->fd, at, length, (off_t)offset);

        if (put < 0 && errno != EINTR)
            return fail(sink, -errno);
        if (put > 0) {
            at += put;
            offset += (uint64_t)put;
            length -= (uint64_t)put;
        }
    }
    return 0;
}

static int device_data(struct sink *sink, uint64_t offset, const void *data, uint64_t length)
{
    int result = write_run(sink, offset, data, length);

    if (result == 0)
        begin_writeback(sink, offset, length);
    return result;
}

static int device_zeros(struct sink *sink, uint64_t offset, uint64_t length)
{
    uint64_t range[2] = {offset, length};

    if (ioctl(sink->fd, BLKZEROOUT, range) == 0)
        return 0;
    while (length > 0) {
        uint64_t piece = length < ZERO_PIECE_BYTES ? length : ZERO_PIECE_BYTES;
        int result = device_data(sink, offset, zero_piece, piece);

        if (result)
            return result;
        offset += piece;
        length -= piece;
    }
    return 0;
}

void sink_device(struct sink *sink, const char *name, int fd)
{
    static const struct sink_ops ops = {.data = device_data, .zeros = device_zeros};

    *sink = (struct sink){.ops = &ops, .name = name, .fd = fd, .direct_fd = -1, .any_order = true};
}

/* --- a file, and a drive behind NBD ------------------------------------------------------- */

typedef int put(struct sink *sink, uint64_t offset, const void *data, uint64_t length);

/* Only what is not zero, in runs as long as possible. */
static int put_sparse(struct sink *sink, uint64_t offset, const uint8_t *data, uint64_t length,
                      put *put_run)
{
    uint64_t at = 0;

    while (at < length) {
        uint64_t run = zeros_run(data + at, length - at, ZEROS_BLOCK_BYTES);
        int result;

        at += run;
        run = zeros_data_run(data + at, length - at, ZEROS_BLOCK_BYTES);
        result = run ? put_run(sink, offset + at, data + at, run) : 0;
        if (result)
            return result;
        at += run;
    }
    return 0;
}

/* What is not written here, for whatever reason, write_run() says more about. */
static int write_direct(struct sink *sink, uint64_t offset, const void *data, uint64_t length)
{
    const uint8_t *at = data;
    uint64_t done = 0;

    if (sink->direct_fd >= 0 && length >= DIRECT_MIN &&
        (offset | length | (uintptr_t)data) % DIRECT_ALIGNMENT == 0) {
        ssize_t written = pwrite(sink->direct_fd, at, length, (off_t)offset);

        done = written > 0 ? (uint64_t)written : 0;
    }
    return done == length ? 0 : write_run(sink, offset + done, at + done, length - done);
}

static int file_data(struct sink *sink, uint64_t offset, const void *data, uint64_t length)
{
    int result = put_sparse(sink, offset, data, length, write_direct);

    if (result == 0)
        begin_writeback(sink, offset, length);
    return result;
}

static int leave_zeros(struct sink *sink, uint64_t offset, uint64_t length)
{
    (void)sink;
    (void)offset;
    (void)length;
    return 0;
}

void sink_file(struct sink *sink, const char *name, int fd)
{
    static const struct sink_ops ops = {.data = file_data, .zeros = leave_zeros};

    *sink = (struct sink){.ops = &ops, .name = name, .fd = fd, .direct_fd = -1, .any_order = true};
}

void sink_open_direct(struct sink *sink)
{
    char path[32];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", sink->fd);
    sink->direct_fd = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
}

void sink_close_direct(struct sink *sink)
{
    if (sink->direct_fd >= 0)
        close(sink->direct_fd);
    sink->direct_fd = -1;
}

static int nbd_write_run(struct sink *sink, uint64_t offset, const void *data, uint64_t length)
{
    int result = nbd_client_write(sink->client, offset, data, (uint32_t)length);

    if (result)
        sink->error = *nbd_client_error(sink->client);
    return result;
}

static int nbd_data(struct sink *sink, uint64_t offset, const void *data, uint64_t length)
{
    return put_sparse(sink, offset, data, length, nbd_write_run);
}

void sink_nbd(struct sink *sink, const char *name, struct nbd_client *client)
{
    static const struct sink_ops ops = {.data = nbd_data, .zeros = leave_zeros};

    *sink = (struct sink){.ops = &ops, .name = name, .fd = -1, .direct_fd = -1, .client = client};
}
