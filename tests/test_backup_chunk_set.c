/* SPDX-License-Identifier: Apache-2.0 */
/* A set of chunks as ranges has the chunks that were added and no others. */
#include "chunk_set.h"
#include "sim_random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#define MIB    (UINT64_C(1) << 20)
#define CHUNKS 2000u

static void add(struct vb_chunk_set *ranges, bool *model, uint64_t offset, uint64_t length)
{
    assert_int_equal(vb_chunk_set_add(ranges, offset, length), 0);
    for (uint64_t at = offset / MIB; at * MIB < offset + length && length; at++)
        model[at] = true;
}

static bool touches(const bool *model, uint64_t first, uint64_t end)
{
    while (first < end && first < CHUNKS) {
        if (model[first++])
            return true;
    }
    return false;
}

static void check(const struct vb_chunk_set *ranges, const bool *model)
{
    for (size_t i = 1; i < ranges->count; i++)
        assert_true(ranges->range[i - 1].end < ranges->range[i].first);
    for (uint64_t first = 0; first < CHUNKS; first++) {
        const struct vb_range *range = vb_chunk_set_from(ranges, first);
        uint64_t next = first;

        while (next < CHUNKS && !model[next])
            next++;
        assert_int_equal(range != NULL, next < CHUNKS);
        if (range && range->first >= first)
            assert_int_equal(range->first, next);
        for (uint64_t end = first + 1; end < first + 300; end += 37)
            assert_int_equal(vb_chunk_set_touch(ranges, first, end), touches(model, first, end));
    }
}

static void test_chunks_that_were_added(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 20; seed++) {
        struct vb_chunk_set ranges = {.count = 0};
        bool model[CHUNKS] = {false};
        struct sim_rng rng;

        sim_rng_seed(&rng, seed);
        for (unsigned times = seed * 20; times > 0; times--) {
            uint64_t offset = sim_rng_below(&rng, (CHUNKS - 10) * MIB);

            add(&ranges, model, offset, sim_rng_below(&rng, seed % 2 ? 5000 : 4 * MIB));
        }
        /* In order, as from a tree. */
        for (uint64_t at = 0; at < 100; at++)
            add(&ranges, model, at * (seed % 5 + 1) * MIB, MIB);
        vb_chunk_set_settle(&ranges);
        check(&ranges, model);
        vb_chunk_set_release(&ranges);
    }
}

static void test_no_chunks(void **state)
{
    struct vb_chunk_set ranges = {.count = 0};

    (void)state;
    vb_chunk_set_settle(&ranges);
    assert_null(vb_chunk_set_from(&ranges, 0));
    assert_false(vb_chunk_set_touch(&ranges, 0, UINT64_MAX));
    vb_chunk_set_release(&ranges);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunks_that_were_added),
        cmocka_unit_test(test_no_chunks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
