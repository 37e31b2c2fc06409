/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One front end, as the files of the back end share it.
 *
 * A task is the reader: it takes messages (vhost_session.c) and does what they say, one after the
 * other (vhost_commands.c). The queues run beside it, outside of tasks (vhost_queue.c): a kick or a
 * completion kicks the hook of its queue, which gives back what has ended, and fetches requests
 * (vhost_request.c). Everything is on the export's thread.
 */
#ifndef VDISKD_VHOST_CONN_H
#define VDISKD_VHOST_CONN_H

#include "budget.h"
#include "task.h"
#include "vhost_blk.h"
#include "vhost_inflight.h"
#include "vhost_message.h"
#include "vhost_server.h"

#define VHOST_OPS_MAX  1024u
#define VHOST_HELD_MAX (UINT64_C(64) << 20)
#define VHOST_PIECE    (UINT64_C(4) << 20)  /* a longer request is done piece by piece */
#define VHOST_GREETING INT64_C(10000000000) /* nanoseconds until the first message, */
#define VHOST_MESSAGE  INT64_C(10000000000) /* and for one to come or an answer to go */

/* A request of a queue. */
struct vhost_op {
    struct export_request request;
    struct vhost_queue *queue;
    struct vhost_op *next;
    struct vhost_blk_request what;
    uint64_t at; /* READ, WRITE: bytes that are done; DISCARD, ZEROES: ranges */
    uint8_t *buffer;
    size_t buffer_bytes; /* counted in vhost_conn.share */
    uint8_t status;
    struct vring_chain chain;
};

struct vhost_queue {
    struct vhost_conn *conn;
    struct virtqueue ring;
    struct vhost_inflight inflight;
    uint32_t base;
    bool has_address, enabled;
    bool started;  /* from kick and enabled to GET_VRING_BASE */
    bool resolved; /* the ring is in the table of regions */
    bool given_up; /* it broke the rules: nothing more is fetched */
    int kick, call, err;
    struct reactor_op poll; /* of kick */
    bool polling, wants_kicks, draining;
    struct reactor_hook hook;
    struct reactor_watch watch;       /* of the ring, while it is empty and kicks are off */
    struct vhost_inflight_lost *lost; /* requests to do again, from lost_at on */
    unsigned lost_at, lost_count;
    struct vhost_op *finished, **finished_tail;
    unsigned in_flight;
};

struct vhost_conn {
    struct vhost_server *server;
    struct reactor *reactor;
    int fd;
    struct vhost_event event;
    struct export *export;
    struct export_session *session;
    bool ending; /* takes no more requests */
    bool greeted;
    struct task *reader; /* where it parks */

    /* The device. */
    uint64_t size, cluster_bytes;
    bool read_only, write_back;
    char serial[VIRTIO_BLK_ID_BYTES];
    uint64_t features, protocol; /* negotiated */
    uint8_t status;
    struct vhost_memory memory;
    int backend; /* for our messages to the front end; -1 */
    struct {     /* SET_INFLIGHT_FD */
        struct vhost_mapping *mapping;
        uint8_t *at;
        uint16_t queues, queue_size;
    } inflight;

    unsigned queues;
    struct vhost_queue queue[VHOST_QUEUES_MAX];
    struct vhost_op *free;
    unsigned ops;              /* in flight */
    struct budget_share share; /* bytes of buffers */
    bool starving;             /* a queue waits for ops or what is held to become less */
};

/* vhost_server.c */
const struct vhost_options *vhost_server_options(const struct vhost_server *server);
/* Reason: NULL or one line. */
void vhost_conn_event(struct vhost_conn *conn, enum vhost_event_kind kind, const char *reason);
/* The front end is gone: the server may take another. Frees the connection. */
void vhost_server_gone(struct vhost_server *server, struct vhost_conn *conn);

/* vhost_session.c: the task of a front end, its connection. */
void vhost_session(void *arg);
/* No more requests; the front end is disconnected, soon. */
void vhost_session_end(struct vhost_conn *conn);
/* The same, for it took memory away from under us: see vhost_mapping.h. */
void vhost_session_lost(struct vhost_conn *conn);

/* vhost_commands.c: by the reader. Does what a message says; one that has a reply becomes it. */
int vhost_command(struct vhost_conn *conn, struct vhost_message *message,
                  struct vdisk_error *error);
bool vhost_has_protocol(const struct vhost_conn *conn, unsigned bit);
/* The size of the drive has changed. Outside of tasks. */
void vhost_command_resized(struct vhost_conn *conn);

/* vhost_queue.c */
void vhost_queue_init(struct vhost_queue *queue, struct vhost_conn *conn);
/* Starts it, if everything that it needs is there, and lets it go on if it was disabled. */
void vhost_queue_go(struct vhost_queue *queue);
/* After a change of its addresses or of the table of regions. */
void vhost_queue_resolve(struct vhost_queue *queue);
/* Nothing more is fetched; the front end is told. */
void vhost_queue_give_up(struct vhost_queue *queue, const char *reason);
/* By the reader: waits until no request is in flight, and answers them. The ring is stopped. */
void vhost_queue_stop(struct vhost_queue *queue);
/* By the reader: takes the descriptor; -1: none. */
void vhost_queue_set_kick(struct vhost_queue *queue, int fd);
void vhost_queue_set_call(struct vhost_queue *queue, int fd);
void vhost_queue_set_err(struct vhost_queue *queue, int fd);
/* The request has ended, with op->status. */
void vhost_queue_finished(struct vhost_op *op);

/* vhost_request.c */
/* NULL: too much is in flight; or there is no memory. */
struct vhost_op *vhost_op_take(struct vhost_queue *queue);
void vhost_op_release(struct vhost_op *op);
/* Judges what is in op->chain. -EPROTO: it cannot be answered. */
int vhost_op_parse(struct vhost_op *op);
void vhost_op_start(struct vhost_op *op);
void vhost_ops_free(struct vhost_conn *conn);

#endif
