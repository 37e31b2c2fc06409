/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Coroutines: switching, nesting, stacks and their pool (libvdisk/co.c).
 *
 * Checks are made outside coroutines: a failing one leaves by longjmp.
 */
#include "vdisk/co.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fenv.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef __has_feature
#define __has_feature(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                               \
    __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

struct script {
    struct vdisk_co_pool *pool;
    struct vdisk_co *co;
    char *log; /* where the next letter goes */
    char letter;
    int yields;
    struct script *inner;
    void *frame; /* an address on the coroutine's stack */
};

static void write_letters(void *arg)
{
    struct script *s = arg;
    s->frame = __builtin_frame_address(0);
    for (int i = 0; i < s->yields; i++) {
        *s->log++ = s->letter;
        vdisk_co_yield(s->co);
    }
    *s->log++ = (char)(s->letter - 'a' + 'A');
}

static int setup(void **state)
{
    *state = vdisk_co_pool_new(4);
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    vdisk_co_pool_free(*state);
    return 0;
}

static void run_to_end(struct script *s)
{
    s->co = vdisk_co_new(s->pool, write_letters, s);
    assert_non_null(s->co);
    for (int i = 0; i <= s->yields; i++)
        vdisk_co_resume(s->co);
}

static void a_new_coroutine_does_not_run_until_resumed(void **state)
{
    char log[4] = {0};
    struct script s = {.pool = *state, .log = log, .letter = 'a'};

    s.co = vdisk_co_new(s.pool, write_letters, &s);
    assert_non_null(s.co);
    assert_string_equal(log, "");
    vdisk_co_resume(s.co);
    assert_string_equal(log, "A");
}

static void yield_returns_to_the_resumer_and_resume_to_the_yield(void **state)
{
    char log[8] = {0};
    struct script s = {.pool = *state, .log = log, .letter = 'a', .yields = 2};

    s.co = vdisk_co_new(s.pool, write_letters, &s);
    assert_non_null(s.co);
    vdisk_co_resume(s.co);
    assert_string_equal(log, "a");
    vdisk_co_resume(s.co);
    assert_string_equal(log, "aa");
    vdisk_co_resume(s.co);
    assert_string_equal(log, "aaA");
}

static void many_coroutines_interleave_without_mixing(void **state)
{
    enum {
        COUNT = 50,
        YIELDS = 20
    };
    struct script s[COUNT];
    char logs[COUNT][YIELDS + 2] = {{0}};

    for (int i = 0; i < COUNT; i++) {
        s[i] = (struct script){
            .pool = *state, .log = logs[i], .letter = (char)('a' + i % 26), .yields = i % YIELDS};
        s[i].co = vdisk_co_new(*state, write_letters, &s[i]);
        assert_non_null(s[i].co);
    }
    for (int round = 0; round < YIELDS; round++)
        for (int i = 0; i < COUNT; i++)
            if (round <= s[i].yields)
                vdisk_co_resume(s[i].co);
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(strlen(logs[i]), i % YIELDS + 1);
        for (int k = 0; k < i % YIELDS; k++)
            assert_int_equal(logs[i][k], 'a' + i % 26);
        assert_int_equal(logs[i][i % YIELDS], 'A' + i % 26);
    }
}

static void resume_inner(void *arg)
{
    struct script *outer = arg, *inner = outer->inner;

    *outer->log++ = '<';
    inner->log = outer->log;
    vdisk_co_resume(inner->co); /* to its first yield */
    outer->log = inner->log;
    *outer->log++ = '|';
    vdisk_co_yield(outer->co);
    *outer->log++ = '>';
}

static void a_coroutine_may_resume_another_and_be_left_while_that_one_waits(void **state)
{
    char log[16] = {0};
    struct script inner = {.pool = *state, .letter = 'b', .yields = 2};
    struct script outer = {.pool = *state, .log = log, .inner = &inner};

    inner.co = vdisk_co_new(*state, write_letters, &inner);
    outer.co = vdisk_co_new(*state, resume_inner, &outer);
    assert_non_null(inner.co);
    assert_non_null(outer.co);
    vdisk_co_resume(outer.co);
    assert_string_equal(log, "<b|");

    /* Another resumer than before: the yield comes back here, not into `outer`. */
    inner.log = outer.log;
    vdisk_co_resume(inner.co);
    assert_string_equal(log, "<b|b");
    outer.log = inner.log;
    vdisk_co_resume(outer.co);
    assert_string_equal(log, "<b|b>");
    inner.log = outer.log;
    vdisk_co_resume(inner.co);
    assert_string_equal(log, "<b|b>B");
}

struct depth {
    struct vdisk_co_pool *pool;
    int levels, reached;
};

/* Each level creates, resumes and outlives the next. */
static void descend(void *arg)
{
    struct depth *depth = arg;
    depth->reached++;
    if (depth->reached == depth->levels)
        return;
    struct vdisk_co *next = vdisk_co_new(depth->pool, descend, depth);
    if (next)
        vdisk_co_resume(next);
}

static void resumes_nest_thirty_deep(void **state)
{
    struct depth depth = {.pool = *state, .levels = 30};
    struct vdisk_co *first = vdisk_co_new(*state, descend, &depth);

    assert_non_null(first);
    vdisk_co_resume(first);
    assert_int_equal(depth.reached, 30);
}

struct registers {
    struct vdisk_co *co;
    uint64_t in[8], out[8];
    double dbl_out;
    bool rounded_up;
};

/* Both units of x86-64 have a rounding mode, and fegetround() reads only one of them. */
static bool rounds(int mode)
{
#ifdef __x86_64__
    const unsigned sse_mode = __builtin_ia32_stmxcsr() >> 13 & 3;
    if (sse_mode != (mode == FE_UPWARD ? 2u : 0u))
        return false;
#endif
    return fegetround() == mode;
}

/* More live values across the yield than there are callee-saved registers of a kind. */
static void hold_values(void *arg)
{
    struct registers *r = arg;
    uint64_t a = r->in[0], b = r->in[1], c = r->in[2], d = r->in[3];
    uint64_t e = r->in[4], f = r->in[5], g = r->in[6], h = r->in[7];
    double x = (double)a * 0.5, y = (double)b * 0.25;

    fesetround(FE_UPWARD);
    r->rounded_up = true;
    for (int i = 0; i < 3; i++) {
        vdisk_co_yield(r->co);
        r->rounded_up &= rounds(FE_UPWARD);
        a++, b++, c++, d++, e++, f++, g++, h++;
        x += 1.0, y += 1.0;
    }
    uint64_t out[8] = {a, b, c, d, e, f, g, h};
    memcpy(r->out, out, sizeof out);
    r->dbl_out = x + y;
}

static void registers_and_rounding_mode_survive_switches(void **state)
{
    struct registers r[2] = {{.in = {10, 20, 30, 40, 50, 60, 70, 80}},
                             {.in = {11, 22, 33, 44, 55, 66, 77, 88}}};
    bool restored = true;

    for (int i = 0; i < 2; i++) {
        r[i].co = vdisk_co_new(*state, hold_values, &r[i]);
        assert_non_null(r[i].co);
    }
    for (int step = 0; step < 4; step++)
        for (int i = 0; i < 2; i++) {
            vdisk_co_resume(r[i].co);
#if !defined(VDISK_CO_UCONTEXT) && defined(__x86_64__)
            restored &= rounds(FE_TONEAREST);
#endif
        }
    fesetround(FE_TONEAREST);
    assert_true(restored);
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < 8; k++)
            assert_int_equal(r[i].out[k], r[i].in[k] + 3);
        assert_true(r[i].dbl_out == (double)r[i].in[0] * 0.5 + (double)r[i].in[1] * 0.25 + 6.0);
        assert_true(r[i].rounded_up);
    }
}

struct deep {
    struct vdisk_co *co;
    unsigned sum;
};

static unsigned use_stack(struct deep *deep, unsigned levels)
{
    volatile unsigned char kibibyte[1024];
    for (size_t i = 0; i < sizeof kibibyte; i++)
        kibibyte[i] = (unsigned char)levels;
    if (levels == 0)
        vdisk_co_yield(deep->co); /* a switch at the deepest point */
    unsigned below = levels ? use_stack(deep, levels - 1) : 0;
    unsigned wrong = 0;
    for (size_t i = 0; i < sizeof kibibyte; i++)
        wrong += kibibyte[i] != (unsigned char)levels;
    return below + (wrong ? 1000 : 1);
}

static void go_deep(void *arg)
{
    struct deep *deep = arg;
    deep->sum = use_stack(deep, 150);
}

static void a_hundred_and_fifty_kibibytes_of_stack_are_usable(void **state)
{
    struct deep deep[2] = {{0}};

    for (int i = 0; i < 2; i++) {
        deep[i].co = vdisk_co_new(*state, go_deep, &deep[i]);
        assert_non_null(deep[i].co);
        vdisk_co_resume(deep[i].co);
    }
    for (int i = 0; i < 2; i++)
        vdisk_co_resume(deep[i].co);
    assert_int_equal(deep[0].sum, 151);
    assert_int_equal(deep[1].sum, 151);
}

static void a_finished_stack_is_reused(void **state)
{
    char log[8] = {0};
    struct script first = {.pool = *state, .log = log, .letter = 'a'};
    struct script second = {.pool = *state, .log = log, .letter = 'b'};

    run_to_end(&first);
    run_to_end(&second);
    assert_ptr_equal(first.frame, second.frame);
}

static void a_reused_stack_carries_a_hundred_thousand_coroutines(void **state)
{
    char log[4];
    struct script s = {.pool = *state, .letter = 'a', .yields = 1};

    for (int i = 0; i < (SANITIZED ? 10000 : 100000); i++) {
        s.log = log;
        s.co = vdisk_co_new(s.pool, write_letters, &s);
        assert_non_null(s.co);
        vdisk_co_resume(s.co);
        vdisk_co_resume(s.co);
    }
    assert_int_equal(log[1], 'A');
}

static bool is_mapped(void *address)
{
    unsigned char resident;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    return mincore((void *)((uintptr_t)address & ~(page - 1)), 1, &resident) == 0;
}

static void no_more_than_max_idle_stacks_are_kept(void **state)
{
    (void)state;
    enum {
        COUNT = 6,
        KEPT = 2
    };
    struct vdisk_co_pool *pool = vdisk_co_pool_new(KEPT);
    struct script s[COUNT];
    char log[COUNT][4];
    int mapped = 0;

    assert_non_null(pool);
    for (int i = 0; i < COUNT; i++) {
        s[i] = (struct script){.log = log[i], .letter = 'a', .yields = 1};
        s[i].co = vdisk_co_new(pool, write_letters, &s[i]);
        assert_non_null(s[i].co);
        vdisk_co_resume(s[i].co);
    }
    for (int i = 0; i < COUNT; i++)
        assert_true(is_mapped(s[i].frame));
    for (int i = 0; i < COUNT; i++)
        vdisk_co_resume(s[i].co);
    for (int i = 0; i < COUNT; i++)
        mapped += is_mapped(s[i].frame);
    assert_int_equal(mapped, KEPT);
    vdisk_co_pool_free(pool);
    for (int i = 0; i < COUNT; i++)
        assert_false(is_mapped(s[i].frame));
}

static void an_inaccessible_page_lies_below_the_stack(void **state)
{
    char log[4] = {0}, line[512], protection[8], below[8] = "";
    struct script s = {.pool = *state, .log = log, .letter = 'a'};
    uintptr_t first, end, below_end = 0;
    bool found = false;

    run_to_end(&s); /* its stack stays mapped in the pool */
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    while (!found && fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s", &first, &end, protection) != 3)
            continue;
        found = (uintptr_t)s.frame >= first && (uintptr_t)s.frame < end;
        if (!found) {
            below_end = end;
            memcpy(below, protection, sizeof below);
        }
    }
    fclose(maps);
    assert_true(found);
    assert_int_equal(below_end, first);
    assert_string_equal(below, "---p");
    assert_string_equal(protection, "rw-p"); /* and the stack cannot be executed */
}

static void without_memory_for_a_stack_there_is_no_coroutine(void **state)
{
    if (SANITIZED) {
        print_message("a sanitizer's shadow memory is beyond any limit\n");
        skip();
    }
    struct rlimit old, none;
    struct script s = {0};

    assert_int_equal(getrlimit(RLIMIT_AS, &old), 0);
    none = old;
    none.rlim_cur = 1 << 20; /* less than is in use */
    assert_int_equal(setrlimit(RLIMIT_AS, &none), 0);
    struct vdisk_co *co = vdisk_co_new(*state, write_letters, &s);
    assert_int_equal(setrlimit(RLIMIT_AS, &old), 0);
    assert_null(co);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_new_coroutine_does_not_run_until_resumed),
        TEST(yield_returns_to_the_resumer_and_resume_to_the_yield),
        TEST(many_coroutines_interleave_without_mixing),
        TEST(a_coroutine_may_resume_another_and_be_left_while_that_one_waits),
        TEST(resumes_nest_thirty_deep),
        TEST(registers_and_rounding_mode_survive_switches),
        TEST(a_hundred_and_fifty_kibibytes_of_stack_are_usable),
        TEST(a_finished_stack_is_reused),
        TEST(a_reused_stack_carries_a_hundred_thousand_coroutines),
        TEST(no_more_than_max_idle_stacks_are_kept),
        TEST(an_inaccessible_page_lies_below_the_stack),
        TEST(without_memory_for_a_stack_there_is_no_coroutine),
    };
    return cmocka_run_group_tests_name("co", tests, NULL, NULL);
}
