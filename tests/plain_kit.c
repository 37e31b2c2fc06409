/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kit for tests of the plain backend (plain_kit.h).
 */
#include "plain_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char plain_directory[PATH_MAX];
char plain_image[PATH_MAX + 16];
uint8_t plain_buffer[16 * PAGE] __attribute__((aligned(4096)));
uint8_t plain_back[16 * PAGE] __attribute__((aligned(4096)));
struct vdisk_error plain_error;

int plain_set_up(void **state)
{
    const char *base = getenv("TMPDIR");

    (void)state;
    snprintf(plain_directory, sizeof(plain_directory), "%s/vdisk-test-XXXXXX",
             base ? base : "/tmp");
    if (!mkdtemp(plain_directory))
        return -1;
    snprintf(plain_image, sizeof(plain_image), "%s/a.vdk", plain_directory);
    for (size_t i = 0; i < sizeof(plain_buffer); i++)
        plain_buffer[i] = (uint8_t)(i * 31 + i / PAGE + 1);
    memset(&plain_error, 0, sizeof(plain_error));
    return 0;
}

int plain_tear_down(void **state)
{
    char command[PATH_MAX + 16];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", plain_directory);
    return system(command);
}

static void note_done(struct vdisk_io_request *request)
{
    ++*(int *)request->owner;
}

int plain_run(struct vdisk_io *io, enum vdisk_io_op op, uint64_t offset, void *data,
              uint64_t length)
{
    int done = 0;
    struct vdisk_io_request request = {.op = op,
                                       .offset = offset,
                                       .data = data,
                                       .length = length,
                                       .result = 1,
                                       .done = note_done,
                                       .owner = &done};

    io->ops->submit(io, &request);
    assert_int_equal(done, 0);
    assert_int_equal(io->ops->poll(io, true), 1);
    assert_int_equal(done, 1);
    return request.result;
}

struct vdisk_io *plain_open_ok(int flags)
{
    struct vdisk_io *io = NULL;

    assert_int_equal(vdisk_io_plain_open(plain_image, flags, &io, &plain_error), 0);
    return io;
}

void plain_expect_refused(const char *path, int flags, int code, const char *words)
{
    struct vdisk_io *io = NULL;

    assert_int_equal(vdisk_io_plain_open(path, flags, &io, &plain_error), code);
    assert_null(io);
    assert_int_equal(plain_error.code, code);
    assert_non_null(strstr(plain_error.text, words));
    assert_null(strstr(plain_error.text, plain_directory));
    assert_int_equal(vdisk_io_plain_open(path, flags, &io, NULL), code);
}

uint64_t plain_size_of(struct vdisk_io *io)
{
    uint64_t bytes = 0;

    assert_int_equal(io->ops->size(io, &bytes), 0);
    return bytes;
}

void plain_shut(struct vdisk_io *io)
{
    io->ops->close(io);
}

/* The path of part n, in static storage. */
const char *plain_part_path(unsigned part)
{
    static char path[PATH_MAX + 64];

    snprintf(path, sizeof(path), "%s.%08x.%03u", plain_image, PART_SET, part);
    return path;
}

bool plain_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

struct vdisk_io *plain_open_split(int flags)
{
    struct vdisk_io *io = plain_open_ok(flags);

    assert_int_equal(io->ops->set_split(io, SPLIT, PART_SET), 0);
    return io;
}

/* Queues `count` writes of one block each at these blocks, polls, and leaves the results. */
void plain_write_blocks(struct vdisk_io *io, struct vdisk_io_request *requests,
                        const unsigned *blocks, unsigned count)
{
    int done = 0;

    for (unsigned i = 0; i < count; i++) {
        requests[i] = (struct vdisk_io_request){.op = VDISK_IO_WRITE,
                                                .offset = (uint64_t)blocks[i] * PAGE,
                                                .data = plain_buffer + (size_t)i * PAGE,
                                                .length = PAGE,
                                                .result = 1,
                                                .done = note_done,
                                                .owner = &done};
        io->ops->submit(io, &requests[i]);
    }
    assert_int_equal(io->ops->poll(io, true), count);
    assert_int_equal(done, count);
}

/* ---- the system calls in front of the kernel ---- */

struct plain_fake plain_fake;

static int fails(int number)
{
    if (plain_fake.interruptions > 0) {
        plain_fake.interruptions--;
        number = EINTR;
    }
    errno = number;
    return number;
}

static ssize_t fake_pread(int fd, void *data, size_t length, off_t offset)
{
    if (fails(plain_fake.read_error))
        return -1;
    if (plain_fake.short_bytes && length > plain_fake.short_bytes)
        length = plain_fake.short_bytes;
    return pread(fd, data, length, offset);
}

static ssize_t fake_pwritev(int fd, const struct iovec *vectors, int count, off_t offset)
{
    off_t total = 0;

    for (int i = 0; i < count; i++)
        total += (off_t)vectors[i].iov_len;
    plain_fake.writes++;
    if (plain_fake.zero_writes)
        return 0;
    if (plain_fake.write_error && plain_fake.bad_offset >= 0 && plain_fake.interruptions == 0 &&
        (plain_fake.bad_offset < offset || plain_fake.bad_offset >= offset + total))
        return pwritev(fd, vectors, count, offset);
    if (fails(plain_fake.write_error))
        return -1;
    if (plain_fake.short_bytes)
        return pwrite(fd, vectors[0].iov_base,
                      vectors[0].iov_len < plain_fake.short_bytes ? vectors[0].iov_len
                                                                  : plain_fake.short_bytes,
                      offset);
    return pwritev(fd, vectors, count, offset);
}

static int fake_fdatasync(int fd)
{
    plain_fake.syncs++;
    return fails(plain_fake.sync_error) ? -1 : fdatasync(fd);
}

static int fake_fsync(int fd)
{
    plain_fake.directory_syncs++;
    return fails(plain_fake.directory_error) ? -1 : fsync(fd);
}

static int fake_fallocate(int fd, int mode, off_t offset, off_t length)
{
    plain_fake.fallocates++;
    plain_fake.last_mode = mode;
    return fails(plain_fake.fallocate_error) ? -1 : fallocate(fd, mode, offset, length);
}

static int fake_ftruncate(int fd, off_t length)
{
    return fails(0) ? -1 : ftruncate(fd, length);
}

static int fake_openat(int parent, const char *name, int flags, mode_t mode)
{
    return fails(0) ? -1 : openat(parent, name, flags, mode);
}

static const struct vd_file_calls fake_calls = {
    .pread = fake_pread,
    .pwritev = fake_pwritev,
    .fdatasync = fake_fdatasync,
    .fsync = fake_fsync,
    .fallocate = fake_fallocate,
    .ftruncate = fake_ftruncate,
    .openat = fake_openat,
    .unlinkat = unlinkat,
};

struct vdisk_io *plain_open_faked(int flags)
{
    struct vdisk_io *io = plain_open_ok(flags);

    memset(&plain_fake, 0, sizeof(plain_fake));
    plain_fake.bad_offset = -1;
    vd_files_set_calls(vd_io_plain_files(io), &fake_calls);
    return io;
}
