/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Storage of an image through a reactor; see ring_io.h.
 *
 * submit() only queues. At the next poll(), or the next round of the reactor, the queue is turned
 * into operations: a run of writes that continue each other becomes one, up to RUN_BYTES. Each is a
 * `transfer` that goes on until the whole range is done, so a short transfer never reaches the
 * engine.
 *
 * Invariants:
 * - A request is on `queued`, belongs to one transfer, or is on `ended`; done() runs from poll()
 * only.
 * - After a failed sync every later one fails as well: the kernel may have dropped the pages.
 */
#include "ring_io.h"

#include "vdisk/files.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RUN_BYTES    (UINT64_C(1) << 20)
#define RUN_VECTORS  64u
#define IDLE_MAX     64u /* transfers kept for reuse */
#define DIRECT_BYTES 4096u

struct ring_io;

struct transfer {
    struct reactor_op op; /* first */
    struct ring_io *io;
    struct vdisk_io_request *requests, *last; /* a run */
    uint64_t offset, length;                  /* of the image: what is left */
    uint64_t skip;                            /* bytes of the first request that are done */
    struct vdisk_io_request *first;           /* the one at `offset` */
    unsigned part;                            /* SYNC: parts before this are done */
    struct iovec vectors[RUN_VECTORS];
    struct transfer *next_idle;
};

struct ring_io {
    struct vdisk_io io; /* first */
    struct reactor *reactor;
    struct reactor_hook *ready;
    struct reactor_hook flush_hook;
    struct vdisk_files *files;
    struct vdisk_io_request *queued, **queued_tail;
    struct vdisk_io_request *ended, **ended_tail;
    unsigned in_flight; /* transfers */
    int sync_error;
    struct transfer *idle;
    unsigned idle_count;
};

static struct ring_io *ring_of(struct vdisk_io *io)
{
    return (struct ring_io *)io;
}

/* ---- the ends ---- */

static void end_request(struct ring_io *io, struct vdisk_io_request *request, int result)
{
    request->result = result;
    request->next = NULL;
    *io->ended_tail = request;
    io->ended_tail = &request->next;
    reactor_kick(io->reactor, io->ready);
}

static void end_transfer(struct transfer *transfer, int result)
{
    struct ring_io *io = transfer->io;
    struct vdisk_io_request *request = transfer->requests;
    bool last = false;

    while (!last) {
        struct vdisk_io_request *next = request->next;

        last = request == transfer->last;
        end_request(io, request, result);
        request = next;
    }
    io->in_flight--;
    if (io->idle_count < IDLE_MAX) {
        transfer->next_idle = io->idle;
        io->idle = transfer;
        io->idle_count++;
    } else {
        free(transfer);
    }
}

/* ---- reads and writes ---- */

/* The buffers from where the transfer stands, at most `room` bytes; returns how many bytes. */
static uint64_t gather(struct transfer *transfer, uint64_t room)
{
    const struct vdisk_io_request *request = transfer->first;
    uint64_t skip = transfer->skip, total = 0;
    unsigned count = 0;

    for (; room > 0 && count < RUN_VECTORS && request; request = request->next) {
        uint64_t length = request->length - skip;

        length = length < room ? length : room;
        transfer->vectors[count++] = (struct iovec){(uint8_t *)request->data + skip, length};
        room -= length;
        total += length;
        skip = 0;
        if (request == transfer->last)
            break;
    }
    transfer->op.count = count;
    return total;
}

static void advance(struct transfer *transfer, uint64_t bytes)
{
    transfer->offset += bytes;
    transfer->length -= bytes;
    transfer->skip += bytes;
    while (transfer->length > 0 && transfer->skip >= transfer->first->length) {
        transfer->skip -= transfer->first->length;
        transfer->first = transfer->first->next;
    }
}

/* What lies past the end of a file, or in no file, is zeros. Reads are requests of their own. */
static void read_zeros(struct transfer *transfer, uint64_t bytes)
{
    memset((uint8_t *)transfer->first->data + transfer->skip, 0, bytes);
    advance(transfer, bytes);
}

static void move_done(struct reactor_op *op);

/* Submits the next piece, or ends. */
static void go_on(struct transfer *transfer)
{
    struct ring_io *io = transfer->io;
    bool is_write = transfer->op.kind == REACTOR_WRITE;

    while (transfer->length > 0) {
        struct vdisk_piece piece;
        int result =
            vdisk_files_piece(io->files, transfer->offset, transfer->length, is_write, &piece);

        if (!is_write && result == -EFBIG) {
            read_zeros(transfer, transfer->length);
            continue;
        }
        if (result) {
            end_transfer(transfer, result);
            return;
        }
        if (piece.fd < 0) {
            read_zeros(transfer, piece.length);
            continue;
        }
        (void)gather(transfer, piece.length);
        transfer->op.fd = piece.fd;
        transfer->op.vectors = transfer->vectors;
        transfer->op.offset = piece.offset;
        transfer->op.done = move_done;
        reactor_submit(io->reactor, &transfer->op);
        return;
    }
    end_transfer(transfer, 0);
}

static void move_done(struct reactor_op *op)
{
    struct transfer *transfer = (struct transfer *)op;
    int result = op->result;

    if (result == -EINTR || result == -EAGAIN) {
        go_on(transfer);
    } else if (result < 0) {
        end_transfer(transfer, result);
    } else if (result == 0 && op->kind == REACTOR_WRITE) {
        end_transfer(transfer, -EIO);
    } else if (result == 0 || (op->kind == REACTOR_READ && result % DIRECT_BYTES)) {
        /* The end of the file: the rest of this piece is zeros. */
        uint64_t piece = 0;

        for (unsigned i = 0; i < op->count; i++)
            piece += op->vectors[i].iov_len;
        advance(transfer, (uint64_t)result);
        read_zeros(transfer, piece - (uint64_t)result);
        go_on(transfer);
    } else {
        advance(transfer, (uint64_t)result);
        go_on(transfer);
    }
}

/* ---- the other operations ---- */

static void sync_done(struct reactor_op *op);

static void sync_next(struct transfer *transfer)
{
    struct ring_io *io = transfer->io;
    int fd = io->sync_error ? -1 : vdisk_files_take_changed(io->files, &transfer->part);

    if (fd >= 0) {
        transfer->op = (struct reactor_op){.kind = REACTOR_SYNC, .fd = fd, .done = sync_done};
        reactor_submit(io->reactor, &transfer->op);
        return;
    }
    if (!io->sync_error)
        io->sync_error = vdisk_files_sync_names(io->files);
    end_transfer(transfer, io->sync_error);
}

static void sync_done(struct reactor_op *op)
{
    struct transfer *transfer = (struct transfer *)op;

    if (op->result < 0 && op->result != -EINTR)
        transfer->io->sync_error = op->result;
    sync_next(transfer);
}

static void allocate_done(struct reactor_op *op);

static void allocate_next(struct transfer *transfer)
{
    struct ring_io *io = transfer->io;
    bool is_punch = transfer->requests->op == VDISK_IO_PUNCH;
    struct vdisk_piece piece;
    int result = 0;

    while (transfer->length > 0) {
        result =
            vdisk_files_piece(io->files, transfer->offset, transfer->length, !is_punch, &piece);
        if (result == 0 && piece.fd >= 0) /* it is there: now it counts as changed */
            result = vdisk_files_piece(io->files, transfer->offset, transfer->length, true, &piece);
        if (result)
            break;
        transfer->offset += piece.length;
        transfer->length -= piece.length;
        if (piece.fd < 0)
            continue;
        transfer->op = (struct reactor_op){
            .kind = REACTOR_ALLOCATE,
            .fd = piece.fd,
            .mode = is_punch ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : 0,
            .from = piece.offset,
            .length = piece.length,
            .done = allocate_done,
        };
        reactor_submit(io->reactor, &transfer->op);
        return;
    }
    end_transfer(transfer, result);
}

static void allocate_done(struct reactor_op *op)
{
    struct transfer *transfer = (struct transfer *)op;
    bool is_punch = transfer->requests->op == VDISK_IO_PUNCH;

    if (op->result < 0 && !(is_punch && (op->result == -EOPNOTSUPP || op->result == -ENOSYS)))
        end_transfer(transfer, op->result);
    else
        allocate_next(transfer);
}

/* ---- the queue ---- */

static struct transfer *take_transfer(struct ring_io *io)
{
    struct transfer *transfer = io->idle;

    if (transfer) {
        io->idle = transfer->next_idle;
        io->idle_count--;
        return transfer;
    }
    return malloc(sizeof(*transfer));
}

static int check(const struct ring_io *io, const struct vdisk_io_request *request)
{
    uint64_t length = request->op == VDISK_IO_TRUNCATE ? 0 : request->length;

    if (request->op == VDISK_IO_SYNC)
        return 0;
    if (request->op != VDISK_IO_READ && vdisk_files_read_only(io->files))
        return -EROFS;
    return request->offset > INT64_MAX || length > INT64_MAX - request->offset ? -EFBIG : 0;
}

/* A few pages into the page cache, on the spot: that is cheaper than any way to wait for it. False
 * where it does not work out; then it is written as all else is. */
static bool write_cached(struct ring_io *io, struct vdisk_io_request *request)
{
    int fd = request->cached ? vdisk_files_cached(io->files) : -1;
    struct vdisk_piece piece;

    if (fd < 0 ||
        vdisk_files_piece(io->files, request->offset, request->length, true, &piece) < 0 ||
        piece.offset != request->offset || piece.length != request->length) /* not in part 0 */
        return false;
    if (pwrite(fd, request->data, request->length, (off_t)request->offset) !=
        (ssize_t)request->length)
        return false;
    end_request(io, request, 0);
    return true;
}

/* Begins with `first`, and takes along the writes that continue it; returns the next request. */
static struct vdisk_io_request *begin(struct ring_io *io, struct vdisk_io_request *first)
{
    struct vdisk_io_request *last = first, *next;
    uint64_t length = first->length;
    unsigned count = 1;
    struct transfer *transfer;
    int result = check(io, first);

    if (result == 0 && first->op == VDISK_IO_TRUNCATE) {
        next = first->next;
        end_request(io, first, vdisk_files_truncate(io->files, first->offset));
        return next;
    }
    if (result == 0 && first->op == VDISK_IO_WRITE) {
        next = first->next;
        if (write_cached(io, first))
            return next;
    }
    transfer = result ? NULL : take_transfer(io);
    if (!transfer) {
        next = first->next;
        end_request(io, first, result ? result : -ENOMEM);
        return next;
    }
    while (first->op == VDISK_IO_WRITE && last->next && last->next->op == VDISK_IO_WRITE &&
           last->next->offset == first->offset + length && count < RUN_VECTORS &&
           first->cached == last->next->cached && length + last->next->length <= RUN_BYTES) {
        last = last->next;
        length += last->length;
        count++;
    }
    next = last->next;
    *transfer = (struct transfer){
        .op = {.kind = first->op == VDISK_IO_WRITE ? REACTOR_WRITE : REACTOR_READ},
        .io = io,
        .requests = first,
        .last = last,
        .first = first,
        .offset = first->offset,
        .length = length,
    };
    io->in_flight++;
    if (first->op == VDISK_IO_SYNC) {
        sync_next(transfer);
    } else if (first->op == VDISK_IO_PUNCH || first->op == VDISK_IO_ALLOCATE) {
        if (first->op == VDISK_IO_PUNCH)
            transfer->length = vdisk_files_span(io->files, first->offset, first->length);
        allocate_next(transfer);
    } else {
        go_on(transfer);
    }
    return next;
}

static void flush_queue(struct ring_io *io)
{
    struct vdisk_io_request *request = io->queued;

    io->queued = NULL;
    io->queued_tail = &io->queued;
    while (request)
        request = begin(io, request);
}

static void flush_hook(struct reactor_hook *hook)
{
    flush_queue((struct ring_io *)((char *)hook - offsetof(struct ring_io, flush_hook)));
}

static void ring_submit(struct vdisk_io *vdisk_io, struct vdisk_io_request *request)
{
    struct ring_io *io = ring_of(vdisk_io);

    request->next = NULL;
    *io->queued_tail = request;
    io->queued_tail = &request->next;
    reactor_kick(io->reactor, &io->flush_hook);
}

static int ring_poll(struct vdisk_io *vdisk_io, bool wait)
{
    struct ring_io *io = ring_of(vdisk_io);
    struct vdisk_io_request *request;
    int count = 0;

    flush_queue(io);
    while (wait && !io->ended && io->in_flight)
        reactor_step(io->reactor, true);
    request = io->ended;
    io->ended = NULL;
    io->ended_tail = &io->ended;
    while (request) {
        struct vdisk_io_request *next = request->next;

        request->done(request); /* may free it, and submit more */
        request = next;
        count++;
    }
    return count;
}

/* ---- the rest of the table ---- */

static int ring_size(struct vdisk_io *io, uint64_t *bytes)
{
    return vdisk_files_size(ring_of(io)->files, bytes);
}

static int64_t ring_now(struct vdisk_io *io)
{
    struct timespec now;

    (void)io;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static int ring_set_split(struct vdisk_io *io, uint64_t split_bytes, uint32_t part_set)
{
    return vdisk_files_set_split(ring_of(io)->files, split_bytes, part_set);
}

static void ring_remove(struct vdisk_io *io)
{
    vdisk_files_remove(ring_of(io)->files);
}

static void ring_close(struct vdisk_io *vdisk_io)
{
    struct ring_io *io = ring_of(vdisk_io);

    assert(!io->in_flight && !io->queued && !io->ended);
    reactor_unkick(io->reactor, &io->flush_hook);
    vdisk_files_close(io->files);
    while (io->idle) {
        struct transfer *transfer = io->idle;

        io->idle = transfer->next_idle;
        free(transfer);
    }
    free(io);
}

static const struct vdisk_io_ops ring_ops = {
    .submit = ring_submit,
    .poll = ring_poll,
    .size = ring_size,
    .now = ring_now,
    .set_split = ring_set_split,
    .remove = ring_remove,
    .close = ring_close,
};

int ring_io_open(struct reactor *reactor, struct reactor_hook *ready, const char *path, int flags,
                 struct vdisk_io **out, struct vdisk_error *error)
{
    struct ring_io *io = calloc(1, sizeof(*io));
    int result;

    if (!io)
        return -ENOMEM;
    result = vdisk_files_open(path, flags | VDISK_OPEN_DIRECT, &io->files, error);
    if (result) {
        free(io);
        return result;
    }
    io->io.ops = &ring_ops;
    io->reactor = reactor;
    io->ready = ready;
    io->flush_hook.run = flush_hook;
    io->queued_tail = &io->queued;
    io->ended_tail = &io->ended;
    *out = &io->io;
    return 0;
}
