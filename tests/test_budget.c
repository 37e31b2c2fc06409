/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for clients' data (vdiskd/budget.c): who gets what, and in which order.
 */
#include "budget.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define MIB    (UINT64_C(1) << 20)
#define SECOND INT64_C(1000000000)
#define SHARES 4u

/* Four shares of 64 MiB, of one group: each may always have 8 MiB. */
struct scene {
    struct reactor *reactor;
    struct budget budget;
    struct budget_group group[2];
    struct budget_share share[SHARES];
    unsigned sent_away;
};

static struct scene scene;

static void send_away(struct budget_share *share)
{
    assert_true(share >= scene.share && share < scene.share + SHARES);
    scene.sent_away |= 1u << (share - scene.share);
    budget_end(share);
}

static int open_scene(bool are_two)
{
    scene = (struct scene){.sent_away = 0};
    if (reactor_new(NULL, &scene.reactor))
        return -1;
    budget_open(&scene.budget, scene.reactor, 64 * MIB);
    for (unsigned i = 0; i < SHARES; i++) {
        scene.share[i].send_away = send_away;
        budget_enter(&scene.budget, &scene.group[are_two && i >= 2], &scene.share[i]);
    }
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    return open_scene(false);
}

/* Shares 0 and 1 are of one group, 2 and 3 of another. */
static int set_up_two(void **state)
{
    (void)state;
    return open_scene(true);
}

static int tear_down(void **state)
{
    (void)state;
    for (unsigned i = 0; i < SHARES; i++) {
        budget_give(&scene.share[i], scene.share[i].held);
        budget_leave(&scene.share[i]);
    }
    assert_int_equal(scene.budget.used, 0);
    assert_int_equal(scene.budget.aside, 0);
    assert_int_equal(scene.budget.group_count, 0);
    budget_close(&scene.budget);
    reactor_free(scene.reactor);
    return 0;
}

struct asker {
    unsigned share;
    uint64_t bytes;
    bool is_over, has_it;
};

static void ask(void *arg)
{
    struct asker *asker = arg;

    asker->has_it = budget_take(&scene.share[asker->share], asker->bytes);
    asker->is_over = true;
}

static void turn(void)
{
    for (unsigned i = 0; i < 4; i++)
        reactor_step(scene.reactor, false);
}

/* Whether it got it at once. */
static bool begin(struct asker *asker, unsigned share, uint64_t bytes)
{
    *asker = (struct asker){.share = share, .bytes = bytes};
    assert_int_equal(task_spawn(scene.reactor, ask, asker), 0);
    turn();
    return asker->has_it;
}

static void give(unsigned share, uint64_t bytes)
{
    budget_give(&scene.share[share], bytes);
    turn();
}

static void test_one_gets_no_more_than_it_leaves(void **state)
{
    struct asker asker;

    (void)state;
    for (unsigned i = 0; i < 32; i++)
        assert_true(begin(&asker, 0, MIB));
    assert_false(begin(&asker, 0, MIB));
    give(0, 2 * MIB); /* of 33 that would be held, 33 would not be left */
    assert_true(asker.has_it);
}

static void test_a_part_is_everyones_whatever_others_hold(void **state)
{
    struct asker large, small;

    (void)state;
    assert_true(begin(&large, 0, 32 * MIB));
    assert_true(begin(&large, 1, 32 * MIB));
    for (unsigned i = 0; i < 8; i++) {
        assert_true(begin(&small, 2, MIB));
        assert_true(begin(&small, 3, MIB));
    }
    assert_false(begin(&small, 2, MIB));
    give(2, MIB);
    assert_true(small.has_it);
}

static void test_what_is_free_is_had_in_turn(void **state)
{
    struct asker first, second, third;

    (void)state;
    assert_true(begin(&first, 0, 32 * MIB));
    assert_true(begin(&first, 1, 24 * MIB));
    assert_false(begin(&first, 2, 16 * MIB));
    assert_false(begin(&second, 3, 8 * MIB + 1)); /* 8 MiB are free */
    give(1, 4 * MIB);                             /* enough for the second */
    assert_false(first.is_over || second.is_over);
    give(1, 4 * MIB);
    assert_true(first.has_it);
    assert_false(second.is_over);
    assert_true(begin(&third, 2, 0));
    give(0, 32 * MIB);
    assert_true(second.has_it);
}

static void test_who_holds_more_than_its_part_keeps_nobody_from_what_is_free(void **state)
{
    struct asker greedy, other;

    (void)state;
    assert_true(begin(&greedy, 0, 32 * MIB));
    assert_false(begin(&greedy, 0, 4 * MIB));
    assert_true(begin(&other, 1, 16 * MIB));
    assert_false(greedy.is_over);
    give(0, 32 * MIB);
    assert_true(greedy.has_it);
}

static void test_a_request_beyond_all_is_served_though_small_ones_go_on(void **state)
{
    struct asker large, small;

    (void)state;
    assert_true(begin(&small, 0, 8 * MIB));
    assert_true(begin(&small, 1, 8 * MIB));
    assert_true(begin(&small, 2, 30 * MIB));
    assert_false(begin(&large, 3, 100 * MIB));
    for (unsigned i = 0; i < 10; i++) {
        give(0, MIB);
        assert_true(begin(&small, 0, MIB));
    }
    assert_false(large.is_over);
    give(2, 14 * MIB);
    assert_true(large.has_it);
    assert_false(begin(&small, 2, 16 * MIB)); /* not another beside it */
    give(3, 100 * MIB);
    assert_true(small.has_it);
}

static void test_the_end_of_a_share_ends_its_wait(void **state)
{
    struct asker first, second;

    (void)state;
    assert_true(begin(&first, 0, 32 * MIB));
    assert_true(begin(&first, 1, 32 * MIB));
    assert_false(begin(&first, 2, 16 * MIB));
    assert_false(begin(&second, 3, 10 * MIB));
    budget_end(&scene.share[2]);
    turn();
    assert_true(first.is_over && !first.has_it);
    assert_false(second.is_over);
    assert_false(begin(&first, 2, 16 * MIB));
    assert_true(first.is_over);
    give(0, 32 * MIB);
    assert_true(second.has_it);
}

static void wait_for(const struct asker *asker)
{
    int64_t began = reactor_now();

    while (!asker->is_over) {
        reactor_step(scene.reactor, true);
        assert_true(reactor_now() - began < 60 * SECOND);
    }
}

static void test_who_owes_is_sent_away_only_when_others_wait(void **state)
{
    struct asker first, second;
    int64_t began;

    (void)state;
    /* Nobody waits but who holds most of it. */
    budget_owe(&scene.share[0].to_take, MIB);
    assert_true(begin(&first, 0, 32 * MIB));
    assert_false(begin(&first, 0, 32 * MIB));
    for (began = reactor_now(); reactor_now() - began < 15 * SECOND;)
        reactor_step(scene.reactor, true);
    assert_int_equal(scene.sent_away, 0);
    /* One does, and another has done its part. */
    budget_owe(&scene.share[1].to_send, MIB);
    budget_owe(&scene.share[1].to_send, 0);
    assert_true(begin(&second, 1, 32 * MIB));
    assert_false(begin(&second, 2, 16 * MIB));
    began = reactor_now();
    wait_for(&first);
    assert_in_range(reactor_now() - began, 10 * SECOND, 16 * SECOND);
    assert_int_equal(scene.sent_away, 1u << 0);
    assert_false(first.has_it || second.is_over);
    give(0, 32 * MIB);
    assert_true(second.has_it);
}

/* ---- groups ---- */

static void group_waits(unsigned group, bool waits)
{
    budget_group_waits(&scene.budget, &scene.group[group], waits);
    turn();
}

static void test_what_a_group_that_waits_holds_is_not_counted(void **state)
{
    struct asker asker, other;

    (void)state;
    assert_true(begin(&asker, 0, 32 * MIB));
    assert_true(begin(&asker, 1, 32 * MIB));
    assert_false(begin(&other, 2, 32 * MIB));
    group_waits(0, true);
    assert_true(other.has_it);
    assert_true(begin(&other, 3, 32 * MIB));
    assert_int_equal(scene.budget.used, 64 * MIB);
    give(0, 32 * MIB); /* of what is aside */
    assert_int_equal(scene.budget.used, 64 * MIB);
    assert_int_equal(scene.budget.aside, 32 * MIB);
    group_waits(0, false);
    assert_int_equal(scene.budget.used, 96 * MIB);
    assert_false(begin(&asker, 0, 16 * MIB));
    give(2, 32 * MIB);
    assert_false(asker.is_over);
    give(1, 32 * MIB);
    assert_true(asker.has_it);
}

static void test_a_group_that_waits_gets_a_little_and_keeps_nobody_behind_it(void **state)
{
    struct asker asker, waits, other;

    (void)state;
    group_waits(0, true);
    assert_true(begin(&asker, 0, 16 * MIB)); /* 64 MiB / 2, of two groups */
    assert_false(begin(&waits, 1, 9 * MIB)); /* its part is 8 MiB */
    assert_true(begin(&other, 2, 32 * MIB));
    assert_false(waits.is_over);
    give(0, 16 * MIB);
    assert_true(waits.has_it);
    give(1, 9 * MIB);
    assert_true(begin(&asker, 0, 30 * MIB)); /* one request, however long */
    assert_false(begin(&waits, 1, 9 * MIB));
    group_waits(0, false);
    assert_false(waits.is_over); /* 2 MiB are free */
    give(2, 32 * MIB);
    assert_true(waits.has_it);
}

static void test_no_more_than_the_budget_is_aside(void **state)
{
    struct asker asker, other;

    (void)state;
    assert_true(begin(&asker, 0, 32 * MIB));
    assert_true(begin(&asker, 1, 32 * MIB));
    group_waits(0, true);
    assert_true(begin(&asker, 2, 32 * MIB));
    group_waits(1, true);
    assert_int_equal(scene.budget.aside, 64 * MIB);
    assert_int_equal(scene.budget.used, 32 * MIB);
    assert_false(begin(&other, 3, 32 * MIB));
    group_waits(1, false);
    assert_true(other.has_it);
    assert_int_equal(scene.budget.used, 64 * MIB);
}

static void test_a_group_of_which_nothing_comes_back_for_seconds_waits(void **state)
{
    struct asker asker, other;
    int64_t began = reactor_now();

    (void)state;
    assert_true(begin(&asker, 0, 32 * MIB));
    assert_true(begin(&asker, 1, 32 * MIB));
    assert_false(begin(&other, 2, 32 * MIB));
    wait_for(&other);
    assert_true(other.has_it);
    assert_in_range(reactor_now() - began, 2 * SECOND, 8 * SECOND);
    give(0, 32 * MIB);
    assert_true(scene.group[0].hangs);
    give(1, 32 * MIB);
    assert_false(scene.group[0].hangs);
    assert_int_equal(scene.budget.used, 32 * MIB);
}

int main(void)
{
#define TEST_OF_TWO(name) cmocka_unit_test_setup_teardown(name, set_up_two, tear_down)
#define TEST(name)        cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_one_gets_no_more_than_it_leaves),
        TEST(test_a_part_is_everyones_whatever_others_hold),
        TEST(test_what_is_free_is_had_in_turn),
        TEST(test_who_holds_more_than_its_part_keeps_nobody_from_what_is_free),
        TEST(test_a_request_beyond_all_is_served_though_small_ones_go_on),
        TEST(test_the_end_of_a_share_ends_its_wait),
        TEST(test_who_owes_is_sent_away_only_when_others_wait),
        TEST_OF_TWO(test_what_a_group_that_waits_holds_is_not_counted),
        TEST_OF_TWO(test_a_group_that_waits_gets_a_little_and_keeps_nobody_behind_it),
        TEST_OF_TWO(test_no_more_than_the_budget_is_aside),
        TEST_OF_TWO(test_a_group_of_which_nothing_comes_back_for_seconds_waits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
