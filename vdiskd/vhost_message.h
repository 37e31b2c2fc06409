/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of vhost-user (QEMU's docs/interop/vhost-user.rst): what each must look like, so that
 * what follows sees only messages whose size and number of descriptors are right.
 *
 * Fields are in the machine's byte order. A message owns its descriptors until they are taken.
 */
#ifndef VDISKD_VHOST_MESSAGE_H
#define VDISKD_VHOST_MESSAGE_H

#include "vdisk/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VHOST_HEADER_BYTES    12u
#define VHOST_PAYLOAD_MAX     512u
#define VHOST_FDS_MAX         8u
#define VHOST_CONFIG_MAX      256u
#define VHOST_TABLE_REGIONS   8u /* of SET_MEM_TABLE */

#define VHOST_FLAG_VERSION    1u
#define VHOST_FLAG_REPLY      4u
#define VHOST_FLAG_NEED_REPLY 8u

enum vhost_request {
    VHOST_GET_FEATURES = 1,
    VHOST_SET_FEATURES = 2,
    VHOST_SET_OWNER = 3,
    VHOST_RESET_OWNER = 4,
    VHOST_SET_MEM_TABLE = 5,
    VHOST_SET_LOG_BASE = 6,
    VHOST_SET_LOG_FD = 7,
    VHOST_SET_VRING_NUM = 8,
    VHOST_SET_VRING_ADDR = 9,
    VHOST_SET_VRING_BASE = 10,
    VHOST_GET_VRING_BASE = 11,
    VHOST_SET_VRING_KICK = 12,
    VHOST_SET_VRING_CALL = 13,
    VHOST_SET_VRING_ERR = 14,
    VHOST_GET_PROTOCOL_FEATURES = 15,
    VHOST_SET_PROTOCOL_FEATURES = 16,
    VHOST_GET_QUEUE_NUM = 17,
    VHOST_SET_VRING_ENABLE = 18,
    VHOST_SET_BACKEND_REQ_FD = 21,
    VHOST_GET_CONFIG = 24,
    VHOST_SET_CONFIG = 25,
    VHOST_GET_INFLIGHT_FD = 31,
    VHOST_SET_INFLIGHT_FD = 32,
    VHOST_RESET_DEVICE = 34,
    VHOST_GET_MAX_MEM_SLOTS = 36,
    VHOST_ADD_MEM_REG = 37,
    VHOST_REM_MEM_REG = 38,
    VHOST_SET_STATUS = 39,
    VHOST_GET_STATUS = 40,
};

struct vhost_wire_state {
    uint32_t index, num;
};
struct vhost_wire_address {
    uint32_t index, flags;
    uint64_t desc, used, avail, log;
};
struct vhost_wire_region {
    uint64_t guest, size, user, offset;
};
struct vhost_wire_table {
    uint32_t count, padding;
    struct vhost_wire_region region[VHOST_TABLE_REGIONS];
};
struct vhost_wire_slot {
    uint64_t padding;
    struct vhost_wire_region region;
};
struct vhost_wire_log {
    uint64_t size, offset;
};
struct vhost_wire_config {
    uint32_t offset, size, flags;
    uint8_t bytes[VHOST_CONFIG_MAX];
};
struct vhost_wire_inflight {
    uint64_t size, offset;
    uint16_t queues, queue_size;
};

struct vhost_message {
    uint32_t request, flags, size;
    union {
        uint64_t number;
        struct vhost_wire_state state;
        struct vhost_wire_address address;
        struct vhost_wire_table table;
        struct vhost_wire_slot slot;
        struct vhost_wire_log log;
        struct vhost_wire_config config;
        struct vhost_wire_inflight inflight;
        uint8_t bytes[VHOST_PAYLOAD_MAX];
    };
    unsigned fd_count;
    int fd[VHOST_FDS_MAX];
};

/* The header, from the front end. VDISK_E_MALFORMED: another version, a reply, too long a payload.
 */
int vhost_message_header(struct vhost_message *message, const uint8_t bytes[VHOST_HEADER_BYTES],
                         struct vdisk_error *error);
/*
 * With payload and descriptors there: are they right for the request? VDISK_E_UNSUPPORTED: not a
 * request that we know; VDISK_E_MALFORMED: not of its size, or with fewer descriptors than it has.
 * More of them are closed, and do no harm.
 */
int vhost_message_check(struct vhost_message *message, struct vdisk_error *error);
/* Has the request an answer of its own, with or without REPLY_ACK? */
bool vhost_message_has_reply(const struct vhost_message *message);

/* The queue and, in *has_fd, whether a descriptor comes with SET_VRING_KICK, CALL or ERR. */
unsigned vhost_message_queue(const struct vhost_message *message, bool *has_fd);
/* Hands over a descriptor; -1: there is none. */
int vhost_message_take_fd(struct vhost_message *message, unsigned at);
/* Closes the descriptors that were not taken. */
void vhost_message_close(struct vhost_message *message);

#endif
