/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the messages of a front end ask for. A failure changes nothing that a queue in use needs,
 * except that of SET_MEM_TABLE, which takes the old table away first.
 */
#include "vhost_conn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BIT(number)            (UINT64_C(1) << (number))
#define F_LOG_ALL              26
#define F_PROTOCOL_FEATURES    30
#define ADDRESS_FLAG_LOG       1u
#define BACKEND_CONFIG_CHANGED 2u

enum protocol_bit {
    PROTOCOL_MQ = 0,
    PROTOCOL_LOG_SHMFD = 1,
    PROTOCOL_REPLY_ACK = 3,
    PROTOCOL_BACKEND_REQ = 5,
    PROTOCOL_CONFIG = 9,
    PROTOCOL_INFLIGHT_SHMFD = 12,
    PROTOCOL_RESET_DEVICE = 13,
    PROTOCOL_MEM_SLOTS = 15,
    PROTOCOL_STATUS = 16,
};

#define PROTOCOL                                                                                   \
    (BIT(PROTOCOL_MQ) | BIT(PROTOCOL_LOG_SHMFD) | BIT(PROTOCOL_REPLY_ACK) |                        \
     BIT(PROTOCOL_BACKEND_REQ) | BIT(PROTOCOL_CONFIG) | BIT(PROTOCOL_INFLIGHT_SHMFD) |             \
     BIT(PROTOCOL_RESET_DEVICE) | BIT(PROTOCOL_MEM_SLOTS) | BIT(PROTOCOL_STATUS))

static uint64_t offered(const struct vhost_conn *conn)
{
    uint64_t features = BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_PACKED) |
                        BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX) |
                        BIT(F_PROTOCOL_FEATURES) | BIT(F_LOG_ALL) | BIT(VIRTIO_BLK_F_SIZE_MAX) |
                        BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) |
                        BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_FLUSH);

    if (conn->queues > 1)
        features |= BIT(VIRTIO_BLK_F_MQ);
    if (conn->read_only)
        return features | BIT(VIRTIO_BLK_F_RO);
    return features | BIT(VIRTIO_BLK_F_CONFIG_WCE) | BIT(VIRTIO_BLK_F_DISCARD) |
           BIT(VIRTIO_BLK_F_WRITE_ZEROES);
}

bool vhost_has_protocol(const struct vhost_conn *conn, unsigned bit)
{
    return conn->protocol & BIT(bit);
}

static void reply_number(struct vhost_message *message, uint64_t number)
{
    vhost_message_close(message);
    message->number = number;
    message->size = sizeof(number);
}

static void go_all(struct vhost_conn *conn)
{
    for (unsigned i = 0; i < conn->queues; i++)
        vhost_queue_go(&conn->queue[i]);
}

static void resolve_all(struct vhost_conn *conn)
{
    for (unsigned i = 0; i < conn->queues; i++)
        vhost_queue_resolve(&conn->queue[i]);
}

/* ---- features ---- */

static int set_features(struct vhost_conn *conn, uint64_t features, struct vdisk_error *error)
{
    if (features & ~offered(conn))
        return vhost_fail(error, -EINVAL, "features %#llx were not offered",
                          (unsigned long long)(features & ~offered(conn)));
    conn->features = features;
    /* This one may be switched while rings run; the others count when a ring is started. */
    conn->memory.log.enabled = features & BIT(F_LOG_ALL);
    go_all(conn);
    return 0;
}

static int set_protocol(struct vhost_conn *conn, uint64_t features, struct vdisk_error *error)
{
    if (features & ~PROTOCOL)
        return vhost_fail(error, -EINVAL, "protocol features %#llx were not offered",
                          (unsigned long long)(features & ~PROTOCOL));
    conn->protocol = features;
    return 0;
}

static void reset(struct vhost_conn *conn)
{
    for (unsigned i = 0; i < conn->queues; i++) {
        struct vhost_queue *queue = &conn->queue[i];

        vhost_queue_stop(queue);
        queue->base = 0;
        queue->enabled = queue->has_address = false;
    }
    /* Nothing is in flight now, and the next rings begin anew. */
    if (conn->inflight.at)
        memset(conn->inflight.at, 0,
               conn->inflight.queues * vhost_inflight_bytes(conn->inflight.queue_size));
    conn->write_back = true;
    conn->status = 0;
}

static void set_status(struct vhost_conn *conn, uint64_t status)
{
    if (status == 0)
        reset(conn);
    conn->status = (uint8_t)status;
}

/* ---- the configuration space ---- */

static void get_config(struct vhost_conn *conn, struct vhost_message *message)
{
    struct vhost_blk_device device = {
        .size = conn->size,
        .cluster_bytes = conn->cluster_bytes,
        .queues = (uint16_t)conn->queues,
        .write_back = conn->write_back,
    };
    union {
        struct virtio_blk_config config;
        uint8_t bytes[VHOST_CONFIG_MAX];
    } space = {.bytes = {0}};

    vhost_blk_config(&space.config, &device);
    memcpy(message->config.bytes, space.bytes + message->config.offset, message->config.size);
}

static int set_config(struct vhost_conn *conn, const struct vhost_wire_config *config,
                      struct vdisk_error *error)
{
    if (conn->read_only || config->offset != offsetof(struct virtio_blk_config, wce) ||
        config->size != 1 || config->bytes[0] > 1)
        return vhost_fail(error, -EINVAL, "%u bytes at %u of the configuration cannot be set",
                          config->size, config->offset);
    conn->write_back = config->bytes[0];
    return 0;
}

void vhost_command_resized(struct vhost_conn *conn)
{
    const uint32_t header[3] = {BACKEND_CONFIG_CHANGED, VHOST_FLAG_VERSION, 0};

    conn->size = export_session_size(conn->session);
    if (conn->backend >= 0 && vhost_has_protocol(conn, PROTOCOL_CONFIG))
        (void)send(conn->backend, header, sizeof(header), MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* ---- memory ---- */

static int add_region(struct vhost_conn *conn, const struct vhost_wire_region *region, int fd,
                      struct vdisk_error *error)
{
    return vhost_memory_add(&conn->memory, region->guest, region->size, region->user,
                            region->offset, fd, error);
}

static int set_memory(struct vhost_conn *conn, const struct vhost_message *message,
                      struct vdisk_error *error)
{
    int result = 0;

    vhost_memory_clear(&conn->memory);
    for (unsigned i = 0; result == 0 && i < message->table.count; i++)
        result = add_region(conn, &message->table.region[i], message->fd[i], error);
    resolve_all(conn);
    return result;
}

static int change_memory(struct vhost_conn *conn, const struct vhost_message *message,
                         struct vdisk_error *error)
{
    const struct vhost_wire_region *region = &message->slot.region;
    int result;

    if (message->request == VHOST_ADD_MEM_REG)
        result = add_region(conn, region, message->fd[0], error);
    else
        result =
            vhost_memory_remove(&conn->memory, region->guest, region->size, region->user, error);
    if (result == 0)
        resolve_all(conn);
    return result;
}

static int set_log(struct vhost_conn *conn, struct vhost_message *message,
                   struct vdisk_error *error)
{
    int result =
        vhost_log_set(&conn->memory, message->log.size, message->log.offset, message->fd[0], error);

    if (result == 0)
        reply_number(message, 0);
    return result;
}

/* ---- in-flight memory ---- */

static int check_inflight(const struct vhost_conn *conn, const struct vhost_wire_inflight *wire,
                          struct vdisk_error *error)
{
    if (wire->queues == 0 || wire->queues > conn->queues || wire->queue_size == 0 ||
        wire->queue_size > VRING_SIZE_MAX)
        return vhost_fail(error, -EINVAL, "in-flight memory of %u queues of %u", wire->queues,
                          wire->queue_size);
    return 0;
}

static int get_inflight(struct vhost_conn *conn, struct vhost_message *message,
                        struct vdisk_error *error)
{
    struct vhost_wire_inflight *wire = &message->inflight;
    int result = check_inflight(conn, wire, error);

    if (result)
        return result;
    int fd = memfd_create("vhost-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    wire->size = wire->queues * vhost_inflight_bytes(wire->queue_size);
    wire->offset = 0;
    message->size = sizeof(*wire);
    if (fd < 0 || ftruncate(fd, (off_t)wire->size) ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)) {
        result = vhost_fail(error, -errno, "in-flight memory: %s", strerror(errno));
        if (fd >= 0)
            close(fd);
        return result;
    }
    message->fd[0] = fd;
    message->fd_count = 1;
    return 0;
}

static int set_inflight(struct vhost_conn *conn, const struct vhost_message *message,
                        struct vdisk_error *error)
{
    const struct vhost_wire_inflight *wire = &message->inflight;
    int result = check_inflight(conn, wire, error);
    struct vhost_mapping *mapping;
    uint8_t *at;

    for (unsigned i = 0; i < conn->queues; i++)
        if (conn->queue[i].started)
            return vhost_fail(error, -EBUSY, "a queue uses the in-flight memory");
    if (result == 0 && wire->size < wire->queues * vhost_inflight_bytes(wire->queue_size))
        result = vhost_fail(error, -EINVAL, "the in-flight memory is too small");
    if (result == 0)
        result = vhost_map(message->fd[0], wire->offset, wire->size, &conn->memory.lost, &mapping,
                           &at, error);
    if (result)
        return result;
    vhost_unmap(conn->inflight.mapping);
    conn->inflight.mapping = mapping;
    conn->inflight.at = at;
    conn->inflight.queues = wire->queues;
    conn->inflight.queue_size = wire->queue_size;
    return 0;
}

/* ---- queues ---- */

static struct vhost_queue *find_queue(struct vhost_conn *conn, unsigned index,
                                      struct vdisk_error *error)
{
    if (index < conn->queues)
        return &conn->queue[index];
    vhost_fail(error, -EINVAL, "there is no queue %u", index);
    return NULL;
}

static void set_address(struct vhost_queue *queue, const struct vhost_wire_address *address)
{
    struct vring_config *config = &queue->ring.config;

    config->desc = address->desc;
    config->avail = address->avail;
    config->used = address->used;
    config->log_guest = address->log;
    config->log = address->flags & ADDRESS_FLAG_LOG;
    queue->has_address = true;
    vhost_queue_resolve(queue);
}

/* Of those with a struct vhost_wire_state or _address, which begin with the same. */
static int change_queue(struct vhost_conn *conn, struct vhost_message *message,
                        struct vdisk_error *error)
{
    struct vhost_wire_state *state = &message->state;
    struct vhost_queue *queue = find_queue(conn, state->index, error);

    if (!queue)
        return -EINVAL;
    switch (message->request) {
    case VHOST_SET_VRING_ADDR:
        set_address(queue, &message->address);
        break;
    case VHOST_SET_VRING_ENABLE:
        queue->enabled = state->num;
        vhost_queue_go(queue);
        break;
    case VHOST_GET_VRING_BASE:
        vhost_queue_stop(queue);
        state->num = queue->base;
        break;
    default:
        if (queue->started)
            return vhost_fail(error, -EBUSY, "queue %u is in use", state->index);
        if (message->request == VHOST_SET_VRING_BASE)
            queue->base = state->num;
        else if (state->num > 0 && state->num <= VRING_SIZE_MAX)
            queue->ring.config.size = (uint16_t)state->num;
        else
            return vhost_fail(error, -EINVAL, "a queue of %u descriptors", state->num);
        vhost_queue_go(queue);
    }
    return 0;
}

static int set_queue_fd(struct vhost_conn *conn, struct vhost_message *message,
                        struct vdisk_error *error)
{
    bool has_fd;
    struct vhost_queue *queue = find_queue(conn, vhost_message_queue(message, &has_fd), error);
    struct stat about;

    if (!queue)
        return -EINVAL;
    if (message->request == VHOST_SET_VRING_CALL) {
        vhost_queue_set_call(queue, vhost_message_take_fd(message, 0));
        return 0;
    }
    if (message->request == VHOST_SET_VRING_ERR) {
        vhost_queue_set_err(queue, vhost_message_take_fd(message, 0));
        return 0;
    }
    if (!has_fd)
        return vhost_fail(error, -EOPNOTSUPP, "a queue without kicks");
    /* A file is always ready. */
    if (fstat(message->fd[0], &about) || S_ISREG(about.st_mode) || S_ISDIR(about.st_mode) ||
        S_ISBLK(about.st_mode))
        return vhost_fail(error, -EINVAL, "a kick that is a file");
    vhost_queue_set_kick(queue, vhost_message_take_fd(message, 0));
    return 0;
}

/* ---- all of them ---- */

static int get(struct vhost_conn *conn, struct vhost_message *message)
{
    switch (message->request) {
    case VHOST_GET_FEATURES:
        reply_number(message, offered(conn));
        break;
    case VHOST_GET_PROTOCOL_FEATURES:
        reply_number(message, PROTOCOL);
        break;
    case VHOST_GET_QUEUE_NUM:
        reply_number(message, conn->queues);
        break;
    case VHOST_GET_MAX_MEM_SLOTS:
        reply_number(message, VHOST_REGIONS_MAX);
        break;
    case VHOST_GET_STATUS:
        reply_number(message, conn->status);
        break;
    default:
        get_config(conn, message);
    }
    return 0;
}

static void set_backend(struct vhost_conn *conn, int fd)
{
    if (conn->backend >= 0)
        close(conn->backend);
    conn->backend = fd;
}

int vhost_command(struct vhost_conn *conn, struct vhost_message *message, struct vdisk_error *error)
{
    switch ((enum vhost_request)message->request) {
    case VHOST_SET_OWNER:
    case VHOST_SET_LOG_FD: /* who looks at the log does so without being told */
        return 0;
    case VHOST_GET_FEATURES:
    case VHOST_GET_PROTOCOL_FEATURES:
    case VHOST_GET_QUEUE_NUM:
    case VHOST_GET_CONFIG:
    case VHOST_GET_MAX_MEM_SLOTS:
    case VHOST_GET_STATUS:
        return get(conn, message);
    case VHOST_SET_FEATURES:
        return set_features(conn, message->number, error);
    case VHOST_SET_PROTOCOL_FEATURES:
        return set_protocol(conn, message->number, error);
    case VHOST_SET_STATUS:
        set_status(conn, message->number);
        return 0;
    case VHOST_RESET_OWNER:
    case VHOST_RESET_DEVICE:
        reset(conn);
        return 0;
    case VHOST_SET_CONFIG:
        return set_config(conn, &message->config, error);
    case VHOST_SET_BACKEND_REQ_FD:
        set_backend(conn, vhost_message_take_fd(message, 0));
        return 0;
    case VHOST_SET_MEM_TABLE:
        return set_memory(conn, message, error);
    case VHOST_ADD_MEM_REG:
    case VHOST_REM_MEM_REG:
        return change_memory(conn, message, error);
    case VHOST_SET_LOG_BASE:
        return set_log(conn, message, error);
    case VHOST_GET_INFLIGHT_FD:
        return get_inflight(conn, message, error);
    case VHOST_SET_INFLIGHT_FD:
        return set_inflight(conn, message, error);
    case VHOST_SET_VRING_NUM:
    case VHOST_SET_VRING_ADDR:
    case VHOST_SET_VRING_BASE:
    case VHOST_GET_VRING_BASE:
    case VHOST_SET_VRING_ENABLE:
        return change_queue(conn, message, error);
    case VHOST_SET_VRING_KICK:
    case VHOST_SET_VRING_CALL:
    case VHOST_SET_VRING_ERR:
        return set_queue_fd(conn, message, error);
    }
    return VDISK_E_UNSUPPORTED;
}
