/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for data that a reactor hands out: no two pieces overlap, all of it comes back, and the
 * kernel moves data through it on both backends.
 */
#include "reactor.h"
#include "reactor_memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECES 200u

struct piece {
    uint8_t *at;
    size_t bytes;
    uint8_t mark;
};

static void fill(struct piece *piece, struct reactor_memory *memory, uint8_t mark)
{
    piece->bytes = (size_t)1 << (random() % 22); /* to 2 MiB: larger than a chunk, too */
    piece->bytes += (size_t)random() % piece->bytes;
    piece->mark = mark;
    piece->at = reactor_memory_take(memory, piece->bytes);
    assert_non_null(piece->at);
    assert_int_equal((uintptr_t)piece->at % 4096, 0);
    memset(piece->at, mark, piece->bytes);
}

static void empty(struct piece *piece, struct reactor_memory *memory)
{
    for (size_t i = 0; i < piece->bytes; i++)
        assert_int_equal(piece->at[i], piece->mark);
    reactor_memory_give(memory, piece->at, piece->bytes);
    piece->at = NULL;
}

static void run_randomly(struct reactor_memory *memory)
{
    struct piece piece[PIECES] = {{0}};

    srandom(7);
    for (unsigned i = 0; i < 3000; i++) {
        struct piece *one = &piece[(size_t)random() % PIECES];

        if (one->at)
            empty(one, memory);
        else
            fill(one, memory, (uint8_t)i);
    }
    for (unsigned i = 0; i < PIECES; i++) {
        if (piece[i].at)
            empty(&piece[i], memory);
    }
}

static void test_pieces_do_not_overlap(void **state)
{
    static struct reactor_memory memory;

    (void)state;
    reactor_memory_open(&memory);
    run_randomly(&memory);
    for (unsigned i = 0; i < REACTOR_MEMORY_CHUNKS; i++)
        assert_int_equal(memory.chunk[i].taken, 0);
    reactor_memory_close(&memory);
}

static void test_it_works_without_an_arena(void **state)
{
    static struct reactor_memory memory;

    (void)state;
    run_randomly(&memory);
}

static void test_all_of_the_arena_is_used(void **state)
{
    static struct reactor_memory memory;
    size_t count = 0, room;
    void *piece[REACTOR_MEMORY_CHUNKS * REACTOR_MEMORY_CHUNK / 8192 + 1];

    (void)state;
    reactor_memory_open(&memory);
    room = memory.bytes / 8192;
    do {
        piece[count] = reactor_memory_take(&memory, 5000); /* takes 8 KiB */
        assert_non_null(piece[count]);
    } while (reactor_memory_holds(&memory, piece[count++], 5000));
    assert_int_equal(count, room + 1);
    while (count > 0)
        reactor_memory_give(&memory, piece[--count], 5000);
    if (room) /* and all of it is there for another size */
        assert_true(reactor_memory_holds(&memory, reactor_memory_take(&memory, 1 << 20), 1 << 20));
    reactor_memory_close(&memory);
}

static void note_done(struct reactor_op *op)
{
    ++*(unsigned *)op->owner;
}

static int do_op(struct reactor *reactor, struct reactor_op op)
{
    unsigned done = 0;

    op.done = note_done;
    op.owner = &done;
    reactor_submit(reactor, &op);
    while (!done)
        reactor_step(reactor, true);
    return op.result;
}

static void move_data(bool no_uring)
{
    const struct reactor_options options = {.no_uring = no_uring};
    char name[] = "/tmp/vdisk-reactor-XXXXXX";
    int fd = mkstemp(name);
    struct reactor *reactor;
    struct iovec vector = {NULL, 8192};
    struct reactor_op op = {.kind = REACTOR_WRITE, .fd = fd, .vectors = &vector, .count = 1};
    uint8_t *data;

    assert_true(fd >= 0);
    assert_int_equal(unlink(name), 0);
    assert_int_equal(reactor_new(&options, &reactor), 0);
    vector.iov_base = data = reactor_take(reactor, 8192);
    assert_non_null(data);
    for (unsigned i = 0; i < 8192; i++)
        data[i] = (uint8_t)(i / 7);
    assert_int_equal(do_op(reactor, op), 8192);
    memset(data, 0, 8192);
    op.kind = REACTOR_READ;
    op.offset = 700;
    assert_int_equal(do_op(reactor, op), 8192 - 700);
    for (unsigned i = 700; i < 8192; i++)
        assert_int_equal(data[i - 700], (uint8_t)(i / 7));
    reactor_give(reactor, data, 8192);
    reactor_give(reactor, NULL, 8192);
    reactor_free(reactor);
    close(fd);
}

static void test_the_ring_moves_data_through_it(void **state)
{
    (void)state;
    move_data(false);
}

static void test_threads_move_data_through_it(void **state)
{
    (void)state;
    move_data(true);
}

/* What the kernel says of the ring: how many buffers are registered; -1: it does not say. */
static int registered_buffers(void)
{
    int count = -1;

    for (int fd = 0; fd < 100; fd++) {
        char path[64], line[256];
        FILE *info;

        (void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
        info = fopen(path, "re");
        while (info && fgets(line, sizeof(line), info))
            (void)sscanf(line, "UserBufs: %d", &count);
        if (info)
            (void)fclose(info);
    }
    return count;
}

static void test_the_ring_has_it_registered(void **state)
{
    static struct reactor_memory memory;
    struct reactor *reactor;
    bool has_arena;
    int count;

    (void)state;
    assert_int_equal(reactor_new(NULL, &reactor), 0);
    count = registered_buffers();
    reactor_free(reactor);
    reactor_memory_open(&memory);
    has_arena = memory.base; /* not under a sanitizer of addresses */
    reactor_memory_close(&memory);
    if (count < 0) {
        print_message("no io_uring here, or a kernel that does not tell\n");
        skip();
    }
    assert_int_equal(count, has_arena);
}

static void test_a_reactor_that_needs_none_has_none(void **state)
{
    const struct reactor_options options = {.no_memory = true};
    struct reactor *reactor;
    uint8_t *data;

    (void)state;
    assert_int_equal(reactor_new(&options, &reactor), 0);
    assert_true(registered_buffers() <= 0);
    data = reactor_take(reactor, 8192);
    assert_non_null(data);
    memset(data, 1, 8192);
    reactor_give(reactor, data, 8192);
    reactor_free(reactor);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_do_not_overlap),
        cmocka_unit_test(test_it_works_without_an_arena),
        cmocka_unit_test(test_all_of_the_arena_is_used),
        cmocka_unit_test(test_the_ring_moves_data_through_it),
        cmocka_unit_test(test_threads_move_data_through_it),
        cmocka_unit_test(test_the_ring_has_it_registered),
        cmocka_unit_test(test_a_reactor_that_needs_none_has_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
