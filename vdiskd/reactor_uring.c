/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The io_uring backend of a reactor.
 *
 * The ring is made disabled and belongs to the thread of the first step (SINGLE_ISSUER,
 * DEFER_TASKRUN where the kernel has them); it may do the operations named here and no others,
 * which seccomp could not see to.
 *
 * The reactor's memory is registered, as its only buffer. Files are not: it saves nothing that
 * could be measured (fio, 4 KiB, depth 32: 5.5 us of processor time for each read with and
 * without), and until Linux 6.13 a registered file stays open, and so locked, up to a second longer
 * than its descriptor.
 *
 * A socket that is non-blocking makes the kernel answer EAGAIN where it would wait: then the
 * operation polls for its turn and is submitted again. op->backend is `polling` meanwhile.
 */
#include "reactor_impl.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>

struct uring {
    struct io_uring ring;
    bool enabled;
    bool has_buffer; /* the reactor's memory is registered */
};

/* Completions of a round: with a few at a time, those who waited go on, and ask for more, while the
 * disk still works for the others. All at once would have disk and processor take turns. */
#define REAP_MAX 4u

static char polling;
/* A completion without an operation: of a cancellation. */
#define NO_OP ((void *)0)

static struct uring *uring_of(struct reactor *reactor)
{
    return reactor->state;
}

static void enable(struct uring *uring)
{
    if (uring->enabled)
        return;
    uring->enabled = true;
    /* liburing 2.3 declares a function for it that its library does not export. */
    (void)io_uring_register((unsigned)uring->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

static struct io_uring_sqe *take_sqe(struct reactor *reactor)
{
    struct uring *uring = uring_of(reactor);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);

    if (!sqe) {
        enable(uring);
        io_uring_submit(&uring->ring);
        sqe = io_uring_get_sqe(&uring->ring);
    }
    return sqe;
}

static bool is_registered(struct reactor *reactor, const struct reactor_op *op)
{
    return op->count == 1 && uring_of(reactor)->has_buffer &&
           reactor_memory_holds(&reactor->memory, op->vectors->iov_base, op->vectors->iov_len);
}

static void prepare(struct reactor *reactor, struct io_uring_sqe *sqe, struct reactor_op *op)
{
    switch (op->kind) {
    case REACTOR_READ:
        if (is_registered(reactor, op)) {
            io_uring_prep_read_fixed(sqe, op->fd, op->vectors->iov_base,
                                     (unsigned)op->vectors->iov_len, op->offset, 0);
            break;
        }
        io_uring_prep_readv(sqe, op->fd, op->vectors, op->count, op->offset);
        break;
    case REACTOR_WRITE:
        if (is_registered(reactor, op)) {
            io_uring_prep_write_fixed(sqe, op->fd, op->vectors->iov_base,
                                      (unsigned)op->vectors->iov_len, op->offset, 0);
            break;
        }
        io_uring_prep_writev(sqe, op->fd, op->vectors, op->count, op->offset);
        break;
    case REACTOR_SYNC:
        io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
        break;
    case REACTOR_ALLOCATE:
        io_uring_prep_fallocate(sqe, op->fd, op->mode, (off_t)op->from, (off_t)op->length);
        break;
    case REACTOR_RECEIVE:
        io_uring_prep_recvmsg(sqe, op->fd, op->message, 0);
        break;
    case REACTOR_SEND:
        io_uring_prep_sendmsg(sqe, op->fd, op->message, MSG_NOSIGNAL);
        break;
    case REACTOR_ACCEPT:
        io_uring_prep_accept(sqe, op->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        break;
    case REACTOR_POLL:
        io_uring_prep_poll_add(sqe, op->fd, op->events);
        break;
    case REACTOR_SLEEP:
        /* The kernel reads the time when it takes the entry, which may be after we return. */
        op->timeout = (struct reactor_time){op->deadline / 1000000000, op->deadline % 1000000000};
        io_uring_prep_timeout(sqe, (struct __kernel_timespec *)&op->timeout, 0, IORING_TIMEOUT_ABS);
        break;
    }
}

static void uring_submit(struct reactor *reactor, struct reactor_op *op)
{
    struct io_uring_sqe *sqe = take_sqe(reactor);

    if (!sqe) {
        reactor_complete(reactor, op, -EBUSY);
        return;
    }
    prepare(reactor, sqe, op);
    io_uring_sqe_set_data(sqe, op);
}

static void wait_for_turn(struct reactor *reactor, struct reactor_op *op)
{
    struct io_uring_sqe *sqe = take_sqe(reactor);

    if (!sqe) {
        reactor_complete(reactor, op, -EBUSY);
        return;
    }
    op->backend = &polling;
    io_uring_prep_poll_add(sqe, op->fd, op->kind == REACTOR_SEND ? POLLOUT : POLLIN);
    io_uring_sqe_set_data(sqe, op);
}

static void uring_cancel(struct reactor *reactor, struct reactor_op *op)
{
    struct io_uring_sqe *sqe = take_sqe(reactor);

    if (!sqe)
        return;
    io_uring_prep_cancel(sqe, op, 0);
    io_uring_sqe_set_data(sqe, NO_OP);
}

static void ended(struct reactor *reactor, struct reactor_op *op, int result)
{
    bool was_polling = op->backend == &polling;

    op->backend = NULL;
    if (was_polling && result >= 0) {
        uring_submit(reactor, op);
        return;
    }
    if (result == -EAGAIN &&
        (op->kind == REACTOR_RECEIVE || op->kind == REACTOR_SEND || op->kind == REACTOR_ACCEPT)) {
        wait_for_turn(reactor, op);
        return;
    }
    if (op->kind == REACTOR_SLEEP && result == -ETIME)
        result = 0;
    reactor_complete(reactor, op, result);
}

static void reap(struct reactor *reactor)
{
    struct io_uring *ring = &uring_of(reactor)->ring;
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;

    io_uring_for_each_cqe(ring, head, cqe)
    {
        struct reactor_op *op = io_uring_cqe_get_data(cqe);

        if (op)
            ended(reactor, op, cqe->res);
        if (++count == REAP_MAX)
            break;
    }
    io_uring_cq_advance(ring, count);
}

/* Completions that only the kernel can hand over, and only on this thread. */
static bool needs_kernel(const struct io_uring *ring)
{
    return IO_URING_READ_ONCE(*ring->sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static void uring_collect(struct reactor *reactor, bool wait)
{
    struct uring *uring = uring_of(reactor);
    struct io_uring *ring = &uring->ring;

    enable(uring);
    if (io_uring_cq_ready(ring) > 0)
        wait = false;
    if (wait)
        (void)io_uring_submit_and_wait(ring, 1); /* EINTR: as well */
    else if (io_uring_sq_ready(ring) > 0 || needs_kernel(ring))
        (void)io_uring_submit_and_get_events(ring);
    reap(reactor);
}

static bool uring_peek(struct reactor *reactor)
{
    const struct io_uring *ring = &uring_of(reactor)->ring;

    return io_uring_cq_ready(ring) > 0 || needs_kernel(ring);
}

static void uring_close(struct reactor *reactor)
{
    struct uring *uring = uring_of(reactor);

    io_uring_queue_exit(&uring->ring);
    free(uring);
}

static const struct reactor_backend uring_backend = {
    .name = "io_uring",
    .submit = uring_submit,
    .cancel = uring_cancel,
    .collect = uring_collect,
    .peek = uring_peek,
    .close = uring_close,
};

static int restrict_ring(struct io_uring *ring)
{
    static const uint8_t allowed[] = {
        IORING_OP_READV,       IORING_OP_WRITEV,  IORING_OP_FSYNC,        IORING_OP_FALLOCATE,
        IORING_OP_RECVMSG,     IORING_OP_SENDMSG, IORING_OP_ACCEPT,       IORING_OP_POLL_ADD,
        IORING_OP_TIMEOUT,     IORING_OP_NOP,     IORING_OP_ASYNC_CANCEL, IORING_OP_READ_FIXED,
        IORING_OP_WRITE_FIXED,
    };
    struct io_uring_restriction restriction[sizeof(allowed) + 1] = {0};
    unsigned count = 0;

    for (; count < sizeof(allowed); count++)
        restriction[count] = (struct io_uring_restriction){.opcode = IORING_RESTRICTION_SQE_OP,
                                                           .sqe_op = allowed[count]};
    return io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_RESTRICTIONS, restriction,
                             count);
}

/* Where the limit of locked memory forbids it, operations look the pages up each time. */
static void register_memory(struct reactor *reactor, struct uring *uring)
{
    const struct iovec memory = {reactor->memory.base, reactor->memory.bytes};

    uring->has_buffer =
        reactor->memory.base && io_uring_register_buffers(&uring->ring, &memory, 1) == 0;
}

int reactor_uring_open(struct reactor *reactor, unsigned entries)
{
    static const unsigned modes[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        0,
    };
    struct uring *uring = calloc(1, sizeof(*uring));
    int result = -EINVAL;

    if (!uring)
        return -ENOMEM;
    for (unsigned i = 0; i < sizeof(modes) / sizeof(modes[0]) && result == -EINVAL; i++) {
        struct io_uring_params params = {
            .flags = modes[i] | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
            .cq_entries = entries * 4,
        };

        result = io_uring_queue_init_params(entries, &uring->ring, &params);
    }
    if (result == 0) {
        register_memory(reactor, uring);
        result = restrict_ring(&uring->ring);
        if (result)
            io_uring_queue_exit(&uring->ring);
    }
    if (result) {
        free(uring);
        return result;
    }
    reactor->backend = &uring_backend;
    reactor->state = uring;
    return 0;
}
