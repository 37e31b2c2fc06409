/* SPDX-License-Identifier: Apache-2.0 */
/* Who reads in order has it read ahead, and never gets what was there before a change. */
#include "read_ahead.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB  ((uint64_t)1 << 20)
#define SIZE (32 * MIB + 512)
#define STEP (READ_AHEAD_BYTES / 4)

/* A drive whose bytes all have one value, which a change steps. */
static struct drive {
    struct read_ahead *ahead;
    atomic_uchar value;
    bool fails;
    struct begun {
        bool is;
        uint64_t offset, length;
    } piece[READ_AHEAD_PIECES];
    unsigned begun;
} drive;

/* It has its place among the changes: what is there now is what it will have. */
static void begin(void *opaque, unsigned piece, uint64_t offset, void *data, uint64_t length)
{
    assert_ptr_equal(opaque, &drive);
    assert_true(piece < READ_AHEAD_PIECES && !drive.piece[piece].is);
    assert_true(length > 0 && length <= READ_AHEAD_BYTES);
    assert_true(offset < SIZE && length <= SIZE - offset);
    drive.piece[piece] = (struct begun){.is = true, .offset = offset, .length = length};
    drive.begun++;
    memset(data, drive.value, length);
}

static void finish_all(void)
{
    for (unsigned i = 0; i < READ_AHEAD_PIECES; i++) {
        if (drive.piece[i].is) {
            drive.piece[i].is = false;
            read_ahead_over(drive.ahead, i, drive.fails);
        }
    }
}

static void step_value(void *opaque)
{
    (void)opaque;
    atomic_fetch_add(&drive.value, 1);
}

static void change(uint64_t offset, uint64_t length)
{
    read_ahead_change(drive.ahead, offset, length, step_value, NULL);
}

/* How much of it there was; all of that has the value. */
static uint64_t take(uint64_t offset, uint64_t length)
{
    uint8_t *data = malloc(length);
    uint64_t got;

    assert_non_null(data);
    got = read_ahead_take(drive.ahead, offset, data, length);
    assert_true(got <= length);
    for (uint64_t i = 0; i < got; i++)
        assert_int_equal(data[i], drive.value);
    free(data);
    return got;
}

static int set_up(void **state)
{
    (void)state;
    memset(&drive, 0, sizeof(drive));
    drive.ahead = read_ahead_new(SIZE, begin, &drive);
    return drive.ahead ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    finish_all();
    read_ahead_free(drive.ahead);
    return 0;
}

/* From `offset` on, until it is read ahead. */
static uint64_t begin_a_run(uint64_t offset)
{
    unsigned before = drive.begun;

    while (drive.begun == before) {
        assert_int_equal(take(offset, STEP), 0);
        offset += STEP;
    }
    finish_all();
    return offset;
}

static void all_of_a_long_run_is_read_ahead(void **state)
{
    uint64_t at = begin_a_run(0);

    (void)state;
    assert_true(at <= MIB);
    for (; at < SIZE; at += STEP) {
        uint64_t length = STEP < SIZE - at ? STEP : SIZE - at;

        assert_int_equal(take(at, length), length);
        finish_all();
    }
    assert_true(drive.begun <= SIZE / READ_AHEAD_BYTES + 2);
}

static void four_runs_do_not_disturb_each_other(void **state)
{
    uint64_t at[4];

    (void)state;
    for (unsigned i = 0; i < 4; i++)
        at[i] = begin_a_run(i * 8 * MIB);
    for (unsigned step = 0; step < 20; step++) {
        for (unsigned i = 0; i < 4; i++) {
            assert_int_equal(take(at[i], STEP), STEP);
            at[i] += STEP;
            finish_all();
        }
    }
}

static void pieces_of_a_run_that_was_left_are_used_again(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 200; i++) {
        (void)begin_a_run(i % 5 * 6 * MIB);
        change(0, SIZE);
    }
}

static void nothing_is_read_ahead_of_who_does_not_read_in_order(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 2000; i++)
        assert_int_equal(take((i * 7919 % 8191) * 4096 / 2, 4096), 0);
    for (uint64_t i = 0; i < 31; i++) /* large, each by itself */
        assert_int_equal(take((30 - i) * MIB, MIB), 0);
    for (uint64_t i = 0; i < 50; i++) { /* a few blocks in a row */
        for (uint64_t j = 0; j < 4; j++)
            assert_int_equal(take((i * 17 % 50) * (MIB / 2) + j * 4096, 4096), 0);
    }
    assert_int_equal(drive.begun, 0);
}

static void what_was_changed_is_not_handed_out(void **state)
{
    uint64_t at = begin_a_run(0);

    (void)state;
    change(at + 100, 1); /* in a piece */
    assert_int_equal(take(at, 512), 0);
    at = begin_a_run(8 * MIB);
    change(0, SIZE);
    for (uint64_t offset = at + 4 * MIB; offset > at; offset -= MIB)
        assert_int_equal(take(offset - MIB, MIB), 0);
}

static atomic_bool taken;

static void *take_there(void *at)
{
    uint64_t got = take(*(uint64_t *)at, 512);

    taken = true;
    return (void *)(uintptr_t)got;
}

static void what_is_changed_while_it_is_read_is_not_waited_for(void **state)
{
    pthread_t other;
    uint64_t at = 0;
    void *got;

    (void)state;
    for (; !drive.begun; at += STEP)
        assert_int_equal(take(at, STEP), 0);
    change(at, 1);
    taken = false;
    assert_int_equal(pthread_create(&other, NULL, take_there, &at), 0);
    for (unsigned i = 0; i < 1000 && !taken; i++)
        usleep(10000);
    finish_all();
    pthread_join(other, &got);
    assert_null(got);
    assert_int_equal(take(at, 512), 0);
}

static void a_change_beside_it_disturbs_nothing(void **state)
{
    uint64_t at = begin_a_run(4 * MIB), end = 0;

    (void)state;
    for (unsigned i = 0; i < READ_AHEAD_PIECES; i++) {
        const struct begun *piece = &drive.piece[i];

        if (piece->offset + piece->length > end)
            end = piece->offset + piece->length;
    }
    change(end, 512);
    change(at - 512, 512);
    atomic_fetch_sub(&drive.value, 2);
    assert_int_equal(take(at, end - at), end - at);
}

static void what_failed_is_left_to_who_asks(void **state)
{
    uint64_t at;

    (void)state;
    drive.fails = true;
    at = begin_a_run(0);
    for (unsigned i = 0; i < 40; i++, at += STEP) {
        finish_all();
        assert_int_equal(take(at, STEP), 0);
    }
    drive.fails = false;
    at = begin_a_run(20 * MIB);
    assert_int_equal(take(at, STEP), STEP);
}

/* ---- threads ---- */

static atomic_bool stopped;
static pthread_mutex_t pieces = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t some = PTHREAD_COND_INITIALIZER;
static unsigned queue[READ_AHEAD_PIECES], queued;

/* As begin(), but over later. */
static void begin_apart(void *opaque, unsigned piece, uint64_t offset, void *data, uint64_t length)
{
    (void)opaque, (void)offset;
    memset(data, drive.value, length);
    pthread_mutex_lock(&pieces);
    queue[queued++] = piece;
    pthread_cond_signal(&some);
    pthread_mutex_unlock(&pieces);
}

static void *finish_pieces(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&pieces);
    while (!stopped || queued) {
        unsigned piece;

        if (!queued) {
            pthread_cond_wait(&some, &pieces);
            continue;
        }
        piece = queue[--queued];
        pthread_mutex_unlock(&pieces);
        read_ahead_over(drive.ahead, piece, piece % 7 == 3);
        pthread_mutex_lock(&pieces);
    }
    pthread_mutex_unlock(&pieces);
    return NULL;
}

static void nothing(void *opaque)
{
    (void)opaque;
}

static void *change_on(void *arg)
{
    uint64_t at = 0;

    (void)arg;
    while (!stopped && drive.value < 250) {
        change(0, SIZE);
        for (unsigned i = 0; i < 2000 && !stopped; i++) /* beside */
            read_ahead_change(drive.ahead, SIZE + at++ % MIB, 1, nothing, NULL);
    }
    return NULL;
}

/* Values only rise: none that was there before a read began may come out of it. */
static void *read_on(void *arg)
{
    uint64_t start = (uintptr_t)arg * 7 * MIB;
    uint8_t *data = malloc(STEP);
    unsigned long got = 0;

    for (unsigned round = 0; round < 40; round++) {
        for (uint64_t at = start; at < start + 8 * MIB; at += STEP) {
            uint8_t least = drive.value;
            uint64_t part = read_ahead_take(drive.ahead, at, data, STEP);

            for (uint64_t i = 0; i < part; i += 509)
                assert_true(data[i] >= least);
            got += part;
        }
    }
    free(data);
    return (void *)got;
}

static void threads_get_nothing_old(void **state)
{
    pthread_t finisher, changer, reader[4];
    unsigned long got = 0;

    (void)state;
    read_ahead_free(drive.ahead);
    drive.ahead = read_ahead_new(SIZE, begin_apart, &drive);
    assert_non_null(drive.ahead);
    assert_int_equal(pthread_create(&finisher, NULL, finish_pieces, NULL), 0);
    assert_int_equal(pthread_create(&changer, NULL, change_on, NULL), 0);
    for (uintptr_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&reader[i], NULL, read_on, (void *)i), 0);
    for (unsigned i = 0; i < 4; i++) {
        void *part;

        pthread_join(reader[i], &part);
        got += (unsigned long)part;
    }
    assert_true(got > 0);
    pthread_mutex_lock(&pieces);
    stopped = true;
    pthread_cond_signal(&some);
    pthread_mutex_unlock(&pieces);
    pthread_join(changer, NULL);
    read_ahead_free(drive.ahead); /* while some may be under way */
    drive.ahead = NULL;
    pthread_join(finisher, NULL);
}

int main(void)
{
#define EACH(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        EACH(all_of_a_long_run_is_read_ahead),
        EACH(four_runs_do_not_disturb_each_other),
        EACH(pieces_of_a_run_that_was_left_are_used_again),
        EACH(nothing_is_read_ahead_of_who_does_not_read_in_order),
        EACH(what_was_changed_is_not_handed_out),
        EACH(what_is_changed_while_it_is_read_is_not_waited_for),
        EACH(a_change_beside_it_disturbs_nothing),
        EACH(what_failed_is_left_to_who_asks),
        EACH(threads_get_nothing_old),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
