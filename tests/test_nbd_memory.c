/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What clients make an NBD server hold, over all connections (vdiskd/budget.h), by its memory in
 * the end; every byte is verified.
 */
#include "load_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- much at once --------------------------------------------------------------------------- */

#define EXPORTS     4u
#define OF_EACH     8u
#define CONNECTIONS (EXPORTS * OF_EACH)
#define REGION      ((size_t)(LOAD_DRIVE / OF_EACH))
#define ROUNDS      10u /* reads of the region by each at once: 20 MiB, 640 MiB by all */

static void fill(uint8_t *out, unsigned connection)
{
    for (size_t i = 0; i < REGION; i++)
        out[i] = (uint8_t)(((i + 1) * (connection + 7) * UINT64_C(0x9e3779b97f4a7c15)) >> 29);
}

static uint64_t peak_kib(pid_t pid)
{
    char path[64], line[256];
    unsigned long long kib = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file) && sscanf(line, "VmHWM: %llu", &kib) != 1)
        ;
    fclose(file);
    return kib;
}

/* Clients meet here: each says that it has come, and goes on when all have. */
struct gate {
    int come[2], go[2];
};

static void open_gate(struct gate *gate)
{
    assert_int_equal(pipe(gate->come) | pipe(gate->go), 0);
}

static void come(const struct gate *gate)
{
    char byte;

    if (write(gate->come[1], "c", 1) != 1 || read(gate->go[0], &byte, 1) != 1)
        _exit(2);
}

/* The end of the first client that has none yet, or 0; it has `status`. */
static pid_t who_ended(const pid_t children[static CONNECTIONS], int *status)
{
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        if (waitpid(children[i], status, WNOHANG) == children[i])
            return children[i];
    }
    return 0;
}

/* A client that has ended will not come, and those that wait for it would for ever. */
static void wait_for_all(const struct gate *gate, struct load_server *server,
                         const pid_t children[static CONNECTIONS])
{
    char bytes[CONNECTIONS] = "";
    int status;

    for (unsigned i = 0; i < CONNECTIONS;) {
        struct pollfd readable = {.fd = gate->come[0], .events = POLLIN};

        if (poll(&readable, 1, 100) > 0) {
            assert_int_equal(read(gate->come[0], bytes, 1), 1);
            i++;
        } else if (who_ended(children, &status)) {
            load_tell(server);
            for (i = 0; i < CONNECTIONS; i++)
                (void)kill(children[i], SIGKILL);
            fail_msg("a client ended too early, with status %#x", (unsigned)status);
        }
    }
}

static void let_all_go(struct gate *gate)
{
    char bytes[CONNECTIONS] = "";

    assert_int_equal(write(gate->go[1], bytes, CONNECTIONS), CONNECTIONS);
}

static void close_gate(struct gate *gate)
{
    for (unsigned i = 0; i < 2; i++) {
        close(gate->come[i]);
        close(gate->go[i]);
    }
}

/* In a process of its own. */
static void client(int fd, unsigned i, const struct gate *written, const struct gate *asked)
{
    static uint8_t want[REGION], have[REGION];
    uint64_t offset = i % OF_EACH * REGION;

    fill(want, i);
    for (unsigned round = 0; round < ROUNDS; round++)
        load_ask(fd, NBD_CMD_WRITE, offset, want, REGION);
    for (unsigned round = 0; round < ROUNDS; round++)
        (void)load_reply(fd, NULL, 0);
    come(written);
    for (unsigned round = 0; round < ROUNDS; round++)
        load_ask(fd, NBD_CMD_READ, offset, NULL, REGION);
    come(asked);
    for (unsigned round = 0; round < ROUNDS; round++) {
        (void)load_reply(fd, have, REGION);
        if (memcmp(have, want, REGION) != 0)
            _exit(3);
    }
    _exit(0);
}

static bool is_sanitized(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#else
    return false;
#endif
}

static void much_at_once(bool no_uring)
{
    struct load_server server = {.exports = EXPORTS,
                                 .connections_max = CONNECTIONS,
                                 .memory_bytes = 32 * MIB,
                                 .waits = true,
                                 .no_uring = no_uring};
    int fds[CONNECTIONS], status;
    pid_t children[CONNECTIONS];
    struct gate written, asked;
    uint64_t before, grown;

    load_start(&server);
    before = peak_kib(server.pid);
    open_gate(&written);
    open_gate(&asked);
    for (unsigned i = 0; i < CONNECTIONS; i++)
        fds[i] = load_attach(i / OF_EACH);
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0)
            client(fds[i], i, &written, &asked);
    }
    wait_for_all(&written, &server, children);
    let_all_go(&written);
    wait_for_all(&asked, &server, children);
    usleep(300000); /* the server reads as much as it may */
    let_all_go(&asked);
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_int_equal(status, 0);
        close(fds[i]);
    }
    /* Of 64 MiB that are written and not flushed and 640 MiB that are read: the clients' 8 MiB and
     * half as much again; the longest request of each thread; 256 KiB to receive into for each
     * connection; what is kept, caches, and what images need. */
    grown = peak_kib(server.pid) - before;
    print_message("the server has grown by %llu KiB\n", (unsigned long long)grown);
    if (!is_sanitized())
        assert_true(grown < (12 + 2 * 2 + CONNECTIONS / 4 + 8 + 32) * KIB);
    load_stop(&server);
    close_gate(&written);
    close_gate(&asked);
}

static void test_memory_is_bounded_over_all_connections_by_io_uring(void **state)
{
    (void)state;
    much_at_once(false);
}

static void test_memory_is_bounded_over_all_connections_by_threads(void **state)
{
    (void)state;
    much_at_once(true);
}

/* --- exports that wait ---------------------------------------------------------------------- */

static bool has_come(int fd)
{
    struct pollfd readable = {.fd = fd, .events = POLLIN};

    return poll(&readable, 1, 0) > 0;
}

#define LIMITED 6u

/* Clients of an export that may write little have asked for all that there is to hold data:
 * that is its own affair, and another export has what it needs meanwhile, also for requests that
 * are longer than the part of each. */
static void test_who_waits_for_a_limit_does_not_hold_up_other_exports(void **state)
{
    static const struct limit_settings little = {
        .kind = {[LIMIT_WRITE_BYTES] = {.rate = 256 << 10}}};
    static uint8_t data[MIB], back[MIB];
    struct load_server server = {
        .reactors = 1, .memory_bytes = 16 * MIB, .exports = 2, .connections_max = LIMITED + 1};
    int limited[LIMITED], other;
    int64_t began, took;

    (void)state;
    load_start(&server);
    load_set_limits(&server, false, &little);
    memset(data, 0x6b, sizeof(data));
    for (unsigned i = 0; i < LIMITED; i++)
        limited[i] = load_attach(0);
    other = load_attach(1);
    for (unsigned i = 0; i < LIMITED; i++)
        load_ask(limited[i], NBD_CMD_WRITE, i * MIB, data, MIB);
    began = reactor_now();
    for (unsigned i = 0; i < 8; i++) {
        load_ask(other, NBD_CMD_WRITE, i * MIB, data, MIB);
        (void)load_reply(other, NULL, 0);
        load_ask(other, NBD_CMD_READ, i * MIB, NULL, MIB);
        (void)load_reply(other, back, MIB);
        assert_memory_equal(data, back, MIB);
    }
    took = reactor_now() - began;
    print_message("16 requests of another export took %.2f s\n", (double)took / SECOND);
    assert_true(took < 2 * SECOND);
    assert_false(has_come(limited[LIMITED - 1]));
    for (unsigned i = 0; i < LIMITED; i++) {
        (void)load_reply(limited[i], NULL, 0);
        close(limited[i]);
    }
    close(other);
    load_stop(&server);
}

/* --- clients that do not do their part ------------------------------------------------------ */

/* One block; nanoseconds that it took. */
static int64_t small_request(int fd)
{
    uint8_t block[4096];
    int64_t began = reactor_now();

    load_ask(fd, NBD_CMD_READ, 0, NULL, sizeof(block));
    (void)load_reply(fd, block, sizeof(block));
    return reactor_now() - began;
}

static bool has_hung_up(int fd)
{
    char bytes[4096];
    ssize_t got;

    while ((got = recv(fd, bytes, sizeof(bytes), 0)) > 0)
        ;
    return got == 0 || errno == ECONNRESET;
}

/* `bad` holds the budget of 4 MiB. One that needs more than its part waits, and gets it in the
 * end; who needs little does not wait at all. */
static void hold_back(struct load_server *server, void (*claim)(int fd), bool trickles)
{
    static uint8_t data[MIB], back[MIB];
    int bad, large, small;
    int64_t began, took, longest = 0;

    server->reactors = 1;
    server->memory_bytes = 16 * MIB;
    server->exports = 2;
    load_start(server);
    bad = load_attach(0);
    large = load_attach(0);
    small = load_attach(1);
    claim(bad);
    usleep(200000);
    memset(data, 0x5a, sizeof(data));
    began = reactor_now();
    load_ask(large, NBD_CMD_WRITE, LOAD_DRIVE / 2, data, sizeof(data));
    while (!has_come(large)) {
        took = small_request(small);
        longest = took > longest ? took : longest;
        if (trickles)
            (void)send(bad, "x", 1, MSG_NOSIGNAL);
        usleep(200000);
        assert_true(reactor_now() - began < 40 * SECOND);
    }
    took = reactor_now() - began;
    (void)load_reply(large, NULL, 0);
    print_message("sent away after %.1f s, small requests took %.1f ms at most\n",
                  (double)took / SECOND, (double)longest / 1e6);
    assert_true(took > 10 * SECOND && took < 25 * SECOND);
    assert_true(longest < SECOND);
    assert_true(has_hung_up(bad));
    load_ask(large, NBD_CMD_READ, LOAD_DRIVE / 2, NULL, sizeof(back));
    (void)load_reply(large, back, sizeof(back));
    assert_memory_equal(data, back, sizeof(back));
    close(bad);
    close(large);
    close(small);
    load_stop(server);
}

static void begin_a_payload(int fd)
{
    load_ask(fd, NBD_CMD_WRITE, 0, NULL, 4 * MIB);
}

static void take_no_replies(int fd)
{
    load_ask(fd, NBD_CMD_READ, 0, NULL, 4 * MIB);
}

static void test_a_payload_that_trickles_holds_others_back_for_seconds_only(void **state)
{
    struct load_server server = {.connections_max = 3};

    (void)state;
    hold_back(&server, begin_a_payload, true);
}

static void test_replies_not_taken_hold_others_back_for_seconds_only(void **state)
{
    struct load_server server = {.connections_max = 3, .no_uring = true};

    (void)state;
    hold_back(&server, take_no_replies, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_is_bounded_over_all_connections_by_io_uring),
        cmocka_unit_test(test_memory_is_bounded_over_all_connections_by_threads),
        cmocka_unit_test(test_who_waits_for_a_limit_does_not_hold_up_other_exports),
        cmocka_unit_test(test_a_payload_that_trickles_holds_others_back_for_seconds_only),
        cmocka_unit_test(test_replies_not_taken_hold_others_back_for_seconds_only),
    };

    if (vdisk_init())
        return 1;

    return cmocka_run_group_tests(tests, load_set_up, load_tear_down);
}
