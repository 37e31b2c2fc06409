/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The token buckets (vdiskd/limit.c), with a clock of the test's own. Worth running under
 * ThreadSanitizer.
 */
#include "limit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MS     INT64_C(1000000)
#define SECOND INT64_C(1000000000)

/* A client that always has a next request, and a timer that comes late. */
struct client {
    struct limit_group *own, *shared;
    bool is_write, asked;
    uint64_t size, size_spread; /* bytes; sizes vary from size to size + size_spread */
    int64_t wake;               /* nanoseconds */
    int64_t late;               /* the timer comes up to this much later */
    uint64_t ops, bytes, next_size;
    unsigned seed;
};

static uint32_t random_word(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void pick_size(struct client *client)
{
    uint64_t spread = client->size_spread;

    client->next_size = client->size + (spread ? random_word(&client->seed) % spread : 0);
}

/* Everything that may pass now; then the timer is set. */
static void drain(struct client *client, int64_t now)
{
    int64_t wait;

    while ((wait = limit_take(client->own, client->shared, client->is_write, client->next_size, now,
                              client->asked)) == 0) {
        client->asked = false;
        client->ops++;
        client->bytes += client->next_size;
        pick_size(client);
    }
    assert_true(wait > 0);
    client->asked = true;
    client->wake =
        now + wait + (client->late ? random_word(&client->seed) % (uint64_t)client->late : 0);
}

static void run_clients(struct client **clients, unsigned count, int64_t from, int64_t to)
{
    for (unsigned i = 0; i < count; i++) {
        pick_size(clients[i]);
        clients[i]->wake = from;
    }
    for (;;) {
        struct client *next = clients[0];

        for (unsigned i = 1; i < count; i++) {
            if (clients[i]->wake < next->wake)
                next = clients[i];
        }
        if (next->wake >= to)
            return;
        drain(next, next->wake);
    }
}

static void run(struct client *client, int64_t from, int64_t to)
{
    run_clients(&client, 1, from, to);
}

static struct limit_group *group_of(enum limit_kind kind, uint64_t rate, uint64_t burst)
{
    struct limit_settings settings = {0};

    settings.kind[kind] = (struct limit_setting){rate, burst};
    struct limit_group *group = limit_group_new(&settings);
    assert_non_null(group);
    return group;
}

static void within(uint64_t have, uint64_t want, double share)
{
    double low = (double)want * (1 - share), high = (double)want * (1 + share);

    if ((double)have < low || (double)have > high)
        print_message("have %llu, want %llu\n", (unsigned long long)have, (unsigned long long)want);
    assert_true((double)have >= low && (double)have <= high);
}

/* Operations between two moments after the burst is gone. */
static uint64_t steady_ops(struct client *client, int64_t start, int64_t seconds)
{
    run(client, start, start + 5 * SECOND);
    uint64_t before = client->ops;
    run(client, client->wake, start + (5 + seconds) * SECOND);
    return client->ops - before;
}

static void test_operations_come_at_the_rate_that_is_set(void **state)
{
    static const uint64_t rates[] = {10, 50, 333, 1000, 7777, 50000};
    static const uint64_t bursts[] = {0, 1, 100};
    static const int64_t lates[] = {0, MS / 10, MS, 8 * MS};

    (void)state;
    for (unsigned r = 0; r < 6; r++) {
        for (unsigned b = 0; b < 3; b++) {
            for (unsigned l = 0; l < 4; l++) {
                struct limit_group *group = group_of(LIMIT_READ_OPS, rates[r], bursts[b]);
                struct client client = {.own = group, .size = 4096, .late = lates[l], .seed = r};

                within(steady_ops(&client, 77 * SECOND, 20), rates[r] * 20, 0.03);
                limit_group_free(group);
            }
        }
    }
}

static void test_bytes_come_at_the_rate_whatever_the_sizes(void **state)
{
    static const uint64_t sizes[][2] = {{512, 0}, {4096, 0}, {4096, 300000}, {2u << 20, 4u << 20}};
    static const uint64_t rates[] = {UINT64_C(1) << 20, UINT64_C(50) << 20, UINT64_C(1) << 30};

    (void)state;
    for (unsigned r = 0; r < 3; r++) {
        for (unsigned s = 0; s < 4; s++) {
            struct limit_group *group = group_of(LIMIT_WRITE_BYTES, rates[r], 0);
            struct client client = {.own = group,
                                    .is_write = true,
                                    .size = sizes[s][0],
                                    .size_spread = sizes[s][1],
                                    .late = 4 * MS};
            int64_t seconds = s == 3 && r == 0 ? 300 : 5;

            run(&client, 0, 2 * SECOND);
            uint64_t before = client.bytes;
            int64_t from = client.wake;
            run(&client, from, from + seconds * SECOND);
            within(client.bytes - before, rates[r] * (uint64_t)seconds, 0.03);
            limit_group_free(group);
        }
    }
}

static void test_the_tighter_of_two_limits_counts(void **state)
{
    struct limit_settings settings = {0};
    struct client client = {.size = 4096, .late = 3 * MS};

    (void)state;
    settings.kind[LIMIT_READ_OPS].rate = 1000;
    settings.kind[LIMIT_READ_BYTES] = (struct limit_setting){100 * 4096, 4096};
    client.own = limit_group_new(&settings);
    within(steady_ops(&client, 0, 30), 3000, 0.03);
    /* Waiting for one does not fill the other beyond its burst. */
    settings.kind[LIMIT_READ_BYTES].rate = 0;
    limit_group_set_at(client.own, &settings, client.wake);
    uint64_t before = client.ops;
    run(&client, client.wake, client.wake + MS);
    assert_in_range(client.ops - before, 100, 115); /* the timer was late, too */
    limit_group_free(client.own);
}

static void test_no_limit_is_no_wait(void **state)
{
    struct limit_settings none = {0};
    struct limit_group *group = limit_group_new(&none);

    (void)state;
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(limit_take(group, NULL, i & 1, UINT64_MAX, 5, false), 0);
        assert_int_equal(limit_take(NULL, NULL, i & 1, UINT64_MAX, 5, false), 0);
    }
    limit_group_free(group);
    group = group_of(LIMIT_READ_OPS, 1, 1); /* of reads only */
    for (int i = 0; i < 1000; i++)
        assert_int_equal(limit_take(group, NULL, true, 4096, 5, false), 0);
    limit_group_free(group);
    limit_group_free(NULL);
}

/* How many pass at one moment, by a client that has not waited. */
static uint64_t pass_at(struct limit_group *group, int64_t now)
{
    uint64_t count = 0;

    while (limit_take(group, NULL, false, 4096, now, false) == 0)
        count++;
    return count;
}

static void test_a_burst_passes_once_and_comes_back_at_the_rate(void **state)
{
    struct limit_group *group = group_of(LIMIT_READ_OPS, 100, 500);

    (void)state;
    assert_in_range(pass_at(group, SECOND), 500, 501);
    assert_int_equal(pass_at(group, SECOND), 0);
    assert_in_range(pass_at(group, 2 * SECOND), 99, 101);
    assert_in_range(pass_at(group, 4 * SECOND), 199, 201);
    assert_in_range(pass_at(group, 1000 * SECOND), 500, 501); /* and no more than it holds */
    limit_group_free(group);
    group = group_of(LIMIT_READ_OPS, 1000, 0);
    assert_in_range(pass_at(group, SECOND), 100, 101);
    limit_group_free(group);
}

static void test_a_request_larger_than_the_burst_passes_and_is_paid_for(void **state)
{
    struct limit_group *group = group_of(LIMIT_READ_BYTES, 1000, 10);

    (void)state;
    assert_int_equal(limit_take(group, NULL, false, 5010, SECOND, false), 0);
    int64_t wait = limit_take(group, NULL, false, 1, SECOND, false);
    within((uint64_t)wait, 5 * SECOND, 0.001);
    assert_true(limit_take(group, NULL, false, 1, SECOND + wait - 2, true) > 0);
    assert_int_equal(limit_take(group, NULL, false, 1, SECOND + wait, true), 0);
    limit_group_free(group);
}

static void test_a_process_that_was_stopped_does_not_make_up_for_it(void **state)
{
    struct limit_group *group = group_of(LIMIT_READ_OPS, 1000, 1);
    struct client client = {.own = group, .size = 1};

    (void)state;
    run(&client, 0, SECOND);
    uint64_t before = client.ops;
    run(&client, 3600 * SECOND, 3600 * SECOND + 1);
    assert_in_range(client.ops - before, 1, 110);
    limit_group_free(group);
}

static void test_a_change_counts_at_once_and_keeps_what_is_there(void **state)
{
    struct limit_settings settings = {0}, read_back;
    struct limit_group *group = group_of(LIMIT_READ_OPS, 1000, 100);
    struct client client = {.own = group, .size = 1, .late = MS};

    (void)state;
    run(&client, 0, SECOND); /* the burst is gone */
    settings.kind[LIMIT_READ_OPS] = (struct limit_setting){10000, 1000};
    limit_group_set_at(group, &settings, SECOND);
    limit_group_get(group, &read_back);
    assert_memory_equal(&settings, &read_back, sizeof(settings));
    assert_in_range(pass_at(group, SECOND + 1), 0, 2); /* no gift */
    client.ops = 0;
    run(&client, SECOND + 1, 3 * SECOND);
    within(client.ops, 20000, 0.03);
    settings.kind[LIMIT_READ_OPS] = (struct limit_setting){100, 10};
    limit_group_set_at(group, &settings, 3 * SECOND);
    client.ops = 0;
    run(&client, 3 * SECOND, 23 * SECOND);
    within(client.ops, 2000, 0.03);
    /* A full bucket of 10 becomes one of 5. */
    settings.kind[LIMIT_READ_OPS].burst = 5;
    limit_group_set_at(group, &settings, 60 * SECOND);
    assert_in_range(pass_at(group, 60 * SECOND), 5, 6);
    settings.kind[LIMIT_READ_OPS].rate = 0;
    limit_group_set_at(group, &settings, 60 * SECOND);
    assert_int_equal(limit_take(group, NULL, false, 1, 60 * SECOND, true), 0);
    limit_group_free(group);
}

static void test_a_bucket_of_10_that_is_set_again_is_not_refilled(void **state)
{
    struct limit_settings settings = {0};
    struct limit_group *group = group_of(LIMIT_READ_OPS, 10, 10);

    (void)state;
    limit_group_get(group, &settings);
    pass_at(group, SECOND);
    for (int i = 0; i < 100; i++) {
        settings.kind[LIMIT_READ_OPS].burst = 10 + (uint64_t)(i & 1);
        limit_group_set_at(group, &settings, SECOND);
        assert_in_range(pass_at(group, SECOND), 0, 1);
    }
    within((uint64_t)limit_take(group, NULL, false, 1, SECOND, true), SECOND / 10, 1.1);
    limit_group_free(group);
}

static void test_extreme_numbers_do_not_overflow(void **state)
{
    static const uint64_t numbers[] = {1, 2, 1000, UINT64_C(1) << 63, UINT64_MAX};
    static const int64_t times[] = {0, 1, SECOND, INT64_MAX / 2, INT64_MAX};

    (void)state;
    for (unsigned r = 0; r < 5; r++) {
        for (unsigned b = 0; b < 5; b++) {
            for (unsigned c = 0; c < 5; c++) {
                struct limit_group *group = group_of(LIMIT_READ_BYTES, numbers[r], numbers[b]);

                for (unsigned t = 0; t < 5; t++) {
                    for (int i = 0; i < 50; i++) {
                        int64_t wait = limit_take(group, NULL, false, numbers[c], times[t], i & 1);

                        assert_true(wait >= 0);
                    }
                }
                limit_group_free(group);
            }
        }
    }
    struct limit_group *group = group_of(LIMIT_READ_BYTES, UINT64_C(1) << 63, 0);
    for (int i = 0; i < 100000; i++)
        assert_int_equal(limit_take(group, NULL, false, 1 << 20, SECOND, false), 0);
    limit_group_free(group);
    group = group_of(LIMIT_READ_BYTES, 1, 1);
    assert_int_equal(limit_take(group, NULL, false, UINT64_MAX, SECOND, false), 0);
    assert_true(limit_take(group, NULL, false, 1, SECOND, false) > 3600 * SECOND);
    limit_group_free(group);
}

static void test_two_limiters_of_a_group_get_the_same_share(void **state)
{
    static const uint64_t rates[] = {10, 300, 50000};
    static const int64_t lates[] = {0, 6 * MS};
    struct limit_settings none = {0};

    (void)state;
    for (unsigned r = 0; r < 3; r++) {
        for (unsigned l = 0; l < 2; l++) {
            struct limit_group *shared = group_of(LIMIT_READ_OPS, rates[r], 0);
            struct client a = {.shared = shared, .size = 4096, .late = lates[l], .seed = 1};
            struct client b = {.shared = shared, .size = 65536, .late = lates[l], .seed = 2};
            struct client *clients[] = {&a, &b};

            a.own = limit_group_new(&none);
            b.own = limit_group_new(&none);
            run_clients(clients, 2, 0, 2 * SECOND);
            a.ops = b.ops = 0;
            run_clients(clients, 2, 2 * SECOND, 42 * SECOND);
            within(a.ops + b.ops, rates[r] * 40, 0.03);
            within(a.ops, rates[r] * 20, 0.05);
            within(b.ops, rates[r] * 20, 0.05);
            limit_group_free(a.own);
            limit_group_free(b.own);
            limit_group_free(shared);
        }
    }
}

static void test_who_is_held_back_by_its_own_limit_leaves_the_rest_to_others(void **state)
{
    struct limit_settings none = {0};
    struct limit_group *shared = group_of(LIMIT_READ_OPS, 1000, 0);
    struct client slow = {.shared = shared, .size = 4096, .late = 2 * MS, .seed = 1};
    struct client fast = {.shared = shared, .size = 4096, .late = 2 * MS, .seed = 2};
    struct client *clients[] = {&slow, &fast};

    (void)state;
    slow.own = group_of(LIMIT_READ_OPS, 50, 1);
    fast.own = limit_group_new(&none);
    run_clients(clients, 2, 0, SECOND);
    slow.ops = fast.ops = 0;
    run_clients(clients, 2, SECOND, 21 * SECOND);
    within(slow.ops, 1000, 0.05);
    within(slow.ops + fast.ops, 20000, 0.03);
    /* And one that has gone is not waited for. */
    fast.ops = 0;
    run(&fast, 21 * SECOND, 41 * SECOND);
    within(fast.ops, 20000, 0.03);
    limit_group_free(slow.own);
    limit_group_free(fast.own);
    limit_group_free(shared);
}

static void *take_on_a_thread(void *arg)
{
    struct client *client = arg;

    for (int64_t now = SECOND; now < 3 * SECOND; now += MS) {
        while (limit_take(NULL, client->shared, false, 4096, now, false) == 0)
            client->ops++;
    }
    return NULL;
}

static void test_threads_together_do_not_pass_the_limit(void **state)
{
    struct limit_group *shared = group_of(LIMIT_READ_OPS, 100000, 1000);
    struct client clients[4];
    pthread_t threads[4];
    uint64_t ops = 0;

    (void)state;
    memset(clients, 0, sizeof(clients));
    for (int i = 0; i < 4; i++) {
        clients[i].shared = shared;
        assert_int_equal(pthread_create(&threads[i], NULL, take_on_a_thread, &clients[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        ops += clients[i].ops;
    }
    /* 2 s, and the burst; each thread has a clock of its own, so the bucket sees them mixed. */
    assert_in_range(ops, 190000, 201100);
    limit_group_free(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operations_come_at_the_rate_that_is_set),
        cmocka_unit_test(test_bytes_come_at_the_rate_whatever_the_sizes),
        cmocka_unit_test(test_the_tighter_of_two_limits_counts),
        cmocka_unit_test(test_no_limit_is_no_wait),
        cmocka_unit_test(test_a_burst_passes_once_and_comes_back_at_the_rate),
        cmocka_unit_test(test_a_request_larger_than_the_burst_passes_and_is_paid_for),
        cmocka_unit_test(test_a_process_that_was_stopped_does_not_make_up_for_it),
        cmocka_unit_test(test_a_change_counts_at_once_and_keeps_what_is_there),
        cmocka_unit_test(test_a_bucket_of_10_that_is_set_again_is_not_refilled),
        cmocka_unit_test(test_extreme_numbers_do_not_overflow),
        cmocka_unit_test(test_two_limiters_of_a_group_get_the_same_share),
        cmocka_unit_test(test_who_is_held_back_by_its_own_limit_leaves_the_rest_to_others),
        cmocka_unit_test(test_threads_together_do_not_pass_the_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
