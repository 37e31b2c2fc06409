/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reactor and its tasks, with io_uring and with the fall-back: each test runs on both.
 */
#include "reactor.h"
#include "task.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MS INT64_C(1000000)

static struct reactor *reactor;
static bool with_threads;

static int set_up(void **state)
{
    struct reactor_options options = {.no_uring = with_threads};

    (void)state;
    if (reactor_new(&options, &reactor))
        return -1;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    reactor_free(reactor);
    return 0;
}

static void note_done(struct reactor_op *op)
{
    ++*(unsigned *)op->owner;
}

/* Runs one operation; its result. */
static int do_op(struct reactor_op op)
{
    unsigned done = 0;

    op.done = note_done;
    op.owner = &done;
    reactor_submit(reactor, &op);
    assert_int_equal(done, 0); /* never within */
    while (!done)
        reactor_step(reactor, true);
    return op.result;
}

static void test_files_are_written_read_and_synced(void **state)
{
    char name[] = "/tmp/vdisk-reactor-XXXXXX", back[10] = "";
    struct iovec out[2] = {{(void *)(uintptr_t) "hello", 5}, {(void *)(uintptr_t) "world", 5}};
    struct iovec in = {back, sizeof(back)};
    int fd = mkstemp(name);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(
        do_op((struct reactor_op){
            .kind = REACTOR_WRITE, .fd = fd, .vectors = out, .count = 2, .offset = 100}),
        10);
    assert_int_equal(do_op((struct reactor_op){.kind = REACTOR_SYNC, .fd = fd}), 0);
    assert_int_equal(
        do_op((struct reactor_op){
            .kind = REACTOR_READ, .fd = fd, .vectors = &in, .count = 1, .offset = 103}),
        7);
    assert_memory_equal(back, "loworld", 7);
    assert_int_equal(
        do_op((struct reactor_op){.kind = REACTOR_ALLOCATE, .fd = fd, .from = 0, .length = 8192}),
        0);
    assert_int_equal(lseek(fd, 0, SEEK_END), 8192);
    close(fd);
    assert_int_equal(do_op((struct reactor_op){.kind = REACTOR_SYNC, .fd = fd}), -EBADF);
    unlink(name);
}

static void test_time_passes(void **state)
{
    int64_t began = reactor_now();

    (void)state;
    assert_int_equal(do_op((struct reactor_op){.kind = REACTOR_SLEEP, .deadline = began + 20 * MS}),
                     0);
    assert_true(reactor_now() >= began + 20 * MS);
    assert_int_equal(do_op((struct reactor_op){.kind = REACTOR_SLEEP, .deadline = 1}), 0);
}

static void test_what_is_cancelled_ends(void **state)
{
    int pair[2];
    unsigned done = 0;
    char byte;
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    struct reactor_op sleep = {.kind = REACTOR_SLEEP,
                               .deadline = reactor_now() + 3600 * 1000 * MS,
                               .done = note_done,
                               .owner = &done};
    struct reactor_op receive = {
        .kind = REACTOR_RECEIVE, .message = &message, .done = note_done, .owner = &done};

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    receive.fd = pair[0];
    reactor_submit(reactor, &sleep);
    reactor_submit(reactor, &receive);
    for (int i = 0; i < 10; i++)
        reactor_step(reactor, false);
    assert_int_equal(done, 0);
    reactor_cancel(reactor, &sleep);
    reactor_cancel(reactor, &receive);
    while (done < 2)
        reactor_step(reactor, true);
    assert_int_equal(sleep.result, -ECANCELED);
    assert_int_equal(receive.result, -ECANCELED);
    close(pair[0]);
    close(pair[1]);
}

/* ---- other threads ---- */

struct posted {
    struct reactor_message message;
    unsigned *count;
};

/* Two that end in one round; whichever is told first cancels the other. */
struct rival {
    struct reactor_op op;
    struct rival *other;
    unsigned done;
};

static void cancel_rival(struct reactor_op *op)
{
    struct rival *rival = op->owner;

    rival->done++;
    if (rival->other->done == 0)
        reactor_cancel(reactor, &rival->other->op);
}

static void race(struct reactor_op first, struct reactor_op second)
{
    struct rival rival[2] = {{.op = first, .other = &rival[1]}, {.op = second, .other = &rival[0]}};

    for (unsigned i = 0; i < 2; i++) {
        rival[i].op.done = cancel_rival;
        rival[i].op.owner = &rival[i];
        reactor_submit(reactor, &rival[i].op);
    }
    while (rival[0].done == 0 || rival[1].done == 0)
        reactor_step(reactor, true);
    for (unsigned i = 0; i < 100; i++)
        reactor_step(reactor, false);
    assert_int_equal(rival[0].done, 1);
    assert_int_equal(rival[1].done, 1);
}

static void test_what_has_ended_is_told_once_though_it_is_cancelled(void **state)
{
    struct reactor_op sleep = {.kind = REACTOR_SLEEP, .deadline = reactor_now() + MS};
    struct reactor_op look = {.kind = REACTOR_POLL, .events = POLLIN};
    int events = eventfd(0, EFD_CLOEXEC);

    (void)state;
    assert_true(events >= 0);
    look.fd = events;
    race(sleep, sleep);
    assert_int_equal(eventfd_write(events, 1), 0);
    race(look, look);
    assert_int_equal(eventfd_write(events, 1), 0);
    sleep.deadline = reactor_now() - 1;
    race(look, sleep);
    race(sleep, look);
    close(events);
}

static void look_again(struct reactor_op *op)
{
    unsigned *looks = op->owner;

    if (++*looks < 100000)
        reactor_submit(reactor, op);
}

static void test_what_is_always_ready_leaves_others_their_turn(void **state)
{
    unsigned looks = 0;
    struct reactor_op op = {
        .kind = REACTOR_POLL, .events = POLLIN, .done = look_again, .owner = &looks};

    (void)state;
    op.fd = eventfd(1, EFD_CLOEXEC);
    assert_true(op.fd >= 0);
    reactor_submit(reactor, &op);
    for (unsigned i = 0; i < 10; i++)
        reactor_step(reactor, false);
    assert_in_range(looks, 1, 100);
    while (looks < 100000)
        reactor_step(reactor, true);
    close(op.fd);
}

static void count_posted(struct reactor_message *message)
{
    struct posted *posted = (struct posted *)message;

    if (++*posted->count == 200)
        reactor_stop(reactor);
    free(posted);
}

static void *post_many(void *count)
{
    for (int i = 0; i < 100; i++) {
        struct posted *posted = calloc(1, sizeof(*posted));

        posted->message.run = count_posted;
        posted->count = count;
        reactor_post(reactor, &posted->message);
        if (i % 10 == 0)
            usleep(500); /* so that it sleeps now and then */
    }
    return NULL;
}

static void test_messages_from_other_threads_wake_it(void **state)
{
    pthread_t threads[2];
    unsigned count = 0;

    (void)state;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, post_many, &count), 0);
    reactor_run(reactor);
    assert_int_equal(count, 200);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
}

/* ---- tasks ---- */

struct conversation {
    int fd[2];
    unsigned ended;
    size_t received;
    uint8_t sum;
    int timed_out, moved;
};

#define STREAM_BYTES (size_t)(3 << 20)

static void speak(void *arg)
{
    struct conversation *c = arg;
    uint8_t *bytes = malloc(STREAM_BYTES);
    struct iovec vectors[3] = {{bytes, 1}, {bytes + 1, 4095}, {bytes + 4096, STREAM_BYTES - 4096}};

    for (size_t i = 0; i < STREAM_BYTES; i++)
        bytes[i] = (uint8_t)(i * 7);
    assert_int_equal(task_send(c->fd[0], vectors, 3, TASK_FOREVER), 0);
    free(bytes);
    close(c->fd[0]);
    c->ended++;
}

static void listen_to(void *arg)
{
    struct conversation *c = arg;
    uint8_t bytes[5000];
    int count;

    while ((count = task_receive(c->fd[1], bytes, sizeof(bytes), reactor_now() + 10000 * MS)) > 0) {
        for (int i = 0; i < count; i++)
            assert_int_equal(bytes[i], (uint8_t)((c->received + (size_t)i) * 7));
        c->received += (size_t)count;
    }
    assert_int_equal(count, 0);
    close(c->fd[1]);
    c->ended++;
}

static void converse(int flags)
{
    struct conversation c = {0};

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | flags, 0, c.fd), 0);
    assert_int_equal(task_spawn(reactor, listen_to, &c), 0);
    assert_int_equal(task_spawn(reactor, speak, &c), 0);
    while (c.ended < 2)
        reactor_step(reactor, true);
    assert_int_equal(c.received, STREAM_BYTES);
}

static void test_tasks_talk_over_sockets(void **state)
{
    (void)state;
    converse(0);
    converse(SOCK_NONBLOCK);
}

static void wait_in_vain(void *arg)
{
    struct conversation *c = arg;
    char byte;

    c->timed_out = task_receive(c->fd[0], &byte, 1, reactor_now() + 20 * MS);
    /* What comes in time is no late. */
    assert_int_equal(write(c->fd[1], "x", 1), 1);
    assert_int_equal(task_receive(c->fd[0], &byte, 1, reactor_now() + 10000 * MS), 1);
    c->ended++;
}

static void test_a_deadline_ends_a_wait(void **state)
{
    struct conversation c = {0};
    int64_t began = reactor_now();

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, c.fd), 0);
    assert_int_equal(task_spawn(reactor, wait_in_vain, &c), 0);
    while (!c.ended)
        reactor_step(reactor, true);
    assert_int_equal(c.timed_out, -ETIMEDOUT);
    assert_true(reactor_now() - began >= 20 * MS && reactor_now() - began < 5000 * MS);
    close(c.fd[0]);
    close(c.fd[1]);
}

static struct reactor *second;

static void *run_second(void *arg)
{
    (void)arg;
    reactor_run(second);
    return NULL;
}

static void travel(void *arg)
{
    struct conversation *c = arg;
    struct reactor *first = task_reactor(task_current());

    for (int i = 0; i < 100; i++) {
        task_move(second);
        c->moved++;
        task_pause();
        task_move(first);
        if (i % 20 == 0)
            task_sleep(MS);
    }
    c->ended++;
}

static void test_a_task_moves_between_threads(void **state)
{
    struct reactor_options options = {.no_uring = !with_threads};
    struct conversation c = {0};
    pthread_t thread;

    (void)state;
    assert_int_equal(reactor_new(&options, &second), 0);
    assert_int_equal(pthread_create(&thread, NULL, run_second, NULL), 0);
    assert_int_equal(task_spawn(reactor, travel, &c), 0);
    while (!c.ended)
        reactor_step(reactor, true);
    assert_int_equal(c.moved, 100);
    reactor_stop(second);
    pthread_join(thread, NULL);
    reactor_free(second);
}

static void test_eventfds_are_seen(void **state)
{
    int fd = eventfd(0, EFD_NONBLOCK);
    unsigned done = 0;
    struct reactor_op op = {
        .kind = REACTOR_POLL, .fd = fd, .events = POLLIN, .done = note_done, .owner = &done};

    (void)state;
    reactor_submit(reactor, &op);
    reactor_step(reactor, false);
    assert_int_equal(done, 0);
    eventfd_write(fd, 1);
    while (!done)
        reactor_step(reactor, true);
    assert_true(op.result & POLLIN);
    close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_files_are_written_read_and_synced),
        TEST(test_time_passes),
        TEST(test_what_is_cancelled_ends),
        TEST(test_what_has_ended_is_told_once_though_it_is_cancelled),
        TEST(test_what_is_always_ready_leaves_others_their_turn),
        TEST(test_messages_from_other_threads_wake_it),
        TEST(test_tasks_talk_over_sockets),
        TEST(test_a_deadline_ends_a_wait),
        TEST(test_a_task_moves_between_threads),
        TEST(test_eventfds_are_seen),
    };
    int failed = cmocka_run_group_tests_name("io_uring", tests, NULL, NULL);

    with_threads = true;
    return failed + cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
