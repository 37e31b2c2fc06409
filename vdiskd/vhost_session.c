/* SPDX-License-Identifier: Apache-2.0 */
/* The task of a front end: takes its messages, and answers them. See vhost_conn.h. */
#include "vhost_conn.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROTOCOL_REPLY_ACK 3

/* ---- bytes ---- */

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

/* All of it: 0; -ENODATA: the end; -errno. The descriptors that come along are the message's. */
static int receive(struct vhost_conn *conn, struct vhost_message *message, void *data,
                   size_t length, int64_t deadline)
{
    uint8_t *next = data;

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
        int events = task_poll(conn->fd, POLLIN, deadline);

        if (events < 0 && events != -EINTR)
            return events;
        if (conn->ending)
            return -ENODATA;
        ssize_t got = recvmsg(conn->fd, &part, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

        if (got == 0)
            return -ENODATA;
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (got < 0)
            return -errno;
        keep_descriptors(message, &part);
        next += got;
        length -= (size_t)got;
        if (deadline == TASK_FOREVER)
            deadline = reactor_now() + VHOST_MESSAGE;
    }
    return 0;
}

static int receive_message(struct vhost_conn *conn, struct vhost_message *message,
                           struct vdisk_error *error)
{
    uint8_t header[VHOST_HEADER_BYTES];
    struct vhost_message early = {.fd_count = 0};
    int result = receive(conn, &early, header, sizeof(header),
                         conn->greeted ? TASK_FOREVER : reactor_now() + VHOST_GREETING);

    *message = early;
    if (result == 0) {
        result = vhost_message_header(message, header, error);
        memcpy(message->fd, early.fd, sizeof(early.fd));
        message->fd_count = early.fd_count;
        if (result)
            return result;
        result =
            receive(conn, message, message->bytes, message->size, reactor_now() + VHOST_MESSAGE);
    }
    if (result && result != -ENODATA)
        vhost_fail(error, result, "the front end: %s", vdisk_strerror(result));
    conn->greeted = true;
    return result ? result : vhost_message_check(message, error);
}

static int send_message(struct vhost_conn *conn, const struct vhost_message *message)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    uint32_t header[3] = {message->request, VHOST_FLAG_VERSION | VHOST_FLAG_REPLY, message->size};
    struct iovec vectors[2] = {{header, sizeof(header)},
                               {(void *)(uintptr_t)message->bytes, message->size}};
    struct msghdr whole = {.msg_iov = vectors, .msg_iovlen = 2};
    struct reactor_op op = {.kind = REACTOR_SEND, .fd = conn->fd, .message = &whole};

    if (message->fd_count > 0) {
        whole.msg_control = &control;
        whole.msg_controllen = sizeof(control);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), message->fd, sizeof(int));
    }
    int sent = task_do(&op, reactor_now() + VHOST_MESSAGE);

    /* So few bytes go as one, or there is somebody who does not read. */
    return sent < 0 ? sent : (size_t)sent == sizeof(header) + message->size ? 0 : -EPIPE;
}

/* ---- the conversation ---- */

static int answer(struct vhost_conn *conn, struct vhost_message *message, bool has_reply,
                  int *result, struct vdisk_error *error)
{
    int sent = 0;

    if (!has_reply && message->flags & VHOST_FLAG_NEED_REPLY &&
        vhost_has_protocol(conn, PROTOCOL_REPLY_ACK)) {
        vhost_message_close(message);
        message->number = *result != 0;
        message->size = sizeof(message->number);
        *result = 0; /* the front end knows, and goes on or not */
        has_reply = true;
    }
    if (*result == 0 && has_reply)
        sent = send_message(conn, message);
    if (sent) {
        *result = sent;
        vhost_fail(error, sent, "an answer cannot be sent: %s", vdisk_strerror(sent));
    }
    return *result;
}

/* Until the end; 0, or what broke the rules. */
static int converse(struct vhost_conn *conn, struct vdisk_error *error)
{
    struct vhost_message message;
    int result = 0;

    while (result == 0 && !conn->ending) {
        result = receive_message(conn, &message, error);
        if (result == 0 || result == VDISK_E_UNSUPPORTED) {
            bool has_reply = vhost_message_has_reply(&message);

            if (result == 0)
                result = vhost_command(conn, &message, error);
            if (conn->memory.lost)
                vhost_session_lost(conn);
            (void)answer(conn, &message, has_reply, &result, error);
        }
        vhost_message_close(&message);
    }
    return conn->ending || result == -ENODATA || result == -ECONNRESET ? 0 : result;
}

/* ---- begin and end ---- */

static void gone(void *opaque)
{
    vhost_session_end(opaque);
}

static void resized(void *opaque)
{
    vhost_command_resized(opaque);
}

static const struct export_session_events events = {.gone = gone, .resized = resized};

void vhost_session_end(struct vhost_conn *conn)
{
    conn->ending = true;
    (void)shutdown(conn->fd, SHUT_RDWR);
}

void vhost_session_lost(struct vhost_conn *conn)
{
    if (!conn->ending)
        vhost_conn_event(conn, VHOST_EVENT_FAILED, "shared memory became shorter than it was");
    vhost_session_end(conn);
}

static int begin(struct vhost_conn *conn, struct vdisk_error *error)
{
    const struct vhost_options *options = vhost_server_options(conn->server);
    struct export_info info;
    int result =
        export_attach(conn->export, options->snapshot, &events, conn, &conn->session, error);

    if (result)
        return result;
    export_budget_enter(conn->export, &conn->share);
    export_get_info(conn->export, &info);
    vhost_blk_serial(conn->serial, info.image_id);
    conn->cluster_bytes = info.cluster_bytes;
    conn->size = export_session_size(conn->session);
    conn->read_only = options->read_only || export_session_read_only(conn->session);
    conn->write_back = true;
    conn->queues = options->queues_max;
    for (unsigned i = 0; i < conn->queues; i++)
        vhost_queue_init(&conn->queue[i], conn);
    return 0;
}

static void end(struct vhost_conn *conn)
{
    conn->ending = true;
    for (unsigned i = 0; i < conn->queues; i++) {
        vhost_queue_stop(&conn->queue[i]);
        vhost_queue_set_err(&conn->queue[i], -1);
    }
    vhost_ops_free(conn);
    budget_leave(&conn->share);
    vhost_memory_clear(&conn->memory);
    vhost_log_clear(&conn->memory.log);
    vhost_unmap(conn->inflight.mapping);
    if (conn->backend >= 0)
        close(conn->backend);
}

void vhost_session(void *arg)
{
    struct vhost_conn *conn = arg;
    struct vdisk_error error = {.code = 0};
    int result = begin(conn, &error);

    if (result) {
        vhost_conn_event(conn, VHOST_EVENT_DENIED,
                         error.text[0] ? error.text : vdisk_strerror(result));
    } else {
        vhost_conn_event(conn, VHOST_EVENT_OPENED, NULL);
        if (converse(conn, &error))
            vhost_conn_event(conn, VHOST_EVENT_FAILED, error.text);
        end(conn);
        vhost_conn_event(conn, VHOST_EVENT_CLOSED, NULL);
    }
    export_detach(conn->session);
    export_put(conn->export);
    vhost_server_gone(conn->server, conn);
}
