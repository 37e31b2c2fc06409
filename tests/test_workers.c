/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker pool (tools/workers.c). Worth running under ThreadSanitizer.
 */
#include "workers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

struct work {
    struct vdisk_job job;
    struct vdisk_workers *workers;
    pthread_t runner, finisher;
    unsigned input, output;
    unsigned busy_us;
    int again; /* done() submits it so many times more */
    int *done_count;
    atomic_int *gate, *running; /* may be NULL */
};

static double micros(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

static void run_work(struct vdisk_job *job)
{
    struct work *work = (struct work *)job;
    double end = micros() + work->busy_us;

    work->runner = pthread_self();
    if (work->running)
        atomic_fetch_add(work->running, 1);
    while (work->gate && atomic_load(work->gate) == 0) {
        struct timespec moment = {.tv_nsec = 100000};

        nanosleep(&moment, NULL);
    }
    while (work->busy_us && micros() < end)
        ;
    work->output = work->input * 3 + 1;
}

static void finish_work(struct vdisk_job *job)
{
    struct work *work = (struct work *)job;

    work->finisher = pthread_self();
    ++*work->done_count;
    if (work->again-- > 0)
        work->workers->ops->submit(work->workers, job);
}

static struct vdisk_workers *open_pool(unsigned threads)
{
    struct vdisk_workers *workers = NULL;

    assert_int_equal(vd_workers_open(threads, &workers), 0);
    return workers;
}

static struct work *new_work(struct vdisk_workers *workers, unsigned count, int *done_count)
{
    struct work *work = calloc(count, sizeof(*work));

    for (unsigned i = 0; i < count; i++) {
        work[i].job.run = run_work;
        work[i].job.done = finish_work;
        work[i].workers = workers;
        work[i].input = i;
        work[i].done_count = done_count;
    }
    return work;
}

static void submit_all(struct vdisk_workers *workers, struct work *work, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        workers->ops->submit(workers, &work[i].job);
}

static void test_jobs_run_elsewhere_and_end_on_the_owners_thread(void **state)
{
    struct vdisk_workers *workers = open_pool(3);
    int done = 0;
    struct work *work = new_work(workers, 500, &done);

    (void)state;
    assert_int_equal(workers->ops->count(workers), 3);
    submit_all(workers, work, 500);
    assert_int_equal(done, 0);
    while (done < 500)
        assert_true(workers->ops->poll(workers, true) > 0);
    for (unsigned i = 0; i < 500; i++) {
        assert_int_equal(work[i].output, i * 3 + 1);
        assert_false(pthread_equal(work[i].runner, pthread_self()));
        assert_true(pthread_equal(work[i].finisher, pthread_self()));
    }
    assert_int_equal(workers->ops->poll(workers, true), 0);
    workers->ops->close(workers);
    free(work);
}

static void test_done_may_submit_again(void **state)
{
    struct vdisk_workers *workers = open_pool(2);
    int done = 0;
    struct work *work = new_work(workers, 4, &done);

    (void)state;
    for (unsigned i = 0; i < 4; i++)
        work[i].again = 500;
    submit_all(workers, work, 4);
    while (workers->ops->poll(workers, true) > 0)
        ;
    assert_int_equal(done, 4 * 501);
    workers->ops->close(workers);
    free(work);
}

static void test_poll_without_waiting_returns_at_once(void **state)
{
    struct vdisk_workers *workers = open_pool(1);
    int done = 0;
    atomic_int gate = 0;
    struct work *work = new_work(workers, 1, &done);

    (void)state;
    assert_int_equal(workers->ops->poll(workers, false), 0);
    work->gate = &gate;
    submit_all(workers, work, 1);
    assert_int_equal(workers->ops->poll(workers, false), 0);
    atomic_store(&gate, 1);
    while (workers->ops->poll(workers, false) == 0)
        ;
    assert_int_equal(done, 1);
    workers->ops->close(workers);
    free(work);
}

static void test_all_threads_work_at_once(void **state)
{
    struct vdisk_workers *workers = open_pool(4);
    int done = 0;
    atomic_int gate = 0, running = 0;
    struct work *work = new_work(workers, 4, &done);

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        work[i].gate = &gate;
        work[i].running = &running;
    }
    submit_all(workers, work, 4);
    while (atomic_load(&running) < 4) /* would hang if one thread slept on */
        ;
    atomic_store(&gate, 1);
    while (workers->ops->poll(workers, true) > 0)
        ;
    assert_int_equal(done, 4);
    workers->ops->close(workers);
    free(work);
}

static void test_sleeping_threads_are_woken(void **state)
{
    struct vdisk_workers *workers = open_pool(2);
    int done = 0;
    struct work *work = new_work(workers, 1, &done);
    struct timespec pause = {.tv_nsec = 2000000}; /* long past any spinning */

    (void)state;
    for (int i = 0; i < 50; i++) {
        nanosleep(&pause, NULL);
        work->busy_us = i % 2 ? 1000 : 0; /* the owner sleeps too, or does not */
        submit_all(workers, work, 1);
        assert_int_equal(workers->ops->poll(workers, true), 1);
    }
    assert_int_equal(done, 50);
    workers->ops->close(workers);
    free(work);
}

static void test_a_descriptor_tells_of_ended_jobs(void **state)
{
    struct vdisk_workers *workers = open_pool(2);
    int fd = vd_workers_fd(workers);
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    eventfd_t count;
    int done = 0;
    struct work *work = new_work(workers, 20, &done);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(vd_workers_fd(workers), fd);
    assert_int_equal(poll(&readable, 1, 0), 0);
    for (int round = 1; round <= 2000; round++) {
        submit_all(workers, work, 20);
        while (done < 20 * round) {
            assert_int_equal(poll(&readable, 1, 10000), 1);
            assert_int_equal(eventfd_read(fd, &count), 0);
            workers->ops->poll(workers, false);
        }
    }
    assert_int_equal(workers->ops->poll(workers, false), 0);
    workers->ops->close(workers);
    free(work);
}

static void wait_for_ended(struct vdisk_workers *workers)
{
    while (!vd_workers_have_ended(workers))
        usleep(100);
}

/* Whoever is awake need not be told, and who falls asleep misses nothing. */
static void test_nothing_is_told_to_who_looks(void **state)
{
    struct vdisk_workers *workers = open_pool(2);
    struct pollfd readable = {.fd = vd_workers_fd(workers), .events = POLLIN};
    eventfd_t count;
    int done = 0;
    struct work *work = new_work(workers, 1, &done);

    (void)state;
    assert_false(vd_workers_have_ended(workers));
    assert_false(vd_workers_tell(workers, false));
    submit_all(workers, work, 1);
    wait_for_ended(workers);
    assert_true(vd_workers_tell(workers, true)); /* it ended before */
    assert_int_equal(poll(&readable, 1, 0), 0);
    workers->ops->poll(workers, false);
    assert_false(vd_workers_have_ended(workers));
    assert_int_equal(done, 1);

    assert_false(vd_workers_tell(workers, true));
    submit_all(workers, work, 1);
    assert_int_equal(poll(&readable, 1, 10000), 1);
    assert_int_equal(eventfd_read(readable.fd, &count), 0);
    workers->ops->poll(workers, false);
    assert_int_equal(done, 2);
    workers->ops->close(workers);
    free(work);
}

static void test_workers_that_compute_are_a_crowd(void **state)
{
    struct vdisk_workers *workers = open_pool(VD_WORKERS_MAX);
    struct timespec pause = {.tv_nsec = 1000000};
    int done = 0;
    atomic_int gate = 0, running = 0;
    struct work *work = new_work(workers, VD_WORKERS_MAX, &done);

    (void)state;
    for (unsigned i = 0; vd_workers_are_crowded(workers) && i < 10000; i++)
        nanosleep(&pause, NULL); /* until they sleep */
    assert_false(vd_workers_are_crowded(workers));
    for (unsigned i = 0; i < VD_WORKERS_MAX; i++) {
        work[i].gate = &gate;
        work[i].running = &running;
    }
    submit_all(workers, work, VD_WORKERS_MAX);
    while (atomic_load(&running) < (int)VD_WORKERS_MAX)
        nanosleep(&pause, NULL);
    assert_true(vd_workers_are_crowded(workers));
    atomic_store(&gate, 1);
    while (workers->ops->poll(workers, true) > 0)
        ;
    workers->ops->close(workers);
    free(work);
}

static void test_workers_take_no_signals(void **state)
{
    struct vdisk_workers *workers;
    sigset_t before, after, usr1, pending;
    struct timespec pause = {.tv_nsec = 20000000};
    struct timespec now = {0};

    (void)state;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    workers = open_pool(2);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    assert_int_equal(sigismember(&after, SIGTERM), 0); /* ours is as it was */
    pthread_sigmask(SIG_BLOCK, &usr1, &before);
    kill(getpid(), SIGUSR1); /* its default would end the process if a worker took it */
    nanosleep(&pause, NULL);
    sigpending(&pending);
    assert_int_equal(sigismember(&pending, SIGUSR1), 1);
    assert_int_equal(sigtimedwait(&usr1, NULL, &now), SIGUSR1);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    workers->ops->close(workers);
}

static void test_the_number_of_threads_is_bounded(void **state)
{
    struct vdisk_workers *workers = NULL;

    (void)state;
    assert_int_equal(vd_workers_open(VD_WORKERS_MAX + 1, &workers), -EINVAL);
    assert_null(workers);
    workers = open_pool(0);
    assert_true(workers->ops->count(workers) >= 1);
    workers->ops->close(workers);
    workers = open_pool(VD_WORKERS_MAX);
    workers->ops->close(workers); /* idle ones end promptly */
}

/* Storage that is away for long must not keep others from computing. */
static void test_jobs_that_block_do_not_hold_others_up(void **state)
{
    struct vdisk_workers *workers;
    struct work slow[12], quick;
    atomic_int gate = 0;
    int done = 0;

    (void)state;
    assert_int_equal(vd_workers_open(1, &workers), 0);
    for (unsigned i = 0; i < 12; i++) {
        slow[i] = (struct work){
            .job = {.run = run_work, .done = finish_work, .blocks = true},
            .input = i,
            .done_count = &done,
            .gate = &gate,
        };
        workers->ops->submit(workers, &slow[i].job);
    }
    quick = (struct work){
        .job = {.run = run_work, .done = finish_work}, .input = 5, .done_count = &done};
    workers->ops->submit(workers, &quick.job);
    for (double end = micros() + 20e6; done == 0 && micros() < end;)
        workers->ops->poll(workers, false);
    atomic_store(&gate, 1);
    assert_int_equal(done, 1);
    assert_int_equal(quick.output, 16);
    while (done < 13)
        workers->ops->poll(workers, true);
    for (unsigned i = 0; i < 12; i++)
        assert_int_equal(slow[i].output, i * 3 + 1);
    workers->ops->close(workers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jobs_run_elsewhere_and_end_on_the_owners_thread),
        cmocka_unit_test(test_done_may_submit_again),
        cmocka_unit_test(test_poll_without_waiting_returns_at_once),
        cmocka_unit_test(test_all_threads_work_at_once),
        cmocka_unit_test(test_sleeping_threads_are_woken),
        cmocka_unit_test(test_a_descriptor_tells_of_ended_jobs),
        cmocka_unit_test(test_nothing_is_told_to_who_looks),
        cmocka_unit_test(test_workers_that_compute_are_a_crowd),
        cmocka_unit_test(test_workers_take_no_signals),
        cmocka_unit_test(test_the_number_of_threads_is_bounded),
        cmocka_unit_test(test_jobs_that_block_do_not_hold_others_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
