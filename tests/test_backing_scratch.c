/* SPDX-License-Identifier: Apache-2.0 */
/* A state that can be written and is thrown away (fuse/backing_scratch.c). */
#include "backing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BYTES 70001u /* no whole blocks */
#define BLOCK 4096u

/* What is under it: every byte says where it is, and of which state. */
static int under_error;
static bool under_closed;

static uint8_t byte_at(unsigned state, uint64_t offset)
{
    return (uint8_t)(offset * 7 + offset / 251 + state * 101);
}

static int under_read(struct access *access, unsigned state, uint64_t offset, void *data,
                      uint64_t length)
{
    uint8_t *to = data;

    (void)access;
    assert_true(state < 2 && offset <= BYTES && length <= BYTES - offset);
    for (uint64_t i = 0; i < length; i++)
        to[i] = byte_at(state, offset + i);
    return under_error;
}

static void under_access_close(struct access *access)
{
    free(access);
}

static int under_open(struct backing *backing, struct access **out, struct vdisk_error *error)
{
    static const struct access_ops ops = {.read = under_read, .close = under_access_close};

    (void)backing, (void)error;
    *out = calloc(1, sizeof(**out));
    assert_non_null(*out);
    (*out)->ops = &ops;
    return 0;
}

static int under_close(struct backing *backing, struct vdisk_error *error)
{
    (void)backing, (void)error;
    under_closed = true;
    return 0;
}

static struct backing_state states[2] = {{.size = BYTES}, {.name = "monday", .size = BYTES}};
static struct backing under = {.name = "drive", .threads = 3, .count = 2, .state = states};
static struct backing *scratch;
static struct access *one, *two;

static void begin(uint64_t room)
{
    static const struct backing_ops ops = {.open = under_open, .close = under_close};

    under.ops = &ops;
    under_error = 0;
    under_closed = false;
    scratch = backing_with_scratch(&under, room);
    assert_non_null(scratch);
    assert_int_equal(scratch->ops->open(scratch, &one, NULL), 0);
    assert_int_equal(scratch->ops->open(scratch, &two, NULL), 0);
}

static int end(void **state)
{
    (void)state;
    one->ops->close(one);
    two->ops->close(two);
    assert_int_equal(scratch->ops->close(scratch, NULL), 0);
    assert_true(under_closed);
    return 0;
}

static int put(uint64_t offset, const void *data, uint64_t length)
{
    const struct access_change change = {
        .op = VDISK_WRITE, .offset = offset, .length = length, .data = data};

    return one->ops->change(one, &change);
}

/* All of the state is as the model. */
static void is_as(const uint8_t *model)
{
    static uint8_t data[BYTES];

    assert_int_equal(two->ops->read(two, scratch->scratch, 0, data, BYTES), 0);
    assert_memory_equal(data, model, BYTES);
}

static void fill(uint8_t *model, unsigned state)
{
    for (uint64_t i = 0; i < BYTES; i++)
        model[i] = byte_at(state, i);
}

static void it_is_one_more_state_and_begins_as_state_0(void **state)
{
    static uint8_t model[BYTES], data[BYTES];

    (void)state;
    begin(1 << 20);
    assert_int_equal(scratch->count, 3);
    assert_int_equal(scratch->scratch, 2);
    assert_int_equal(scratch->threads, 3);
    assert_string_equal(scratch->state[1].name, "monday");
    assert_int_equal(scratch->state[2].size, BYTES);
    assert_false(scratch->writable);
    fill(model, 0);
    is_as(model);
    fill(model, 1);
    assert_int_equal(one->ops->read(one, 1, 0, data, BYTES), 0);
    assert_memory_equal(data, model, BYTES);
}

static void what_is_written_is_seen_there_alone(void **state)
{
    static uint8_t model[BYTES], data[BYTES];

    (void)state;
    begin(1 << 20);
    fill(model, 0);
    srand(1);
    for (unsigned i = 0; i < 200; i++) {
        uint64_t offset = (uint64_t)rand() % BYTES, length = (uint64_t)rand() % 9000;

        length = length < BYTES - offset ? length : BYTES - offset;
        memset(model + offset, (int)i, length);
        assert_int_equal(put(offset, model + offset, length), 0);
    }
    is_as(model);
    fill(model, 0);
    assert_int_equal(one->ops->read(one, 0, 0, data, BYTES), 0);
    assert_memory_equal(data, model, BYTES);
}

static void the_last_bytes_can_be_written(void **state)
{
    static uint8_t model[BYTES];

    (void)state;
    begin(BLOCK);
    fill(model, 0);
    model[BYTES - 1] = 77;
    assert_int_equal(put(BYTES - 1, model + BYTES - 1, 1), 0);
    is_as(model);
}

static void more_than_there_is_room_for_is_refused(void **state)
{
    static uint8_t model[BYTES], data[BYTES];

    (void)state;
    begin(3 * BLOCK + 1);
    fill(model, 0);
    memset(model, 9, 3 * BLOCK);
    assert_int_equal(put(0, model, 3 * BLOCK), 0);
    assert_int_equal(put(5 * BLOCK, data, 1), -ENOSPC);
    memset(model + BLOCK, 5, BLOCK);
    assert_int_equal(put(BLOCK, model + BLOCK, BLOCK), 0); /* that has its room already */
    is_as(model);
}

static void what_cannot_be_read_cannot_be_written_in_part(void **state)
{
    static uint8_t model[BYTES], data[BLOCK];

    (void)state;
    begin(BLOCK);
    fill(model, 0);
    under_error = VDISK_E_NOT_AUTHENTIC;
    assert_int_equal(put(100, data, 10), VDISK_E_NOT_AUTHENTIC);
    assert_int_equal(one->ops->read(one, scratch->scratch, 0, data, 1), VDISK_E_NOT_AUTHENTIC);
    under_error = 0;
    is_as(model);
    assert_int_equal(put(BLOCK, model + BLOCK, BLOCK), 0); /* the room is not lost */
}

static void there_is_nothing_to_flush_and_nothing_to_give_back(void **state)
{
    struct access_change change = {.op = VDISK_FLUSH};

    (void)state;
    begin(BLOCK);
    assert_int_equal(one->ops->change(one, &change), 0);
    assert_int_equal(one->ops->settle(one), 0);
    change = (struct access_change){.op = VDISK_DISCARD, .length = BLOCK};
    assert_int_equal(one->ops->change(one, &change), -EOPNOTSUPP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(it_is_one_more_state_and_begins_as_state_0, end),
        cmocka_unit_test_teardown(what_is_written_is_seen_there_alone, end),
        cmocka_unit_test_teardown(the_last_bytes_can_be_written, end),
        cmocka_unit_test_teardown(more_than_there_is_room_for_is_refused, end),
        cmocka_unit_test_teardown(what_cannot_be_read_cannot_be_written_in_part, end),
        cmocka_unit_test_teardown(there_is_nothing_to_flush_and_nothing_to_give_back, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
