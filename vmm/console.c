/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a console's bytes; see console.h.
 *
 * What the guest says comes in its vCPU's thread, with the port's lock held, into the ring; the
 * reactor is told by one message, however much there is. It writes until no more is taken, then
 * polls. Input is polled for while the port has room.
 */
#include "console_impl.h"

#include "report.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ESCAPE         0x01u /* Ctrl-A */
#define HELP           "\r\nCtrl-A x ends the machine, Ctrl-A a sends Ctrl-A, Ctrl-A h shows this.\r\n"

#define HOLD_AT        (CONSOLE_RING - 4096) /* a guest that does not wait at once has the rest */
#define RELEASE_AT     (CONSOLE_RING / 2)
#define READER_NS      INT64_C(500000000)   /* patience with who reads, */
#define DISK_NS        INT64_C(10000000000) /* and with a disk */
#define CHUNKS_AT_ONCE 16u                  /* before others have their turn */
#define INPUT_BYTES    1024u

/* ---- the ring, with the lock held ---- */

static void ring_put(struct console_ring *ring, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        ring->bytes[(ring->start + ring->count) % CONSOLE_RING] = bytes[i];
        if (ring->count < CONSOLE_RING)
            ring->count++;
        else
            ring->start = (ring->start + 1) % CONSOLE_RING;
    }
}

static unsigned ring_take(struct console_ring *ring, uint8_t *bytes, unsigned room)
{
    unsigned count = ring->count < room ? ring->count : room;

    for (unsigned i = 0; i < count; i++)
        bytes[i] = ring->bytes[(ring->start + i) % CONSOLE_RING];
    ring->start = (ring->start + count) % CONSOLE_RING;
    ring->count -= count;
    return count;
}

/* ---- from the port, in any thread ---- */

static void wake(struct vm_console *console)
{
    if (console->posted)
        return;
    console->posted = true;
    reactor_post(console->reactor, &console->message);
}

static bool take_output(void *opaque, const uint8_t *bytes, size_t count)
{
    struct vm_console *console = opaque;
    bool more;

    pthread_mutex_lock(&console->lock);
    ring_put(&console->ring, bytes, count);
    more = !console->present || console->stuck || console->ring.count < HOLD_AT;
    console->holding = console->holding || !more;
    if (console->present && !console->stuck) /* else it is polled for already */
        wake(console);
    pthread_mutex_unlock(&console->lock);
    return more;
}

static void port_has_room(void *opaque)
{
    struct vm_console *console = opaque;

    pthread_mutex_lock(&console->lock);
    wake(console);
    pthread_mutex_unlock(&console->lock);
}

static void woken(struct reactor_message *message)
{
    struct vm_console *console =
        (struct vm_console *)((char *)message - offsetof(struct vm_console, message));

    pthread_mutex_lock(&console->lock);
    console->posted = false;
    pthread_mutex_unlock(&console->lock);
    console_go_on(console);
}

/* ---- holding the guest, and not too long ---- */

/* Lets the port go on, if it may. */
static void release(struct vm_console *console)
{
    bool was_held;

    pthread_mutex_lock(&console->lock);
    was_held = console->holding &&
               (!console->present || console->stuck || console->ring.count <= RELEASE_AT);
    if (was_held)
        console->holding = false;
    pthread_mutex_unlock(&console->lock);
    if (was_held)
        vm_serial_ready(console->serial);
}

static int64_t patience(const struct vm_console *console)
{
    return console->is_regular ? DISK_NS : READER_NS;
}

static void set_stuck(struct vm_console *console, bool stuck)
{
    pthread_mutex_lock(&console->lock);
    console->stuck = stuck;
    pthread_mutex_unlock(&console->lock);
}

static void time_patience(struct vm_console *console);
static bool send_more(struct vm_console *console);

static void patience_ended(struct reactor_op *op)
{
    struct vm_console *console = op->owner;

    console->timing = false;
    if (console->ending || console->leaving || !console->stuck_at)
        return;
    if (reactor_now() < console->stuck_at) { /* something was taken since the timer was set */
        time_patience(console);
    } else if (!send_more(console)) { /* it was not ourselves who were late */
        set_stuck(console, true);
        release(console);
    }
}

static void time_patience(struct vm_console *console)
{
    if (console->timing)
        return;
    console->timing = true;
    console->patience = (struct reactor_op){
        .kind = REACTOR_SLEEP,
        .deadline = console->stuck_at,
        .done = patience_ended,
        .owner = console,
    };
    reactor_submit(console->reactor, &console->patience);
}

static void begin_patience(struct vm_console *console)
{
    if (console->stuck_at)
        return;
    console->stuck_at = reactor_now() + patience(console);
    time_patience(console);
}

static void end_patience(struct vm_console *console)
{
    if (!console->stuck_at)
        return;
    console->stuck_at = 0;
    set_stuck(console, false);
}

void console_present(struct vm_console *console, bool present)
{
    end_patience(console);
    pthread_mutex_lock(&console->lock);
    console->present = present;
    pthread_mutex_unlock(&console->lock);
    release(console);
}

/* ---- output ---- */

static void send_some(struct vm_console *console);

static bool refill(struct vm_console *console)
{
    if (console->chunk_at < console->chunk_end)
        return true;
    pthread_mutex_lock(&console->lock);
    console->chunk_at = 0;
    console->chunk_end = ring_take(&console->ring, console->chunk, CONSOLE_CHUNK);
    pthread_mutex_unlock(&console->lock);
    release(console);
    return console->chunk_end > 0;
}

/* -errno. */
static int send_now(struct vm_console *console)
{
    const uint8_t *bytes = console->chunk + console->chunk_at;
    size_t count = console->chunk_end - console->chunk_at;
    ssize_t sent;

    do {
        sent = console->is_socket ? send(console->output, bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL)
                                  : write(console->output, bytes, count);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : (int)sent;
}

static void took(struct vm_console *console, int count)
{
    console->chunk_at += (unsigned)count;
    end_patience(console);
}

/* While it is polled for: a pseudo-terminal does not always tell that it has room. Whether some was
 * taken, or there is none. */
static bool send_more(struct vm_console *console)
{
    bool any = false;
    int sent = 1;

    for (unsigned i = 0; i < CHUNKS_AT_ONCE && sent > 0 && !console->is_regular; i++) {
        if (!refill(console))
            return true;
        sent = send_now(console);
        if (sent > 0)
            took(console, sent);
        any = any || sent > 0;
    }
    if (any)
        begin_patience(console);
    return any;
}

/* A client that has gone leaves the rest to the next one. Others cannot take it, now or ever: it is
 * dropped. */
static void output_failed(struct vm_console *console)
{
    if (console->kind == VM_CONSOLE_SOCKET) {
        console_leave(console);
        return;
    }
    console->chunk_at = console->chunk_end;
    end_patience(console);
}

static void write_done(struct reactor_op *op)
{
    struct vm_console *console = op->owner;

    console->writing = false;
    if (console->leaving) {
        console_left(console);
        return;
    }
    if (op->result < 0 && op->result != -EINTR && !console->ending)
        output_failed(console);
    else if (op->result > 0 && console->is_regular)
        took(console, op->result);
    send_some(console);
}

/* A file is written by the reactor; others are polled for when they can take something. */
static void wait_to_send(struct vm_console *console)
{
    console->vector =
        (struct iovec){console->chunk + console->chunk_at, console->chunk_end - console->chunk_at};
    console->write = (struct reactor_op){
        .kind = REACTOR_POLL,
        .fd = console->output,
        .events = POLLOUT,
        .done = write_done,
        .owner = console,
    };
    if (console->is_regular) {
        console->write.kind = REACTOR_WRITE;
        console->write.vectors = &console->vector;
        console->write.count = 1;
        console->write.offset = 0; /* it is appended */
    }
    console->writing = true;
    begin_patience(console);
    reactor_submit(console->reactor, &console->write);
}

static void send_some(struct vm_console *console)
{
    unsigned chunks = 0;

    while (console->output >= 0 && !console->writing && !console->leaving && !console->ending &&
           refill(console)) {
        int sent = -EAGAIN;

        if (!console->is_regular && chunks++ < CHUNKS_AT_ONCE)
            sent = send_now(console);
        if (sent == -EAGAIN)
            wait_to_send(console);
        else if (sent < 0)
            output_failed(console);
        else
            took(console, sent);
    }
}

static bool has_output(struct vm_console *console)
{
    bool has;

    pthread_mutex_lock(&console->lock);
    has = console->present && !console->stuck &&
          (console->ring.count > 0 || console->chunk_at < console->chunk_end);
    pthread_mutex_unlock(&console->lock);
    return has;
}

/* ---- input ---- */

/* What a key after Ctrl-A asks for; whether it is to be sent. */
static bool obey(struct vm_console *console, uint8_t key)
{
    if (key == 'h') {
        pthread_mutex_lock(&console->lock);
        ring_put(&console->ring, (const uint8_t *)HELP, sizeof(HELP) - 1);
        pthread_mutex_unlock(&console->lock);
    } else if (key == 'x' && console->end) {
        console->end(console->opaque);
    }
    return key == 'a' || key == ESCAPE;
}

/* In place; how many bytes are left. */
static size_t filter(struct vm_console *console, uint8_t *bytes, size_t count)
{
    size_t kept = 0;

    for (size_t i = 0; i < count; i++) {
        if (console->escaped) {
            console->escaped = false;
            if (obey(console, bytes[i]))
                bytes[kept++] = ESCAPE;
        } else if (bytes[i] == ESCAPE) {
            console->escaped = true;
        } else {
            bytes[kept++] = bytes[i];
        }
    }
    return kept;
}

/* A client that says no more may still listen; one that has gone does not. */
static void end_input(struct vm_console *console)
{
    struct pollfd client = {.fd = console->input};

    console->input_ended = true;
    if (console->kind == VM_CONSOLE_SOCKET && poll(&client, 1, 0) > 0)
        console_leave(console);
}

static void take_input(struct vm_console *console)
{
    uint8_t bytes[INPUT_BYTES];
    size_t room = vm_serial_room(console->serial);
    ssize_t got;

    if (room == 0) /* the port was given another state meanwhile, and tells when there is some */
        return;
    got = read(console->input, bytes, room < sizeof(bytes) ? room : sizeof(bytes));
    if (got > 0) {
        size_t count = console->is_terminal ? filter(console, bytes, (size_t)got) : (size_t)got;

        (void)vm_serial_input(console->serial, bytes, count); /* there is room */
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        end_input(console);
    }
}

static void receive_some(struct vm_console *console);

static void read_done(struct reactor_op *op)
{
    struct vm_console *console = op->owner;

    console->reading = false;
    if (console->leaving) {
        console_left(console);
        return;
    }
    if (console->ending)
        return;
    if (op->result >= 0)
        take_input(console);
    else if (op->result != -EINTR)
        end_input(console);
    console_go_on(console);
}

static void receive_some(struct vm_console *console)
{
    if (console->input < 0 || console->reading || console->input_ended || console->leaving ||
        console->ending || !console->serial || vm_serial_room(console->serial) == 0)
        return;
    console->reading = true;
    console->read = (struct reactor_op){
        .kind = REACTOR_POLL,
        .fd = console->input,
        .events = POLLIN,
        .done = read_done,
        .owner = console,
    };
    reactor_submit(console->reactor, &console->read);
}

void console_go_on(struct vm_console *console)
{
    receive_some(console);
    send_some(console);
}

/* ---- life ---- */

int vm_console_new(const struct vm_console_options *options, struct reactor *reactor,
                   struct vm_console **out, struct vdisk_error *error)
{
    struct vm_console *console = calloc(1, sizeof(*console));
    int result;

    if (!console)
        return error_set(error, -ENOMEM, "there is no memory");
    pthread_mutex_init(&console->lock, NULL);
    console->reactor = reactor;
    console->kind = options->kind;
    console->end = options->end;
    console->opaque = options->opaque;
    console->message.run = woken;
    result = console_open(console, options, error);
    if (result) {
        console_close(console);
        pthread_mutex_destroy(&console->lock);
        free(console);
        return result;
    }
    if (console->listener >= 0)
        console_listen(console);
    *out = console;
    return 0;
}

void vm_console_connect(struct vm_console *console, struct vm_serial *serial)
{
    const struct vm_serial_peer peer = {
        .output = take_output, .room = port_has_room, .opaque = console};

    console->serial = serial;
    vm_serial_connect(serial, &peer);
    console_go_on(console);
}

const char *vm_console_path(const struct vm_console *console)
{
    return console->path;
}

static void cancel_all(struct vm_console *console)
{
    struct reactor *reactor = console->reactor;

    if (console->accepting)
        reactor_cancel(reactor, &console->accept);
    if (console->pausing)
        reactor_cancel(reactor, &console->pause);
    if (console->reading)
        reactor_cancel(reactor, &console->read);
    if (console->writing)
        reactor_cancel(reactor, &console->write);
    if (console->timing)
        reactor_cancel(reactor, &console->patience);
}

/* The message that was posted last may still be on its way. */
static bool is_busy(struct vm_console *console)
{
    bool posted;

    pthread_mutex_lock(&console->lock);
    posted = console->posted;
    pthread_mutex_unlock(&console->lock);
    return posted || console->accepting || console->pausing || console->reading ||
           console->writing || console->timing;
}

void vm_console_free(struct vm_console *console)
{
    int64_t last;

    if (!console)
        return;
    last = reactor_now() + 2 * patience(console);
    if (console->serial)
        vm_serial_connect(console->serial, NULL);
    send_some(console);
    while (has_output(console) && is_busy(console) && reactor_now() < last)
        reactor_step(console->reactor, true);
    console->ending = true;
    cancel_all(console);
    while (is_busy(console))
        reactor_step(console->reactor, true);
    console_close(console);
    pthread_mutex_destroy(&console->lock);
    free(console);
}
