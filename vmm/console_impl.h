/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of a console share (console.h). */
#ifndef VMM_CONSOLE_IMPL_H
#define VMM_CONSOLE_IMPL_H

#include "console.h"

#include <pthread.h>

#define CONSOLE_RING  65536u
#define CONSOLE_CHUNK 4096u

/* Output that waits. It holds the oldest; `chunk` is what is being written, and older still. */
struct console_ring {
    unsigned start, count;
    uint8_t bytes[CONSOLE_RING];
};

struct vm_console {
    struct reactor *reactor;
    enum vm_console_kind kind;
    char *path;
    void (*end)(void *opaque);
    void *opaque;
    struct vm_serial *serial;
    bool is_terminal; /* ours to restore, with an escape key */

    /* The reactor's. */
    int input, output; /* our own descriptors, or one; of the client; -1: none */
    int slave;         /* of the pty, so that it stays what it is without a client */
    int flags[2];      /* input, output: of what is shared, to be restored; -1: not */
    bool is_socket;    /* the output is one */
    bool is_regular;   /* the output is a file, which is written by the reactor */
    bool input_ended;  /* nothing more comes of it */
    bool escaped;      /* Ctrl-A was the last key */
    bool ending;
    struct reactor_op read, write, patience;
    bool reading, writing, timing; /* these are in flight */
    struct iovec vector;           /* of `write` */
    uint8_t chunk[CONSOLE_CHUNK];
    unsigned chunk_at, chunk_end;
    int64_t stuck_at; /* when who takes nothing is not waited for any more; 0: nothing waits */

    /* Of a socket: who comes and goes. */
    int listener;
    bool leaving; /* the client, as soon as nothing is in flight for it */
    int next;     /* who comes then, or -1 */
    struct reactor_op accept, pause;
    bool accepting, pausing;

    pthread_mutex_t lock; /* of what follows; within the port's */
    struct console_ring ring;
    bool present; /* somebody, who takes output */
    bool stuck;   /* but not now */
    bool holding; /* the port's transmitter is held */
    bool posted;
    struct reactor_message message;
};

/* console_open.c: descriptors. -errno. */
int console_open(struct vm_console *console, const struct vm_console_options *options,
                 struct vdisk_error *error);
void console_close(struct vm_console *console);

/* console.c: begins whatever can be done now, read or written. */
void console_go_on(struct vm_console *console);
/* Whether somebody is there to take output. */
void console_present(struct vm_console *console, bool present);

/* console_socket.c */
void console_listen(struct vm_console *console);
/* The client has gone, or is to. */
void console_leave(struct vm_console *console);
/* Of a client that leaves: an operation for it has ended. */
void console_left(struct vm_console *console);

#endif
