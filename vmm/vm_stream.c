/* SPDX-License-Identifier: Apache-2.0 */
/* See vm_stream.h. */
#include "vm_stream.h"

#include "report.h"
#include "zeros.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE         UINT64_C(4096)
#define HEAD_BYTES   16u
#define RECORD_BYTES 16u

/* ---- bytes ---- */

/* Waits for `events` of the descriptor. */
static int wait_for(const struct vm_stream *stream, short events)
{
    struct pollfd on[2] = {{.fd = stream->fd, .events = events},
                           {.fd = stream->cancel, .events = POLLIN}};

    while (poll(on, 2, -1) < 0)
        if (errno != EINTR)
            return -errno;
    return on[1].revents ? -ECANCELED : 0;
}

static bool is_passing(int number)
{
    return number == EAGAIN || number == EINTR;
}

/* All of both; the vectors are used up. */
static int write_all(const struct vm_stream *stream, struct iovec vector[2])
{
    while (vector[0].iov_len + vector[1].iov_len > 0) {
        int rc = wait_for(stream, POLLOUT);
        ssize_t done;

        if (rc)
            return rc;
        done = writev(stream->fd, vector, 2);
        if (done < 0 && !is_passing(errno))
            return -errno;
        for (unsigned i = 0; i < 2 && done > 0; i++) {
            size_t part = (size_t)done < vector[i].iov_len ? (size_t)done : vector[i].iov_len;

            vector[i].iov_base = (uint8_t *)vector[i].iov_base + part;
            vector[i].iov_len -= part;
            done -= (ssize_t)part;
        }
    }
    return 0;
}

/* All of it; VDISK_E_MALFORMED: there is no more. */
static int read_all(const struct vm_stream *stream, void *to, size_t length)
{
    uint8_t *next = to;

    while (length > 0) {
        int rc = wait_for(stream, POLLIN);
        ssize_t got;

        if (rc)
            return rc;
        got = read(stream->fd, next, length);
        if (got == 0)
            return VDISK_E_MALFORMED;
        if (got < 0 && !is_passing(errno))
            return -errno;
        if (got > 0) {
            next += got;
            length -= (size_t)got;
        }
    }
    return 0;
}

static int fail_writing(struct vdisk_error *error, int rc)
{
    if (rc == -ECANCELED)
        return error_set(error, rc, "the guest ends, and is not suspended any more");
    if (rc == -EPIPE)
        return error_set(error, rc, "nobody reads the guest's state any more");
    return error_set(error, rc, "the guest's state cannot be written: %s", vdisk_strerror(rc));
}

static int fail_reading(struct vdisk_error *error, int rc)
{
    if (rc == VDISK_E_MALFORMED)
        return error_set(error, rc, "the guest's state ends early");
    if (rc == -ECANCELED)
        return error_set(error, rc, "it was ended before it went on");
    return error_set(error, rc, "the guest's state cannot be read: %s", vdisk_strerror(rc));
}

static int malformed(struct vdisk_error *error, const char *what)
{
    return error_set(error, VDISK_E_MALFORMED, "the guest's state is malformed: %s", what);
}

static void put32(uint8_t *to, uint32_t number)
{
    number = htole32(number);
    memcpy(to, &number, sizeof(number));
}

static void put64(uint8_t *to, uint64_t number)
{
    number = htole64(number);
    memcpy(to, &number, sizeof(number));
}

static uint32_t get32(const uint8_t *from)
{
    uint32_t number;

    memcpy(&number, from, sizeof(number));
    return le32toh(number);
}

static uint64_t get64(const uint8_t *from)
{
    uint64_t number;

    memcpy(&number, from, sizeof(number));
    return le64toh(number);
}

/* ---- the head ---- */

int vm_stream_write_head(const struct vm_stream *stream, const json_t *state,
                         struct vdisk_error *error)
{
    char *text = json_dumps(state, JSON_COMPACT);
    size_t length = text ? strlen(text) : 0;
    uint8_t head[HEAD_BYTES] = VM_STREAM_MAGIC;
    struct iovec vector[2] = {{head, sizeof(head)}, {text, length}};
    int rc;

    if (!text)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    put32(head + 8, VM_STREAM_VERSION);
    put32(head + 12, (uint32_t)length);
    if (length > VM_STREAM_TEXT_MAX)
        rc = error_set(error, VDISK_E_LIMIT, "the guest's state is larger than it may be");
    else if ((rc = write_all(stream, vector)) != 0)
        fail_writing(error, rc);
    free(text);
    return rc;
}

static int parse(const char *text, size_t length, json_t **state, struct vdisk_error *error)
{
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);

    if (!json_is_object(root)) {
        json_decref(root);
        return malformed(error, "its text");
    }
    *state = root;
    return 0;
}

int vm_stream_read_head(const struct vm_stream *stream, json_t **state, struct vdisk_error *error)
{
    uint8_t head[HEAD_BYTES];
    int rc = read_all(stream, head, sizeof(head));
    uint32_t length;
    char *text;

    if (rc)
        return fail_reading(error, rc);
    if (memcmp(head, VM_STREAM_MAGIC, 8) != 0)
        return error_set(error, VDISK_E_MALFORMED, "this is not the state of a guest");
    if (get32(head + 8) != VM_STREAM_VERSION)
        return error_set(error, VDISK_E_UNSUPPORTED,
                         "the guest's state is of another version (%u) than this program's (%u)",
                         get32(head + 8), VM_STREAM_VERSION);
    length = get32(head + 12);
    if (length > VM_STREAM_TEXT_MAX)
        return malformed(error, "the length of its text");
    text = malloc(length ? length : 1);
    if (!text)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    rc = read_all(stream, text, length);
    rc = rc ? fail_reading(error, rc) : parse(text, length, state, error);
    free(text);
    return rc;
}

/* ---- RAM ---- */

static int write_record(const struct vm_stream *stream, uint64_t offset, void *bytes,
                        uint32_t length)
{
    uint8_t record[RECORD_BYTES] = {0};
    struct iovec vector[2] = {{record, sizeof(record)}, {bytes, length}};

    put64(record, offset);
    put32(record + 8, length);
    return write_all(stream, vector);
}

/* What of the bytes is not zeros. */
static int write_data(const struct vm_stream *stream, uint64_t offset, uint8_t *bytes,
                      uint64_t length, uint64_t *sum)
{
    uint64_t at = 0;
    int rc = 0;

    while (at < length && rc == 0) {
        uint64_t piece, run;

        at += zeros_run(bytes + at, length - at, PAGE);
        piece = length - at < VM_STREAM_PIECE ? length - at : VM_STREAM_PIECE;
        run = zeros_data_run(bytes + at, piece, PAGE);
        if (run > 0)
            rc = write_record(stream, offset + at, bytes + at, (uint32_t)run);
        at += run;
        *sum += run;
    }
    return rc;
}

/* Where what was ever written to goes on from `at`, or the end; *end: and how far. Without an
 * answer of the kernel's, all of it. */
static uint64_t find_data(const struct vm_memory *memory, uint64_t at, uint64_t *end)
{
    off_t begin = lseek(memory->fd, (off_t)at, SEEK_DATA), hole;

    *end = memory->size;
    if (begin < 0)
        return errno == ENXIO ? memory->size : at;
    hole = lseek(memory->fd, begin, SEEK_HOLE);
    if (hole > begin)
        *end = (uint64_t)hole;
    return (uint64_t)begin / PAGE * PAGE;
}

static int write_region(const struct vm_stream *stream, const struct vm_memory *memory,
                        const struct vm_region *region, uint64_t *sum)
{
    uint64_t at = region->offset, region_end = region->offset + region->size;
    int rc = 0;

    while (rc == 0) {
        uint64_t end, begin = find_data(memory, at, &end);

        if (begin >= region_end)
            break;
        if (end > region_end)
            end = region_end;
        end = (end + PAGE - 1) / PAGE * PAGE;
        rc = write_data(stream, begin, region->host + (begin - region->offset), end - begin, sum);
        at = end;
    }
    return rc;
}

int vm_stream_write_memory(const struct vm_stream *stream, const struct vm_memory *memory,
                           struct vdisk_error *error)
{
    uint64_t sum = 0;
    int rc = 0;

    for (unsigned i = 0; i < memory->count && rc == 0; i++)
        rc = write_region(stream, memory, &memory->region[i], &sum);
    if (rc == 0)
        rc = write_record(stream, sum, NULL, 0);
    return rc ? fail_writing(error, rc) : 0;
}

/* Of bytes in one region, or NULL. */
static uint8_t *ram_at(const struct vm_memory *memory, uint64_t offset, uint32_t length)
{
    for (unsigned i = 0; i < memory->count; i++) {
        const struct vm_region *region = &memory->region[i];
        uint64_t at = offset - region->offset;

        if (offset >= region->offset && at < region->size && length <= region->size - at)
            return region->host + at;
    }
    return NULL;
}

int vm_stream_read_memory(const struct vm_stream *stream, const struct vm_memory *memory,
                          struct vdisk_error *error)
{
    uint64_t next = 0, sum = 0;

    for (;;) {
        uint8_t record[RECORD_BYTES], *to;
        int rc = read_all(stream, record, sizeof(record));
        uint64_t offset;
        uint32_t length;

        if (rc)
            return fail_reading(error, rc);
        offset = get64(record);
        length = get32(record + 8);
        if (get32(record + 12) != 0)
            return malformed(error, "a record");
        if (length == 0)
            return offset == sum ? 0 : malformed(error, "there is less of it than there was");
        if (length > VM_STREAM_PIECE || length % PAGE || offset % PAGE || offset < next)
            return malformed(error, "a record of memory");
        to = ram_at(memory, offset, length);
        if (!to)
            return malformed(error, "a record of memory that there is not");
        rc = read_all(stream, to, length);
        if (rc)
            return fail_reading(error, rc);
        next = offset + length;
        sum += length;
    }
}
