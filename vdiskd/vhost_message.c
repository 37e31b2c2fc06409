/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of vhost-user: a table says what each request looks like.
 */
#include "vhost_message.h"

#include "vhost_memory.h"

#include <string.h>
#include <unistd.h>

#define VRING_INDEX_MASK   0xffu
#define VRING_NO_FD        0x100u

/* Structures with padding at their end are sent without it by some, with it by others. */
#define INFLIGHT_BYTES_MIN 20u
#define CONFIG_HEADER      12u

struct shape {
    uint16_t size_min, size_max;
    uint8_t fds;
    bool known, replies;
};

#define EMPTY                                                                                      \
    {                                                                                              \
        .known = true                                                                              \
    }
#define GETS                                                                                       \
    {                                                                                              \
        .known = true, .replies = true                                                             \
    }
#define OF(type)                                                                                   \
    {                                                                                              \
        .size_min = sizeof(type), .size_max = sizeof(type), .known = true                          \
    }
#define WITH_FD(type)                                                                              \
    {                                                                                              \
        .size_min = sizeof(type), .size_max = sizeof(type), .fds = 1, .known = true                \
    }

static const struct shape shapes[] = {
    [VHOST_GET_FEATURES] = GETS,
    [VHOST_SET_FEATURES] = OF(uint64_t),
    [VHOST_SET_OWNER] = EMPTY,
    [VHOST_RESET_OWNER] = EMPTY,
    [VHOST_SET_MEM_TABLE] = {.size_min = 8,
                             .size_max = sizeof(struct vhost_wire_table),
                             .known = true},
    [VHOST_SET_LOG_BASE] = {.size_min = sizeof(struct vhost_wire_log),
                            .size_max = sizeof(struct vhost_wire_log),
                            .fds = 1,
                            .known = true,
                            .replies = true},
    [VHOST_SET_LOG_FD] = {.size_max = 8, .fds = 1, .known = true},
    [VHOST_SET_VRING_NUM] = OF(struct vhost_wire_state),
    [VHOST_SET_VRING_ADDR] = OF(struct vhost_wire_address),
    [VHOST_SET_VRING_BASE] = OF(struct vhost_wire_state),
    [VHOST_GET_VRING_BASE] = {.size_min = sizeof(struct vhost_wire_state),
                              .size_max = sizeof(struct vhost_wire_state),
                              .known = true,
                              .replies = true},
    [VHOST_SET_VRING_KICK] = OF(uint64_t),
    [VHOST_SET_VRING_CALL] = OF(uint64_t),
    [VHOST_SET_VRING_ERR] = OF(uint64_t),
    [VHOST_GET_PROTOCOL_FEATURES] = GETS,
    [VHOST_SET_PROTOCOL_FEATURES] = OF(uint64_t),
    [VHOST_GET_QUEUE_NUM] = GETS,
    [VHOST_SET_VRING_ENABLE] = OF(struct vhost_wire_state),
    [VHOST_SET_BACKEND_REQ_FD] = {.size_max = 8, .fds = 1, .known = true},
    [VHOST_GET_CONFIG] = {.size_min = CONFIG_HEADER,
                          .size_max = sizeof(struct vhost_wire_config),
                          .known = true,
                          .replies = true},
    [VHOST_SET_CONFIG] = {.size_min = CONFIG_HEADER,
                          .size_max = sizeof(struct vhost_wire_config),
                          .known = true},
    [VHOST_GET_INFLIGHT_FD] = {.size_min = INFLIGHT_BYTES_MIN,
                               .size_max = sizeof(struct vhost_wire_inflight),
                               .known = true,
                               .replies = true},
    [VHOST_SET_INFLIGHT_FD] = {.size_min = INFLIGHT_BYTES_MIN,
                               .size_max = sizeof(struct vhost_wire_inflight),
                               .fds = 1,
                               .known = true},
    [VHOST_RESET_DEVICE] = EMPTY,
    [VHOST_GET_MAX_MEM_SLOTS] = GETS,
    [VHOST_ADD_MEM_REG] = WITH_FD(struct vhost_wire_slot),
    [VHOST_REM_MEM_REG] = OF(struct vhost_wire_slot),
    [VHOST_SET_STATUS] = OF(uint64_t),
    [VHOST_GET_STATUS] = GETS,
};

_Static_assert(sizeof(struct vhost_wire_table) == 8 + 8 * 32, "layout");
_Static_assert(sizeof(struct vhost_wire_slot) == 40, "layout");
_Static_assert(sizeof(struct vhost_wire_address) == 40, "layout");
_Static_assert(sizeof(struct vhost_wire_config) <= VHOST_PAYLOAD_MAX, "fits");

int vhost_message_header(struct vhost_message *message, const uint8_t bytes[VHOST_HEADER_BYTES],
                         struct vdisk_error *error)
{
    memset(message, 0, sizeof(*message));
    memcpy(&message->request, bytes, 4);
    memcpy(&message->flags, bytes + 4, 4);
    memcpy(&message->size, bytes + 8, 4);
    if ((message->flags & 3) != VHOST_FLAG_VERSION || message->flags & VHOST_FLAG_REPLY)
        return vhost_fail(error, VDISK_E_MALFORMED, "a vhost-user message with flags %#x",
                          message->flags);
    if (message->size > VHOST_PAYLOAD_MAX)
        return vhost_fail(error, VDISK_E_MALFORMED, "a vhost-user message of %u bytes",
                          message->size);
    return 0;
}

static const struct shape *shape_of(const struct vhost_message *message)
{
    size_t count = sizeof(shapes) / sizeof(*shapes);

    return message->request < count && shapes[message->request].known ? &shapes[message->request]
                                                                      : NULL;
}

/* How many descriptors the message must have; what says so is in its payload for some. */
static unsigned fds_of(const struct vhost_message *message, const struct shape *shape)
{
    switch (message->request) {
    case VHOST_SET_MEM_TABLE:
        return message->table.count;
    case VHOST_SET_VRING_KICK:
    case VHOST_SET_VRING_CALL:
    case VHOST_SET_VRING_ERR:
        return message->number & VRING_NO_FD ? 0 : 1;
    default:
        return shape->fds;
    }
}

/* What a length within the payload says. */
static bool lengths_agree(const struct vhost_message *message)
{
    const struct vhost_wire_config *config = &message->config;

    switch (message->request) {
    case VHOST_SET_MEM_TABLE:
        return message->table.count <= VHOST_TABLE_REGIONS &&
               message->size >= 8 + message->table.count * sizeof(struct vhost_wire_region);
    case VHOST_GET_CONFIG:
    case VHOST_SET_CONFIG:
        return config->size <= VHOST_CONFIG_MAX && config->offset <= VHOST_CONFIG_MAX &&
               config->offset + config->size <= VHOST_CONFIG_MAX &&
               message->size == CONFIG_HEADER + config->size;
    default:
        return true;
    }
}

int vhost_message_check(struct vhost_message *message, struct vdisk_error *error)
{
    const struct shape *shape = shape_of(message);

    if (!shape)
        return vhost_fail(error, VDISK_E_UNSUPPORTED, "vhost-user request %u is not known",
                          message->request);
    if (message->size < shape->size_min || message->size > shape->size_max ||
        !lengths_agree(message))
        return vhost_fail(error, VDISK_E_MALFORMED, "vhost-user request %u of %u bytes",
                          message->request, message->size);
    unsigned wanted = fds_of(message, shape);

    if (message->fd_count < wanted)
        return vhost_fail(error, VDISK_E_MALFORMED,
                          "vhost-user request %u with %u descriptors of %u", message->request,
                          message->fd_count, wanted);
    while (message->fd_count > wanted)
        close(message->fd[--message->fd_count]);
    return 0;
}

bool vhost_message_has_reply(const struct vhost_message *message)
{
    const struct shape *shape = shape_of(message);

    return shape && shape->replies;
}

unsigned vhost_message_queue(const struct vhost_message *message, bool *has_fd)
{
    *has_fd = !(message->number & VRING_NO_FD);
    return message->number & VRING_INDEX_MASK;
}

int vhost_message_take_fd(struct vhost_message *message, unsigned at)
{
    int fd = at < message->fd_count ? message->fd[at] : -1;

    if (fd >= 0)
        message->fd[at] = -1;
    return fd;
}

void vhost_message_close(struct vhost_message *message)
{
    for (unsigned i = 0; i < message->fd_count; i++)
        if (message->fd[i] >= 0)
            close(message->fd[i]);
    message->fd_count = 0;
}
