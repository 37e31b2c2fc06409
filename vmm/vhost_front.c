/* SPDX-License-Identifier: Apache-2.0 */
/* The front end of vhost-user; see vhost_front.h. */
#include "vhost_front.h"

#include "reactor.h"
#include "report.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define BIT(number)            (UINT64_C(1) << (number))
#define BACKEND_CONFIG_CHANGED 2u
#define CONFIG_HEADER          12u
#define INFLIGHT_BYTES_MIN     20u /* without the padding at its end */
/* Much more than the largest ring can need. */
#define INFLIGHT_MAX           (UINT64_C(64) << 20)

/* Without the one no step is known to have been made before the next, without the other there is no
 * drive. */
#define NEEDED                 (BIT(VHOST_P_REPLY_ACK) | BIT(VHOST_P_CONFIG))
#define WANTED                                                                                     \
    (NEEDED | BIT(VHOST_P_MQ) | BIT(VHOST_P_BACKEND_REQ) | BIT(VHOST_P_INFLIGHT) |                 \
     BIT(VHOST_P_RESET_DEVICE))

/* ---- bytes ---- */

/* Waits for `events` of the connection. */
static int wait_for(const struct vhost_front *front, int fd, short events)
{
    struct pollfd on[2] = {{.fd = fd, .events = events},
                           {.fd = front->interrupt, .events = POLLIN}};

    for (;;) {
        int64_t left = front->deadline - reactor_now();

        if (left <= 0)
            return -ETIMEDOUT;
        const struct timespec patience = {left / 1000000000, left % 1000000000};
        int ready = ppoll(on, 2, &patience, NULL);

        if (ready < 0 && errno != EINTR)
            return -errno;
        if (ready > 0 && on[1].revents)
            return -ECANCELED;
        if (ready > 0)
            return 0;
    }
}

static void attach(struct msghdr *whole, struct cmsghdr *header,
                   const struct vhost_message *message)
{
    size_t bytes = message->fd_count * sizeof(int);

    if (message->fd_count == 0)
        return;
    whole->msg_control = header;
    whole->msg_controllen = CMSG_SPACE(bytes);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(bytes);
    memcpy(CMSG_DATA(header), message->fd, bytes);
}

/* The descriptors stay the caller's. */
static int send_message(const struct vhost_front *front, int fd,
                        const struct vhost_message *message)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(VHOST_FDS_MAX * sizeof(int))];
    } control = {.bytes = {0}};
    uint32_t header[3] = {message->request, message->flags, message->size};
    struct iovec vectors[2] = {{header, sizeof(header)},
                               {(void *)(uintptr_t)message->bytes, message->size}};
    struct msghdr whole = {.msg_iov = vectors, .msg_iovlen = 2};

    attach(&whole, &control.header, message);
    for (;;) {
        int result = wait_for(front, fd, POLLOUT);

        if (result)
            return result;
        ssize_t sent = sendmsg(fd, &whole, MSG_DONTWAIT | MSG_NOSIGNAL);

        /* So few bytes go as one, or there is somebody who does not read. */
        if (sent >= 0)
            return (size_t)sent == sizeof(header) + message->size ? 0 : -EPIPE;
        if (errno != EAGAIN && errno != EINTR)
            return errno == ECONNRESET ? -EPIPE : -errno;
    }
}

static void keep_descriptors(struct vhost_message *message, struct msghdr *from)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(from); part; part = CMSG_NXTHDR(from, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        unsigned count = (unsigned)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));

        for (unsigned i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(part) + i * sizeof(fd), sizeof(fd));
            if (message->fd_count < VHOST_FDS_MAX)
                message->fd[message->fd_count++] = fd;
            else
                close(fd);
        }
    }
}

static int receive(const struct vhost_front *front, int fd, struct vhost_message *message, void *to,
                   size_t length)
{
    uint8_t *next = to;

    while (length > 0) {
        union {
            struct cmsghdr header;
            char bytes[CMSG_SPACE(VHOST_FDS_MAX * sizeof(int))];
        } control;
        struct iovec vector = {next, length};
        struct msghdr part = {.msg_iov = &vector,
                              .msg_iovlen = 1,
                              .msg_control = &control,
                              .msg_controllen = sizeof(control)};
        int result = wait_for(front, fd, POLLIN);

        if (result)
            return result;
        ssize_t got = recvmsg(fd, &part, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (got <= 0)
            return got == 0 || errno == ECONNRESET ? -EPIPE : -errno;
        keep_descriptors(message, &part);
        next += got;
        length -= (size_t)got;
    }
    return 0;
}

/* Any message; its descriptors are the message's, also after a failure. */
static int receive_message(const struct vhost_front *front, int fd, struct vhost_message *message)
{
    uint32_t header[3];
    int result;

    memset(message, 0, sizeof(*message));
    result = receive(front, fd, message, header, sizeof(header));
    if (result)
        return result;
    message->request = header[0];
    message->flags = header[1];
    message->size = header[2];
    if (message->size > sizeof(message->bytes))
        return VDISK_E_MALFORMED;
    return receive(front, fd, message, message->bytes, message->size);
}

/* ---- question and answer ---- */

/* For the sentences. */
static const char *name_of(uint32_t request)
{
    static const char *const names[] = {
        [VHOST_GET_FEATURES] = "GET_FEATURES",
        [VHOST_SET_FEATURES] = "SET_FEATURES",
        [VHOST_SET_OWNER] = "SET_OWNER",
        [VHOST_SET_MEM_TABLE] = "SET_MEM_TABLE",
        [VHOST_SET_VRING_NUM] = "SET_VRING_NUM",
        [VHOST_SET_VRING_ADDR] = "SET_VRING_ADDR",
        [VHOST_SET_VRING_BASE] = "SET_VRING_BASE",
        [VHOST_GET_VRING_BASE] = "GET_VRING_BASE",
        [VHOST_SET_VRING_KICK] = "SET_VRING_KICK",
        [VHOST_SET_VRING_CALL] = "SET_VRING_CALL",
        [VHOST_SET_VRING_ERR] = "SET_VRING_ERR",
        [VHOST_GET_PROTOCOL_FEATURES] = "GET_PROTOCOL_FEATURES",
        [VHOST_SET_PROTOCOL_FEATURES] = "SET_PROTOCOL_FEATURES",
        [VHOST_GET_QUEUE_NUM] = "GET_QUEUE_NUM",
        [VHOST_SET_VRING_ENABLE] = "SET_VRING_ENABLE",
        [VHOST_SET_BACKEND_REQ_FD] = "SET_BACKEND_REQ_FD",
        [VHOST_GET_CONFIG] = "GET_CONFIG",
        [VHOST_SET_CONFIG] = "SET_CONFIG",
        [VHOST_GET_INFLIGHT_FD] = "GET_INFLIGHT_FD",
        [VHOST_SET_INFLIGHT_FD] = "SET_INFLIGHT_FD",
        [VHOST_RESET_DEVICE] = "RESET_DEVICE",
    };
    size_t count = sizeof(names) / sizeof(*names);

    return request < count && names[request] ? names[request] : "a message";
}

static int fail(struct vdisk_error *error, int code, uint32_t request)
{
    const char *name = name_of(request);

    switch (code) {
    case -ETIMEDOUT:
        return error_set(error, code, "the back end does not answer %s", name);
    case -EPIPE:
        return error_set(error, code, "the back end ended the connection at %s", name);
    case -EREMOTEIO:
        return error_set(error, code, "the back end refuses %s", name);
    case VDISK_E_MALFORMED:
        return error_set(error, code, "the back end's answer to %s is malformed", name);
    default:
        return error_set(error, code, "%s: %s", name, vdisk_strerror(code));
    }
}

/* The answer to `request`, of size_min to size_max bytes, with so many descriptors. */
static int receive_answer(const struct vhost_front *front, struct vhost_message *answer,
                          uint32_t request, size_t size_min, size_t size_max, unsigned fds)
{
    int result = receive_message(front, front->fd, answer);

    if (result == 0 &&
        (answer->request != request || answer->flags != (VHOST_FLAG_VERSION | VHOST_FLAG_REPLY) ||
         answer->size < size_min || answer->size > size_max || answer->fd_count != fds))
        result = VDISK_E_MALFORMED;
    if (result)
        vhost_message_close(answer);
    return result;
}

/* What has an acknowledgement, or before that is settled, nothing. */
static int tell(struct vhost_front *front, struct vhost_message *message, struct vdisk_error *error)
{
    bool has_ack = vhost_front_has(front, VHOST_P_REPLY_ACK);
    struct vhost_message answer;
    int result;

    message->flags = VHOST_FLAG_VERSION | (has_ack ? VHOST_FLAG_NEED_REPLY : 0);
    result = send_message(front, front->fd, message);
    if (result == 0 && has_ack)
        result = receive_answer(front, &answer, message->request, sizeof(answer.number),
                                sizeof(answer.number), 0);
    if (result == 0 && has_ack && answer.number)
        result = -EREMOTEIO;
    return result ? fail(error, result, message->request) : 0;
}

static int tell_number(struct vhost_front *front, uint32_t request, uint64_t number,
                       struct vdisk_error *error)
{
    struct vhost_message message = {.request = request, .size = sizeof(number), .number = number};

    return tell(front, &message, error);
}

static int tell_state(struct vhost_front *front, uint32_t request, uint32_t index, uint32_t number,
                      struct vdisk_error *error)
{
    struct vhost_message message = {
        .request = request, .size = sizeof(message.state), .state = {index, number}};

    return tell(front, &message, error);
}

static int tell_descriptor(struct vhost_front *front, uint32_t request, unsigned index, int fd,
                           struct vdisk_error *error)
{
    struct vhost_message message = {.request = request,
                                    .size = sizeof(message.number),
                                    .number = index,
                                    .fd_count = 1,
                                    .fd = {fd}};

    return tell(front, &message, error);
}

/* What has an answer of its own, which takes the place of the question. */
static int ask(struct vhost_front *front, struct vhost_message *message, size_t size_min,
               unsigned fds, struct vdisk_error *error)
{
    const uint32_t request = message->request;
    const size_t size_max = message->size > size_min ? message->size : size_min;
    int result;

    message->flags = VHOST_FLAG_VERSION;
    result = send_message(front, front->fd, message);
    if (result == 0)
        result = receive_answer(front, message, request, size_min, size_max, fds);
    return result ? fail(error, result, request) : 0;
}

static int ask_number(struct vhost_front *front, uint32_t request, uint64_t *number,
                      struct vdisk_error *error)
{
    struct vhost_message message = {.request = request};
    int result = ask(front, &message, sizeof(message.number), 0, error);

    if (result == 0)
        *number = message.number;
    return result;
}

/* ---- the connection ---- */

void vhost_front_init(struct vhost_front *front)
{
    *front = (struct vhost_front){.fd = -1, .backend = -1, .interrupt = -1};
}

void vhost_front_close(struct vhost_front *front)
{
    if (front->fd >= 0)
        close(front->fd);
    if (front->backend >= 0)
        close(front->backend);
    front->fd = front->backend = -1;
    front->protocol = 0;
}

void vhost_front_patience(struct vhost_front *front, int64_t nanoseconds)
{
    front->deadline = reactor_now() + nanoseconds;
}

static int dial(struct vhost_front *front, const char *path, struct vdisk_error *error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);

    if (length == 0 || length >= sizeof(address.sun_path))
        return error_set(error, -EINVAL, "the path of a socket has 1 to %zu bytes",
                         sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, length + 1);
    front->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* A Unix socket connects at once, or (EAGAIN) has too many who wait. */
    if (front->fd < 0 || connect(front->fd, (struct sockaddr *)&address, sizeof(address)))
        return error_set(error, -errno, "cannot connect: %s", strerror(errno));
    return 0;
}

static int settle_protocol(struct vhost_front *front, struct vdisk_error *error)
{
    uint64_t offered;
    int result = ask_number(front, VHOST_GET_FEATURES, &front->offered, error);

    if (result)
        return result;
    if (!(front->offered & BIT(VHOST_F_PROTOCOL)))
        return error_set(error, -ENOTSUP, "the back end has no protocol features");
    result = ask_number(front, VHOST_GET_PROTOCOL_FEATURES, &offered, error);
    if (result)
        return result;
    if ((offered & NEEDED) != NEEDED)
        return error_set(error, -ENOTSUP,
                         "the back end lacks protocol features: it has %#llx, needed are %#llx",
                         (unsigned long long)offered, (unsigned long long)NEEDED);
    result = tell_number(front, VHOST_SET_PROTOCOL_FEATURES, offered & WANTED, error);
    if (result == 0)
        front->protocol = offered & WANTED;
    return result;
}

static int count_queues(struct vhost_front *front, struct vdisk_error *error)
{
    uint64_t queues = 1;
    int result = 0;

    if (vhost_front_has(front, VHOST_P_MQ))
        result = ask_number(front, VHOST_GET_QUEUE_NUM, &queues, error);
    if (result == 0 && (queues == 0 || queues > UINT16_MAX))
        result = fail(error, VDISK_E_MALFORMED, VHOST_GET_QUEUE_NUM);
    front->queues = (unsigned)queues;
    return result;
}

static int give_backend(struct vhost_front *front, struct vdisk_error *error)
{
    struct vhost_message message = {.request = VHOST_SET_BACKEND_REQ_FD, .fd_count = 1};
    int pair[2], result;

    if (!vhost_front_has(front, VHOST_P_BACKEND_REQ))
        return 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        return error_set(error, -errno, "socketpair: %s", strerror(errno));
    front->backend = pair[0];
    message.fd[0] = pair[1];
    result = tell(front, &message, error);
    close(pair[1]);
    return result;
}

int vhost_front_connect(struct vhost_front *front, const char *path, struct vdisk_error *error)
{
    struct vhost_message owner = {.request = VHOST_SET_OWNER};
    int result = dial(front, path, error);

    if (result == 0)
        result = settle_protocol(front, error);
    if (result == 0)
        result = tell(front, &owner, error);
    if (result == 0)
        result = count_queues(front, error);
    if (result == 0)
        result = give_backend(front, error);
    if (result)
        vhost_front_close(front);
    return result;
}

/* ---- the device ---- */

int vhost_front_get_config(struct vhost_front *front, void *bytes, uint32_t size,
                           struct vdisk_error *error)
{
    struct vhost_message message = {
        .request = VHOST_GET_CONFIG, .size = CONFIG_HEADER + size, .config = {.size = size}};
    int result = ask(front, &message, 0, 0, error);

    if (result)
        return result;
    /* By the protocol, an empty one is a refusal. */
    if (message.size == 0)
        return fail(error, -EREMOTEIO, VHOST_GET_CONFIG);
    if (message.size != CONFIG_HEADER + size || message.config.size != size)
        return fail(error, VDISK_E_MALFORMED, VHOST_GET_CONFIG);
    memcpy(bytes, message.config.bytes, size);
    return 0;
}

int vhost_front_set_config(struct vhost_front *front, uint32_t offset, const void *bytes,
                           uint32_t size, struct vdisk_error *error)
{
    struct vhost_message message = {.request = VHOST_SET_CONFIG,
                                    .size = CONFIG_HEADER + size,
                                    .config = {.offset = offset, .size = size}};

    memcpy(message.config.bytes, bytes, size);
    return tell(front, &message, error);
}

int vhost_front_set_features(struct vhost_front *front, uint64_t features,
                             struct vdisk_error *error)
{
    /* With it, queues wait for SET_VRING_ENABLE. */
    return tell_number(front, VHOST_SET_FEATURES, features | BIT(VHOST_F_PROTOCOL), error);
}

int vhost_front_share_memory(struct vhost_front *front, const struct vm_memory *memory,
                             struct vdisk_error *error)
{
    struct vhost_message message = {.request = VHOST_SET_MEM_TABLE,
                                    .size = 8 + memory->count *
                                                    (uint32_t)sizeof(struct vhost_wire_region),
                                    .table = {.count = memory->count},
                                    .fd_count = memory->count};

    for (unsigned i = 0; i < memory->count; i++) {
        const struct vm_region *region = &memory->region[i];

        message.table.region[i] = (struct vhost_wire_region){
            .guest = region->guest,
            .size = region->size,
            .user = region->guest,
            .offset = region->offset,
        };
        message.fd[i] = memory->fd;
    }
    return tell(front, &message, error);
}

/* ---- in-flight memory ---- */

static int make_inflight(struct vhost_front *front, struct vhost_front_inflight *inflight,
                         unsigned queues, uint16_t queue_size, struct vdisk_error *error)
{
    struct vhost_message message = {
        .request = VHOST_GET_INFLIGHT_FD,
        .size = sizeof(message.inflight),
        .inflight = {.queues = (uint16_t)queues, .queue_size = queue_size}};
    int result = ask(front, &message, INFLIGHT_BYTES_MIN, 1, error);

    if (result)
        return result;
    if (message.inflight.size == 0 || message.inflight.size > INFLIGHT_MAX ||
        message.inflight.queues != queues || message.inflight.queue_size != queue_size) {
        vhost_message_close(&message);
        return fail(error, VDISK_E_MALFORMED, VHOST_GET_INFLIGHT_FD);
    }
    inflight->about = message.inflight;
    inflight->fd = vhost_message_take_fd(&message, 0);
    return 0;
}

int vhost_front_share_inflight(struct vhost_front *front, struct vhost_front_inflight *inflight,
                               unsigned queues, uint16_t queue_size, struct vdisk_error *error)
{
    struct vhost_message message = {
        .request = VHOST_SET_INFLIGHT_FD, .size = sizeof(message.inflight), .fd_count = 1};
    int result = 0;

    if (!vhost_front_has(front, VHOST_P_INFLIGHT))
        return 0;
    if (inflight->fd < 0)
        result = make_inflight(front, inflight, queues, queue_size, error);
    if (result)
        return result;
    message.inflight = inflight->about;
    message.fd[0] = inflight->fd;
    return tell(front, &message, error);
}

void vhost_front_forget_inflight(struct vhost_front_inflight *inflight)
{
    if (inflight->fd >= 0)
        close(inflight->fd);
    inflight->fd = -1;
}

/* ---- queues ---- */

static int set_addresses(struct vhost_front *front, const struct vhost_front_queue *queue,
                         struct vdisk_error *error)
{
    struct vhost_message message = {.request = VHOST_SET_VRING_ADDR,
                                    .size = sizeof(message.address),
                                    .address = {.index = queue->index,
                                                .desc = queue->settings->desc,
                                                .avail = queue->settings->avail,
                                                .used = queue->settings->used,
                                                .log = queue->settings->used}};

    return tell(front, &message, error);
}

int vhost_front_set_queue(struct vhost_front *front, const struct vhost_front_queue *queue,
                          struct vdisk_error *error)
{
    const unsigned index = queue->index;
    int result = tell_state(front, VHOST_SET_VRING_NUM, index, queue->settings->size, error);

    if (result == 0)
        result = tell_state(front, VHOST_SET_VRING_BASE, index, queue->base, error);
    if (result == 0)
        result = set_addresses(front, queue, error);
    if (result == 0)
        result = tell_descriptor(front, VHOST_SET_VRING_ERR, index, queue->err, error);
    if (result == 0)
        result = tell_descriptor(front, VHOST_SET_VRING_CALL, index, queue->call, error);
    return result ? result
                  : tell_descriptor(front, VHOST_SET_VRING_KICK, index, queue->kick, error);
}

int vhost_front_enable_queue(struct vhost_front *front, unsigned index, struct vdisk_error *error)
{
    return tell_state(front, VHOST_SET_VRING_ENABLE, index, 1, error);
}

int vhost_front_stop_queue(struct vhost_front *front, unsigned index, uint32_t *base,
                           struct vdisk_error *error)
{
    struct vhost_message message = {
        .request = VHOST_GET_VRING_BASE, .size = sizeof(message.state), .state = {.index = index}};
    int result = ask(front, &message, sizeof(message.state), 0, error);

    if (result)
        return result;
    if (message.state.index != index)
        return fail(error, VDISK_E_MALFORMED, VHOST_GET_VRING_BASE);
    *base = message.state.num;
    return 0;
}

int vhost_front_reset(struct vhost_front *front, struct vdisk_error *error)
{
    struct vhost_message message = {.request = VHOST_RESET_DEVICE};

    return vhost_front_has(front, VHOST_P_RESET_DEVICE) ? tell(front, &message, error) : 0;
}

/* ---- what the back end says by itself ---- */

int vhost_front_take_news(struct vhost_front *front, bool *changed, struct vdisk_error *error)
{
    struct vhost_message message;
    int result = receive_message(front, front->backend, &message);
    bool wants_answer;

    if (result == 0 && (message.flags & ~VHOST_FLAG_NEED_REPLY) != VHOST_FLAG_VERSION)
        result = VDISK_E_MALFORMED;
    vhost_message_close(&message);
    if (result)
        return error_set(error, result, "a message of the back end: %s", vdisk_strerror(result));
    *changed = message.request == BACKEND_CONFIG_CHANGED;
    wants_answer = message.flags & VHOST_FLAG_NEED_REPLY;
    message.flags = VHOST_FLAG_VERSION | VHOST_FLAG_REPLY;
    message.size = sizeof(message.number);
    message.number = !*changed; /* others are not known here */
    if (wants_answer)
        result = send_message(front, front->backend, &message);
    return result
               ? error_set(error, result, "an answer to the back end: %s", vdisk_strerror(result))
               : 0;
}
