/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits as clients measure them, over sockets: 3% from what was set (tests/test_limit.c has the
 * buckets by themselves, with a clock of its own).
 */
#include "load_kit.h"

#include "reactor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- limits --------------------------------------------------------------------------------- */

#define DEPTH 64u
#define TRIES 6u

struct load {
    int fd;
    bool is_write;
    size_t bytes;          /* of each request */
    uint64_t left, unsent; /* requests to be answered; to be sent */
    uint8_t *buffer;
    size_t have; /* bytes of replies that are not whole yet */
};

static void send_requests(struct load *load, uint64_t count)
{
    static uint8_t out[DEPTH * (NBD_REQUEST_BYTES + 64 * KIB)];
    size_t length = 0;

    count = count < load->unsent ? count : load->unsent;
    for (uint64_t i = 0; i < count; i++) {
        load_put_request(out + length, load->is_write ? NBD_CMD_WRITE : NBD_CMD_READ,
                         load->is_write ? 0 : LOAD_DRIVE / 2, load->bytes);
        length += NBD_REQUEST_BYTES + (load->is_write ? load->bytes : 0);
    }
    load->unsent -= count;
    load_send(load->fd, out, length);
}

static uint64_t take_replies(struct load *load)
{
    size_t one = NBD_SIMPLE_REPLY_BYTES + (load->is_write ? 0 : load->bytes), whole;
    ssize_t got = recv(load->fd, load->buffer + load->have, DEPTH * one - load->have, 0);

    assert_true(got > 0);
    load->have += (size_t)got;
    whole = load->have / one;
    memmove(load->buffer, load->buffer + whole * one, load->have - whole * one);
    load->have -= whole * one;
    load->left -= whole;
    return whole;
}

/* Until every load has its answers; calls `middle` when half of them are there. Nanoseconds. */
static int64_t run(struct load *loads, unsigned count, void (*middle)(void *), void *opaque)
{
    struct pollfd polls[4];
    int64_t began = reactor_now();
    uint64_t left = 0, half;

    for (unsigned i = 0; i < count; i++) {
        loads[i].unsent = loads[i].left;
        loads[i].have = 0;
        left += loads[i].left;
        send_requests(&loads[i], DEPTH);
    }
    half = left / 2;
    while (left > 0) {
        for (unsigned i = 0; i < count; i++)
            polls[i] = (struct pollfd){.fd = loads[i].left ? loads[i].fd : -1, .events = POLLIN};
        assert_true(poll(polls, count, 60000) > 0);
        for (unsigned i = 0; i < count; i++) {
            uint64_t answered = polls[i].revents ? take_replies(&loads[i]) : 0;

            left -= answered;
            send_requests(&loads[i], answered);
        }
        if (middle && left <= half) {
            middle(opaque);
            middle = NULL;
        }
    }
    return reactor_now() - began;
}

static struct load load_of(unsigned export, bool is_write, size_t bytes)
{
    struct load load = {.fd = load_attach(export), .is_write = is_write, .bytes = bytes};

    load.buffer = malloc(DEPTH * (NBD_SIMPLE_REPLY_BYTES + bytes));
    assert_non_null(load.buffer);
    return load;
}

static void end_load(struct load *load)
{
    close(load->fd);
    free(load->buffer);
}

static bool is_about(int64_t took, double want, const char *what)
{
    double share = (double)took / 1e9 / want;

    if (share < 0.97 || share > 1.03)
        print_message("%s: %.3f s, not %.3f s\n", what, (double)took / 1e9, want);
    return share >= 0.97 && share <= 1.03;
}

/* Nanoseconds that threads of the process were ready to run, and did not. */
static int64_t delay_of(pid_t pid)
{
    char path[320];
    struct dirent *entry;
    int64_t sum = 0;
    DIR *tasks;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    tasks = opendir(path);
    while (tasks && (entry = readdir(tasks))) {
        unsigned long long delay = 0;
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/task/%.20s/schedstat", (int)pid, entry->d_name);
        file = fopen(path, "r");
        if (file && fscanf(file, "%*u %llu", &delay) == 1)
            sum += (int64_t)delay;
        if (file)
            fclose(file);
    }
    if (tasks)
        closedir(tasks);
    return sum;
}

/* Whether an attempt that was too slow can be held against the limit: not if the machine had others
 * to serve. */
struct attempts {
    const struct load_server *server;
    int64_t began, delayed;
    unsigned slow;
};

static void begin(struct attempts *attempts)
{
    attempts->began = reactor_now();
    attempts->delayed = delay_of(attempts->server->pid) + delay_of(getpid());
}

static void note_failure(struct attempts *attempts)
{
    int64_t took = reactor_now() - attempts->began;
    int64_t delay = delay_of(attempts->server->pid) + delay_of(getpid()) - attempts->delayed;

    if (delay < took / 20)
        attempts->slow++;
    else
        print_message("the machine has others to serve: %.0f%%\n",
                      100 * (double)delay / (double)took);
}

static void give_up(const struct attempts *attempts)
{
    print_message("not right %u times, %u of them undisturbed\n", TRIES, attempts->slow);
    assert_true(attempts->slow <= TRIES / 2);
}

/* From the first request to the last answer there may never be more than the limit lets through.
 * Less there is where the machine has others to serve: then it is tried again. */
static bool is_as_long(int64_t took, double want, const char *what)
{
    assert_true((double)took / 1e9 >= want * 0.97);
    return is_about(took, want, what);
}

/* Whether the machine, as it is now, lets so many requests a second through when nothing else stops
 * them. */
static bool is_in_reach(struct load_server *server, struct load *loads, unsigned count,
                        bool for_group, uint64_t requests_a_second)
{
    struct limit_settings none = {0};
    uint64_t requests = requests_a_second / 10 + 10;

    load_set_limits(server, for_group, &none);
    for (unsigned i = 0; i < count; i++)
        loads[i].left = requests / count;
    return (double)run(loads, count, NULL, NULL) / 1e9 <
           (double)requests / (double)requests_a_second;
}

static void holds_for(struct load_server *server, struct load *loads, unsigned count,
                      enum limit_kind kind, uint64_t rate, bool for_group)
{
    struct limit_settings limits = {0}, none = {0};
    uint64_t cost = kind == LIMIT_READ_OPS || kind == LIMIT_WRITE_OPS ? 1 : loads[0].bytes;
    uint64_t tokens = rate + rate / 2 > 30 * cost ? rate + rate / 2 : 30 * cost;
    struct attempts attempts = {.server = server};
    char what[64];

    snprintf(what, sizeof(what), "limit kind %d of %llu", (int)kind, (unsigned long long)rate);
    if (!is_in_reach(server, loads, count, for_group, rate / cost)) {
        print_message("%s: not measured, the machine does not reach it now\n", what);
        return;
    }
    for (unsigned try = 0; try < TRIES; try++) {
        uint64_t requests = tokens / cost / count;
        int64_t took;

        load_set_limits(server, for_group, &none);
        limits.kind[kind] = (struct limit_setting){rate, cost};
        load_set_limits(server, for_group, &limits);
        for (unsigned i = 0; i < count; i++)
            loads[i].left = requests;
        begin(&attempts);
        took = run(loads, count, NULL, NULL);
        /* A bucket of one request: that passes at once, and the one that makes the debt. */
        if (is_as_long(took, (double)((requests * count - 2) * cost) / (double)rate, what))
            return;
        note_failure(&attempts);
    }
    give_up(&attempts);
}

static void test_the_rate_of_operations_is_what_was_set(void **state)
{
    static const uint64_t rates[] = {10, 100, 1000, 10000, 50000};
    struct load_server server = {.exports = 1, .connections_max = 8};
    struct load load;

    (void)state;
    load_start(&server);
    load = load_of(0, false, 512);
    for (unsigned i = 0; i < sizeof(rates) / sizeof(*rates); i++)
        holds_for(&server, &load, 1, LIMIT_READ_OPS, rates[i], false);
    end_load(&load);
    load = load_of(0, true, 512);
    holds_for(&server, &load, 1, LIMIT_WRITE_OPS, 500, false);
    end_load(&load);
    load_stop(&server);
}

static void test_the_rate_of_bytes_is_what_was_set(void **state)
{
    struct load_server server = {.exports = 1, .connections_max = 8};
    struct load load;

    (void)state;
    load_start(&server);
    load = load_of(0, false, 64 * KIB);
    holds_for(&server, &load, 1, LIMIT_READ_BYTES, 8 * MIB, false);
    end_load(&load);
    load = load_of(0, true, 16 * KIB);
    holds_for(&server, &load, 1, LIMIT_WRITE_BYTES, 2 * MIB, false);
    end_load(&load);
    load_stop(&server);
}

static void test_a_group_of_exports_has_one_limit(void **state)
{
    struct load_server server = {.exports = 2, .connections_max = 8, .in_group = true};
    struct load loads[4];

    (void)state;
    load_start(&server);
    for (unsigned i = 0; i < 4; i++)
        loads[i] = load_of(i / 2, false, 512);
    holds_for(&server, loads, 4, LIMIT_READ_OPS, 1000, true);
    for (unsigned i = 0; i < 4; i++)
        end_load(&loads[i]);
    load_stop(&server);
}

#define BURST_RATE 200u
#define BURST      300u

static void test_a_burst_is_honoured_once_and_comes_back(void **state)
{
    struct load_server server = {.exports = 1, .connections_max = 8};
    struct limit_settings limits = {0}, none = {0};
    struct attempts attempts = {.server = &server};
    bool once = false, again = false;
    struct load load;

    (void)state;
    limits.kind[LIMIT_READ_OPS] = (struct limit_setting){BURST_RATE, BURST};
    load_start(&server);
    load = load_of(0, false, 512);
    for (unsigned try = 0; try < TRIES && !(once && again); try++) {
        int64_t idle;

        load_set_limits(&server, false, &none);
        load_set_limits(&server, false, &limits);
        begin(&attempts);
        load.left = BURST + BURST_RATE + 1;
        once = is_as_long(run(&load, 1, NULL, NULL), 1.0, "after a burst");
        idle = reactor_now();
        usleep(500000);
        load.left = BURST_RATE;
        /* What came back while nothing was asked passes at once, the rest at the rate: together
         * as long as if there had been no pause. */
        (void)run(&load, 1, NULL, NULL);
        again = is_about(reactor_now() - idle, 1.0, "with a pause");
        if (!once || !again)
            note_failure(&attempts);
    }
    if (!once || !again)
        give_up(&attempts);
    end_load(&load);
    load_stop(&server);
}

struct change {
    struct load_server *server;
    struct limit_settings limits;
    int64_t at;
};

static void change_limits(void *opaque)
{
    struct change *change = opaque;

    load_set_limits(change->server, false, &change->limits);
    change->at = reactor_now();
}

static void test_a_limit_is_changed_in_the_middle(void **state)
{
    struct load_server server = {.exports = 1, .connections_max = 8};
    struct limit_settings limits = {0}, none = {0};
    struct change change = {.server = &server};
    struct attempts attempts = {.server = &server};
    bool before = false, after = false;
    struct load load;

    (void)state;
    limits.kind[LIMIT_READ_OPS] = (struct limit_setting){2000, 1};
    change.limits.kind[LIMIT_READ_OPS] = (struct limit_setting){500, 1};
    load_start(&server);
    load = load_of(0, false, 512);
    for (unsigned try = 0; try < TRIES && !(before && after); try++) {
        int64_t began, took;

        load_set_limits(&server, false, &none);
        load_set_limits(&server, false, &limits);
        begin(&attempts);
        began = attempts.began;
        load.left = 2000;
        took = run(&load, 1, change_limits, &change);
        before = is_about(change.at - began, 0.5, "before the change");
        after = is_about(took - (change.at - began), 2.0, "after the change");
        if (!before || !after)
            note_failure(&attempts);
    }
    if (!before || !after)
        give_up(&attempts);
    end_load(&load);
    load_stop(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_rate_of_operations_is_what_was_set),
        cmocka_unit_test(test_the_rate_of_bytes_is_what_was_set),
        cmocka_unit_test(test_a_group_of_exports_has_one_limit),
        cmocka_unit_test(test_a_burst_is_honoured_once_and_comes_back),
        cmocka_unit_test(test_a_limit_is_changed_in_the_middle),
    };

    if (vdisk_init())
        return 1;
    return cmocka_run_group_tests(tests, load_set_up, load_tear_down);
}
