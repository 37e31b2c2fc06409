/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is behind the serial port (vmm/console.c), with io_uring and with the fall-back: each test
 * runs on both. The guest is a thread that uses the port's registers. Worth running under
 * ThreadSanitizer.
 */
#include "console.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#define BASE      0x3f8u
#define EMPTY     0x20u
#define DATA_HERE 0x01u
#define RING      65536u

static bool with_threads;

static struct {
    struct reactor *reactor;
    struct vm_serial *serial;
    struct vm_bus ports;
    struct vm_console *console;
    unsigned ends;
    char directory[64], path[128];
} kit;

/* ---- the guest ---- */

static void note_irq(void *opaque, bool high)
{
    (void)opaque;
    (void)high;
}

static uint8_t in(unsigned offset)
{
    uint8_t value;

    vm_bus_read(&kit.ports, BASE + offset, &value, 1);
    return value;
}

static void out(unsigned offset, uint8_t value)
{
    vm_bus_write(&kit.ports, BASE + offset, &value, 1);
}

/* Bytes that say where they are: lines with their numbers. */
static uint8_t pattern(size_t at)
{
    size_t number = at / 8;

    if (at % 8 == 7)
        return '\n';
    for (size_t digit = at % 8; digit < 6; digit++)
        number /= 10;
    return (uint8_t)('0' + number % 10);
}

static void say(const char *text)
{
    for (; *text; text++)
        out(0, (uint8_t)*text);
}

/* What the guest has received since. */
static const char *heard(void)
{
    static char text[256];
    size_t length = 0;

    while (length < sizeof(text) - 1 && in(5) & DATA_HERE)
        text[length++] = (char)in(0);
    text[length] = 0;
    return text;
}

/* ---- the kit ---- */

static void note_end(void *opaque)
{
    assert_ptr_equal(opaque, &kit);
    kit.ends++;
}

static int set_up(void **state)
{
    struct reactor_options options = {.no_uring = with_threads};

    (void)state;
    memset(&kit, 0, sizeof(kit));
    strcpy(kit.directory, "/tmp/vdisk-console-XXXXXX");
    if (!mkdtemp(kit.directory) || reactor_new(&options, &kit.reactor))
        return -1;
    snprintf(kit.path, sizeof(kit.path), "%s/console", kit.directory);
    kit.serial = vm_serial_new(note_irq, NULL);
    return kit.serial ? vm_serial_add(kit.serial, &kit.ports, BASE) : -1;
}

static int tear_down(void **state)
{
    (void)state;
    vm_console_free(kit.console);
    vm_serial_free(kit.serial);
    reactor_free(kit.reactor);
    (void)unlink(kit.path);
    return rmdir(kit.directory);
}

static void begin(struct vm_console_options options)
{
    struct vdisk_error error;

    options.end = note_end;
    options.opaque = &kit;
    if (vm_console_new(&options, kit.reactor, &kit.console, &error))
        fail_msg("%s", error.text);
    vm_console_connect(kit.console, kit.serial);
}

static void end(void)
{
    vm_console_free(kit.console);
    kit.console = NULL;
}

/* Lets the reactor run until nothing moves any more. */
static void settle(void)
{
    for (unsigned i = 0; i < 20; i++)
        reactor_step(kit.reactor, false);
}

/* Until the guest has received just that. */
static void assert_heard(const char *wanted)
{
    char text[256] = "";

    while (strlen(text) < strlen(wanted)) {
        size_t length = strlen(text);

        snprintf(text + length, sizeof(text) - length, "%s", heard());
        if (strlen(text) == length)
            reactor_step(kit.reactor, true);
    }
    assert_string_equal(text, wanted);
    settle();
    assert_string_equal(heard(), "");
}

/* Until that comes out of the descriptor, which does not block, and nothing else. */
static void assert_said(int fd, const char *wanted)
{
    char text[256] = "";
    size_t length = 0;

    while (length < strlen(wanted)) {
        ssize_t got = read(fd, text + length, sizeof(text) - 1 - length);

        if (got > 0)
            length += (size_t)got;
        else
            reactor_step(kit.reactor, false);
    }
    assert_string_equal(text, wanted);
    settle();
    assert_true(read(fd, text, sizeof(text)) <= 0);
}

static void put(int fd, const char *text)
{
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

/* ---- standard input and output: pipes ---- */

static void make_pipe(int fds[2])
{
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
}

static void set_nonblocking(int fd)
{
    assert_int_equal(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), 0);
}

static void test_pipes_carry_all_bytes(void **state)
{
    int to[2], from[2];

    (void)state;
    make_pipe(to);
    make_pipe(from);
    set_nonblocking(from[0]);
    begin((struct vm_console_options){.kind = VM_CONSOLE_STDIO, .input = to[0], .output = from[1]});
    assert_int_equal(fcntl(to[0], F_GETFL) & O_NONBLOCK, 0); /* others have them, too */
    assert_int_equal(fcntl(from[1], F_GETFL) & O_NONBLOCK, 0);
    put(to[1], "hello\001x");
    assert_heard("hello\001x"); /* a pipe has no keys */
    assert_int_equal(kit.ends, 0);
    say("and back");
    assert_said(from[0], "and back");
    close(to[1]); /* the end of the input is not that of the machine */
    settle();
    say("still there");
    assert_said(from[0], "still there");
    close(from[0]); /* nor is that of the output */
    say("nobody listens");
    settle();
    say("nobody listens");
    settle();
    end();
    close(to[0]);
    close(from[1]);
}

static void test_nothing_is_an_input_too(void **state)
{
    int from[2], null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    (void)state;
    make_pipe(from);
    set_nonblocking(from[0]);
    begin((struct vm_console_options){.kind = VM_CONSOLE_STDIO, .input = null, .output = from[1]});
    settle();
    say("one");
    assert_said(from[0], "one");
    end();
    begin((struct vm_console_options){.kind = VM_CONSOLE_STDIO, .input = -1, .output = from[1]});
    say("two");
    assert_said(from[0], "two");
    end();
    close(null);
    close(from[0]);
    close(from[1]);
}

static void test_what_was_said_last_is_given_out_at_the_end(void **state)
{
    static char text[60001], back[60001];
    int from[2];

    (void)state;
    make_pipe(from);
    for (size_t i = 0; i < sizeof(text) - 1; i++)
        text[i] = (char)(pattern(i) | 1);
    begin((struct vm_console_options){.kind = VM_CONSOLE_STDIO, .input = -1, .output = from[1]});
    say(text);
    end();
    assert_int_equal(read(from[0], back, sizeof(back)), sizeof(text) - 1);
    assert_memory_equal(text, back, sizeof(text) - 1);
    close(from[0]);
    close(from[1]);
}

/* ---- standard input and output: a terminal ---- */

static struct {
    int user, terminal; /* the two sides */
    struct termios before;
} pty;

static void open_pty(void)
{
    pty.user = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    assert_true(pty.user >= 0);
    assert_int_equal(grantpt(pty.user), 0);
    assert_int_equal(unlockpt(pty.user), 0);
    pty.terminal = open(ptsname(pty.user), O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(pty.terminal >= 0);
    assert_int_equal(tcgetattr(pty.terminal, &pty.before), 0);
}

static void close_pty(void)
{
    close(pty.user);
    close(pty.terminal);
}

static bool is_raw(void)
{
    struct termios now;

    assert_int_equal(tcgetattr(pty.terminal, &now), 0);
    return !(now.c_lflag & (ICANON | ECHO | ISIG)) && !(now.c_oflag & OPOST) &&
           !(now.c_iflag & (ICRNL | IXON));
}

static void assert_restored(void)
{
    struct termios now;

    assert_int_equal(tcgetattr(pty.terminal, &now), 0);
    assert_int_equal(now.c_iflag, pty.before.c_iflag);
    assert_int_equal(now.c_oflag, pty.before.c_oflag);
    assert_int_equal(now.c_lflag, pty.before.c_lflag);
    assert_int_equal(now.c_cflag, pty.before.c_cflag);
    assert_memory_equal(now.c_cc, pty.before.c_cc, sizeof(now.c_cc));
}

static int waiting_at(int fd)
{
    int count;

    assert_int_equal(ioctl(fd, FIONREAD, &count), 0);
    return count;
}

/* Typed, and read by the console, before it returns. */
static void type_keys(const char *keys)
{
    put(pty.user, keys);
    while (waiting_at(pty.terminal) < (int)strlen(keys))
        sched_yield();
    while (waiting_at(pty.terminal) > 0)
        reactor_step(kit.reactor, false);
}

static void begin_terminal(void)
{
    open_pty();
    begin((struct vm_console_options){
        .kind = VM_CONSOLE_STDIO, .input = pty.terminal, .output = pty.terminal});
}

static void test_a_terminal_is_raw_and_restored(void **state)
{
    (void)state;
    begin_terminal();
    assert_true(is_raw());
    assert_int_equal(fcntl(pty.terminal, F_GETFL) & O_NONBLOCK, 0);
    put(pty.user, "\003\004\032\r\021\023"); /* no key is the terminal's own */
    assert_heard("\003\004\032\r\021\023");
    say("one\ntwo\r\n");
    assert_said(pty.user, "one\ntwo\r\n");
    end();
    assert_restored();
    close_pty();
}

static void test_the_escape_key_is_understood_however_it_comes(void **state)
{
    static const struct {
        const char *typed[4]; /* each read on its own */
        const char *heard;
        unsigned ends;
    } cases[] = {
        {{"a\001xb"}, "ab", 1},
        {{"a\001", "xb"}, "ab", 1},
        {{"\001", "x", "\001", "x"}, "", 2},
        {{"\001\001x"}, "\001x", 0},
        {{"\001", "\001", "x"}, "\001x", 0},
        {{"\001ax"}, "\001x", 0},
        {{"\001a\001", "\001", "\001x"}, "\001\001", 1},
        {{"\001qz"}, "z", 0},
        {{"xha"}, "xha", 0},
    };

    (void)state;
    begin_terminal();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        kit.ends = 0;
        for (unsigned k = 0; k < 4 && cases[i].typed[k]; k++)
            type_keys(cases[i].typed[k]);
        assert_heard(cases[i].heard);
        assert_int_equal(kit.ends, cases[i].ends);
    }
    put(pty.user, "\001h");
    assert_said(pty.user, "\r\nCtrl-A x ends the machine, Ctrl-A a sends Ctrl-A, "
                          "Ctrl-A h shows this.\r\n");
    end();
    close_pty();
}

/* ---- a terminal for others ---- */

static void test_a_pty_is_there_for_one_user_after_the_other(void **state)
{
    (void)state;
    begin((struct vm_console_options){.kind = VM_CONSOLE_PTY});
    say("early\n");
    settle();
    for (unsigned i = 0; i < 2; i++) {
        int fd = open(vm_console_path(kit.console), O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
        struct termios mode;

        assert_true(fd >= 0);
        assert_int_equal(tcgetattr(fd, &mode), 0);
        assert_int_equal(mode.c_lflag & (ECHO | ICANON), 0);
        if (i == 0)
            assert_said(fd, "early\n");
        put(fd, "\001xls\r");
        assert_heard("\001xls\r");
        say("a b c\r\n");
        assert_said(fd, "a b c\r\n");
        close(fd);
        settle();
    }
    assert_int_equal(kit.ends, 0);
    end();
}

/* ---- a socket ---- */

static int connect_client(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    strcpy(address.sun_path, kit.path);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void begin_socket(void)
{
    begin((struct vm_console_options){.kind = VM_CONSOLE_SOCKET, .path = kit.path});
}

static void test_a_client_of_the_socket_sees_what_was_said_before(void **state)
{
    struct stat status;
    int fd;

    (void)state;
    begin_socket();
    assert_int_equal(stat(kit.path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    assert_string_equal(vm_console_path(kit.console), kit.path);
    say("before ");
    fd = connect_client();
    assert_said(fd, "before ");
    say("after");
    assert_said(fd, "after");
    put(fd, "input\001x");
    assert_heard("input\001x");
    close(fd);
    settle();
    say("meanwhile");
    fd = connect_client();
    assert_said(fd, "meanwhile");
    close(fd);
    end();
    assert_int_equal(access(kit.path, F_OK), -1);
}

static void read_all(int fd, uint8_t *bytes, size_t count)
{
    for (size_t at = 0; at < count;) {
        ssize_t got = read(fd, bytes + at, count - at);

        if (got > 0)
            at += (size_t)got;
        else
            reactor_step(kit.reactor, false);
    }
}

static void test_of_much_the_last_64_kib_are_kept(void **state)
{
    static uint8_t bytes[RING];
    size_t count = 3 * RING + 123;
    int fd;

    (void)state;
    begin_socket();
    for (size_t i = 0; i < count; i++) {
        assert_true(in(5) & EMPTY); /* nobody is waited for */
        out(0, pattern(i));
    }
    fd = connect_client();
    read_all(fd, bytes, RING);
    for (size_t i = 0; i < RING; i++)
        assert_int_equal(bytes[i], pattern(count - RING + i));
    say("!");
    assert_said(fd, "!");
    close(fd);
    end();
}

static void test_one_client_at_a_time(void **state)
{
    int first, second;

    (void)state;
    begin_socket();
    first = connect_client();
    say("1");
    assert_said(first, "1");
    second = connect_client();
    assert_said(second, "The console has a client already.\r\n");
    close(second);
    say("2");
    assert_said(first, "2");
    shutdown(first, SHUT_WR); /* has no more to say, and listens */
    settle();
    say("3");
    assert_said(first, "3");
    close(first); /* the new one may come before this is known */
    second = connect_client();
    settle();
    say("4");
    assert_said(second, "4");
    put(second, "in");
    assert_heard("in");
    close(second);
    end();
}

/* Up to what the guest says last, when nothing else comes: how many bytes. */
static size_t read_to_mark(int fd, uint8_t *bytes, size_t room)
{
    size_t got = 0;
    unsigned quiet = 0;

    while (got == 0 || bytes[got - 1] != '!') {
        ssize_t count = read(fd, bytes + got, room - got);

        if (count > 0)
            got += (size_t)count;
        quiet = count > 0 ? 0 : quiet + 1;
        if (quiet == 100)
            out(0, '!');
        settle();
    }
    return got - 1;
}

/* They are the last of so many bytes. */
static void assert_tail(const uint8_t *bytes, size_t count, size_t of)
{
    for (size_t i = 0; i < count; i++)
        assert_int_equal(bytes[i], pattern(of - count + i));
}

static void test_what_a_client_left_unread_is_for_the_next(void **state)
{
    static uint8_t bytes[2 * RING];
    size_t said = 0, got, lost;
    int fd, before;

    (void)state;
    begin_socket();
    fd = connect_client();
    settle();
    do { /* until the socket is full */
        before = waiting_at(fd);
        for (unsigned i = 0; i < 8; i++)
            out(0, pattern(said++));
        settle();
    } while (waiting_at(fd) > before);
    while (said % 60000 != 0)
        out(0, pattern(said++));
    lost = (size_t)waiting_at(fd);
    close(fd);
    fd = connect_client();
    got = read_to_mark(fd, bytes, sizeof(bytes));
    assert_int_equal(got, said - lost); /* what is in the socket is not ours any more */
    assert_tail(bytes, got, said);
    close(fd);
    end();
}

/* ---- who is slow, and who is not there ---- */

struct work {
    struct reactor_message message; /* when it has ended */
    int fd;
    size_t count;
    bool ended;
    pthread_t thread;
};

static void work_ended(struct reactor_message *message)
{
    ((struct work *)message)->ended = true;
}

static void begin_work(struct work *work, void *(*run)(void *arg))
{
    work->message.run = work_ended;
    work->ended = false;
    assert_int_equal(pthread_create(&work->thread, NULL, run, work), 0);
}

static void wait_for(struct work *work)
{
    while (!work->ended)
        reactor_step(kit.reactor, true);
    pthread_join(work->thread, NULL);
}

/* As Linux does when it prints: waits for the transmitter. */
static void *guest_says(void *arg)
{
    struct work *work = arg;

    for (size_t i = 0; i < work->count; i++) {
        while (!(in(5) & EMPTY))
            sched_yield();
        out(0, pattern(i));
    }
    reactor_post(kit.reactor, &work->message);
    return NULL;
}

static void *guest_hears(void *arg)
{
    struct work *work = arg;

    for (size_t i = 0; i < work->count; i++) {
        while (!(in(5) & DATA_HERE))
            sched_yield();
        assert_int_equal(in(0), pattern(i));
    }
    reactor_post(kit.reactor, &work->message);
    return NULL;
}

static void *client_says(void *arg)
{
    struct work *work = arg;
    uint8_t bytes[5000];

    for (size_t at = 0; at < work->count;) {
        size_t count = work->count - at < sizeof(bytes) ? work->count - at : sizeof(bytes);
        ssize_t put_bytes;

        for (size_t i = 0; i < count; i++)
            bytes[i] = pattern(at + i);
        put_bytes = write(work->fd, bytes, count);
        assert_true(put_bytes > 0);
        at += (size_t)put_bytes;
    }
    reactor_post(kit.reactor, &work->message);
    return NULL;
}

/* It reads whenever we run, however seldom that is. */
static void test_nothing_is_lost_to_a_client_that_reads(void **state)
{
    struct work guest = {.count = 400000};
    uint8_t bytes[1000];
    size_t at = 0;
    int fd;

    (void)state;
    begin_socket();
    fd = connect_client();
    settle();
    begin_work(&guest, guest_says);
    while (at < guest.count) {
        ssize_t got;

        reactor_step(kit.reactor, false);
        while ((got = read(fd, bytes, sizeof(bytes))) > 0) {
            for (ssize_t i = 0; i < got; i++)
                assert_int_equal(bytes[i], pattern(at++));
        }
    }
    wait_for(&guest);
    close(fd);
    end();
}

static void test_no_input_is_lost_to_a_slow_guest(void **state)
{
    struct work guest = {.count = 100000}, client = {.count = 100000};

    (void)state;
    begin_socket();
    client.fd = connect_client();
    assert_int_equal(fcntl(client.fd, F_SETFL, 0), 0);
    begin_work(&client, client_says);
    for (unsigned i = 0; i < 50; i++) /* the guest has not come so far */
        reactor_step(kit.reactor, false);
    begin_work(&guest, guest_hears);
    wait_for(&client);
    wait_for(&guest);
    close(client.fd);
    end();
}

/* The oldest are lost: what comes last is there when it reads again. */
static void test_who_does_not_read_does_not_stop_the_guest(void **state)
{
    struct work guest = {.count = 500000};
    static uint8_t bytes[500000];
    size_t got;
    int fd;

    (void)state;
    begin((struct vm_console_options){.kind = VM_CONSOLE_PTY});
    fd = open(vm_console_path(kit.console), O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    assert_true(fd >= 0);
    begin_work(&guest, guest_says);
    wait_for(&guest);
    got = read_to_mark(fd, bytes, sizeof(bytes));
    assert_in_range(got, RING, guest.count - RING);
    assert_tail(bytes + got - 60000, 60000, guest.count);
    out(0, '?'); /* it reads again: it is waited for again */
    assert_said(fd, "?");
    close(fd);
    end();
}

/* ---- a file ---- */

static void test_a_file_is_appended_to(void **state)
{
    struct work guest = {.count = 200000};
    static uint8_t bytes[200010];
    struct stat status;
    int fd = open(kit.path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    (void)state;
    put(fd, "before:");
    begin((struct vm_console_options){.kind = VM_CONSOLE_FILE, .path = kit.path});
    begin_work(&guest, guest_says);
    wait_for(&guest);
    end();
    assert_int_equal(pread(fd, bytes, sizeof(bytes), 0), guest.count + 7);
    assert_memory_equal(bytes, "before:", 7);
    for (size_t i = 0; i < guest.count; i++)
        assert_int_equal(bytes[i + 7], pattern(i));
    close(fd);
    unlink(kit.path);
    begin((struct vm_console_options){.kind = VM_CONSOLE_FILE, .path = kit.path});
    assert_int_equal(stat(kit.path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    end();
}

static void test_a_full_disk_does_not_stop_the_guest(void **state)
{
    struct work guest = {.count = 200000};

    (void)state;
    begin((struct vm_console_options){.kind = VM_CONSOLE_FILE, .path = "/dev/full"});
    begin_work(&guest, guest_says);
    wait_for(&guest);
    end();
}

static void test_none_takes_all(void **state)
{
    (void)state;
    begin((struct vm_console_options){.kind = VM_CONSOLE_NONE});
    for (size_t i = 0; i < 2 * RING; i++) {
        assert_true(in(5) & EMPTY);
        out(0, 'x');
    }
    settle();
    assert_null(vm_console_path(kit.console));
    end();
}

/* ---- what cannot be had ---- */

static void test_what_cannot_be_opened_is_said(void **state)
{
    struct vm_console_options options = {.kind = VM_CONSOLE_SOCKET};
    struct vdisk_error error;
    char name[200];

    (void)state;
    assert_int_equal(vm_console_new(&options, kit.reactor, &kit.console, &error), -EINVAL);
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    options.path = name;
    assert_int_equal(vm_console_new(&options, kit.reactor, &kit.console, &error), -ENAMETOOLONG);
    assert_non_null(strstr(error.text, name));
    options = (struct vm_console_options){.kind = VM_CONSOLE_FILE, .path = kit.directory};
    assert_int_equal(vm_console_new(&options, kit.reactor, &kit.console, &error), -EISDIR);
    assert_non_null(strstr(error.text, kit.directory));
    assert_null(kit.console);
    begin_terminal(); /* there is one terminal in a process */
    options = (struct vm_console_options){
        .kind = VM_CONSOLE_STDIO, .input = pty.terminal, .output = pty.terminal};
    struct vm_console *second = NULL;

    assert_int_equal(vm_console_new(&options, kit.reactor, &second, &error), -EBUSY);
    assert_true(is_raw());
    end();
    assert_restored();
    close_pty();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_pipes_carry_all_bytes),
        TEST(test_nothing_is_an_input_too),
        TEST(test_what_was_said_last_is_given_out_at_the_end),
        TEST(test_a_terminal_is_raw_and_restored),
        TEST(test_the_escape_key_is_understood_however_it_comes),
        TEST(test_a_pty_is_there_for_one_user_after_the_other),
        TEST(test_a_client_of_the_socket_sees_what_was_said_before),
        TEST(test_of_much_the_last_64_kib_are_kept),
        TEST(test_one_client_at_a_time),
        TEST(test_what_a_client_left_unread_is_for_the_next),
        TEST(test_nothing_is_lost_to_a_client_that_reads),
        TEST(test_no_input_is_lost_to_a_slow_guest),
        TEST(test_who_does_not_read_does_not_stop_the_guest),
        TEST(test_a_file_is_appended_to),
        TEST(test_a_full_disk_does_not_stop_the_guest),
        TEST(test_none_takes_all),
        TEST(test_what_cannot_be_opened_is_said),
    };
    int failed;

    signal(SIGPIPE, SIG_IGN);
    failed = cmocka_run_group_tests_name("io_uring", tests, NULL, NULL);
    with_threads = true;
    return failed + cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
