/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop: ready list, requests, groups and jobs (libvdisk/loop.c). The locks are in
 * test_locks.c.
 *
 * Checks are made outside coroutines: a failing one leaves by longjmp.
 */
#include "fake_io.h"
#include "loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

/* Jobs kept until polled, in place of threads. */
struct fake_workers {
    struct vdisk_workers workers;
    struct vdisk_job *queue;
    int polls, blocking_polls;
};

static void fake_job_submit(struct vdisk_workers *base, struct vdisk_job *job)
{
    struct fake_workers *workers = (struct fake_workers *)base;
    job->next = workers->queue;
    workers->queue = job;
}

/* Ends jobs only when waited for. */
static int fake_job_poll(struct vdisk_workers *base, bool wait)
{
    struct fake_workers *workers = (struct fake_workers *)base;
    struct vdisk_job *job = workers->queue;

    workers->polls++;
    workers->blocking_polls += wait;
    if (!wait || !job)
        return 0;
    workers->queue = job->next;
    job->run(job);
    job->done(job);
    return 1;
}

static unsigned fake_job_count(struct vdisk_workers *base)
{
    (void)base;
    return 1;
}

static void fake_job_close(struct vdisk_workers *base)
{
    (void)base;
}

static const struct vdisk_workers_ops fake_workers_ops = {
    .submit = fake_job_submit,
    .poll = fake_job_poll,
    .count = fake_job_count,
    .close = fake_job_close,
};

struct fixture {
    struct fake_io fake;
    struct fake_workers workers;
    struct vd_loop loop;
    struct vd_waitqueue queue;
    char log[64]; /* letters of what ran, in order */
    size_t log_length;
    int result;
    bool wrong;
};

struct letter {
    struct fixture *f;
    char letter;
};

static int setup(void **state)
{
    static struct fixture fixture;
    fixture = (struct fixture){.workers.workers.ops = &fake_workers_ops};
    fake_io_init(&fixture.fake, fake_io_seed());
    *state = &fixture;
    return vd_loop_init(&fixture.loop, &fixture.fake.io, NULL);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    vd_loop_release(&f->loop);
    return 0;
}

static void note(struct fixture *f, char letter)
{
    if (f->log_length < sizeof f->log - 1)
        f->log[f->log_length++] = letter;
}

static void note_letter(void *arg)
{
    struct letter *l = arg;
    note(l->f, l->letter);
}

/* Notes a letter, waits on the queue, notes it as a capital. */
static void wait_once(void *arg)
{
    struct letter *l = arg;
    note(l->f, l->letter);
    vd_wait(&l->f->loop, &l->f->queue);
    note(l->f, (char)(l->letter - 'a' + 'A'));
}

static void spawn(struct fixture *f, void (*entry)(void *arg), void *arg)
{
    assert_int_equal(vd_loop_spawn(&f->loop, entry, arg), 0);
}

static void spawn_letters(struct fixture *f, struct letter *letters, int count,
                          void (*entry)(void *arg))
{
    for (int i = 0; i < count; i++) {
        letters[i] = (struct letter){.f = f, .letter = (char)('a' + i)};
        spawn(f, entry, &letters[i]);
    }
}

static void an_idle_loop_has_nothing_to_do(void **state)
{
    struct fixture *f = *state;
    assert_false(vd_loop_step(&f->loop, false));
    assert_false(vd_loop_step(&f->loop, true));
    assert_int_equal(f->fake.polls, 0);
}

static void spawned_coroutines_run_at_the_next_step_in_order(void **state)
{
    struct fixture *f = *state;
    struct letter letters[5];

    spawn_letters(f, letters, 5, note_letter);
    assert_string_equal(f->log, "");
    assert_int_equal(f->loop.coroutines, 5);
    assert_true(vd_loop_step(&f->loop, false));
    assert_string_equal(f->log, "abcde");
    assert_int_equal(f->loop.coroutines, 0);
    assert_false(vd_loop_step(&f->loop, true));
}

static void waiters_wake_one_by_one_in_the_order_of_arrival(void **state)
{
    struct fixture *f = *state;
    struct letter letters[4];

    spawn_letters(f, letters, 4, wait_once);
    vd_loop_step(&f->loop, false);
    assert_string_equal(f->log, "abcd");
    vd_wake_one(&f->loop, &f->queue);
    assert_string_equal(f->log, "abcd"); /* waking runs nothing */
    vd_loop_step(&f->loop, false);
    assert_string_equal(f->log, "abcdA");
    vd_wake_all(&f->loop, &f->queue);
    vd_loop_step(&f->loop, false);
    assert_string_equal(f->log, "abcdABCD");
    vd_wake_one(&f->loop, &f->queue); /* nobody there: no effect */
    assert_false(vd_loop_step(&f->loop, false));
}

static void spawn_letter(void *arg)
{
    struct letter *l = arg;
    note(l->f, 's');
    l->f->wrong |= vd_loop_spawn(&l->f->loop, note_letter, l) != 0;
}

static void a_step_runs_only_what_was_ready_when_it_began(void **state)
{
    struct fixture *f = *state;
    struct letter letters[2];

    spawn_letters(f, letters, 2, spawn_letter);
    vd_loop_step(&f->loop, false);
    assert_string_equal(f->log, "ss");
    vd_loop_step(&f->loop, false);
    assert_string_equal(f->log, "ssab");
    assert_false(f->wrong);
}

static void wake_each_other(void *arg)
{
    struct letter *l = arg;
    for (int i = 0; i < 1000; i++) {
        vd_wake_one(&l->f->loop, &l->f->queue);
        vd_wait(&l->f->loop, &l->f->queue);
    }
    vd_wake_all(&l->f->loop, &l->f->queue);
}

static void one_request(void *arg)
{
    struct fixture *f = arg;
    f->result = vd_io(&f->loop, VDISK_IO_WRITE, 4096, NULL, 8192);
    note(f, 'w');
}

static void busy_coroutines_do_not_keep_completions_from_being_seen(void **state)
{
    struct fixture *f = *state;
    struct letter letters[2];

    spawn_letters(f, letters, 2, wake_each_other);
    spawn(f, one_request, f);
    for (int i = 0; i < 200; i++)
        vd_loop_step(&f->loop, true);
    assert_string_equal(f->log, "w");
    assert_int_equal(f->loop.coroutines, 2);
    while (vd_loop_step(&f->loop, true))
        ;
    assert_int_equal(f->loop.coroutines, 0);
}

static void a_request_arrives_as_given_and_its_result_is_returned(void **state)
{
    struct fixture *f = *state;

    f->fake.fail_offset = 4096;
    f->fake.fail_result = -ENOSPC;
    spawn(f, one_request, f);
    while (vd_loop_step(&f->loop, true))
        ;
    assert_int_equal(f->result, -ENOSPC);
    assert_int_equal(f->fake.last.op, VDISK_IO_WRITE);
    assert_int_equal(f->fake.last.offset, 4096);
    assert_int_equal(f->fake.last.length, 8192);

    f->fake.fail_result = 0;
    spawn(f, one_request, f);
    while (vd_loop_step(&f->loop, true))
        ;
    assert_int_equal(f->result, 0);
}

static void a_step_blocks_only_when_asked_and_only_when_nothing_ran(void **state)
{
    struct fixture *f = *state;

    f->fake.lazy = true; /* completes only in blocking polls */
    spawn(f, one_request, f);
    assert_true(vd_loop_step(&f->loop, true)); /* ran a coroutine */
    assert_int_equal(f->fake.blocking_polls, 0);
    for (int i = 0; i < 10; i++)
        assert_true(vd_loop_step(&f->loop, false)); /* in flight */
    assert_int_equal(f->fake.blocking_polls, 0);
    assert_true(vd_loop_step(&f->loop, true));
    assert_int_equal(f->fake.blocking_polls, 1);
    assert_true(vd_loop_step(&f->loop, true)); /* the woken coroutine */
    assert_false(vd_loop_step(&f->loop, true));
    assert_int_equal(f->fake.blocking_polls, 1);
    assert_string_equal(f->log, "w");
}

static void three_requests(void *arg)
{
    struct fixture *f = arg;
    struct vdisk_io_request requests[3];
    struct vd_group group;

    vd_group_init(&group, &f->loop);
    for (unsigned i = 0; i < 3; i++) {
        requests[i] = (struct vdisk_io_request){.op = VDISK_IO_READ, .offset = i * 4096u};
        vd_group_io(&group, &requests[i]);
        note(f, 's');
    }
    f->wrong |= group.pending != 3; /* nothing completed inside submit */
    f->result = vd_group_wait(&group);
    f->wrong |= group.pending != 0;
    note(f, 'e');
}

static void a_group_waits_for_all_and_returns_its_error(void **state)
{
    struct fixture *f = *state;

    for (unsigned failing = 0; failing < 3; failing++) {
        f->log_length = 0;
        f->fake.fail_offset = failing * 4096u;
        f->fake.fail_result = -EIO;
        spawn(f, three_requests, f);
        vd_loop_step(&f->loop, false);
        while (vd_loop_step(&f->loop, true))
            if (f->loop.io_in_flight)
                assert_int_equal(f->log_length, 3);
        assert_memory_equal(f->log, "ssse", 4);
        assert_int_equal(f->result, -EIO);
        assert_false(f->wrong);
    }
}

static void wait_for_nothing(void *arg)
{
    struct fixture *f = arg;
    struct vd_group group;
    vd_group_init(&group, &f->loop);
    f->result = vd_group_wait(&group);
    note(f, 'e');
}

static void an_empty_group_does_not_wait(void **state)
{
    struct fixture *f = *state;

    f->result = -1;
    spawn(f, wait_for_nothing, f);
    vd_loop_step(&f->loop, false);
    assert_string_equal(f->log, "e");
    assert_int_equal(f->result, 0);
}

struct noting_job {
    struct vd_group_job job;
    struct fixture *f;
};

static void run_noting_job(struct vdisk_job *job)
{
    struct fixture *f = ((struct noting_job *)job)->f;
    f->wrong |= f->loop.current != NULL; /* from the loop, not inside a coroutine's submit */
    note(f, 'r');
}

static void two_jobs_and_a_request(void *arg)
{
    struct fixture *f = arg;
    struct noting_job jobs[2];
    struct vdisk_io_request request = {.op = VDISK_IO_SYNC};
    struct vd_group group;

    vd_group_init(&group, &f->loop);
    for (int i = 0; i < 2; i++) {
        jobs[i] = (struct noting_job){.job.job.run = run_noting_job, .f = f};
        vd_group_job(&group, &jobs[i].job);
        note(f, 's');
    }
    vd_group_io(&group, &request);
    f->result = vd_group_wait(&group);
    note(f, 'e');
}

static void without_workers_jobs_run_inline_but_never_inside_submit(void **state)
{
    struct fixture *f = *state;

    spawn(f, two_jobs_and_a_request, f);
    assert_true(vd_loop_step(&f->loop, false));
    assert_memory_equal(f->log, "ssrr", 4);
    while (vd_loop_step(&f->loop, true))
        ;
    assert_string_equal(f->log, "ssrre");
    assert_false(f->wrong);
    assert_int_equal(f->result, 0);
}

static void with_workers_jobs_go_to_them_and_are_waited_for_after_requests(void **state)
{
    struct fixture *f = *state;

    f->loop.workers = &f->workers.workers;
    f->fake.lazy = true;
    spawn(f, two_jobs_and_a_request, f);
    assert_true(vd_loop_step(&f->loop, true));
    assert_string_equal(f->log, "ss");
    assert_true(vd_loop_step(&f->loop, true)); /* sleeps on the io */
    assert_int_equal(f->fake.blocking_polls, 1);
    assert_int_equal(f->workers.blocking_polls, 0);
    assert_int_equal(f->loop.io_in_flight, 0);
    assert_true(vd_loop_step(&f->loop, true)); /* then on the workers */
    assert_int_equal(f->workers.blocking_polls, 1);
    while (vd_loop_step(&f->loop, true))
        ;
    assert_string_equal(f->log, "ssrre");
    assert_false(f->wrong);
}

struct chain {
    struct vd_group_job job;
    struct fixture *f;
    int left;
};

static void run_nothing(struct vdisk_job *job)
{
    (void)job;
}

static void job_after_job(void *arg)
{
    struct fixture *f = arg;
    for (int i = 0; i < 100; i++) {
        struct chain chain = {.job.job.run = run_nothing};
        struct vd_group group;
        vd_group_init(&group, &f->loop);
        vd_group_job(&group, &chain.job);
        f->wrong |= vd_group_wait(&group) != 0;
        memset(&chain, 0xee, sizeof chain); /* it is ours again */
    }
}

static void a_job_may_go_as_soon_as_its_group_was_waited_for(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 10; i++)
        spawn(f, job_after_job, f);
    while (vd_loop_step(&f->loop, true))
        ;
    assert_int_equal(f->loop.jobs_in_flight, 0);
    assert_int_equal(f->loop.coroutines, 0);
    assert_false(f->wrong);
}

static void random_requests(void *arg)
{
    struct fixture *f = arg;

    for (int i = 0; i < 20; i++) {
        struct vdisk_io_request requests[8];
        struct noting_job jobs[3];
        unsigned count = (unsigned)sim_rng_below(&f->fake.rng, 9);
        unsigned job_count = (unsigned)sim_rng_below(&f->fake.rng, 4);
        struct vd_group group;

        vd_group_init(&group, &f->loop);
        for (unsigned k = 0; k < count; k++) {
            requests[k] = (struct vdisk_io_request){.op = VDISK_IO_READ};
            vd_group_io(&group, &requests[k]);
        }
        for (unsigned k = 0; k < job_count; k++) {
            jobs[k] = (struct noting_job){.job.job.run = run_noting_job, .f = f};
            vd_group_job(&group, &jobs[k].job);
        }
        f->wrong |= group.pending != count + job_count;
        f->wrong |= vd_group_wait(&group) != 0;
        f->wrong |= vd_io(&f->loop, VDISK_IO_SYNC, 0, NULL, 0) != 0;
    }
    note(f, 'e');
}

static void no_completion_runs_inside_submit_whatever_the_order(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 50; i++)
        spawn(f, random_requests, f);
    while (vd_loop_step(&f->loop, true))
        ;
    assert_int_equal(f->loop.coroutines, 0);
    assert_int_equal(f->loop.io_in_flight, 0);
    assert_int_equal(f->loop.jobs_in_flight, 0);
    assert_int_equal(f->fake.submitted, f->fake.completed);
    assert_true(f->fake.submitted > 1000);
    assert_false(f->wrong);
}

static void run_inner_loop(void *arg)
{
    struct fixture *outer = arg;
    struct fixture inner = {.log_length = 0};

    fake_io_init(&inner.fake, 7);
    if (vd_loop_init(&inner.loop, &inner.fake.io, NULL)) {
        outer->wrong = true;
        return;
    }
    outer->wrong |= vd_loop_spawn(&inner.loop, two_jobs_and_a_request, &inner) != 0;
    while (vd_loop_step(&inner.loop, true))
        ;
    outer->wrong |= inner.wrong || strcmp(inner.log, "ssrre") != 0;
    vd_loop_release(&inner.loop);
    outer->result = vd_io(&outer->loop, VDISK_IO_SYNC, 0, NULL, 0);
    note(outer, 'e');
}

static void a_coroutine_may_run_another_loop(void **state)
{
    struct fixture *f = *state;

    f->result = -1;
    spawn(f, run_inner_loop, f);
    while (vd_loop_step(&f->loop, true))
        ;
    assert_string_equal(f->log, "e");
    assert_int_equal(f->result, 0);
    assert_false(f->wrong);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(an_idle_loop_has_nothing_to_do),
        TEST(spawned_coroutines_run_at_the_next_step_in_order),
        TEST(waiters_wake_one_by_one_in_the_order_of_arrival),
        TEST(a_step_runs_only_what_was_ready_when_it_began),
        TEST(busy_coroutines_do_not_keep_completions_from_being_seen),
        TEST(a_request_arrives_as_given_and_its_result_is_returned),
        TEST(a_step_blocks_only_when_asked_and_only_when_nothing_ran),
        TEST(a_group_waits_for_all_and_returns_its_error),
        TEST(an_empty_group_does_not_wait),
        TEST(without_workers_jobs_run_inline_but_never_inside_submit),
        TEST(with_workers_jobs_go_to_them_and_are_waited_for_after_requests),
        TEST(a_job_may_go_as_soon_as_its_group_was_waited_for),
        TEST(no_completion_runs_inside_submit_whatever_the_order),
        TEST(a_coroutine_may_run_another_loop),
    };
    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
