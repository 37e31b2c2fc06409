/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A front end of vhost-user-blk with a driver of virtio-blk, for tests and measurements: memory in
 * a memfd, split or packed rings, several queues, indirect tables, event index. It waits on the
 * spot, and belongs to one thread. Functions return 0 or -errno.
 *
 * A queue has slots, each with room for one request and its data, at a place of its own in memory;
 * so what is outstanding survives client_connect() to another back end.
 */
#ifndef VDISK_TESTS_VHOST_CLIENT_H
#define VDISK_TESTS_VHOST_CLIENT_H

#include "vhost_message.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLIENT_QUEUES_MAX 16u
#define CLIENT_RING_MAX   256u
#define CLIENT_SEGMENTS   8u                   /* of data with indirect tables; else 2 */
#define CLIENT_PATIENCE   60000                /* milliseconds until a test has failed */
#define CLIENT_GUEST      UINT64_C(0x40000000) /* guest address of the memory's first byte */
#define CLIENT_BIT(n)     (UINT64_C(1) << (n))
#define CLIENT_AVAIL_AT   8192u  /* of a ring: what the driver writes, */
#define CLIENT_USED_AT    12288u /* and what the device writes */
#define CLIENT_F_LOG_ALL  26
#define CLIENT_F_PROTOCOL 30

enum client_protocol_bit {
    CLIENT_P_MQ = 0,
    CLIENT_P_LOG_SHMFD = 1,
    CLIENT_P_REPLY_ACK = 3,
    CLIENT_P_BACKEND_REQ = 5,
    CLIENT_P_CONFIG = 9,
    CLIENT_P_INFLIGHT = 12,
    CLIENT_P_RESET_DEVICE = 13,
    CLIENT_P_MEM_SLOTS = 15,
    CLIENT_P_STATUS = 16,
};

struct client_options {
    unsigned queues;
    uint16_t ring_size;
    size_t data_bytes;         /* of a slot */
    uint64_t without;          /* features not to be taken */
    uint64_t protocol_without; /* the same of protocol features; without MEM_SLOTS: a table */
};

struct client_slot {
    bool busy, ended;
    uint32_t type;
    uint64_t offset, length;
    uint16_t descriptors;
    uint8_t status;
    uint32_t written;
    unsigned answers; /* must never become more than those asked for */
};

struct client_queue {
    unsigned slots;
    struct client_slot slot[CLIENT_RING_MAX];
    uint8_t *ring; /* descriptors, then what follows (vhost_client_ring.c) */
    uint8_t *tables, *headers, *data;
    int kick, call, err;
    uint16_t next_avail, next_used, added; /* added since the last kick */
    bool avail_wrap, used_wrap;
    unsigned descriptors_free;
};

struct client {
    struct client_options options;
    int fd, backend; /* backend: our end of the socket for its messages */
    uint64_t offered, features, protocol;
    int memory_fd;
    uint8_t *memory;
    size_t memory_bytes;
    struct client_queue queue[CLIENT_QUEUES_MAX];
    struct vhost_wire_inflight inflight;
    int inflight_fd;
    unsigned sends_left;     /* if not 0: the one after is refused with -ECANCELED */
    uint64_t config_changes; /* messages of the back end that client_backend() has seen */
};

/* ---- the front end (vhost_client.c) ---- */

/* Memory and rings; no connection yet. */
int client_new(const struct client_options *options, struct client **out);
/* NULL is allowed. */
void client_free(struct client *client);

int client_dial(const char *path); /* a descriptor or -errno */
/* The descriptors stay the caller's. */
int client_send(struct client *client, uint32_t request, uint32_t flags, const void *payload,
                uint32_t size, const int *fds, unsigned fd_count);
/* The next message of that request; its descriptors are in *reply. -EPIPE: the end. */
int client_receive(struct client *client, uint32_t request, struct vhost_message *reply);
/* Sends, and has it acknowledged: -EIO when the back end says no. */
int client_do(struct client *client, uint32_t request, const void *payload, uint32_t size,
              const int *fds, unsigned fd_count);
int client_do_number(struct client *client, uint32_t request, uint64_t number);
int client_do_state(struct client *client, uint32_t request, uint32_t index, uint32_t number);
int client_get(struct client *client, uint32_t request, uint64_t *number);
int client_config(struct client *client, struct virtio_blk_config *config);

/* Everything from the connection to running queues. Also after the back end has gone: the requests
 * outstanding are then its again. */
int client_connect(struct client *client, const char *path);
/* The steps of it. */
int client_negotiate(struct client *client);
int client_share_memory(struct client *client);
int client_share_inflight(struct client *client);
int client_set_up_queue(struct client *client, unsigned index); /* all but kick and enable */
int client_start_queue(struct client *client, unsigned index);
/* GET_VRING_BASE, after which nothing is outstanding. */
int client_stop_queue(struct client *client, unsigned index, uint32_t *base);
void client_disconnect(struct client *client);
/* A message of the back end within `milliseconds`. */
bool client_backend(struct client *client, int milliseconds);

/* ---- the driver (vhost_client_ring.c) ---- */

size_t client_queue_bytes(const struct client_options *options);
void client_queue_init(struct client *client, unsigned index, uint8_t *memory);
void client_queue_address(const struct client *client, unsigned index,
                          struct vhost_wire_address *address);
/* As SET_VRING_BASE wants it, with nothing known but what is in memory. */
uint32_t client_queue_base(const struct client *client, unsigned index);
/* An empty ring, as after a reset of the driver. */
void client_queue_reset(struct client *client, unsigned index);

/* One that is not busy, or -1. */
int client_slot(struct client *client, unsigned index);
uint8_t *client_data(struct client *client, unsigned index, int slot);
uint64_t client_guest(const struct client *client, const void *at);
/* Makes a request available: `out` bytes of data are the device's to read, `in` to write. */
void client_submit(struct client *client, unsigned index, int slot, uint32_t type, uint64_t offset,
                   uint32_t out, uint32_t in, unsigned segments);
/* If the device wants it. */
void client_kick(struct client *client, unsigned index);
/* What has ended so far; the slots are `ended`. How many. */
unsigned client_poll(struct client *client, unsigned index);
/* Waits for at least one. */
int client_wait(struct client *client, unsigned index);
/* One request from beginning to end: its status, or -errno. Data are in the slot returned. */
int client_request(struct client *client, unsigned index, uint32_t type, uint64_t offset,
                   void *data, uint32_t length);

#endif
