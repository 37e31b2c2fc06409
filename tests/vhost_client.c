/* SPDX-License-Identifier: Apache-2.0 */
/* The front end: messages. See vhost_client.h. */
#include "vhost_client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKEND_CONFIG_CHANGED 2u

/* ---- bytes ---- */

int client_dial(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), result;

    if (fd < 0 || strlen(path) >= sizeof(address.sun_path))
        return fd < 0 ? -errno : -ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    result = -errno;
    close(fd);
    return result;
}

int client_send(struct client *client, uint32_t request, uint32_t flags, const void *payload,
                uint32_t size, const int *fds, unsigned fd_count)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(VHOST_FDS_MAX * sizeof(int))];
    } control = {.bytes = {0}};
    uint32_t header[3] = {request, VHOST_FLAG_VERSION | flags, size};
    struct iovec vectors[2] = {{header, sizeof(header)}, {(void *)(uintptr_t)payload, size}};
    struct msghdr whole = {.msg_iov = vectors, .msg_iovlen = 2};

    if (client->sends_left > 0 && --client->sends_left == 0)
        return -ECANCELED;
    if (fd_count > 0) {
        whole.msg_control = &control;
        whole.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(&control.header), fds, fd_count * sizeof(int));
    }
    return sendmsg(client->fd, &whole, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int receive_bytes(int fd, void *to, size_t length, struct vhost_message *reply)
{
    uint8_t *next = to;

    while (length > 0) {
        union {
            struct cmsghdr header;
            char bytes[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec vector = {next, length};
        struct msghdr part = {.msg_iov = &vector,
                              .msg_iovlen = 1,
                              .msg_control = &control,
                              .msg_controllen = sizeof(control)};
        struct pollfd ready = {.fd = fd, .events = POLLIN};

        if (poll(&ready, 1, CLIENT_PATIENCE) <= 0)
            return -ETIMEDOUT;
        ssize_t got = recvmsg(fd, &part, MSG_CMSG_CLOEXEC);

        if (got <= 0)
            return got == 0 || errno == ECONNRESET ? -EPIPE : -errno;
        if (CMSG_FIRSTHDR(&part) && reply->fd_count == 0)
            memcpy(&reply->fd[reply->fd_count++], CMSG_DATA(CMSG_FIRSTHDR(&part)), sizeof(int));
        next += got;
        length -= (size_t)got;
    }
    return 0;
}

int client_receive(struct client *client, uint32_t request, struct vhost_message *reply)
{
    uint32_t header[3];
    int result;

    memset(reply, 0, sizeof(*reply));
    result = receive_bytes(client->fd, header, sizeof(header), reply);
    if (result)
        return result;
    reply->request = header[0];
    reply->flags = header[1];
    reply->size = header[2];
    if (header[0] != request || header[1] != (VHOST_FLAG_VERSION | VHOST_FLAG_REPLY) ||
        header[2] > sizeof(reply->bytes))
        return -EPROTO;
    return receive_bytes(client->fd, reply->bytes, reply->size, reply);
}

int client_do(struct client *client, uint32_t request, const void *payload, uint32_t size,
              const int *fds, unsigned fd_count)
{
    bool has_ack = client->protocol & CLIENT_BIT(CLIENT_P_REPLY_ACK);
    struct vhost_message reply;
    int result = client_send(client, request, has_ack ? VHOST_FLAG_NEED_REPLY : 0, payload, size,
                             fds, fd_count);

    if (result || !has_ack)
        return result;
    result = client_receive(client, request, &reply);
    if (result)
        return result;
    return reply.size != sizeof(reply.number) ? -EPROTO : reply.number ? -EIO : 0;
}

int client_do_number(struct client *client, uint32_t request, uint64_t number)
{
    return client_do(client, request, &number, sizeof(number), NULL, 0);
}

int client_do_state(struct client *client, uint32_t request, uint32_t index, uint32_t number)
{
    struct vhost_wire_state state = {index, number};

    return client_do(client, request, &state, sizeof(state), NULL, 0);
}

int client_get(struct client *client, uint32_t request, uint64_t *number)
{
    struct vhost_message reply;
    int result = client_send(client, request, 0, NULL, 0, NULL, 0);

    if (result == 0)
        result = client_receive(client, request, &reply);
    if (result == 0 && reply.size != sizeof(reply.number))
        result = -EPROTO;
    if (result == 0)
        *number = reply.number;
    return result;
}

int client_config(struct client *client, struct virtio_blk_config *config)
{
    /* Others know no more of it. */
    const uint32_t size = offsetof(struct virtio_blk_config, max_secure_erase_sectors);
    struct vhost_wire_config wire = {.size = size};
    struct vhost_message reply;
    int result = client_send(client, VHOST_GET_CONFIG, 0, &wire, 12 + size, NULL, 0);

    if (result == 0)
        result = client_receive(client, VHOST_GET_CONFIG, &reply);
    if (result == 0 && reply.size != 12 + size)
        result = -EPROTO;
    memset(config, 0, sizeof(*config));
    if (result == 0)
        memcpy(config, reply.config.bytes, size);
    return result;
}

/* ---- one after the other ---- */

static int give_backend(struct client *client)
{
    int pair[2], result;

    if (!(client->protocol & CLIENT_BIT(CLIENT_P_BACKEND_REQ)))
        return 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        return -errno;
    result = client_do(client, VHOST_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1);
    close(pair[1]);
    client->backend = pair[0];
    return result;
}

int client_negotiate(struct client *client)
{
    const struct client_options *options = &client->options;
    uint64_t queues = 0, protocol = 0;
    int result = client_get(client, VHOST_GET_FEATURES, &client->offered);

    client->protocol = 0;
    if (result)
        return result;
    client->features = client->offered & ~options->without & ~CLIENT_BIT(CLIENT_F_LOG_ALL);
    if (client->offered & CLIENT_BIT(CLIENT_F_PROTOCOL)) {
        result = client_get(client, VHOST_GET_PROTOCOL_FEATURES, &protocol);
        /* What we know; others may offer more. */
        protocol &= CLIENT_BIT(CLIENT_P_MQ) | CLIENT_BIT(CLIENT_P_LOG_SHMFD) |
                    CLIENT_BIT(CLIENT_P_REPLY_ACK) | CLIENT_BIT(CLIENT_P_BACKEND_REQ) |
                    CLIENT_BIT(CLIENT_P_CONFIG) | CLIENT_BIT(CLIENT_P_INFLIGHT) |
                    CLIENT_BIT(CLIENT_P_RESET_DEVICE) | CLIENT_BIT(CLIENT_P_MEM_SLOTS) |
                    CLIENT_BIT(CLIENT_P_STATUS);
        protocol &= ~options->protocol_without;
        if (result == 0)
            result = client_do_number(client, VHOST_SET_PROTOCOL_FEATURES, protocol);
        client->protocol = protocol;
    }
    if (result == 0)
        result = client_do(client, VHOST_SET_OWNER, NULL, 0, NULL, 0);
    if (result == 0 && protocol & CLIENT_BIT(CLIENT_P_MQ))
        result = client_get(client, VHOST_GET_QUEUE_NUM, &queues);
    if (result == 0 && options->queues > 1 && queues < options->queues)
        result = -ENODEV;
    if (result == 0)
        result = give_backend(client);
    return result ? result : client_do_number(client, VHOST_SET_FEATURES, client->features);
}

int client_share_memory(struct client *client)
{
    struct vhost_wire_region region = {
        .guest = CLIENT_GUEST, .size = client->memory_bytes, .user = (uintptr_t)client->memory};

    if (client->protocol & CLIENT_BIT(CLIENT_P_MEM_SLOTS)) {
        struct vhost_wire_slot slot = {.region = region};

        return client_do(client, VHOST_ADD_MEM_REG, &slot, sizeof(slot), &client->memory_fd, 1);
    }
    struct vhost_wire_table table = {.count = 1, .region = {region}};

    return client_do(client, VHOST_SET_MEM_TABLE, &table, 8 + sizeof(region), &client->memory_fd,
                     1);
}

int client_share_inflight(struct client *client)
{
    struct vhost_wire_inflight wire = {.queues = (uint16_t)client->options.queues,
                                       .queue_size = client->options.ring_size};
    struct vhost_message reply;
    int result = 0;

    if (!(client->protocol & CLIENT_BIT(CLIENT_P_INFLIGHT)))
        return 0;
    if (client->inflight_fd < 0) {
        result = client_send(client, VHOST_GET_INFLIGHT_FD, 0, &wire, sizeof(wire), NULL, 0);
        if (result == 0)
            result = client_receive(client, VHOST_GET_INFLIGHT_FD, &reply);
        if (result == 0 && reply.fd_count != 1)
            result = -EPROTO;
        if (result)
            return result;
        client->inflight_fd = reply.fd[0];
        client->inflight = reply.inflight;
    }
    return client_do(client, VHOST_SET_INFLIGHT_FD, &client->inflight, sizeof(client->inflight),
                     &client->inflight_fd, 1);
}

static int give_fd(struct client *client, uint32_t request, unsigned index, int fd)
{
    uint64_t number = index;

    return client_do(client, request, &number, sizeof(number), &fd, 1);
}

int client_set_up_queue(struct client *client, unsigned index)
{
    struct client_queue *queue = &client->queue[index];
    struct vhost_wire_address address;
    int result = client_do_state(client, VHOST_SET_VRING_NUM, index, client->options.ring_size);

    client_queue_address(client, index, &address);
    if (result == 0)
        result =
            client_do_state(client, VHOST_SET_VRING_BASE, index, client_queue_base(client, index));
    if (result == 0)
        result = client_do(client, VHOST_SET_VRING_ADDR, &address, sizeof(address), NULL, 0);
    if (result == 0)
        result = give_fd(client, VHOST_SET_VRING_ERR, index, queue->err);
    return result ? result : give_fd(client, VHOST_SET_VRING_CALL, index, queue->call);
}

int client_start_queue(struct client *client, unsigned index)
{
    int result = client_set_up_queue(client, index);

    if (result == 0)
        result = give_fd(client, VHOST_SET_VRING_KICK, index, client->queue[index].kick);
    if (result == 0 && client->features & CLIENT_BIT(CLIENT_F_PROTOCOL))
        result = client_do_state(client, VHOST_SET_VRING_ENABLE, index, 1);
    return result;
}

int client_stop_queue(struct client *client, unsigned index, uint32_t *base)
{
    struct vhost_wire_state state = {.index = index};
    struct vhost_message reply;
    int result = client_send(client, VHOST_GET_VRING_BASE, 0, &state, sizeof(state), NULL, 0);

    if (result == 0)
        result = client_receive(client, VHOST_GET_VRING_BASE, &reply);
    if (result == 0 && (reply.size != sizeof(state) || reply.state.index != index))
        result = -EPROTO;
    if (result == 0)
        *base = reply.state.num;
    return result;
}

int client_connect(struct client *client, const char *path)
{
    int result;

    client_disconnect(client);
    client->fd = client_dial(path);
    result = client->fd < 0 ? client->fd : client_negotiate(client);
    if (result == 0)
        result = client_share_memory(client);
    if (result == 0)
        result = client_share_inflight(client);
    for (unsigned i = 0; result == 0 && i < client->options.queues; i++)
        result = client_start_queue(client, i);
    return result;
}

void client_disconnect(struct client *client)
{
    if (client->fd >= 0)
        close(client->fd);
    if (client->backend >= 0)
        close(client->backend);
    client->fd = client->backend = -1;
}

bool client_backend(struct client *client, int milliseconds)
{
    struct pollfd ready = {.fd = client->backend, .events = POLLIN};
    uint32_t header[3];

    if (poll(&ready, 1, milliseconds) <= 0 ||
        recv(client->backend, header, sizeof(header), 0) != sizeof(header))
        return false;
    client->config_changes += header[0] == BACKEND_CONFIG_CHANGED && header[2] == 0;
    return true;
}

/* ---- making one ---- */

int client_new(const struct client_options *options, struct client **out)
{
    struct client *client = calloc(1, sizeof(*client));
    size_t queue_bytes = client_queue_bytes(options);

    if (!client)
        return -ENOMEM;
    client->options = *options;
    client->fd = client->backend = client->inflight_fd = -1;
    client->memory_bytes = queue_bytes * options->queues;
    client->memory_fd = memfd_create("guest", MFD_CLOEXEC);
    if (client->memory_fd < 0 || ftruncate(client->memory_fd, (off_t)client->memory_bytes))
        return -errno;
    client->memory =
        mmap(NULL, client->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, client->memory_fd, 0);
    if (client->memory == MAP_FAILED)
        return -errno;
    for (unsigned i = 0; i < options->queues; i++) {
        struct client_queue *queue = &client->queue[i];

        queue->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        queue->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        queue->err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        client_queue_init(client, i, client->memory + i * queue_bytes);
    }
    *out = client;
    return 0;
}

void client_free(struct client *client)
{
    if (!client)
        return;
    client_disconnect(client);
    for (unsigned i = 0; i < client->options.queues; i++) {
        close(client->queue[i].kick);
        close(client->queue[i].call);
        close(client->queue[i].err);
    }
    munmap(client->memory, client->memory_bytes);
    close(client->memory_fd);
    if (client->inflight_fd >= 0)
        close(client->inflight_fd);
    free(client);
}
