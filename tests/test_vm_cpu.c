/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What guests see of their processors: asked from within by CPUID and RDMSR, and for processors
 * that are not at hand worked out from lists like KVM's.
 */
#include "cpu_features.h"
#include "layout.h"
#include "vm_machine_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BIT(n)  (1u << (n))
#define INDEXED KVM_CPUID_FLAG_SIGNIFCANT_INDEX

static bool usable;
static struct vm_kit *kit;

static int tear_down(void **state)
{
    (void)state;
    vm_kit_free(kit);
    kit = NULL;
    return 0;
}

static void need_kvm(void)
{
    if (usable)
        return;
    (void)vm_kit_usable();
    skip();
}

/* ---- asking a guest ---- */

static unsigned answers_each;

/* Runs a guest of so many processors; answer() has what each said then. */
static void ask(unsigned cpus, const struct vm_guest_question *question, unsigned count)
{
    struct vm_guest_questions all = {.cpus = cpus};

    need_kvm();
    vm_kit_free(kit);
    kit = vm_kit_new(cpus);
    answers_each = 0;
    for (unsigned i = 0; i < count; i++) {
        all.question[i] = question[i];
        answers_each += question[i].kind == 1 ? 4 : 2;
    }
    memcpy(vm_memory_at(&kit->memory, VM_KIT_DATA, sizeof(all)), &all, sizeof(all));
    vm_kit_run(kit, &vm_guest_asks);
    vm_kit_wait(kit, answers_each * cpus);
    assert_int_equal(vm_kit_count(kit), answers_each * cpus);
}

static uint32_t answer(unsigned cpu, unsigned n)
{
    return (uint32_t)vm_kit_value(kit, cpu * answers_each + n);
}

static uint64_t answer_msr(unsigned cpu, unsigned n)
{
    return answer(cpu, n) | (uint64_t)answer(cpu, n + 1) << 32;
}

static void test_a_guest_knows_that_it_is_one(void **state)
{
    static const struct vm_guest_question question[] = {
        {1, 1, 0}, {1, 0x40000000, 0}, {1, 0x40000001, 0}};

    (void)state;
    ask(1, question, 3);
    assert_true(answer(0, 2) & BIT(31));
    assert_true(answer(0, 4) >= 0x40000001);
    assert_int_equal(answer(0, 5), 0x4b4d564b); /* "KVMKVMKVM" */
    assert_int_equal(answer(0, 6), 0x564b4d56);
    assert_int_equal(answer(0, 7), 0x4d);
    assert_true(answer(0, 8) & BIT(3)); /* a clock */
}

/* 0xb: one thread to a core, and one socket for all, by what it is told to shift. */
static void check_levels(unsigned cpu, unsigned cpus, unsigned n)
{
    assert_int_equal(answer(cpu, n + 0), 0); /* threads: no bits of the id */
    assert_int_equal(answer(cpu, n + 1) & 0xffff, 1);
    assert_int_equal(answer(cpu, n + 2), 0x100);
    assert_int_equal(answer(cpu, n + 5) & 0xffff, cpus);
    assert_int_equal(answer(cpu, n + 6), 0x201);
    assert_true(1u << answer(cpu, n + 4) >= cpus);
    assert_int_equal(answer(cpu, n + 10), 2); /* the end */
    for (unsigned level = 0; level < 3; level++)
        assert_int_equal(answer(cpu, n + 4 * level + 3), cpu);
}

static void check_topology(unsigned cpu, unsigned cpus)
{
    bool amd = answer(cpu, 1) == 0x68747541;

    assert_int_equal(answer(cpu, 5) >> 24, cpu);
    assert_true((answer(cpu, 5) >> 16 & 0xff) >= cpus);
    assert_true(cpus == 1 || answer(cpu, 7) & BIT(28));
    if (answer(cpu, 0) >= 0xb)
        check_levels(cpu, cpus, 8);
    if (amd)
        assert_int_equal(answer(cpu, 22) & 0xff, cpus - 1);
    else if (answer(cpu, 24) & 0x1f)
        assert_true((answer(cpu, 24) >> 26) + 1 >= cpus);
}

static void test_the_parts_that_describe_the_topology_agree(void **state)
{
    static const struct vm_guest_question question[] = {
        {1, 0, 0}, {1, 1, 0}, {1, 0xb, 0}, {1, 0xb, 1}, {1, 0xb, 2}, {1, 0x80000008, 0}, {1, 4, 0}};

    (void)state;
    for (unsigned cpus = 1; cpus <= 3; cpus++) {
        ask(cpus, question, 7);
        for (unsigned cpu = 0; cpu < cpus; cpu++)
            check_topology(cpu, cpus);
    }
}

static void test_registers_are_as_firmware_leaves_them(void **state)
{
    static const struct vm_guest_question question[] = {{2, 0x1b, 0}, {2, 0x2ff, 0}, {2, 0x1a0, 0}};

    (void)state;
    ask(2, question, 3);
    for (unsigned cpu = 0; cpu < 2; cpu++) {
        assert_int_equal(answer_msr(cpu, 0), 0xfee00800 | (cpu == 0 ? 0x100 : 0));
        assert_int_equal(answer_msr(cpu, 2), 0x806); /* write-back */
        assert_int_equal(answer_msr(cpu, 4) & 1, 1); /* fast strings */
    }
}

static void test_the_pics_interrupts_and_nmis_arrive(void **state)
{
    (void)state;
    need_kvm();
    kit = vm_kit_new(1);
    vm_kit_run(kit, &vm_guest_lints);
    vm_kit_wait(kit, 2);
    assert_int_equal(vm_kit_value(kit, 0), 0x700); /* ExtINT, not masked */
    assert_int_equal(vm_kit_value(kit, 1), 0x400); /* NMI */
}

static void test_the_tsc_runs(void **state)
{
    static const struct vm_guest_question question[] = {{2, 0x10, 0}, {1, 0, 0}, {2, 0x10, 0}};

    (void)state;
    ask(2, question, 3);
    for (unsigned cpu = 0; cpu < 2; cpu++)
        assert_true(answer_msr(cpu, 6) > answer_msr(cpu, 0));
    assert_true(answer_msr(1, 0) > answer_msr(0, 6)); /* and is one for all */
}

/* Where features are. What KVM does not list, and is there all the same: its own kind of timer and
 * that it is a guest, topology, and what says that a feature was switched on. */
static const struct {
    uint32_t function, index, own[4];
} feature_leaves[] = {
    {1, 0, {0, UINT32_MAX, BIT(31) | BIT(24) | BIT(27), BIT(28)}},
    {7, 0, {UINT32_MAX, 0, BIT(4), 0}},
    {7, 1, {0, 0, 0, 0}},
    {0xd, 0, {0, UINT32_MAX, UINT32_MAX, 0}},
    {0x80000001, 0, {UINT32_MAX, UINT32_MAX, BIT(1), 0}},
    {0x80000007, 0, {0, 0, 0, 0}},
    {0x80000008, 0, {0, 0, UINT32_MAX, 0}},
    {0x80000021, 0, {0, 0, UINT32_MAX, 0}},
    {0x40000001, 0, {0, 0, 0, 0}},
};

#define FEATURE_LEAVES (sizeof(feature_leaves) / sizeof(feature_leaves[0]))

/* Bits that the one has of its features and the other has not. */
static uint32_t more(unsigned i, const struct kvm_cpuid_entry2 *entry,
                     const struct kvm_cpuid_entry2 *than)
{
    static const struct kvm_cpuid_entry2 none;
    const uint32_t *own = feature_leaves[i].own;

    if (!entry)
        return 0;
    if (!than)
        than = &none;
    return (entry->eax & ~than->eax & ~own[0]) | (entry->ebx & ~than->ebx & ~own[1]) |
           (entry->ecx & ~than->ecx & ~own[2]) | (entry->edx & ~than->edx & ~own[3]);
}

static void test_no_feature_is_told_that_kvm_does_not_have(void **state)
{
    struct kvm_cpuid2 *supported, *cpuid;
    struct vm_kvm kvm;

    (void)state;
    need_kvm();
    assert_int_equal(vm_kvm_open(&kvm, VM_KVM_PATH, NULL), 0);
    supported = vm_kvm_cpuid(&kvm);
    assert_non_null(supported);
    cpuid = vm_cpuid_new(&kvm, supported, 0, 2);
    assert_non_null(cpuid);
    for (unsigned i = 0; i < FEATURE_LEAVES; i++) {
        uint32_t function = feature_leaves[i].function, index = feature_leaves[i].index;

        assert_int_equal(more(i, vm_cpuid_find(cpuid, function, index),
                              vm_cpuid_find(supported, function, index)),
                         0);
    }
    free(cpuid);
    free(supported);
    vm_kvm_close(&kvm);
}

/* There are KVMs that tell a guest more than they list; none can tell it what is not there. */
static void test_a_guest_sees_no_feature_that_the_host_does_not_have(void **state)
{
    struct vm_guest_question question[FEATURE_LEAVES];
    struct kvm_cpuid2 *supported;
    struct vm_kvm kvm;

    (void)state;
    for (unsigned i = 0; i < FEATURE_LEAVES; i++)
        question[i] =
            (struct vm_guest_question){1, feature_leaves[i].function, feature_leaves[i].index};
    ask(1, question, FEATURE_LEAVES);
    assert_int_equal(vm_kvm_open(&kvm, VM_KVM_PATH, NULL), 0);
    supported = vm_kvm_cpuid(&kvm);
    assert_non_null(supported);
    for (unsigned i = 0; i < FEATURE_LEAVES; i++) {
        uint32_t function = feature_leaves[i].function, index = feature_leaves[i].index;
        const struct kvm_cpuid_entry2 seen = {.eax = answer(0, 4 * i),
                                              .ebx = answer(0, 4 * i + 1),
                                              .ecx = answer(0, 4 * i + 2),
                                              .edx = answer(0, 4 * i + 3)};
        const struct kvm_cpuid_entry2 *entry = vm_cpuid_find(supported, function, index);
        struct kvm_cpuid_entry2 host = {0};

        __cpuid_count(function, index, host.eax, host.ebx, host.ecx, host.edx);
        if (entry) {
            host.eax |= entry->eax;
            host.ebx |= entry->ebx;
            host.ecx |= entry->ecx;
            host.edx |= entry->edx;
        }
        assert_int_equal(more(i, &seen, &host), 0);
    }
    free(supported);
    vm_kvm_close(&kvm);
}

/* ---- lists ---- */

static struct kvm_cpuid2 *make_list(const struct kvm_cpuid_entry2 *entries, unsigned count)
{
    struct kvm_cpuid2 *list = calloc(1, sizeof(*list) + count * sizeof(*entries));

    assert_non_null(list);
    list->nent = count;
    memcpy(list->entries, entries, count * sizeof(*entries));
    return list;
}

static const struct kvm_cpuid_entry2 intel[] = {
    {.function = 0, .eax = 0x1f, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69},
    {.function = 1, .ebx = 0x20800, .ecx = 0xffffffff & ~BIT(31), .edx = 0xffffffff},
    {.function = 4, .index = 0, .flags = INDEXED, .eax = 0x3c000121 | 1 << 14},
    {.function = 4, .index = 1, .flags = INDEXED, .eax = 0x3c000143 | 1 << 14},
    {.function = 4, .index = 2, .flags = INDEXED, .eax = 0x3c000163 | 31 << 14},
    {.function = 4, .index = 3, .flags = INDEXED},
    {.function = 7, .index = 0, .flags = INDEXED, .ebx = 0xffffffff, .ecx = 0xffffffff},
    {.function = 0xa, .eax = 0x7300805},
    {.function = 0xb, .index = 0, .flags = INDEXED, .edx = 7},
    {.function = 0x12, .index = 0, .flags = INDEXED, .eax = 3},
    {.function = 0x1f, .index = 0, .flags = INDEXED, .edx = 7},
    {.function = 0x80000001, .ecx = 0x121},
    {.function = 0x80000008, .eax = 0x3028},
};

static const struct kvm_cpuid_entry2 amd[] = {
    {.function = 0, .eax = 0x10, .ebx = 0x68747541, .ecx = 0x444d4163, .edx = 0x69746e65},
    {.function = 1, .ebx = 0x20800, .ecx = 0, .edx = 0xffffffff},
    {.function = 0xb, .index = 0, .flags = INDEXED, .edx = 7},
    {.function = 0x80000001, .ecx = 0xffffffff},
    {.function = 0x80000008, .eax = 0x3030, .ecx = 0x17001},
    {.function = 0x8000000a, .eax = 1, .edx = 0xff},
    {.function = 0x8000001d, .index = 0, .flags = INDEXED, .eax = 0x121 | 1 << 14},
    {.function = 0x8000001d, .index = 3, .flags = INDEXED, .eax = 0x163 | 1 << 14},
    {.function = 0x8000001e, .eax = 7, .ebx = 0x103, .ecx = 0x701},
    {.function = 0x80000022, .eax = 1, .ebx = 6},
    {.function = 0x80000026, .index = 0, .flags = INDEXED, .edx = 7},
};

#define LIST(entries) make_list(entries, sizeof(entries) / sizeof((entries)[0]))

static const struct kvm_cpuid_entry2 *leaf(const struct kvm_cpuid2 *cpuid, uint32_t function,
                                           uint32_t index)
{
    const struct kvm_cpuid_entry2 *entry = vm_cpuid_find(cpuid, function, index);

    assert_non_null(entry);
    return entry;
}

/* No KVM is asked with it. */
static const struct vm_kvm no_kvm = {.fd = -1, .vm = -1};

static void test_an_intel_processor_is_one_socket_of_single_threads(void **state)
{
    struct kvm_cpuid2 *list = LIST(intel), *cpuid = vm_cpuid_new(&no_kvm, list, 40, 48);

    (void)state;
    assert_non_null(cpuid);
    assert_int_equal(leaf(cpuid, 1, 0)->ebx, 40u << 24 | 64u << 16 | 0x800);
    /* Caches: two of the core, and one for all. */
    assert_int_equal(leaf(cpuid, 4, 0)->eax, 63u << 26 | 0x121);
    assert_int_equal(leaf(cpuid, 4, 1)->eax, 63u << 26 | 0x143);
    assert_int_equal(leaf(cpuid, 4, 2)->eax, 63u << 26 | 63u << 14 | 0x163);
    assert_int_equal(leaf(cpuid, 4, 3)->eax, 0);
    for (uint32_t function = 0xb; function <= 0x1f; function += 0x14) {
        assert_int_equal(leaf(cpuid, function, 0)->edx, 40);
        assert_int_equal(leaf(cpuid, function, 1)->eax, 6);
        assert_int_equal(leaf(cpuid, function, 1)->ebx, 48);
        assert_int_equal(leaf(cpuid, function, 2)->ecx, 2);
    }
    /* What is of the host alone is gone. */
    assert_int_equal(leaf(cpuid, 1, 0)->ecx & (BIT(5) | BIT(15)), 0);
    assert_int_equal(leaf(cpuid, 7, 0)->ebx, 0xffffffff & ~BIT(2));
    assert_int_equal(leaf(cpuid, 7, 0)->ecx, 0xffffffff & ~BIT(30));
    assert_int_equal(leaf(cpuid, 0xa, 0)->eax, 0);
    assert_int_equal(leaf(cpuid, 0x12, 0)->eax, 0);
    /* AMD's are not touched. */
    assert_int_equal(leaf(cpuid, 0x80000001, 0)->ecx, 0x121);
    assert_int_equal(leaf(cpuid, 0x80000008, 0)->ecx, 0);
    free(cpuid);
    free(list);
}

static void test_an_amd_processor_is_one_socket_of_single_threads(void **state)
{
    struct kvm_cpuid2 *list = LIST(amd), *cpuid = vm_cpuid_new(&no_kvm, list, 2, 3);

    (void)state;
    assert_non_null(cpuid);
    assert_true(leaf(cpuid, 1, 0)->ecx & BIT(31));
    assert_int_equal(leaf(cpuid, 0x80000008, 0)->ecx, 0x10000 | 2 << 12 | 2);
    assert_int_equal(leaf(cpuid, 0x80000001, 0)->ecx & (BIT(1) | BIT(2) | BIT(23)), BIT(1));
    assert_int_equal(leaf(cpuid, 0x8000000a, 0)->edx, 0);
    assert_int_equal(leaf(cpuid, 0x8000001d, 0)->eax, 0x121);
    assert_int_equal(leaf(cpuid, 0x8000001d, 3)->eax, 0x163 | 3 << 14);
    assert_int_equal(leaf(cpuid, 0x8000001e, 0)->eax, 2);
    assert_int_equal(leaf(cpuid, 0x8000001e, 0)->ebx, 2);
    assert_int_equal(leaf(cpuid, 0x8000001e, 0)->ecx, 0);
    assert_int_equal(leaf(cpuid, 0x80000022, 0)->eax, 0);
    assert_null(vm_cpuid_find(cpuid, 0x80000026, 0));
    assert_null(vm_cpuid_find(cpuid, 0x1f, 0));
    free(cpuid);
    free(list);
}

/* ---- going on elsewhere ---- */

static void refused(const struct kvm_cpuid2 *told, const struct kvm_cpuid2 *here, const char *words)
{
    struct vdisk_error error = {0};

    assert_int_equal(vm_cpuid_check(told, here, &error), -ENOTSUP);
    if (!strstr(error.text, words))
        fail_msg("'%s' is not in '%s'", words, error.text);
}

static void test_a_guest_goes_on_where_all_that_it_was_told_is(void **state)
{
    struct kvm_cpuid2 *told = LIST(intel), *here = LIST(intel);

    (void)state;
    assert_int_equal(vm_cpuid_check(told, here, NULL), 0);
    /* More here is no harm; nor another number of cores, or model. */
    told->entries[6].ebx = BIT(5);
    told->entries[1].ecx = BIT(28);
    told->entries[1].eax = 0x306c3;
    told->entries[12].eax = 0x3027;
    assert_int_equal(vm_cpuid_check(told, here, NULL), 0);
    free(told);
    free(here);
}

static void test_a_guest_does_not_go_on_where_a_feature_is_missing(void **state)
{
    struct kvm_cpuid2 *told = LIST(intel), *here = LIST(intel);

    (void)state;
    here->entries[6].ebx &= ~BIT(16);
    refused(told, here, "feature avx512f (CPUID 0x7.0, EBX bit 16)");
    here->entries[6].ebx |= BIT(16);
    here->entries[1].ecx &= ~BIT(0);
    refused(told, here, "feature sse3 (CPUID 0x1.0, ECX bit 0)");
    here->entries[1].ecx |= BIT(0);
    told->entries[6].edx = BIT(31); /* has no name here */
    refused(told, here, "feature (CPUID 0x7.0, EDX bit 31)");
    told->entries[6].edx = 0;
    /* A leaf that is not there at all, and one that is for every index. */
    told->entries[11] = (struct kvm_cpuid_entry2){.function = 0x80000021, .eax = BIT(6)};
    refused(told, here, "(CPUID 0x80000021.0, EAX bit 6)");
    told->entries[11] = (struct kvm_cpuid_entry2){.function = 7, .index = 5, .edx = BIT(3)};
    refused(told, here, "(CPUID 0x7.0, EDX bit 3)");
    free(told);
    free(here);
}

static void test_a_guest_does_not_go_on_with_another_makers_or_a_narrower_one(void **state)
{
    struct kvm_cpuid2 *told = LIST(intel), *here = LIST(intel), *other = LIST(amd);

    (void)state;
    refused(told, other, "another maker's");
    told->entries[12].eax = 0x3029;
    refused(told, here, "shorter addresses");
    told->entries[12].eax = 0x3928;
    refused(told, here, "shorter addresses");
    free(told);
    free(here);
    free(other);
}

#define TEST(name) cmocka_unit_test_teardown(name, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_guest_knows_that_it_is_one),
        TEST(test_the_parts_that_describe_the_topology_agree),
        TEST(test_registers_are_as_firmware_leaves_them),
        TEST(test_the_pics_interrupts_and_nmis_arrive),
        TEST(test_the_tsc_runs),
        TEST(test_no_feature_is_told_that_kvm_does_not_have),
        TEST(test_a_guest_sees_no_feature_that_the_host_does_not_have),
        TEST(test_an_intel_processor_is_one_socket_of_single_threads),
        TEST(test_an_amd_processor_is_one_socket_of_single_threads),
        TEST(test_a_guest_goes_on_where_all_that_it_was_told_is),
        TEST(test_a_guest_does_not_go_on_where_a_feature_is_missing),
        TEST(test_a_guest_does_not_go_on_with_another_makers_or_a_narrower_one),
    };

    usable = vm_kit_usable();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
