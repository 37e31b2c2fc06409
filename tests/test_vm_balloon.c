/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon (vmm/virtio_balloon.c): pages that are given up are really gone, and no others. */
#include "virtio_balloon.h"
#include "vm_driver.h"

#include "layout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_ids.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PAGE      UINT64_C(4096)
#define BIT(n)    (UINT64_C(1) << (n))
#define ALL       (BIT(VIRTIO_BALLOON_F_STATS_VQ) | BIT(VIRTIO_BALLOON_F_REPORTING))
#define SIZE      64u
#define INFLATE   0u
#define DEFLATE   1u
#define STATS     2u
#define LARGE     (UINT64_C(5) << 30) /* nothing of it is touched but a few pages */
#define LARGE_TOP (VM_GAP_END + LARGE - VM_GAP_BEGIN)
#define BROKEN    VIRTIO_CONFIG_S_NEEDS_RESET

static struct vm_rig rig;
static struct vm_driver driver;

static int open_with(uint64_t bytes)
{
    struct virtio_device *device;

    vm_rig_open(&rig, bytes);
    /* Blocks are counted below, so a page is to be a page. */
    for (unsigned i = 0; i < rig.memory.count; i++)
        (void)madvise(rig.memory.region[i].host, rig.memory.region[i].size, MADV_NOHUGEPAGE);
    if (virtio_balloon_new(&rig.memory, rig.reactor, &device))
        return -1;
    vm_driver_open(&driver, &rig, device);
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    return open_with(VM_RIG_MEMORY);
}

static int set_up_large(void **state)
{
    (void)state;
    return open_with(LARGE);
}

static int tear_down(void **state)
{
    (void)state;
    vm_driver_close(&driver);
    vm_rig_close(&rig);
    return 0;
}

/* Pages that the memory takes of the host's. */
static uint64_t held_pages(void)
{
    struct stat status;

    assert_int_equal(fstat(rig.memory.fd, &status), 0);
    return (uint64_t)status.st_blocks / 8;
}

/* Pages with something in them; the number of the first. */
static uint32_t use_pages(unsigned count)
{
    uint64_t guest = vm_driver_alloc(&driver, count * PAGE);

    memset(vm_driver_at(&driver, guest, count * PAGE), 0x55, count * PAGE);
    return (uint32_t)(guest / PAGE);
}

static uint8_t byte_of(uint32_t page)
{
    return *(uint8_t *)vm_driver_at(&driver, page * PAGE + 7, 1);
}

static struct vm_buffer list_of(const uint32_t *pages, unsigned count)
{
    struct vm_buffer buffer = {vm_driver_alloc(&driver, 4 * count), 4 * count, false};

    memcpy(vm_driver_at(&driver, buffer.guest, buffer.length), pages, 4 * count);
    return buffer;
}

static void give(unsigned queue, const uint32_t *pages, unsigned count)
{
    struct vm_buffer buffer = list_of(pages, count);

    assert_int_equal(vm_driver_do(&driver, queue, &buffer, 1), 0);
}

static void expect_failure(unsigned queue, const struct vm_buffer *buffers, unsigned count)
{
    (void)vm_driver_add(&driver, queue, buffers, count);
    (void)vm_driver_kick(&driver, queue);
    assert_int_equal(vm_driver_interrupt(&driver) & VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_CONFIG);
    assert_int_equal(vm_driver_status(&driver), 0xf | BROKEN);
}

/* ---- the balloon ---- */

static void test_the_target_and_the_answer_pass_by_the_configuration(void **state)
{
    (void)state;
    assert_int_equal(driver.device->id, VIRTIO_ID_BALLOON);
    vm_driver_set_config(&driver, 4, 77, 4); /* nobody runs */
    vm_driver_begin(&driver, ALL, SIZE);
    assert_int_equal(vm_driver_config(&driver, 0, 4), 0);
    assert_int_equal(vm_driver_config(&driver, 4, 4), 0);
    assert_int_equal(virtio_balloon_set(driver.device, 100 * PAGE), 0);
    assert_int_equal(vm_driver_interrupt(&driver), VIRTIO_MMIO_INT_CONFIG);
    assert_int_equal(vm_driver_config(&driver, 0, 4), 100);
    vm_driver_set_config(&driver, 4, 60, 4);
    assert_int_equal(virtio_balloon_actual(driver.device), 60 * PAGE);
    assert_int_equal(vm_driver_config(&driver, 4, 4), 60);
    /* The target is ours, and `actual` is written as a whole. */
    vm_driver_set_config(&driver, 0, 1, 4);
    vm_driver_set_config(&driver, 4, 1, 2);
    vm_driver_set_config(&driver, 2, UINT32_MAX, 4);
    assert_int_equal(vm_driver_config(&driver, 0, 4), 100);
    assert_int_equal(vm_driver_config(&driver, 4, 4), 60);
    /* What it says is not more than there is. */
    vm_driver_set_config(&driver, 4, UINT32_MAX, 4);
    assert_int_equal(virtio_balloon_actual(driver.device), VM_RIG_MEMORY);
    vm_driver_reset(&driver);
    assert_int_equal(virtio_balloon_actual(driver.device), 0);
    assert_int_equal(vm_driver_config(&driver, 0, 4), 100);
    assert_int_equal(virtio_balloon_set(driver.device, PAGE + 1), -EINVAL);
    assert_int_equal(virtio_balloon_set(driver.device, VM_RIG_MEMORY + PAGE), -EINVAL);
    assert_int_equal(virtio_balloon_set(driver.device, UINT64_MAX - PAGE + 1), -EINVAL);
    assert_int_equal(virtio_balloon_set(driver.device, VM_RIG_MEMORY), 0);
}

static void test_pages_that_are_given_up_are_gone(void **state)
{
    uint32_t first, list[6];
    uint64_t before;

    (void)state;
    vm_driver_begin(&driver, ALL, SIZE);
    first = use_pages(16);
    /* In no order, one of them twice, some adjoining. */
    list[0] = first + 9;
    list[1] = first + 3;
    list[2] = first + 2;
    list[3] = first + 9;
    list[4] = first + 12;
    list[5] = first + 4;
    give(DEFLATE, list, 1); /* the rings are there when we count */
    give(INFLATE, list, 1);
    before = held_pages();
    give(INFLATE, list, 6);
    /* 9 was gone already; the list itself took a page. */
    assert_int_equal(held_pages(), before + 1 - 4);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(byte_of(first + i),
                         i == 2 || i == 3 || i == 4 || i == 9 || i == 12 ? 0 : 0x55);
    /* Coming back needs no more than being used. */
    give(DEFLATE, list, 6);
    memset(vm_driver_at(&driver, (first + 2) * PAGE, PAGE), 0x66, PAGE);
    assert_int_equal(byte_of(first + 2), 0x66);
    assert_int_equal(byte_of(first + 1), 0x55);
}

static void test_the_last_page_below_the_gap_and_the_first_above_are_two(void **state)
{
    const uint32_t below = (uint32_t)(VM_GAP_BEGIN / PAGE) - 1,
                   above = (uint32_t)(VM_GAP_END / PAGE);
    const uint32_t list[] = {above, below, (uint32_t)(LARGE_TOP / PAGE) - 1};

    (void)state;
    vm_driver_begin(&driver, 0, SIZE);
    for (unsigned i = 0; i < 3; i++)
        memset(vm_driver_at(&driver, list[i] * PAGE, PAGE), 0x55, PAGE);
    memset(vm_driver_at(&driver, (above + 1) * PAGE, PAGE), 0x55, PAGE);
    memset(vm_driver_at(&driver, (below - 1) * PAGE, PAGE), 0x55, PAGE);
    give(INFLATE, list, 3);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(byte_of(list[i]), 0);
    assert_int_equal(byte_of(above + 1), 0x55);
    assert_int_equal(byte_of(below - 1), 0x55);
}

static void test_pages_that_are_not_ram_fail_the_device(void **state)
{
    static const uint32_t wrong[] = {VM_GAP_BEGIN / PAGE, VM_GAP_END / PAGE - 1, LARGE_TOP / PAGE,
                                     VM_VIRTIO_AT / PAGE, VM_LAPIC / PAGE,       UINT32_MAX,
                                     UINT32_MAX / 2 + 1,  LARGE_TOP / PAGE + 1};

    (void)state;
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        vm_driver_begin(&driver, 0, SIZE);
        uint32_t good = use_pages(1), list[] = {good, wrong[i]};
        struct vm_buffer buffer = list_of(list, 2);

        expect_failure(INFLATE, &buffer, 1);
        assert_int_equal(byte_of(good), 0x55); /* all or nothing */
    }
}

static void test_lists_that_break_the_rules_fail_the_device(void **state)
{
    uint32_t page = use_pages(1);
    uint64_t many = vm_driver_alloc(&driver, 2 * PAGE);
    struct vm_buffer list = list_of(&page, 1), odd = list, writable = list, both[2], far = list,
                     long_list = {many, PAGE + 4, false};

    (void)state;
    odd.length = 3;
    writable.writable = true;
    both[0] = list;
    both[1] = writable;
    far.guest = VM_RIG_MEMORY - 2;
    const struct {
        const struct vm_buffer *buffers;
        unsigned queue, count;
    } wrong[] = {
        {&odd, INFLATE, 1}, {&writable, INFLATE, 1},  {both, INFLATE, 2},
        {&far, INFLATE, 1}, {&long_list, INFLATE, 1}, {&writable, DEFLATE, 1},
        {both, DEFLATE, 2}, {&writable, STATS, 1},    {&list, 3, 1},
        {both, 4, 2},
    };
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        vm_driver_begin(&driver, ALL, SIZE);
        expect_failure(wrong[i].queue, wrong[i].buffers, wrong[i].count);
    }
    assert_int_equal(byte_of(page), 0x55);
    vm_driver_begin(&driver, 0, SIZE);
    expect_failure(4, &writable, 1); /* reports, which were not agreed on */
    vm_driver_begin(&driver, 0, SIZE);
    expect_failure(STATS, &list, 1);
}

/* A full list in each of many requests: more than a round, and none is lost. */
static void test_many_requests_are_all_served(void **state)
{
    uint32_t first, list[1024];
    struct vm_buffer buffer;
    uint16_t head;

    (void)state;
    vm_driver_begin(&driver, ALL, SIZE);
    first = use_pages(1024);
    for (unsigned i = 0; i < 1024; i++)
        list[i] = first + 1023 - i;
    buffer = list_of(list, 1024);
    for (unsigned i = 0; i < 16; i++)
        (void)vm_driver_add(&driver, INFLATE, &buffer, 1);
    (void)vm_driver_kick(&driver, INFLATE);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(vm_driver_wait(&driver, INFLATE, &head), 0);
    for (unsigned i = 0; i < 1024; i++)
        assert_int_equal(byte_of(first + i), 0);
}

/* ---- reports ---- */

static void test_free_ranges_are_given_back_by_whole_pages(void **state)
{
    (void)state;
    /* By the letter, as drivers number their queues, and without stats. */
    for (unsigned i = 0; i < 3; i++) {
        unsigned queue = 4 - i;
        uint32_t first;
        uint64_t before;

        vm_driver_begin(&driver, queue == STATS ? BIT(VIRTIO_BALLOON_F_REPORTING) : ALL, SIZE);
        first = use_pages(16);
        struct vm_buffer ranges[] = {
            {first * PAGE + 1, 3 * PAGE, true},   /* 1 and 2 wholly */
            {(first + 5) * PAGE, 2 * PAGE, true}, /* 5 and 6 */
            {(first + 9) * PAGE + 1, 10, true},
            {(first + 15) * PAGE, PAGE, true},
        };

        before = held_pages();
        assert_int_equal(vm_driver_do(&driver, queue, ranges, 4), 0);
        assert_int_equal(held_pages(), before - 5);
        for (unsigned k = 0; k < 16; k++)
            assert_int_equal(byte_of(first + k),
                             k == 1 || k == 2 || k == 5 || k == 6 || k == 15 ? 0 : 0x55);
    }
}

/* It is a hint: so that a round is short, not all of a long one is taken. */
static void test_of_a_long_report_only_so_much_is_given_back(void **state)
{
    const uint64_t from = UINT64_C(64) << 20, part = UINT64_C(200) << 20,
                   limit = UINT64_C(256) << 20;
    const struct vm_buffer ranges[] = {{from, (uint32_t)part, true},
                                       {from + part, (uint32_t)part, true}};
    const uint64_t at[] = {from, from + part, from + limit - PAGE, from + limit};

    (void)state;
    vm_driver_begin(&driver, ALL, SIZE);
    for (unsigned i = 0; i < 4; i++)
        memset(vm_driver_at(&driver, at[i], PAGE), 0x55, PAGE);
    assert_int_equal(vm_driver_do(&driver, 3, ranges, 2), 0);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(byte_of((uint32_t)(at[i] / PAGE)), i < 3 ? 0 : 0x55);
}

static void test_free_ranges_that_are_not_ram_fail_the_device(void **state)
{
    const struct vm_buffer wrong[] = {
        {VM_RIG_MEMORY, PAGE, true},         {VM_RIG_MEMORY - PAGE, 2 * PAGE, true},
        {UINT64_MAX - PAGE + 1, PAGE, true}, {UINT64_MAX - PAGE + 1, 2 * PAGE, true},
        {0x1000, UINT32_MAX, true},          {VM_VIRTIO_AT, PAGE, true},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        vm_driver_begin(&driver, ALL, SIZE);
        uint32_t good = use_pages(1);
        struct vm_buffer ranges[] = {{good * PAGE, PAGE, true}, wrong[i]};

        expect_failure(4, ranges, 2);
        assert_int_equal(byte_of(good), 0x55);
    }
}

/* ---- stats ---- */

static struct vm_buffer stats_of(uint16_t tag, uint64_t value)
{
    struct virtio_balloon_stat stats[3] = {
        {VIRTIO_BALLOON_S_MEMTOT, 1000}, {tag, value}, {0xffff, 5}};
    struct vm_buffer buffer = {vm_driver_alloc(&driver, sizeof(stats)), sizeof(stats), false};

    memcpy(vm_driver_at(&driver, buffer.guest, sizeof(stats)), stats, sizeof(stats));
    return buffer;
}

static void expect_stats(uint64_t total, uint64_t free_bytes, uint64_t caches)
{
    uint64_t stats[VIRTIO_BALLOON_S_NR];

    vm_rig_settle(&rig);
    virtio_balloon_stats(driver.device, stats);
    assert_int_equal(stats[VIRTIO_BALLOON_S_MEMTOT], total);
    assert_int_equal(stats[VIRTIO_BALLOON_S_MEMFREE], free_bytes);
    assert_int_equal(stats[VIRTIO_BALLOON_S_CACHES], caches);
}

static void add_stats(const struct vm_buffer *buffer)
{
    (void)vm_driver_add(&driver, STATS, buffer, 1);
    (void)vm_driver_kick(&driver, STATS);
}

static void test_stats_are_said_again_when_asked(void **state)
{
    const uint64_t unknown = VIRTIO_BALLOON_UNKNOWN;
    struct vm_buffer buffer, other;
    uint32_t length;
    uint16_t head;

    (void)state;
    virtio_balloon_ask(driver.device);
    expect_stats(unknown, unknown, unknown);
    vm_driver_begin(&driver, ALL, SIZE);
    buffer = stats_of(VIRTIO_BALLOON_S_MEMFREE, 300);
    add_stats(&buffer);
    expect_stats(1000, 300, unknown);
    assert_false(vm_driver_take(&driver, STATS, &head, &length));
    /* One that gives more is not asked for it twice. */
    other = stats_of(VIRTIO_BALLOON_S_CACHES, 7);
    add_stats(&other);
    expect_stats(1000, 300, unknown);
    virtio_balloon_ask(driver.device);
    assert_int_equal(vm_driver_wait(&driver, STATS, &head), 0);
    expect_stats(1000, unknown, 7);
    virtio_balloon_ask(driver.device);
    virtio_balloon_ask(driver.device); /* nothing to ask with */
    assert_int_equal(vm_driver_wait(&driver, STATS, &head), 0);
    assert_false(vm_driver_take(&driver, STATS, &head, &length));
    vm_driver_reset(&driver);
    expect_stats(unknown, unknown, unknown);
}

/* ---- state ---- */

static int replace_device(const json_t *saved)
{
    struct virtio_device *device;

    virtio_free(driver.device);
    assert_int_equal(virtio_balloon_new(&rig.memory, rig.reactor, &device), 0);
    driver.device = rig.bus.range[0].device = device;
    return virtio_load(device, saved, NULL);
}

static void test_it_goes_on_after_saving_and_loading(void **state)
{
    struct vm_buffer stats, list;
    uint32_t first;
    json_t *saved;
    uint16_t head;

    (void)state;
    vm_driver_begin(&driver, ALL, SIZE);
    first = use_pages(2);
    stats = stats_of(VIRTIO_BALLOON_S_MEMFREE, 300);
    add_stats(&stats);
    give(INFLATE, &first, 1);
    vm_driver_set_config(&driver, 4, 1, 4);
    vm_rig_settle(&rig);
    virtio_pause(driver.device);
    first++;
    list = list_of(&first, 1);
    (void)vm_driver_add(&driver, INFLATE, &list, 1);
    (void)vm_driver_kick(&driver, INFLATE);
    assert_int_equal(virtio_balloon_set(driver.device, 9 * PAGE), 0);
    virtio_balloon_ask(driver.device); /* not now */
    saved = virtio_save(driver.device, NULL);
    assert_non_null(saved);
    assert_int_equal(replace_device(saved), 0);
    vm_rig_settle(&rig);
    assert_int_equal(byte_of(first), 0x55);
    virtio_resume(driver.device);
    assert_int_equal(vm_driver_interrupt(&driver) & VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_CONFIG);
    assert_int_equal(vm_driver_wait(&driver, INFLATE, &head), 0);
    assert_int_equal(byte_of(first), 0);
    assert_int_equal(vm_driver_config(&driver, 0, 4), 9);
    assert_int_equal(virtio_balloon_actual(driver.device), PAGE);
    virtio_balloon_ask(driver.device);
    assert_int_equal(vm_driver_wait(&driver, STATS, &head), 0);
    json_decref(saved);
}

static void test_states_that_make_no_sense_are_not_loaded(void **state)
{
    static const struct {
        const char *member;
        json_int_t value;
    } wrong[] = {
        {"target", -1}, {"target", VM_RIG_MEMORY / PAGE + 1},
        {"actual", -1}, {"actual", INT64_C(1) << 32},
        {"held", -2},   {"held", SIZE},
        {"queues", 0},  {"more", 0},
    };
    json_t *saved;

    (void)state;
    vm_driver_begin(&driver, ALL, SIZE);
    virtio_pause(driver.device);
    saved = virtio_save(driver.device, NULL);
    assert_non_null(saved);
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        json_t *other = json_deep_copy(saved);

        json_object_set_new(json_object_get(other, "own"), wrong[i].member,
                            json_integer(wrong[i].value));
        assert_int_equal(replace_device(other), -EINVAL);
        json_decref(other);
    }
    json_decref(saved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name)       cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define TEST_LARGE(name) cmocka_unit_test_setup_teardown(name, set_up_large, tear_down)
        TEST(test_the_target_and_the_answer_pass_by_the_configuration),
        TEST(test_pages_that_are_given_up_are_gone),
        TEST_LARGE(test_the_last_page_below_the_gap_and_the_first_above_are_two),
        TEST_LARGE(test_pages_that_are_not_ram_fail_the_device),
        TEST(test_lists_that_break_the_rules_fail_the_device),
        TEST(test_many_requests_are_all_served),
        TEST(test_free_ranges_are_given_back_by_whole_pages),
        TEST_LARGE(test_of_a_long_report_only_so_much_is_given_back),
        TEST(test_free_ranges_that_are_not_ram_fail_the_device),
        TEST(test_stats_are_said_again_when_asked),
        TEST(test_it_goes_on_after_saving_and_loading),
        TEST(test_states_that_make_no_sense_are_not_loaded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
