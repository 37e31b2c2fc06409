/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A back end of vhost-user that says what a test wants, right or wrong. It answers in a thread of
 * its own, one front end after the other, and serves no queue.
 */
#ifndef VDISK_TESTS_VM_BACKEND_H
#define VDISK_TESTS_VM_BACKEND_H

#include "vhost_message.h"

#include <linux/virtio_blk.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define BACKEND_QUEUES 4u

enum backend_fault {
    BACKEND_FINE,
    BACKEND_END,           /* the connection ends instead of an answer */
    BACKEND_SILENT,        /* nothing is answered from then on */
    BACKEND_HALF,          /* half an answer, then the end */
    BACKEND_WRONG_REQUEST, /* an answer to something else */
    BACKEND_WRONG_FLAGS,   /* not marked as an answer */
    BACKEND_WRONG_VERSION,
    BACKEND_SHORT,
    BACKEND_LONG,
    BACKEND_HUGE,       /* longer than any message */
    BACKEND_DESCRIPTOR, /* a descriptor more than there should be */
    BACKEND_REFUSE,     /* an acknowledgement that says no */
};

struct backend_queue {
    uint32_t size, base;
    struct vhost_wire_address address;
    int kick, call, err; /* -1 */
    bool enabled;
};

/* Of the connection that is there, or was last. */
struct backend_seen {
    unsigned messages;
    uint32_t last; /* request */
    uint64_t features, protocol;
    struct vhost_wire_table table;
    struct vhost_wire_inflight inflight;
    uint8_t written[VHOST_CONFIG_MAX]; /* by SET_CONFIG */
    uint32_t written_at, written_bytes;
    unsigned resets, tables; /* how often these were said */
    struct backend_queue queue[BACKEND_QUEUES];
};

struct backend {
    /* What it says. */
    uint64_t features, protocol, queues;
    struct virtio_blk_config config;
    uint32_t config_refused;       /* an empty answer to GET_CONFIG */
    uint16_t inflight_queues_more; /* than were asked for */
    uint64_t inflight_bytes;
    bool inflight_without_fd, base_of_another;
    uint32_t base; /* that GET_VRING_BASE answers */
    enum backend_fault fault;
    unsigned fault_at;      /* at which message of a connection, from 1; 0: */
    uint32_t fault_request; /* at which request */

    /* Its own. */
    pthread_mutex_t lock;
    pthread_t thread;
    int listener, stop;
    int connection, channel; /* channel: for messages to the front end */
    unsigned connections;
    struct backend_seen seen;
};

/* What a good one says. */
void backend_init(struct backend *backend);
/* A socket that listens, until it is stopped; it may be started again. */
int backend_start(struct backend *backend, const char *path);
void backend_stop(struct backend *backend);
/* Changes of what it says, and looks at what it has seen, are made between these. */
void backend_lock(struct backend *backend);
void backend_unlock(struct backend *backend);
/* Ends the connection that is there. */
void backend_drop(struct backend *backend);
/* A message on the channel, as these bytes. */
int backend_say(struct backend *backend, const void *bytes, size_t length);
/* Waits until the front end has said this since it connected. */
bool backend_wait(struct backend *backend, uint32_t request);

#endif
