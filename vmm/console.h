/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is behind the serial port, on a reactor.
 *
 * Input is read as far as the port has room for it, so that none is lost to a guest that is slow.
 *
 * Output waits in a buffer of 64 KiB. Whoever reads it gets all of it: when the buffer is full the
 * port's transmitter is held. But nobody is waited for who takes nothing for half a second (a
 * terminal that was stopped, a client that does not read; a disk has 10 s), or is not there: then
 * the guest goes on, and the oldest output makes room for the newest, until it is read again. What
 * was said with no client is so shown to the next one, up to the last 64 KiB.
 *
 * All functions by the reactor's thread.
 */
#ifndef VMM_CONSOLE_H
#define VMM_CONSOLE_H

#include "reactor.h"
#include "serial.h"

enum vm_console_kind {
    VM_CONSOLE_NONE,   /* output goes nowhere */
    VM_CONSOLE_STDIO,  /* standard input and output, or what stands for them */
    VM_CONSOLE_PTY,    /* a terminal for others to open: vm_console_path() */
    VM_CONSOLE_SOCKET, /* a Unix socket, for its owner alone; one client at a time */
    VM_CONSOLE_FILE,   /* what is said is appended to a file; no input */
};

/*
 * STDIO: when the input is a terminal, it is in raw mode until vm_console_free() or any other end
 * (terminal.h), and Ctrl-A is the escape key: followed by x it asks for the end of the machine, by
 * h it shows a line of help; by a, or once more, it is sent; by others it means nothing. SIGPIPE
 * is ignored by the program.
 */
struct vm_console_options {
    enum vm_console_kind kind;
    const char *path;  /* SOCKET, FILE */
    int input, output; /* STDIO: descriptors (0 and 1), which stay the caller's; -1: none */
    /* Ctrl-A x. NULL: nothing comes of it. It must not free the console. */
    void (*end)(void *opaque);
    void *opaque;
};

struct vm_console;

/* -errno. */
int vm_console_new(const struct vm_console_options *options, struct reactor *reactor,
                   struct vm_console **out, struct vdisk_error *error);
/* Becomes the peer of the port, which stays until after vm_console_free(). Once. */
void vm_console_connect(struct vm_console *console, struct vm_serial *serial);
/* Where it is: of the terminal (/dev/pts/4, to be told to the user), the socket, the file; or
 * NULL. */
const char *vm_console_path(const struct vm_console *console);
/* Steps the reactor: what the guest has said is given out as above, for twice those times at most.
 * The socket is removed. NULL is allowed. */
void vm_console_free(struct vm_console *console);

#endif
