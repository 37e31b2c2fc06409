/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a reactor waits: it looks at watched memory as long as it is awake, asks to be woken before
 * it sleeps, looks around for a while first where that pays, and not where it does not.
 */
#include "reactor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define MS INT64_C(1000000)

static struct reactor *reactor;
static bool with_threads;
static int64_t poll_for;

static enum {
    NEVER,
    ALWAYS,
    EACH_SECOND_TIME
} crowded;
static unsigned times_asked;

static bool is_crowded(void *opaque)
{
    times_asked += opaque == &times_asked;
    return crowded == ALWAYS || (crowded == EACH_SECOND_TIME && times_asked % 2 == 0);
}

static int set_up(void **state)
{
    struct reactor_options options = {
        .no_uring = with_threads,
        .poll = poll_for,
        .is_crowded = is_crowded,
        .opaque = &crowded,
    };

    (void)state;
    crowded = false;
    return reactor_new(&options, &reactor);
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

static void sleep_for(int64_t time)
{
    unsigned done = 0;
    struct reactor_op op = {
        .kind = REACTOR_SLEEP, .deadline = reactor_now() + time, .done = note_done, .owner = &done};

    reactor_submit(reactor, &op);
    while (!done)
        reactor_step(reactor, true);
}

/* A word that somebody writes, who wakes us only if `asked`. */
struct word {
    struct reactor_watch watch; /* first */
    struct reactor_hook hook;
    atomic_uint value, asked;
    unsigned seen, runs, sleeps;
    void (*while_asking)(struct word *word);
};

static void look(struct reactor_watch *watch)
{
    struct word *word = (struct word *)watch;

    if (atomic_load(&word->value) != word->seen)
        reactor_kick(reactor, &word->hook);
}

static void fall_asleep(struct reactor_watch *watch)
{
    struct word *word = (struct word *)watch;

    word->sleeps++;
    atomic_store(&word->asked, 1);
    if (word->while_asking)
        word->while_asking(word);
    look(watch);
}

static void run(struct reactor_hook *hook)
{
    struct word *word = (struct word *)((char *)hook - offsetof(struct word, hook));

    word->runs++;
    word->seen = atomic_load(&word->value);
    atomic_store(&word->asked, 0);
    reactor_watch_begin(reactor, &word->watch);
}

static void begin(struct word *word)
{
    word->watch = (struct reactor_watch){.look = look, .sleep = fall_asleep};
    word->hook = (struct reactor_hook){.run = run};
    reactor_watch_begin(reactor, &word->watch);
}

static void test_each_round_looks(void **state)
{
    struct word word = {0};

    (void)state;
    begin(&word);
    reactor_step(reactor, false);
    assert_int_equal(word.runs, 0);
    for (unsigned i = 1; i <= 3; i++) {
        atomic_store(&word.value, i);
        reactor_step(reactor, false);
        assert_int_equal(word.runs, i);
    }
    assert_int_equal(word.sleeps, 0);
    reactor_watch_end(&word.watch);
    reactor_watch_end(&word.watch); /* one that has not begun */
    atomic_store(&word.value, 9);
    reactor_step(reactor, false);
    assert_int_equal(word.runs, 3);
}

static void write_late(struct word *word)
{
    atomic_store(&word->value, 1);
}

static void test_what_comes_while_it_asks_to_be_woken_is_not_slept_on(void **state)
{
    struct word first = {0}, late = {.while_asking = write_late}, last = {0};
    unsigned guarded = 0;
    struct reactor_op guard = {.kind = REACTOR_SLEEP,
                               .deadline = reactor_now() + 5000 * MS,
                               .done = note_done,
                               .owner = &guarded};

    (void)state;
    begin(&first);
    begin(&late);
    begin(&last);
    reactor_submit(reactor, &guard);
    while (!late.runs && !guarded)
        reactor_step(reactor, true);
    assert_int_equal(first.sleeps, 1);
    assert_int_equal(late.sleeps, 1);
    assert_int_equal(last.sleeps, 1);
    assert_int_equal(guarded, 0);
    reactor_watch_end(&first.watch);
    reactor_watch_end(&late.watch);
    reactor_cancel(reactor, &guard);
    while (!guarded)
        reactor_step(reactor, true);
}

static int64_t processor_time(void)
{
    struct timespec spent;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &spent);
    return spent.tv_sec * 1000 * MS + spent.tv_nsec;
}

static void test_an_idle_one_takes_no_processor_time(void **state)
{
    int64_t before;

    (void)state;
    for (unsigned i = 0; i < 10; i++) /* looking around pays */
        sleep_for(poll_for / 10);
    before = processor_time();
    for (unsigned i = 0; i < 40; i++) /* and now no more */
        sleep_for(2 * poll_for);
    assert_true(processor_time() - before < 10 * poll_for);
}

static void test_no_processor_is_taken_from_those_who_compute(void **state)
{
    int64_t before;

    (void)state;
    for (unsigned i = 0; i < 10; i++) /* looking around pays */
        sleep_for(poll_for / 10);
    crowded = true;
    before = processor_time();
    for (unsigned i = 0; i < 40; i++) /* 20 times poll_for, if it did */
        sleep_for(poll_for / 2);
    assert_true(processor_time() - before < 4 * poll_for);
}

/* Counts on as soon as we have seen the last one. */
struct echo {
    struct word word;
    atomic_uint answer, stop;
    int fd;
    struct reactor_op op;
    bool armed;
};

static void *count(void *arg)
{
    struct echo *echo = arg;

    for (unsigned value = 1; !atomic_load(&echo->stop); value++) {
        atomic_store(&echo->word.value, value);
        if (atomic_load(&echo->word.asked))
            (void)eventfd_write(echo->fd, 1);
        while (atomic_load(&echo->answer) != value && !atomic_load(&echo->stop))
            ;
    }
    return NULL;
}

static void woken(struct reactor_op *op)
{
    struct echo *echo = op->owner;
    eventfd_t ignored;

    echo->armed = false;
    (void)eventfd_read(echo->fd, &ignored);
    reactor_kick(reactor, &echo->word.hook);
}

static void arm(struct echo *echo)
{
    if (echo->armed)
        return;
    echo->armed = true;
    echo->op = (struct reactor_op){
        .kind = REACTOR_POLL, .fd = echo->fd, .events = POLLIN, .done = woken, .owner = echo};
    reactor_submit(reactor, &echo->op);
}

static void test_what_comes_soon_needs_no_waking(void **state)
{
    bool polls = strcmp(reactor_backend(reactor), "io_uring") == 0;
    struct echo echo = {.fd = eventfd(0, EFD_NONBLOCK)};
    unsigned few = 0, batch = 0, slept = 0, guarded = 0;
    struct reactor_op guard = {.kind = REACTOR_SLEEP,
                               .deadline = reactor_now() + 10000 * MS,
                               .done = note_done,
                               .owner = &guarded};
    pthread_t thread;
    bool in_time;

    (void)state;
    begin(&echo.word);
    reactor_submit(reactor, &guard);
    assert_int_equal(pthread_create(&thread, NULL, count, &echo), 0);
    while (!guarded && (polls ? few < 1 : batch < 5)) {
        arm(&echo);
        reactor_step(reactor, true);
        atomic_store(&echo.answer, echo.word.seen);
        if (echo.word.seen / 1000 > batch) {
            few += echo.word.sleeps - slept < 100;
            slept = echo.word.sleeps;
            batch++;
        }
    }
    in_time = !guarded;
    reactor_cancel(reactor, &guard);
    while (!guarded)
        reactor_step(reactor, true);
    atomic_store(&echo.stop, 1);
    pthread_join(thread, NULL);
    eventfd_write(echo.fd, 1);
    while (echo.armed)
        reactor_step(reactor, true);
    reactor_unkick(reactor, &echo.word.hook);
    reactor_watch_end(&echo.word.watch);
    close(echo.fd);
    assert_true(in_time);
}

struct crowd {
    struct reactor_hook hook; /* first */
    unsigned done, seen, most;
};

static void look_at_crowd(struct reactor_hook *hook)
{
    struct crowd *crowd = (struct crowd *)hook;
    unsigned more = crowd->done - crowd->seen;

    crowd->most = more > crowd->most ? more : crowd->most;
    crowd->seen = crowd->done;
    reactor_kick(reactor, hook);
}

static void test_what_ends_together_is_not_worked_off_in_one_go(void **state)
{
    struct reactor_op op[64];
    struct crowd crowd = {.hook.run = look_at_crowd};

    (void)state;
    if (strcmp(reactor_backend(reactor), "io_uring") != 0)
        return;
    for (unsigned i = 0; i < 64; i++) {
        op[i] = (struct reactor_op){
            .kind = REACTOR_SLEEP, .deadline = 1, .done = note_done, .owner = &crowd.done};
        reactor_submit(reactor, &op[i]);
    }
    reactor_kick(reactor, &crowd.hook);
    while (crowd.seen < 64)
        reactor_step(reactor, true);
    assert_in_range(crowd.most, 1, 8);
    reactor_unkick(reactor, &crowd.hook);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_each_round_looks),
        TEST(test_what_comes_while_it_asks_to_be_woken_is_not_slept_on),
        TEST(test_what_ends_together_is_not_worked_off_in_one_go),
    };
    const struct CMUnitTest polling[] = {
        TEST(test_what_comes_while_it_asks_to_be_woken_is_not_slept_on),
        TEST(test_an_idle_one_takes_no_processor_time),
        TEST(test_no_processor_is_taken_from_those_who_compute),
        TEST(test_what_comes_soon_needs_no_waking),
    };
    int failed = 0;

    for (unsigned i = 0; i < 2; i++, with_threads = true) {
        const char *name = with_threads ? "threads" : "io_uring";

        poll_for = 0;
        failed += cmocka_run_group_tests_name(name, tests, NULL, NULL);
        poll_for = 5 * MS;
        failed += cmocka_run_group_tests_name(name, polling, NULL, NULL);
    }
    return failed;
}
