/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection of a vsock device, and what its files share: vsock_conns.c has all connections,
 * vsock_conn.c speaks with the guest, vsock_socket.c with the host's program.
 *
 * The two sides end one by one. Towards the guest that is `state`, towards the host `closed`; what
 * has ended on both is freed by vsock_conn_settle() once no poll is in flight. Settling follows
 * whatever was done to a connection: it draws the conclusions.
 */
#ifndef VMM_VSOCK_CONN_H
#define VMM_VSOCK_CONN_H

#include "vsock_buffer.h"
#include "vsock_conns.h"
#include "vsock_credit.h"

#include <sys/un.h>

#define VSOCK_LINE_MAX     20u /* "CONNECT 4294967295\r\n" */
#define VSOCK_REFUSALS_MAX 64u

enum vsock_state {
    VSOCK_HANDSHAKE, /* a host's program has connected; its line is awaited */
    VSOCK_REQUESTED, /* the guest is asked, or going to be: its answer is awaited */
    VSOCK_OPEN,
    VSOCK_RESET, /* the guest is to get an RST */
    VSOCK_GONE,  /* the guest knows nothing of it; what it had sent may still go out */
};

struct vsock_poll {
    struct reactor_op op;
    bool armed;
};

struct vsock_conn {
    struct vsock_conns *conns;
    unsigned slot; /* in conns->conn */
    struct vsock_conn *next_ready;
    bool is_ready; /* on the list */
    enum vsock_state state;
    uint32_t local_port, guest_port; /* from REQUESTED on */
    int64_t deadline;                /* as reactor_now(); 0: none */

    /* Towards the guest. */
    struct vsock_credit credit;
    bool owes_request, owes_response, owes_credit; /* packets */
    bool asked_credit;                             /* since there was none left */
    uint32_t shut_due, shut_told; /* flags of SHUTDOWN: to be said, and said so far */
    uint32_t guest_shut;          /* what the guest has said */

    /* Towards the host. */
    int fd;           /* -1: closed */
    bool closed;      /* fd is of no use any more */
    bool is_readable; /* there are bytes, or the end, to be received */
    bool in_done;     /* nothing more is received: the program's end, or the guest wants no more */
    bool out_done;    /* nothing more is sent: all was, or the program has gone */
    bool at_end;      /* the program has sent all */
    bool is_hung_up;  /* the program has gone; what it had sent may still be there */
    struct vsock_poll in, out, gone; /* for bytes, for room, for the program's going */
    struct vsock_buffer buffer;      /* of what the guest sent */
    char line[VSOCK_LINE_MAX];
    unsigned line_length;
};

struct vsock_refusal { /* an RST for what is no connection */
    uint64_t from_cid;
    uint32_t local_port, guest_port;
    uint16_t type;
};

struct vsock_conns {
    struct vsock_conns_options options;
    struct sockaddr_un address; /* of the listener */
    size_t folder_length;       /* in the address */
    int listener;
    bool admit, ending;
    unsigned in_flight; /* operations and messages */
    struct reactor_op accept, timer;
    bool accept_armed, timer_armed, timer_cancelled;
    struct reactor_message sweep;
    bool sweeping;

    unsigned count;
    uint64_t key[VSOCK_CONNS_MAX]; /* of `conn`: both ports */
    struct vsock_conn *conn[VSOCK_CONNS_MAX];
    struct vsock_conn *ready, **ready_tail; /* those that have a packet for the guest */
    uint32_t next_port;
    struct vsock_refusal refusal[VSOCK_REFUSALS_MAX]; /* a ring */
    unsigned refusal_begin, refusals;
};

/* ---- vsock_conns.c ---- */

/* Takes `fd` over. NULL: no memory, or too many; then fd is closed. */
struct vsock_conn *vsock_conn_new(struct vsock_conns *conns, enum vsock_state state, int fd);
void vsock_conn_set_ports(struct vsock_conn *conn, uint32_t local_port, uint32_t guest_port);
/* A port of the host's side by which the guest can tell it from others. */
uint32_t vsock_conns_free_port(struct vsock_conns *conns, uint32_t guest_port);
/* Draws the conclusions of what was done to it; it may be freed then. */
void vsock_conn_settle(struct vsock_conn *conn);
/* Wakes up in time. */
void vsock_conns_set_timer(struct vsock_conns *conns, int64_t deadline);

/* ---- vsock_conn.c ---- */

/* A packet of the guest, for an existing connection. */
void vsock_conn_take(struct vsock_conn *conn, const struct vsock_header *header,
                     const uint8_t *data);
bool vsock_conn_has_packet(const struct vsock_conn *conn);
void vsock_conn_next(struct vsock_conn *conn, struct vsock_header *header, uint8_t *data,
                     uint32_t room);
/* It ends at once; the guest gets an RST, unless it has not heard of it. */
void vsock_conn_break(struct vsock_conn *conn);
/* Concludes from what has ended which end comes next. */
void vsock_conn_conclude(struct vsock_conn *conn);

/* ---- vsock_socket.c ---- */

/* A socket connected to FOLDER/vsock_PORT; -errno. */
int vsock_socket_connect(const struct vsock_conns *conns, uint32_t port);
/* Tells the program that the guest has accepted. False: it cannot be told. */
bool vsock_socket_greet(struct vsock_conn *conn);
/* Bytes for the program, which fit into the buffer. */
void vsock_socket_send(struct vsock_conn *conn, const uint8_t *data, uint32_t length);
/* Up to `room` bytes of the program; 0: none, and conn says why. */
uint32_t vsock_socket_receive(struct vsock_conn *conn, uint8_t *data, uint32_t room);
/* The program sees the end, now; what it was not sent is lost. By any thread. */
void vsock_socket_close(struct vsock_conn *conn);
/* Polls for what the connection waits for. True: the descriptor is closed, and nothing is in
 * flight. */
bool vsock_socket_watch(struct vsock_conn *conn);

#endif
