/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The clients of a console's socket, one after the other. A descriptor is closed when nothing is
 * in flight for it; who comes meanwhile waits as `next`.
 */
#include "console_impl.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAUSE_NS INT64_C(100000000) /* after an accept() that failed */

static void begin_client(struct vm_console *console, int fd)
{
    console->input = console->output = fd;
    console->input_ended = false;
    console_present(console, true);
    console_go_on(console);
}

/* It may have closed its socket, and not been read from since. */
static bool has_gone(int fd)
{
    struct pollfd client = {.fd = fd};

    return poll(&client, 1, 0) > 0;
}

static void refuse(int fd)
{
    static const char text[] = "The console has a client already.\r\n";

    (void)send(fd, text, sizeof(text) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    close(fd);
}

static void welcome(struct vm_console *console, int fd)
{
    if (console->output < 0) {
        begin_client(console, fd);
    } else if (console->next < 0 && (console->leaving || has_gone(console->output))) {
        console->next = fd;
        console_leave(console);
    } else {
        refuse(fd);
    }
}

void console_left(struct vm_console *console)
{
    int next = console->next;

    if (console->reading || console->writing)
        return;
    close(console->output);
    console->input = console->output = -1;
    console->leaving = false;
    console->next = -1;
    console_present(console, false);
    if (next >= 0)
        begin_client(console, next);
}

void console_leave(struct vm_console *console)
{
    if (console->leaving)
        return;
    console->leaving = true;
    (void)shutdown(console->output, SHUT_RDWR); /* what polls it ends */
    console_left(console);
}

static void paused(struct reactor_op *op)
{
    struct vm_console *console = op->owner;

    console->pausing = false;
    if (!console->ending)
        console_listen(console);
}

static void accepted(struct reactor_op *op)
{
    struct vm_console *console = op->owner;

    console->accepting = false;
    if (console->ending) {
        if (op->result >= 0)
            close(op->result);
        return;
    }
    if (op->result >= 0) {
        welcome(console, op->result);
        console_listen(console);
        return;
    }
    console->pausing = true; /* out of descriptors, say */
    console->pause = (struct reactor_op){
        .kind = REACTOR_SLEEP,
        .deadline = reactor_now() + PAUSE_NS,
        .done = paused,
        .owner = console,
    };
    reactor_submit(console->reactor, &console->pause);
}

void console_listen(struct vm_console *console)
{
    console->accepting = true;
    console->accept = (struct reactor_op){
        .kind = REACTOR_ACCEPT,
        .fd = console->listener,
        .done = accepted,
        .owner = console,
    };
    reactor_submit(console->reactor, &console->accept);
}
