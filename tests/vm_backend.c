/* SPDX-License-Identifier: Apache-2.0 */
/* A back end of vhost-user for tests; see vm_backend.h. */
#include "vm_backend.h"
#include "unix_listen.h"
#include "vhost_front.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define BIT(number) (UINT64_C(1) << (number))
#define STEP_US     500
#define STEPS       40000

/* ---- bytes ---- */

static bool wait_readable(const struct backend *backend, int fd)
{
    struct pollfd on[2] = {{.fd = fd, .events = POLLIN}, {.fd = backend->stop, .events = POLLIN}};

    while (poll(on, 2, -1) < 0)
        ;
    return !on[1].revents;
}

static bool receive(struct backend *backend, struct vhost_message *message, void *to, size_t length)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(VHOST_FDS_MAX * sizeof(int))];
    } control;
    struct iovec vector = {to, length};
    struct msghdr part = {.msg_iov = &vector,
                          .msg_iovlen = 1,
                          .msg_control = &control,
                          .msg_controllen = sizeof(control)};

    if (length == 0)
        return true;
    if (!wait_readable(backend, backend->connection))
        return false;
    ssize_t got = recvmsg(backend->connection, &part, MSG_CMSG_CLOEXEC | MSG_WAITALL);
    const struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR(&part) : NULL;

    if (header) {
        message->fd_count = (unsigned)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(message->fd, CMSG_DATA(header), message->fd_count * sizeof(int));
    }
    return got == (ssize_t)length;
}

/* What a front end sends is right, or the test has failed: the connection ends. */
static bool receive_message(struct backend *backend, struct vhost_message *message)
{
    uint8_t header[VHOST_HEADER_BYTES];
    struct vhost_message early = {.fd_count = 0};

    if (!receive(backend, &early, header, sizeof(header)) ||
        vhost_message_header(message, header, NULL)) {
        vhost_message_close(&early);
        return false;
    }
    memcpy(message->fd, early.fd, sizeof(early.fd));
    message->fd_count = early.fd_count;
    return receive(backend, message, message->bytes, message->size) &&
           vhost_message_check(message, NULL) == 0;
}

static void spoil(struct vhost_message *answer, enum backend_fault fault)
{
    switch (fault) {
    case BACKEND_WRONG_REQUEST:
        answer->request++;
        break;
    case BACKEND_WRONG_FLAGS:
        answer->flags = VHOST_FLAG_VERSION;
        break;
    case BACKEND_WRONG_VERSION:
        answer->flags = VHOST_FLAG_REPLY | 2;
        break;
    case BACKEND_SHORT:
        answer->size = answer->size / 2 + 1;
        break;
    case BACKEND_LONG:
        answer->size += 8;
        break;
    case BACKEND_HUGE:
        answer->size = UINT32_MAX;
        break;
    case BACKEND_REFUSE:
        answer->number = 1;
        break;
    default:
        break;
    }
}

static void send_answer(const struct backend *backend, struct vhost_message *answer,
                        enum backend_fault fault)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {.bytes = {0}};

    answer->flags = VHOST_FLAG_VERSION | VHOST_FLAG_REPLY;
    spoil(answer, fault);
    uint32_t header[3] = {answer->request, answer->flags, answer->size};
    size_t bytes = answer->size < VHOST_PAYLOAD_MAX ? answer->size : VHOST_PAYLOAD_MAX;
    struct iovec vectors[2] = {{header, sizeof(header)}, {answer->bytes, bytes}};
    struct msghdr whole = {.msg_iov = vectors, .msg_iovlen = 2};
    int fds[2] = {answer->fd[0], backend->stop};
    unsigned count = answer->fd_count;

    if (fault == BACKEND_HALF)
        vectors[1].iov_len /= 2;
    if (fault == BACKEND_DESCRIPTOR)
        fds[count++] = backend->stop;
    if (count > 0) {
        whole.msg_control = &control;
        whole.msg_controllen = CMSG_SPACE(count * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
    }
    (void)!sendmsg(backend->connection, &whole, MSG_NOSIGNAL);
}

/* ---- what is asked ---- */

static void number(struct vhost_message *message, uint64_t value)
{
    vhost_message_close(message);
    message->number = value;
    message->size = sizeof(value);
}

static void get_config(const struct backend *backend, struct vhost_message *message)
{
    uint8_t space[VHOST_CONFIG_MAX] = {0};

    memcpy(space, &backend->config, sizeof(backend->config));
    memcpy(message->config.bytes, space + message->config.offset, message->config.size);
    if (backend->config_refused)
        message->size = 0;
}

static void get_inflight(const struct backend *backend, struct vhost_message *message)
{
    message->inflight.size = backend->inflight_bytes;
    message->inflight.queues = (uint16_t)(message->inflight.queues + backend->inflight_queues_more);
    if (backend->inflight_without_fd)
        return;
    message->fd[0] = memfd_create("inflight", MFD_CLOEXEC);
    message->fd_count = message->fd[0] >= 0;
}

static void replace(int *place, int fd)
{
    if (*place >= 0)
        close(*place);
    *place = fd;
}

static void set_descriptor(struct backend_queue *queue, struct vhost_message *message)
{
    int *place = message->request == VHOST_SET_VRING_KICK   ? &queue->kick
                 : message->request == VHOST_SET_VRING_CALL ? &queue->call
                                                            : &queue->err;

    replace(place, vhost_message_take_fd(message, 0));
}

static void change_queue(struct backend *backend, struct vhost_message *message)
{
    struct backend_queue *queue = &backend->seen.queue[message->state.index % BACKEND_QUEUES];
    bool has_fd;

    switch (message->request) {
    case VHOST_SET_VRING_NUM:
        queue->size = message->state.num;
        break;
    case VHOST_SET_VRING_BASE:
        queue->base = message->state.num;
        break;
    case VHOST_SET_VRING_ADDR:
        queue->address = message->address;
        break;
    case VHOST_SET_VRING_ENABLE:
        queue->enabled = message->state.num;
        break;
    case VHOST_GET_VRING_BASE:
        queue->enabled = false;
        message->state.num = backend->base;
        message->state.index += backend->base_of_another;
        break;
    default:
        queue = &backend->seen.queue[vhost_message_queue(message, &has_fd) % BACKEND_QUEUES];
        set_descriptor(queue, message);
    }
}

static void set_config(struct backend_seen *seen, const struct vhost_wire_config *config)
{
    seen->written_at = config->offset;
    seen->written_bytes = config->size;
    memcpy(seen->written, config->bytes, config->size);
}

static void obey(struct backend *backend, struct vhost_message *message)
{
    struct backend_seen *seen = &backend->seen;

    switch (message->request) {
    case VHOST_GET_FEATURES:
        number(message, backend->features);
        break;
    case VHOST_GET_PROTOCOL_FEATURES:
        number(message, backend->protocol);
        break;
    case VHOST_GET_QUEUE_NUM:
        number(message, backend->queues);
        break;
    case VHOST_SET_FEATURES:
        seen->features = message->number;
        break;
    case VHOST_SET_PROTOCOL_FEATURES:
        seen->protocol = message->number;
        break;
    case VHOST_SET_OWNER:
        break;
    case VHOST_SET_BACKEND_REQ_FD:
        replace(&backend->channel, vhost_message_take_fd(message, 0));
        break;
    case VHOST_GET_CONFIG:
        get_config(backend, message);
        break;
    case VHOST_SET_CONFIG:
        set_config(seen, &message->config);
        break;
    case VHOST_SET_MEM_TABLE:
        seen->table = message->table;
        seen->tables++;
        break;
    case VHOST_GET_INFLIGHT_FD:
        get_inflight(backend, message);
        break;
    case VHOST_SET_INFLIGHT_FD:
        seen->inflight = message->inflight;
        break;
    case VHOST_RESET_DEVICE:
        seen->resets++;
        break;
    default:
        change_queue(backend, message);
    }
}

/* False: the connection ends. */
static bool serve_one(struct backend *backend)
{
    struct vhost_message message;
    enum backend_fault fault = BACKEND_FINE;

    if (!receive_message(backend, &message)) {
        vhost_message_close(&message);
        return false;
    }
    bool has_reply = vhost_message_has_reply(&message);
    bool wants_ack = message.flags & VHOST_FLAG_NEED_REPLY;

    backend_lock(backend);
    if (++backend->seen.messages == backend->fault_at || message.request == backend->fault_request)
        fault = backend->fault;
    obey(backend, &message);
    backend->seen.last = message.request;
    if (!has_reply && (wants_ack || fault > BACKEND_HALF))
        number(&message, 0);
    if (has_reply || wants_ack || fault > BACKEND_HALF) {
        if (fault != BACKEND_END && fault != BACKEND_SILENT)
            send_answer(backend, &message, fault);
    }
    backend_unlock(backend);
    vhost_message_close(&message);
    return fault != BACKEND_END && fault != BACKEND_HALF && fault != BACKEND_SILENT;
}

static void forget(struct backend *backend)
{
    backend_lock(backend);
    replace(&backend->connection, -1);
    replace(&backend->channel, -1);
    for (unsigned i = 0; i < BACKEND_QUEUES; i++) {
        struct backend_queue *queue = &backend->seen.queue[i];

        replace(&queue->kick, -1);
        replace(&queue->call, -1);
        replace(&queue->err, -1);
        queue->enabled = false;
    }
    backend->seen.last = 0;
    backend_unlock(backend);
}

static void begin(struct backend *backend)
{
    backend_lock(backend);
    memset(&backend->seen, 0, sizeof(backend->seen));
    for (unsigned i = 0; i < BACKEND_QUEUES; i++)
        backend->seen.queue[i].kick = backend->seen.queue[i].call = backend->seen.queue[i].err = -1;
    backend->connection = accept(backend->listener, NULL, NULL);
    backend->connections++;
    backend_unlock(backend);
}

static bool is_silent(struct backend *backend)
{
    backend_lock(backend);
    bool silent = backend->fault == BACKEND_SILENT;

    backend_unlock(backend);
    return silent;
}

static void *serve(void *arg)
{
    struct backend *backend = arg;
    char ignored[4096];

    while (wait_readable(backend, backend->listener)) {
        begin(backend);
        while (serve_one(backend))
            ;
        while (is_silent(backend) && wait_readable(backend, backend->connection) &&
               recv(backend->connection, ignored, sizeof(ignored), 0) > 0)
            ;
        forget(backend);
    }
    return NULL;
}

/* ---- for tests ---- */

void backend_init(struct backend *backend)
{
    *backend = (struct backend){
        .features = BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) |
                    BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VHOST_F_PROTOCOL) |
                    BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) |
                    BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_MQ) | BIT(VIRTIO_BLK_F_CONFIG_WCE),
        .protocol = BIT(VHOST_P_MQ) | BIT(VHOST_P_REPLY_ACK) | BIT(VHOST_P_BACKEND_REQ) |
                    BIT(VHOST_P_CONFIG) | BIT(VHOST_P_INFLIGHT) | BIT(VHOST_P_RESET_DEVICE),
        .queues = BACKEND_QUEUES,
        .config = {.capacity = 4096, .seg_max = 100, .blk_size = 512, .wce = 1},
        .inflight_bytes = 8192,
        .listener = -1,
        .stop = -1,
        .connection = -1,
        .channel = -1,
    };
    pthread_mutex_init(&backend->lock, NULL);
}

int backend_start(struct backend *backend, const char *path)
{
    backend->stop = eventfd(0, EFD_CLOEXEC);
    backend->listener = unix_listen(path);
    if (backend->stop < 0 || backend->listener < 0)
        return -EIO;
    return -pthread_create(&backend->thread, NULL, serve, backend);
}

void backend_stop(struct backend *backend)
{
    (void)eventfd_write(backend->stop, 1);
    pthread_join(backend->thread, NULL);
    close(backend->stop);
    close(backend->listener);
}

void backend_lock(struct backend *backend)
{
    pthread_mutex_lock(&backend->lock);
}

void backend_unlock(struct backend *backend)
{
    pthread_mutex_unlock(&backend->lock);
}

void backend_drop(struct backend *backend)
{
    backend_lock(backend);
    if (backend->connection >= 0)
        (void)shutdown(backend->connection, SHUT_RDWR);
    backend_unlock(backend);
}

int backend_say(struct backend *backend, const void *bytes, size_t length)
{
    backend_lock(backend);
    ssize_t sent = send(backend->channel, bytes, length, MSG_NOSIGNAL);

    backend_unlock(backend);
    return sent == (ssize_t)length ? 0 : -EIO;
}

bool backend_wait(struct backend *backend, uint32_t request)
{
    for (unsigned i = 0; i < STEPS; i++) {
        backend_lock(backend);
        bool there = backend->seen.last == request;

        backend_unlock(backend);
        if (there)
            return true;
        usleep(STEP_US);
    }
    return false;
}
