/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front end of vhost-user (QEMU's docs/interop/vhost-user.rst): the connection to the process
 * that serves a drive's queues, and what is said there.
 *
 * Calls wait on the spot, until the deadline. What the back end answers is checked, and need not
 * come. After any failure but -EREMOTEIO and -ENOTSUP, question and answer may be out of step: the
 * connection can only be closed. Belongs to one thread.
 *
 * -ETIMEDOUT: nothing came in time; -EPIPE: the end of the connection; VDISK_E_MALFORMED: not an
 * answer to what was asked; -EREMOTEIO: the back end said no; -ECANCELED: see `interrupt`.
 */
#ifndef VMM_VHOST_FRONT_H
#define VMM_VHOST_FRONT_H

#include "memory.h"
#include "vhost_message.h"
#include "virtio.h"

enum vhost_protocol {
    VHOST_P_MQ = 0,
    VHOST_P_REPLY_ACK = 3,
    VHOST_P_BACKEND_REQ = 5,
    VHOST_P_CONFIG = 9,
    VHOST_P_INFLIGHT = 12,
    VHOST_P_RESET_DEVICE = 13,
};

#define VHOST_F_PROTOCOL 30u /* among the features of virtio */

struct vhost_front {
    int fd;      /* -1: no connection */
    int backend; /* our end of the socket for the back end's own messages; -1 */
    /* Of CLOCK_MONOTONIC, in nanoseconds: when all that is asked must have been answered. */
    int64_t deadline;
    /* When this descriptor is readable, waiting ends with -ECANCELED; -1: never. */
    int interrupt;
    uint64_t offered;  /* features of the back end */
    uint64_t protocol; /* settled */
    unsigned queues;   /* as many as the back end has */
};

/* No connection yet. */
void vhost_front_init(struct vhost_front *front);
void vhost_front_close(struct vhost_front *front);
/* What is asked from now on is to be answered within `nanoseconds`. */
void vhost_front_patience(struct vhost_front *front, int64_t nanoseconds);
static inline bool vhost_front_has(const struct vhost_front *front, enum vhost_protocol bit)
{
    return front->protocol >> bit & 1;
}

/*
 * Connects to the socket at a path, and settles the protocol. -ENOTSUP: the back end lacks what no
 * drive can be without: acknowledgements, a configuration. Or -errno. After a failure there is no
 * connection.
 */
int vhost_front_connect(struct vhost_front *front, const char *path, struct vdisk_error *error);

/* The first `size` bytes of the configuration, at most VHOST_CONFIG_MAX. */
int vhost_front_get_config(struct vhost_front *front, void *bytes, uint32_t size,
                           struct vdisk_error *error);
int vhost_front_set_config(struct vhost_front *front, uint32_t offset, const void *bytes,
                           uint32_t size, struct vdisk_error *error);
/* What the driver accepted. */
int vhost_front_set_features(struct vhost_front *front, uint64_t features,
                             struct vdisk_error *error);
/* User addresses are guest addresses. */
int vhost_front_share_memory(struct vhost_front *front, const struct vm_memory *memory,
                             struct vdisk_error *error);

/* Memory in which a back end notes what it has taken, and its successor finds it. */
struct vhost_front_inflight {
    int fd; /* -1: there is none yet */
    struct vhost_wire_inflight about;
};
/* Gives it to the back end, which makes it first if there is none. No queue is running. Nothing,
 * where the back end does not know of such memory. */
int vhost_front_share_inflight(struct vhost_front *front, struct vhost_front_inflight *inflight,
                               unsigned queues, uint16_t queue_size, struct vdisk_error *error);
/* The next back end begins with nothing in flight. */
void vhost_front_forget_inflight(struct vhost_front_inflight *inflight);

struct vhost_front_queue {
    unsigned index;
    const struct virtio_queue_settings *settings;
    uint32_t base;
    int kick, call, err; /* eventfds; stay the caller's */
};
int vhost_front_set_queue(struct vhost_front *front, const struct vhost_front_queue *queue,
                          struct vdisk_error *error);
/* Of a queue that was set. */
int vhost_front_enable_queue(struct vhost_front *front, unsigned index, struct vdisk_error *error);
/* Its requests have ended then; *base is where it is to go on. */
int vhost_front_stop_queue(struct vhost_front *front, unsigned index, uint32_t *base,
                           struct vdisk_error *error);
/* Of a device of which all queues are stopped. Nothing, where the back end has no such message. */
int vhost_front_reset(struct vhost_front *front, struct vdisk_error *error);

/* A message of the back end, when `backend` is readable. *changed: its configuration has. */
int vhost_front_take_news(struct vhost_front *front, bool *changed, struct vdisk_error *error);

#endif
