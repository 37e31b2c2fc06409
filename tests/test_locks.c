/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The readers-writer lock and the range lock (libvdisk/locks.c).
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

#include <string.h>

enum {
    MAX_ACTORS = 64,
    UNITS = 40
};

struct fixture;

/* A coroutine that takes a lock, notes its letter, and keeps it until told to go on. */
struct actor {
    struct fixture *f;
    bool exclusive;
    uint64_t first, last;
    struct vd_range range;
    struct vd_waitqueue go;
    uint64_t ticket; /* order of arrival, random runs; 0: neither waits nor holds */
};

struct fixture {
    struct fake_io fake;
    struct vd_loop loop;
    struct vd_rwlock rwlock;
    struct vd_range_lock range_lock;
    struct actor actors[MAX_ACTORS];
    char log[MAX_ACTORS + 1]; /* letters of the actors in the order in which they got the lock */
    size_t log_length;
    /* random runs */
    unsigned operations_left, finished;
    unsigned readers[UNITS], writers[UNITS];
    uint64_t tickets;
    const char *wrong;
};

static int setup(void **state)
{
    static struct fixture fixture;
    fixture = (struct fixture){0};
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

static void run(struct fixture *f)
{
    while (vd_loop_step(&f->loop, true))
        ;
}

static void got_it(struct actor *a)
{
    a->f->log[a->f->log_length++] = (char)('a' + (a - a->f->actors));
    vd_wait(&a->f->loop, &a->go);
}

static void hold_rwlock(void *arg)
{
    struct actor *a = arg;
    if (a->exclusive)
        vd_lock_exclusive(&a->f->loop, &a->f->rwlock);
    else
        vd_lock_shared(&a->f->loop, &a->f->rwlock);
    got_it(a);
    if (a->exclusive)
        vd_unlock_exclusive(&a->f->loop, &a->f->rwlock);
    else
        vd_unlock_shared(&a->f->loop, &a->f->rwlock);
}

static void hold_range(void *arg)
{
    struct actor *a = arg;
    struct fixture *f = a->f;
    vd_range_lock(&f->loop, &f->range_lock, &a->range, a->first, a->last, a->exclusive);
    got_it(a);
    vd_range_unlock(&f->loop, &f->range_lock, &a->range);
}

static void arrive(struct fixture *f, char letter, bool exclusive)
{
    struct actor *a = &f->actors[letter - 'a'];
    *a = (struct actor){.f = f, .exclusive = exclusive};
    assert_int_equal(vd_loop_spawn(&f->loop, hold_rwlock, a), 0);
    run(f);
}

static void arrive_range(struct fixture *f, char letter, uint64_t first, uint64_t last,
                         bool exclusive)
{
    struct actor *a = &f->actors[letter - 'a'];
    *a = (struct actor){.f = f, .exclusive = exclusive, .first = first, .last = last};
    assert_int_equal(vd_loop_spawn(&f->loop, hold_range, a), 0);
    run(f);
}

/* The holder unlocks. */
static void leave(struct fixture *f, char letter)
{
    assert_non_null(f->actors[letter - 'a'].go.head);
    vd_wake_one(&f->loop, &f->actors[letter - 'a'].go);
    run(f);
}

static void all_leave(struct fixture *f)
{
    for (size_t i = 0; f->loop.coroutines && i < f->log_length; i++)
        if (f->actors[f->log[i] - 'a'].go.head)
            leave(f, f->log[i]);
    assert_int_equal(f->loop.coroutines, 0);
}

enum {
    SHARED = false,
    EXCLUSIVE = true
};

static void shared_holders_coexist_and_an_exclusive_one_is_alone(void **state)
{
    struct fixture *f = *state;

    arrive(f, 'a', SHARED);
    arrive(f, 'b', SHARED);
    arrive(f, 'c', EXCLUSIVE);
    assert_string_equal(f->log, "ab");
    leave(f, 'a');
    assert_string_equal(f->log, "ab");
    leave(f, 'b');
    assert_string_equal(f->log, "abc");
    arrive(f, 'd', EXCLUSIVE);
    arrive(f, 'e', SHARED);
    assert_string_equal(f->log, "abc");
    leave(f, 'c');
    assert_string_equal(f->log, "abcd");
    leave(f, 'd');
    assert_string_equal(f->log, "abcde");
    all_leave(f);
}

static void readers_that_keep_coming_do_not_starve_a_writer(void **state)
{
    struct fixture *f = *state;

    arrive(f, 'a', SHARED);
    arrive(f, 'b', EXCLUSIVE);
    arrive(f, 'c', SHARED);
    arrive(f, 'd', SHARED);
    assert_string_equal(f->log, "a"); /* c and d could share with a, but b was first */
    leave(f, 'a');
    assert_string_equal(f->log, "ab");
    arrive(f, 'e', SHARED);
    leave(f, 'b');
    assert_string_equal(f->log, "abcde");
    all_leave(f);
}

static void writers_that_keep_coming_do_not_starve_a_reader(void **state)
{
    struct fixture *f = *state;

    arrive(f, 'a', EXCLUSIVE);
    arrive(f, 'b', EXCLUSIVE);
    arrive(f, 'c', SHARED);
    arrive(f, 'd', EXCLUSIVE);
    arrive(f, 'e', SHARED);
    leave(f, 'a');
    assert_string_equal(f->log, "ab");
    leave(f, 'b');
    assert_string_equal(f->log, "abc");
    leave(f, 'c');
    assert_string_equal(f->log, "abcd");
    leave(f, 'd');
    assert_string_equal(f->log, "abcde");
    all_leave(f);
}

static void nobody_slips_in_between_the_hand_over_and_the_wake_up(void **state)
{
    struct fixture *f = *state;

    arrive(f, 'a', EXCLUSIVE);
    arrive(f, 'b', EXCLUSIVE);
    /* In one step: a unlocks (b is woken for the next), then c tries. */
    f->actors[2] = (struct actor){.f = f, .exclusive = true};
    vd_wake_one(&f->loop, &f->actors[0].go);
    assert_int_equal(vd_loop_spawn(&f->loop, hold_rwlock, &f->actors[2]), 0);
    run(f);
    assert_string_equal(f->log, "ab");
    leave(f, 'b');
    assert_string_equal(f->log, "abc");
    all_leave(f);
}

static void pause_randomly(struct fixture *f)
{
    for (uint64_t n = sim_rng_below(&f->fake.rng, 4); n > 0; n--)
        vd_io(&f->loop, VDISK_IO_READ, 0, NULL, 4096);
}

/* Enters or leaves the units first ... last of the model; notes what a lock must prevent. */
static void enter(struct fixture *f, uint64_t first, uint64_t last, bool exclusive)
{
    for (uint64_t i = first; i <= last; i++) {
        if (f->writers[i] || (exclusive && f->readers[i]))
            f->wrong = "two that exclude each other were inside";
        if (exclusive)
            f->writers[i]++;
        else
            f->readers[i]++;
    }
}

static void exit_from(struct fixture *f, uint64_t first, uint64_t last, bool exclusive)
{
    for (uint64_t i = first; i <= last; i++) {
        if (exclusive)
            f->writers[i]--;
        else
            f->readers[i]--;
    }
}

/* Two shared holders may run in either order; nobody may run before an earlier one that he
 * excludes has left. */
static void check_not_overtaking(struct actor *a)
{
    for (int i = 0; i < MAX_ACTORS; i++) {
        const struct actor *other = &a->f->actors[i];
        if (other->ticket && other->ticket < a->ticket && (other->exclusive || a->exclusive))
            a->f->wrong = "overtook an earlier one";
    }
}

static void random_rwlock_user(void *arg)
{
    struct actor *a = arg;
    struct fixture *f = a->f;

    while (f->operations_left > 0) {
        f->operations_left--;
        a->exclusive = sim_rng_chance(&f->fake.rng, 1, 4);
        a->ticket = ++f->tickets;
        if (a->exclusive)
            vd_lock_exclusive(&f->loop, &f->rwlock);
        else
            vd_lock_shared(&f->loop, &f->rwlock);
        check_not_overtaking(a);
        enter(f, 0, 0, a->exclusive);
        pause_randomly(f);
        exit_from(f, 0, 0, a->exclusive);
        a->ticket = 0;
        if (a->exclusive)
            vd_unlock_exclusive(&f->loop, &f->rwlock);
        else
            vd_unlock_shared(&f->loop, &f->rwlock);
        f->finished++;
        pause_randomly(f);
    }
}

static void ten_thousand_random_rwlock_operations_exclude_and_never_overtake(void **state)
{
    struct fixture *f = *state;

    f->operations_left = 10000;
    for (int i = 0; i < 20; i++) {
        f->actors[i].f = f;
        assert_int_equal(vd_loop_spawn(&f->loop, random_rwlock_user, &f->actors[i]), 0);
    }
    run(f);
    assert_null(f->wrong);
    assert_int_equal(f->finished, 10000);
    assert_int_equal(f->loop.coroutines, 0);
    assert_false(f->rwlock.exclusive);
    assert_int_equal(f->rwlock.shared, 0);
    assert_null(f->rwlock.head);
}

static void ranges_that_do_not_overlap_do_not_wait(void **state)
{
    struct fixture *f = *state;

    arrive_range(f, 'a', 0, 9, EXCLUSIVE);
    arrive_range(f, 'b', 10, 19, EXCLUSIVE);
    arrive_range(f, 'c', 20, 20, SHARED);
    assert_string_equal(f->log, "abc");
    all_leave(f);
    assert_null(f->range_lock.head);
    assert_null(f->range_lock.tail);
}

static void overlapping_shared_ranges_coexist(void **state)
{
    struct fixture *f = *state;

    arrive_range(f, 'a', 0, 9, SHARED);
    arrive_range(f, 'b', 5, 14, SHARED);
    arrive_range(f, 'c', 9, 9, EXCLUSIVE);
    assert_string_equal(f->log, "ab");
    leave(f, 'b');
    assert_string_equal(f->log, "ab");
    leave(f, 'a');
    assert_string_equal(f->log, "abc");
    all_leave(f);
}

static void a_range_waits_behind_an_earlier_waiter_that_it_overlaps(void **state)
{
    struct fixture *f = *state;

    arrive_range(f, 'a', 0, 9, EXCLUSIVE);
    arrive_range(f, 'b', 5, 14, EXCLUSIVE);  /* waits for a */
    arrive_range(f, 'c', 10, 19, EXCLUSIVE); /* free of a, but b was first */
    arrive_range(f, 'd', 15, 30, SHARED);    /* behind c */
    arrive_range(f, 'e', 20, 30, SHARED);    /* shares with d, which waits: no conflict */
    assert_string_equal(f->log, "ae");
    leave(f, 'a');
    assert_string_equal(f->log, "aeb");
    leave(f, 'b');
    assert_string_equal(f->log, "aebc");
    leave(f, 'c');
    assert_string_equal(f->log, "aebcd");
    all_leave(f);
}

static void an_unlock_wakes_exactly_those_that_no_longer_conflict(void **state)
{
    struct fixture *f = *state;

    arrive_range(f, 'a', 0, 9, EXCLUSIVE);
    arrive_range(f, 'b', 20, 29, EXCLUSIVE);
    arrive_range(f, 'c', 5, 24, SHARED); /* waits for both */
    arrive_range(f, 'd', 0, 4, SHARED);  /* waits for a only */
    arrive_range(f, 'e', 2, 3, SHARED);  /* waits for a only */
    assert_string_equal(f->log, "ab");
    leave(f, 'a');
    assert_string_equal(f->log, "abde");
    leave(f, 'b');
    assert_string_equal(f->log, "abdec");
    all_leave(f);
}

static void a_holder_that_leaves_from_the_middle_unblocks_only_its_own(void **state)
{
    struct fixture *f = *state;

    arrive_range(f, 'a', 0, 9, SHARED);
    arrive_range(f, 'b', 0, 9, SHARED);
    arrive_range(f, 'c', 0, 9, EXCLUSIVE);
    arrive_range(f, 'd', 0, 9, SHARED); /* would share with a, but c was first */
    leave(f, 'b');
    assert_string_equal(f->log, "ab");
    leave(f, 'a');
    assert_string_equal(f->log, "abc");
    leave(f, 'c');
    assert_string_equal(f->log, "abcd");
    all_leave(f);
}

static void a_range_may_reach_the_end_of_the_axis(void **state)
{
    struct fixture *f = *state;

    arrive_range(f, 'a', 0, UINT64_MAX, EXCLUSIVE);
    arrive_range(f, 'b', UINT64_MAX, UINT64_MAX, SHARED);
    arrive_range(f, 'c', 0, 0, EXCLUSIVE);
    assert_string_equal(f->log, "a");
    leave(f, 'a');
    assert_string_equal(f->log, "abc");
    all_leave(f);
}

static void random_range_user(void *arg)
{
    struct fixture *f = arg;

    while (f->operations_left > 0) {
        struct sim_rng *rng = &f->fake.rng;
        uint64_t first = sim_rng_below(rng, UNITS);
        uint64_t last = first + sim_rng_below(rng, UNITS - first < 12 ? UNITS - first : 12);
        bool exclusive = sim_rng_chance(rng, 1, 2);
        struct vd_range range;

        f->operations_left--;
        vd_range_lock(&f->loop, &f->range_lock, &range, first, last, exclusive);
        enter(f, first, last, exclusive);
        pause_randomly(f);
        exit_from(f, first, last, exclusive);
        vd_range_unlock(&f->loop, &f->range_lock, &range);
        memset(&range, 0xee, sizeof range); /* it is ours again */
        f->finished++;
        if (sim_rng_chance(rng, 1, 2))
            pause_randomly(f);
    }
}

/* Held exactly when nothing earlier conflicts: nobody is overtaken, nobody waits needlessly. */
static void check_range_lock(struct fixture *f)
{
    const struct vd_range *before = NULL;
    for (const struct vd_range *r = f->range_lock.head; r; before = r, r = r->next) {
        bool conflict = false;
        for (const struct vd_range *e = f->range_lock.head; e != r; e = e->next)
            conflict |=
                e->first <= r->last && r->first <= e->last && (e->exclusive || r->exclusive);
        assert_int_equal(r->granted, !conflict);
        assert_ptr_equal(r->prev, before);
    }
    assert_ptr_equal(f->range_lock.tail, before);
}

static void ten_thousand_random_range_operations_exclude_and_never_deadlock(void **state)
{
    struct fixture *f = *state;

    f->operations_left = 10000;
    for (int i = 0; i < 30; i++)
        assert_int_equal(vd_loop_spawn(&f->loop, random_range_user, f), 0);
    while (vd_loop_step(&f->loop, true)) {
        assert_null(f->wrong);
        check_range_lock(f);
    }
    assert_int_equal(f->finished, 10000);
    assert_int_equal(f->loop.coroutines, 0);
    assert_null(f->range_lock.head);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(shared_holders_coexist_and_an_exclusive_one_is_alone),
        TEST(readers_that_keep_coming_do_not_starve_a_writer),
        TEST(writers_that_keep_coming_do_not_starve_a_reader),
        TEST(nobody_slips_in_between_the_hand_over_and_the_wake_up),
        TEST(ten_thousand_random_rwlock_operations_exclude_and_never_overtake),
        TEST(ranges_that_do_not_overlap_do_not_wait),
        TEST(overlapping_shared_ranges_coexist),
        TEST(a_range_waits_behind_an_earlier_waiter_that_it_overlaps),
        TEST(an_unlock_wakes_exactly_those_that_no_longer_conflict),
        TEST(a_holder_that_leaves_from_the_middle_unblocks_only_its_own),
        TEST(a_range_may_reach_the_end_of_the_axis),
        TEST(ten_thousand_random_range_operations_exclude_and_never_deadlock),
    };
    return cmocka_run_group_tests_name("locks", tests, NULL, NULL);
}
