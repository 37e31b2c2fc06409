/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Coroutines: the context switch, and the stacks.
 *
 * A switch is a plain function call to the compiler: it saves what the calling convention
 * asks a callee to preserve on the stack it leaves, stores that stack pointer, and takes up
 * the other one. It is written by hand for x86-64 and aarch64 (ELF); elsewhere, or with
 * VDISK_CO_UCONTEXT defined, swapcontext does it at the price of two system calls.
 *
 * Invariants: a coroutine knows its resumer only through `caller`, which each resume writes
 * anew, so that resumes nest without any "current" here. A coroutine that ended is recycled
 * by its last resumer, never by itself: nobody frees the stack they stand on.
 *
 * Stacks have one inaccessible page below them. A frame larger than a page could step over
 * it; build with -fstack-clash-protection.
 *
 * AddressSanitizer, ThreadSanitizer and valgrind are told of stacks and switches where the
 * build knows of them; without that they take a switch for a corrupt stack.
 */
#include "vdisk/co.h"

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef __has_feature
#define __has_feature(feature) 0
#endif
#ifndef __has_include
#define __has_include(header) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define WITH_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define WITH_ASAN 0
#endif

#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define WITH_TSAN 1
#include <sanitizer/tsan_interface.h>
#else
#define WITH_TSAN 0
#endif

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define VALGRIND_STACK_REGISTER(start, end) 0u
#define VALGRIND_STACK_DEREGISTER(id)       ((void)(id))
#endif

/* Instrumented frames are several times as large. */
#define STACK_BYTES ((size_t)VDISK_CO_STACK_BYTES * (WITH_ASAN || WITH_TSAN ? 4 : 1))

#if !defined(VDISK_CO_UCONTEXT) && defined(__ELF__) && defined(__LP64__)
#if defined(__x86_64__)
#define SWITCH_X86_64 1
#elif defined(__aarch64__)
#define SWITCH_AARCH64 1
#endif
#endif

#if defined(SWITCH_X86_64) || defined(SWITCH_AARCH64)
struct context {
    void *sp; /* of the suspended side; its registers lie there */
};
#else
#include <ucontext.h>
struct context {
    ucontext_t ucontext;
};
#endif

struct vdisk_co {
    struct vdisk_co_pool *pool;
    void (*entry)(void *arg);
    void *arg;
    bool ended;
    struct context self;   /* valid while suspended */
    struct context caller; /* valid while running */
    unsigned char *stack;  /* lowest usable byte; the guard page is below */
    unsigned valgrind_id;
    struct vdisk_co *next_idle;
#if WITH_ASAN
    const void *caller_stack;
    size_t caller_stack_bytes;
#endif
#if WITH_TSAN
    void *fiber, *caller_fiber;
#endif
};

struct vdisk_co_pool {
    struct vdisk_co *idle; /* last in, first out: the warmest stack is reused first */
    unsigned idle_count, max_idle;
    unsigned live; /* created and not ended */
    size_t guard_bytes;
};

static void run(struct vdisk_co *co);

#if defined(SWITCH_X86_64) || defined(SWITCH_AARCH64)
/* Suspends into *save, continues at `load`. Returns when something switches back. */
__attribute__((visibility("hidden"))) void vdisk_co_switch(void **save, void *load);
/* Where a new coroutine begins: calls run(co), both found in saved registers. Not for C. */
__attribute__((visibility("hidden"))) void vdisk_co_start(void);

static void context_switch(struct context *from, struct context *to)
{
    vdisk_co_switch(&from->sp, to->sp);
}
#endif

#if defined(SWITCH_X86_64)
/* System V ABI: rbx, rbp, r12-r15, and the control bits of mxcsr and the x87 control word. The
 * unwind rules hold on both sides of the exchange since the two frames are laid out alike. */
__asm__(".pushsection .text\n"
        ".globl vdisk_co_switch\n"
        ".hidden vdisk_co_switch\n"
        ".type vdisk_co_switch, @function\n"
        ".p2align 4\n"
        "vdisk_co_switch:\n"
        ".cfi_startproc\n"
        "    pushq %rbp\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    .cfi_rel_offset %rbp, 0\n"
        "    pushq %rbx\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    .cfi_rel_offset %rbx, 0\n"
        "    pushq %r12\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    .cfi_rel_offset %r12, 0\n"
        "    pushq %r13\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    .cfi_rel_offset %r13, 0\n"
        "    pushq %r14\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    .cfi_rel_offset %r14, 0\n"
        "    pushq %r15\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    .cfi_rel_offset %r15, 0\n"
        "    subq $8, %rsp\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    stmxcsr (%rsp)\n"
        "    fnstcw 4(%rsp)\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    ldmxcsr (%rsp)\n"
        "    fldcw 4(%rsp)\n"
        "    addq $8, %rsp\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    popq %r15\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    .cfi_restore %r15\n"
        "    popq %r14\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    .cfi_restore %r14\n"
        "    popq %r13\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    .cfi_restore %r13\n"
        "    popq %r12\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    .cfi_restore %r12\n"
        "    popq %rbx\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    .cfi_restore %rbx\n"
        "    popq %rbp\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    .cfi_restore %rbp\n"
        "    ret\n"
        ".cfi_endproc\n"
        ".size vdisk_co_switch, . - vdisk_co_switch\n"
        ".globl vdisk_co_start\n"
        ".hidden vdisk_co_start\n"
        ".type vdisk_co_start, @function\n"
        ".p2align 4\n"
        "vdisk_co_start:\n"
        ".cfi_startproc\n"
        "    .cfi_undefined %rip\n" /* backtraces end here */
        "    movq %r12, %rdi\n"
        "    call *%r13\n"
        "    ud2\n"
        ".cfi_endproc\n"
        ".size vdisk_co_start, . - vdisk_co_start\n"
        ".popsection\n");

static void context_make(struct vdisk_co *co)
{
    enum {
        CONTROL,
        R15,
        R14,
        R13,
        R12,
        RBX,
        RBP,
        RETURN,
        FRAME_WORDS
    };
    const uint64_t mxcsr = 0x1f80, x87_control = 0x037f; /* as at process start */

    /* The call in vdisk_co_start needs rsp to be a multiple of 16, which FRAME_WORDS keeps. */
    uint64_t *frame = (uint64_t *)(void *)(co->stack + STACK_BYTES) - 2 - FRAME_WORDS;
    frame[CONTROL] = mxcsr | x87_control << 32;
    frame[R15] = 0;
    frame[R14] = 0;
    frame[R13] = (uint64_t)(uintptr_t)run;
    frame[R12] = (uint64_t)(uintptr_t)co;
    frame[RBX] = 0;
    frame[RBP] = 0;
    frame[RETURN] = (uint64_t)(uintptr_t)vdisk_co_start;
    frame[FRAME_WORDS] = 0;
    frame[FRAME_WORDS + 1] = 0;
    co->self.sp = frame;
}

#elif defined(SWITCH_AARCH64)
/* AAPCS64: x19-x30 and the low halves of v8-v15. `hint 34` is bti c, a nop where unknown. */
__asm__(".pushsection .text\n"
        ".globl vdisk_co_switch\n"
        ".hidden vdisk_co_switch\n"
        ".type vdisk_co_switch, %function\n"
        ".p2align 4\n"
        "vdisk_co_switch:\n"
        ".cfi_startproc\n"
        "    hint #34\n"
        "    sub sp, sp, #160\n"
        "    .cfi_def_cfa_offset 160\n"
        "    stp x19, x20, [sp, #0]\n"
        "    .cfi_rel_offset x19, 0\n"
        "    .cfi_rel_offset x20, 8\n"
        "    stp x21, x22, [sp, #16]\n"
        "    .cfi_rel_offset x21, 16\n"
        "    .cfi_rel_offset x22, 24\n"
        "    stp x23, x24, [sp, #32]\n"
        "    .cfi_rel_offset x23, 32\n"
        "    .cfi_rel_offset x24, 40\n"
        "    stp x25, x26, [sp, #48]\n"
        "    .cfi_rel_offset x25, 48\n"
        "    .cfi_rel_offset x26, 56\n"
        "    stp x27, x28, [sp, #64]\n"
        "    .cfi_rel_offset x27, 64\n"
        "    .cfi_rel_offset x28, 72\n"
        "    stp x29, x30, [sp, #80]\n"
        "    .cfi_rel_offset x29, 80\n"
        "    .cfi_rel_offset x30, 88\n"
        "    stp d8, d9, [sp, #96]\n"
        "    stp d10, d11, [sp, #112]\n"
        "    stp d12, d13, [sp, #128]\n"
        "    stp d14, d15, [sp, #144]\n"
        "    mov x9, sp\n"
        "    str x9, [x0]\n"
        "    mov sp, x1\n"
        "    ldp d14, d15, [sp, #144]\n"
        "    ldp d12, d13, [sp, #128]\n"
        "    ldp d10, d11, [sp, #112]\n"
        "    ldp d8, d9, [sp, #96]\n"
        "    ldp x29, x30, [sp, #80]\n"
        "    ldp x27, x28, [sp, #64]\n"
        "    ldp x25, x26, [sp, #48]\n"
        "    ldp x23, x24, [sp, #32]\n"
        "    ldp x21, x22, [sp, #16]\n"
        "    ldp x19, x20, [sp, #0]\n"
        "    add sp, sp, #160\n"
        "    .cfi_def_cfa_offset 0\n"
        "    ret\n"
        ".cfi_endproc\n"
        ".size vdisk_co_switch, . - vdisk_co_switch\n"
        ".globl vdisk_co_start\n"
        ".hidden vdisk_co_start\n"
        ".type vdisk_co_start, %function\n"
        ".p2align 4\n"
        "vdisk_co_start:\n"
        ".cfi_startproc\n"
        "    .cfi_undefined x30\n" /* backtraces end here */
        "    mov x0, x19\n"
        "    blr x20\n"
        "    brk #1\n"
        ".cfi_endproc\n"
        ".size vdisk_co_start, . - vdisk_co_start\n"
        ".popsection\n");

static void context_make(struct vdisk_co *co)
{
    enum {
        X19,
        X20,
        X29 = 10,
        X30,
        FRAME_WORDS = 20
    };

    uint64_t *frame = (uint64_t *)(void *)(co->stack + STACK_BYTES) - 2 - FRAME_WORDS;
    for (int i = 0; i < FRAME_WORDS + 2; i++)
        frame[i] = 0;
    frame[X19] = (uint64_t)(uintptr_t)co;
    frame[X20] = (uint64_t)(uintptr_t)run;
    frame[X30] = (uint64_t)(uintptr_t)vdisk_co_start;
    co->self.sp = frame;
}

#else
static void context_switch(struct context *from, struct context *to)
{
    int failed = swapcontext(&from->ucontext, &to->ucontext);
    assert(!failed);
    (void)failed;
}

/* makecontext passes ints only. */
static void start(unsigned low, unsigned high)
{
    run((struct vdisk_co *)(uintptr_t)((uint64_t)high << 32 | low));
}

static void context_make(struct vdisk_co *co)
{
    ucontext_t *context = &co->self.ucontext;
    uint64_t value = (uint64_t)(uintptr_t)co;

    int failed = getcontext(context);
    assert(!failed);
    (void)failed;
    context->uc_stack.ss_sp = co->stack;
    context->uc_stack.ss_size = STACK_BYTES;
    context->uc_link = NULL;
    makecontext(context, (void (*)(void))start, 2, (unsigned)value, (unsigned)(value >> 32));
}
#endif

/* Every switch goes through the next two functions, and each of them returns on the stack on
 * which it was called: ThreadSanitizer's shadow call stacks depend on it. */

static void switch_in(struct vdisk_co *co)
{
#if WITH_ASAN
    void *fake_stack = NULL;
    __sanitizer_start_switch_fiber(&fake_stack, co->stack, STACK_BYTES);
#endif
#if WITH_TSAN
    co->caller_fiber = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(co->fiber, 0);
#endif
    context_switch(&co->caller, &co->self);
#if WITH_ASAN
    __sanitizer_finish_switch_fiber(fake_stack, NULL, NULL);
#endif
}

static void switch_out(struct vdisk_co *co)
{
#if WITH_ASAN
    void *fake_stack = NULL; /* handing over no place for it frees it: right at the end only */
    __sanitizer_start_switch_fiber(co->ended ? NULL : &fake_stack, co->caller_stack,
                                   co->caller_stack_bytes);
#endif
#if WITH_TSAN
    __tsan_switch_to_fiber(co->caller_fiber, 0);
#endif
    context_switch(&co->self, &co->caller);
#if WITH_ASAN
    __sanitizer_finish_switch_fiber(fake_stack, &co->caller_stack, &co->caller_stack_bytes);
#endif
}

/* The first frame of every coroutine. */
static void run(struct vdisk_co *co)
{
#if WITH_ASAN
    __sanitizer_finish_switch_fiber(NULL, &co->caller_stack, &co->caller_stack_bytes);
#endif
    co->entry(co->arg);
    co->ended = true;
    switch_out(co);
    __builtin_unreachable();
}

static void clear_shadow(struct vdisk_co *co)
{
#if WITH_ASAN
    /* The last frames never returned, so their red zones are still marked. */
    __asan_unpoison_memory_region(co->stack, STACK_BYTES);
#else
    (void)co;
#endif
}

static struct vdisk_co *allocate(struct vdisk_co_pool *pool)
{
    struct vdisk_co *co = calloc(1, sizeof *co);
    if (!co)
        return NULL;

    size_t bytes = pool->guard_bytes + STACK_BYTES;
    unsigned char *mapping = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED)
        goto free_co;
    if (mprotect(mapping, pool->guard_bytes, PROT_NONE))
        goto unmap;

    co->pool = pool;
    co->stack = mapping + pool->guard_bytes;
    co->valgrind_id = VALGRIND_STACK_REGISTER(co->stack, co->stack + STACK_BYTES - 1);
    return co;

unmap:
    munmap(mapping, bytes);
free_co:
    free(co);
    return NULL;
}

static void release(struct vdisk_co *co)
{
    VALGRIND_STACK_DEREGISTER(co->valgrind_id);
    clear_shadow(co);
    munmap(co->stack - co->pool->guard_bytes, co->pool->guard_bytes + STACK_BYTES);
    free(co);
}

/* Takes back a coroutine that has ended. */
static void recycle(struct vdisk_co *co)
{
    struct vdisk_co_pool *pool = co->pool;

#if WITH_TSAN
    __tsan_destroy_fiber(co->fiber);
#endif
    assert(pool->live > 0);
    pool->live--;
    if (pool->idle_count >= pool->max_idle) {
        release(co);
        return;
    }
    co->next_idle = pool->idle;
    pool->idle = co;
    pool->idle_count++;
}

struct vdisk_co_pool *vdisk_co_pool_new(unsigned max_idle)
{
    struct vdisk_co_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pool->max_idle = max_idle;
    pool->guard_bytes = (size_t)sysconf(_SC_PAGESIZE);
    return pool;
}

void vdisk_co_pool_free(struct vdisk_co_pool *pool)
{
    if (!pool)
        return;
    assert(!pool->live);
    while (pool->idle) {
        struct vdisk_co *co = pool->idle;
        pool->idle = co->next_idle;
        release(co);
    }
    free(pool);
}

struct vdisk_co *vdisk_co_new(struct vdisk_co_pool *pool, void (*entry)(void *arg), void *arg)
{
    struct vdisk_co *co = pool->idle;
    if (co) {
        pool->idle = co->next_idle;
        pool->idle_count--;
        clear_shadow(co);
    } else {
        co = allocate(pool);
        if (!co)
            return NULL;
    }
    pool->live++;
    co->entry = entry;
    co->arg = arg;
    co->ended = false;
    co->next_idle = NULL;
#if WITH_TSAN
    co->fiber = __tsan_create_fiber(0);
#endif
    context_make(co);
    return co;
}

void vdisk_co_resume(struct vdisk_co *co)
{
    assert(!co->ended);
    switch_in(co);
    if (co->ended)
        recycle(co);
}

void vdisk_co_yield(struct vdisk_co *co)
{
    switch_out(co);
}
