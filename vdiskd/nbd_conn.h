/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One NBD connection, as its files share it.
 *
 * A task is the reader: it does the handshake (nbd_handshake.c), moves to the thread of the export,
 * and then takes requests (nbd_transmit.c). Answers are queued by completions and sent by the
 * writer (nbd_reply.c); block status is found by a third task, one request after the other
 * (nbd_status.c). An operation (struct nbd_op) belongs to the connection from nbd_op_take() until
 * its reply is sent, and so do its bytes: that bounds what a client can make us hold. All of them
 * together are bounded by the budget of the thread (budget.h).
 */
#ifndef VDISKD_NBD_CONN_H
#define VDISKD_NBD_CONN_H

#include "budget.h"
#include "nbd_extents.h"
#include "nbd_options.h"
#include "nbd_server.h"
#include "stream.h"

#include <pthread.h>
#include <stdatomic.h>

#define NBD_OPS_MAX      128u
#define NBD_HELD_MAX     (UINT64_C(64) << 20)
#define NBD_IN_BYTES     (256u << 10)
#define NBD_HANDSHAKE_NS INT64_C(10000000000)
#define NBD_LINGER_NS    INT64_C(5000000000)

enum nbd_context_kind {
    NBD_CONTEXT_ALLOCATION,
    NBD_CONTEXT_DEPTH,
    NBD_CONTEXT_DIRTY,
};

struct nbd_context { /* its number on the wire is its place, from 1 */
    enum nbd_context_kind kind;
    /* DIRTY: the snapshot since when, and, once there is an export, a session of it. */
    char *since_name;
    uint64_t since_id;
    struct export_session *since;
};

struct nbd_op {
    struct export_request request;
    struct nbd_conn *conn;
    struct nbd_op *next;
    struct nbd_request header;
    void *buffer;
    size_t buffer_bytes;
    uint64_t taken;       /* of nbd_conn.share */
    uint32_t context_set; /* BLOCK_STATUS: a bit for each */
    size_t reply_bytes, data_bytes;
    uint8_t reply[NBD_REPLY_HEADER_MAX];
};

struct nbd_queue {
    struct nbd_op *head, *tail;
};

struct nbd_conn {
    struct nbd_server *server;
    struct nbd_conn *next, *previous; /* in the server's list, under its lock */
    struct stream stream;
    struct nbd_event event;
    atomic_bool ending; /* takes no more requests */
    bool is_listed;

    /* Negotiated. */
    int64_t deadline;
    bool no_zeroes;
    unsigned denials; /* told */
    enum nbd_mode mode;
    struct nbd_context context[NBD_CONTEXTS_MAX];
    unsigned context_count;
    char context_name[NBD_STRING_MAX + 1]; /* the export that they are of */
    struct export *export;
    struct export_session *session;

    /* Transmission. */
    uint8_t *in;
    size_t in_from, in_to;
    struct nbd_op *ops, *free;
    unsigned in_flight;
    struct budget_share share; /* bytes of buffers; from its beginning to its end */
    struct nbd_queue finished, questions;
    struct task *reader, *writer, *asker; /* where they park */
    bool is_writing, is_asking, broken, closing;
    struct reactor_op linger;
    bool lingers;
};

struct nbd_target {
    struct export *export;
    bool has_snapshot;
    char snapshot[VDISK_NAME_MAX + 1];
    uint64_t size;
    bool read_only;
};

/* nbd_server.c */
struct exports *nbd_server_exports(struct nbd_server *server);
const struct nbd_options *nbd_server_options(struct nbd_server *server);
struct tls *nbd_server_tls(struct nbd_server *server);
void nbd_conn_event(struct nbd_conn *conn, enum nbd_event_kind kind, const char *reason);

/* nbd_handshake.c: 0 when the session is attached; else the connection ends. */
int nbd_negotiate(struct nbd_conn *conn);

/* nbd_context.c */
/* Finds NAME or NAME@SNAPSHOT; holds its export. VDISK_E_NOT_FOUND. */
int nbd_resolve(struct nbd_conn *conn, const struct nbd_string *name, struct nbd_target *target);
void nbd_contexts_clear(struct nbd_conn *conn);
/* Adds the context of that name. VDISK_E_NOT_FOUND: there is none. */
int nbd_context_add(struct nbd_conn *conn, const struct nbd_target *target, const char *name);
/* On the thread of the export: holds the snapshots that the contexts are about. -ESTALE: one has
 * gone since. */
int nbd_contexts_attach(struct nbd_conn *conn);
/* The snapshots' names, each ended by a zero byte, at most `room` bytes. */
int nbd_snapshot_names(const struct nbd_target *target, char *out, size_t room, size_t *length);

/* nbd_transmit.c: until the client goes; nothing is in flight afterwards. */
void nbd_transmit(struct nbd_conn *conn);

/* nbd_reply.c */
/* By the reader: waits for one, and until `bytes` more may be held; NULL when it is to end. */
struct nbd_op *nbd_op_take(struct nbd_conn *conn, uint64_t bytes);
/* Of bytes that it may hold. */
bool nbd_op_buffer(struct nbd_op *op, size_t bytes);
void nbd_op_drop_buffer(struct nbd_op *op);
/* The reply is ready in `reply` and the buffer's first data_bytes. */
void nbd_op_finish(struct nbd_op *op);
/* Replies without data. */
void nbd_op_answer(struct nbd_op *op, uint32_t error);
void nbd_op_done(struct export_request *request);
void nbd_writer(void *arg);
void nbd_queue_push(struct nbd_queue *queue, struct nbd_op *op);

/* nbd_status.c: the task that answers conn->questions. */
void nbd_asker(void *arg);

#endif
