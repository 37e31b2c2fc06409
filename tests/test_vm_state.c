/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's state, saved and loaded into another: the guest goes on from there; and what is no
 * state, or of another host, is refused in words.
 */
#include "vm_machine_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/kvm.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BASE64      sodium_base64_VARIANT_ORIGINAL
#define BINARY_MAX  65536u
#define GUEST_BYTES 0x20000u /* all that the guests use */

static bool usable;
static struct vm_kit *kit;
static unsigned kit_cpus;
static json_t *saved;

static int tear_down(void **state)
{
    (void)state;
    vm_kit_free(kit);
    kit = NULL;
    json_decref(saved);
    saved = NULL;
    return 0;
}

static void new_kit(unsigned cpus)
{
    if (!usable) {
        (void)vm_kit_usable();
        skip();
    }
    kit_cpus = cpus;
    kit = vm_kit_new(cpus);
}

#define WITH(n)                                                                                    \
    (void)state;                                                                                   \
    new_kit(n)

/* Stops the machine and keeps its state, as text would. */
static void save(void)
{
    struct vdisk_error error = {0};
    json_t *state;
    char *text;

    vm_machine_stop(kit->machine);
    if (vm_machine_save(kit->machine, &state, &error))
        fail_msg("%s", error.text);
    text = json_dumps(state, 0);
    json_decref(state);
    json_decref(saved);
    saved = json_loads(text, 0, NULL);
    free(text);
    assert_non_null(saved);
}

/* Another machine in place of this, with its memory and, if `load`, the state that was saved. */
static void move(bool load)
{
    struct vm_kit *next = vm_kit_new(kit_cpus);
    struct vdisk_error error = {0};

    memcpy(next->memory.region[0].host, kit->memory.region[0].host, GUEST_BYTES);
    vm_kit_free(kit);
    kit = next;
    if (load && vm_machine_load(kit->machine, saved, &error))
        fail_msg("%s", error.text);
}

static void go_on(void)
{
    save();
    move(true);
    assert_int_equal(vm_machine_start(kit->machine), 0);
}

static uint8_t binary[BINARY_MAX];

static size_t decode(const json_t *value)
{
    size_t length;

    assert_int_equal(sodium_base642bin(binary, sizeof(binary), json_string_value(value),
                                       json_string_length(value), NULL, &length, NULL, BASE64),
                     0);
    return length;
}

static json_t *encode(size_t length)
{
    size_t size = sodium_base64_encoded_len(length, BASE64);
    char *text = malloc(size);
    json_t *value;

    assert_non_null(text);
    sodium_bin2base64(text, size, binary, length, BASE64);
    value = json_string(text);
    free(text);
    return value;
}

/* ---- a busy host ---- */

/* The second of these calls is made two seconds late: it is for the second processor. */
static struct {
    unsigned long request;
    unsigned seen;
} late;

/* In place of the library's, for the VMM as well. */
int ioctl(int fd, unsigned long request, ...)
{
    va_list list;
    void *argument;

    va_start(list, request);
    argument = va_arg(list, void *);
    va_end(list);
    if (request == late.request && ++late.seen == 2)
        usleep(2000000);
    return (int)syscall(SYS_ioctl, fd, request, argument);
}

static void be_late(unsigned long request)
{
    late.request = request;
    late.seen = 0;
}

static void was_late(void)
{
    assert_true(late.seen >= 2);
    late.request = 0;
}

static uint64_t clock_of(unsigned cpu)
{
    const json_t *from = json_array_get(json_object_get(saved, "cpus"), cpu);
    size_t length = decode(json_object_get(from, "msrs"));
    struct kvm_msr_entry entry;

    for (size_t at = 0; at < length; at += sizeof(entry)) {
        memcpy(&entry, binary + at, sizeof(entry));
        if (entry.index == 0x10)
            return entry.data;
    }
    fail_msg("there is no clock");
    return 0;
}

static void expect_clocks_to_agree(void)
{
    const json_t *cpu = json_array_get(json_object_get(saved, "cpus"), 0);
    json_int_t khz = json_integer_value(json_object_get(cpu, "tsc_khz"));
    int64_t ahead = (int64_t)(clock_of(1) - clock_of(0));

    print_message("they are %lld us apart\n", (long long)(ahead * 1000 / khz));
    assert_true(llabs(ahead) < khz * 300);
}

static void test_clocks_of_processors_agree_though_the_host_is_busy(void **state)
{
    WITH(2);
    vm_kit_load(kit, &vm_guest_counts);
    be_late(KVM_GET_REGS);
    save();
    was_late();
    expect_clocks_to_agree();
    move(false);
    be_late(KVM_SET_REGS);
    assert_int_equal(vm_machine_load(kit->machine, saved, NULL), 0);
    was_late();
    save();
    expect_clocks_to_agree();
    be_late(KVM_SET_REGS); /* a reset */
    vm_kit_load(kit, &vm_guest_counts);
    was_late();
    save();
    expect_clocks_to_agree();
}

/* ---- going on ---- */

static void test_a_guest_goes_on_exactly_where_it_was(void **state)
{
    uint64_t next = 1;

    WITH(1);
    vm_kit_run(kit, &vm_guest_counts);
    for (unsigned round = 0; round < 4; round++) {
        vm_kit_wait(kit, 20 + 7 * round);
        vm_machine_stop(kit->machine);
        for (unsigned i = 0; i < vm_kit_count(kit); i++)
            assert_int_equal(vm_kit_value(kit, i), next++);
        go_on();
    }
}

static void test_what_a_read_gave_is_not_lost(void **state)
{
    WITH(1);
    vm_kit_load(kit, &vm_guest_reads);
    for (unsigned i = 1; i <= 4; i++) {
        unsigned reads;

        vm_kit_stop_in_read(kit);
        reads = kit->reads;
        assert_int_equal(reads, i); /* and the guest knows nothing of it yet */
        assert_int_equal(vm_kit_count(kit), i == 1 ? 0 : 1);
        assert_true(i == 1 || vm_kit_value(kit, 0) == i - 1);
        save();
        move(true);
        kit->reads = reads;
    }
}

static void test_registers_of_every_kind_are_kept(void **state)
{
    static const uint64_t held[VM_GUEST_HELD] = {
        0x9999999999999999, 0xaaaaaaaaaaaaaaaa, 0x1111111122222222, 0x3333333344444444,
        0x55555555,         0x66666666,         0x111177777777,     0x222288888888};

    WITH(1);
    vm_kit_run(kit, &vm_guest_holds);
    vm_kit_wait(kit, 1);
    save();
    move(true);
    *(volatile uint8_t *)vm_memory_at(&kit->memory, VM_KIT_DATA, 1) = 1;
    assert_int_equal(vm_machine_start(kit->machine), 0);
    vm_kit_wait(kit, VM_GUEST_HELD);
    for (unsigned i = 0; i < VM_GUEST_HELD; i++)
        assert_int_equal(vm_kit_value(kit, i), held[i]);
}

static bool has_value(uint64_t value)
{
    for (unsigned i = 0; i < vm_kit_count(kit); i++)
        if (vm_kit_value(kit, i) == value)
            return true;
    return false;
}

static void timers_fire(uint8_t deadline)
{
    unsigned count;

    *(uint8_t *)vm_memory_at(&kit->memory, VM_KIT_DATA, 1) = deadline;
    do {
        vm_machine_stop(kit->machine);
        vm_kit_forget(kit);
        vm_kit_run(kit, &vm_guest_timers);
        vm_kit_wait(kit, 1);
        vm_machine_stop(kit->machine);
    } while (has_value(0x40)); /* that was too late */
    go_on();
    for (count = 1; !has_value(0x40) || !has_value(0x20); count++)
        vm_kit_wait(kit, count);
}

static void test_the_timers_that_were_armed_fire(void **state)
{
    WITH(1);
    timers_fire(0);
}

static void test_the_deadline_that_was_set_comes(void **state)
{
    WITH(1);
    timers_fire(1);
}

static void test_an_interrupt_that_was_on_its_way_arrives(void **state)
{
    WITH(1);
    vm_kit_run(kit, &vm_guest_pic);
    vm_kit_wait(kit, 1);
    vm_machine_stop(kit->machine);
    vm_machine_set_irq(kit->machine, 10, true);
    vm_machine_set_irq(kit->machine, 10, false);
    vm_machine_set_irq(kit->machine, 5, true);
    go_on();
    vm_kit_wait(kit, 2);
    assert_true(has_value(0x25));
    assert_true(has_value(0x2a) || has_value(0x2f)); /* its level is gone: may be spurious */
}

/* A machine whose processor was stopped between a triple fault and its end. */
static void load_faulted(void)
{
    json_t *cpu = json_array_get(json_object_get(saved, "cpus"), 0);
    size_t length = decode(json_object_get(cpu, "events"));
    struct kvm_vcpu_events events;

    assert_int_equal(length, sizeof(events));
    memcpy(&events, binary, sizeof(events));
    if (!(events.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT)) {
        print_message("this kernel's KVM does not tell of triple faults\n");
        skip();
    }
    events.triple_fault.pending = 1;
    memcpy(binary, &events, sizeof(events));
    json_object_set_new(cpu, "events", encode(length));
    move(true);
}

static void test_a_triple_fault_that_is_pending_happens_unless_there_is_a_reset(void **state)
{
    WITH(1);
    vm_kit_load(kit, &vm_guest_counts);
    save();
    load_faulted();
    assert_int_equal(vm_machine_start(kit->machine), 0);
    vm_kit_wait_event(kit);
    assert_int_equal(kit->event, VM_EVENT_RESET);
    assert_int_equal(vm_kit_count(kit), 0);
    load_faulted();
    vm_kit_run(kit, &vm_guest_counts);
    vm_kit_wait(kit, 10);
}

static void test_processors_that_were_not_started_still_can_be(void **state)
{
    WITH(3);
    vm_kit_load(kit, &vm_guest_starts_others);
    go_on();
    vm_kit_wait(kit, 2);
    assert_true(has_value(1) && has_value(2));
    go_on();
    save();
}

static void test_a_state_that_was_loaded_is_the_state_that_was_saved(void **state)
{
    static const char *const still[] = {"run",  "registers", "system", "xsave", "cpuid",
                                        "xcrs", "debug",     "lapic",  "events"};
    json_t *first;

    WITH(1);
    vm_kit_run(kit, &vm_guest_halts);
    vm_kit_wait(kit, 1);
    save();
    first = json_incref(saved);
    move(true);
    save();
    assert_true(json_equal(json_object_get(first, "chips"), json_object_get(saved, "chips")));
    for (unsigned i = 0; i < sizeof(still) / sizeof(still[0]); i++) {
        const json_t *a = json_array_get(json_object_get(first, "cpus"), 0);
        const json_t *b = json_array_get(json_object_get(saved, "cpus"), 0);

        if (!json_equal(json_object_get(a, still[i]), json_object_get(b, still[i])))
            fail_msg("%s is another", still[i]);
    }
    json_decref(first);
}

static void test_a_machine_that_was_loaded_can_be_reset(void **state)
{
    WITH(2);
    vm_kit_run(kit, &vm_guest_starts_others);
    vm_kit_wait(kit, 1);
    go_on();
    vm_machine_stop(kit->machine);
    vm_kit_run(kit, &vm_guest_counts);
    vm_kit_wait(kit, 10);
    assert_int_equal(vm_kit_value(kit, 9), 10);
}

static void test_a_running_machine_has_no_state(void **state)
{
    json_t *none = NULL;

    WITH(1);
    vm_kit_run(kit, &vm_guest_counts);
    assert_int_equal(vm_machine_save(kit->machine, &none, NULL), -EBUSY);
    save();
    assert_int_equal(vm_machine_start(kit->machine), 0);
    assert_int_equal(vm_machine_load(kit->machine, saved, NULL), -EBUSY);
    assert_null(none);
}

/* ---- what is refused ---- */

static int load(const json_t *from, struct vdisk_error *error)
{
    move(false);
    return vm_machine_load(kit->machine, from, error);
}

/* By a machine that has not run; it need not be another each time. */
static void refused(const json_t *from, const char *what, unsigned how)
{
    struct vdisk_error error = {0};

    if (vm_machine_load(kit->machine, from, &error) != -EINVAL)
        fail_msg("%s in way %u was taken", what, how);
    assert_true(error.code == -EINVAL && error.text[0]);
}

#define WAYS 10u

/* A binary part in a way that is none. */
static json_t *spoil(const json_t *value, unsigned way)
{
    size_t length = decode(value);
    char *text;
    json_t *spoiled;

    switch (way) {
    case 0:
        return NULL; /* is missing */
    case 1:
        return json_integer(1);
    case 2:
        return json_string("");
    case 3:
        return encode(length - 1);
    case 4:
        return encode(length + 1);
    case 5:
        return encode(3);
    case 6:
        return encode(BINARY_MAX);
    case 7:
        return json_array();
    default:
        assert_true(asprintf(&text, "%s*", json_string_value(value)) > 0);
        if (way == 8)
            text[strlen(text) / 2] = '*';
        spoiled = json_string(text);
        free(text);
        return spoiled;
    }
}

/* All that is in the object, but for other objects, in every way. */
static void spoil_members(json_t *object)
{
    const char *key;
    json_t *copy = json_copy(object), *value;

    json_object_foreach(copy, key, value)
    {
        for (unsigned way = 0; json_is_string(value) && way < WAYS; way++) {
            json_t *spoiled = spoil(value, way);

            if (spoiled)
                json_object_set_new(object, key, spoiled);
            else
                json_object_del(object, key);
            refused(saved, key, way);
            json_object_set(object, key, value);
        }
    }
    json_object_set_new(object, "another", json_true());
    refused(saved, "another key", 0);
    json_object_del(object, "another");
    json_decref(copy);
}

static void test_a_part_that_is_missing_or_of_another_size_is_refused(void **state)
{
    json_t *chips, *value;

    WITH(1);
    vm_kit_load(kit, &vm_guest_counts);
    save();
    spoil_members(saved);
    spoil_members(json_array_get(json_object_get(saved, "cpus"), 0));
    chips = json_object_get(saved, "chips");
    for (size_t i = 0; i < 3; i++) {
        value = json_incref(json_array_get(chips, i));
        for (unsigned way = 1; way < WAYS; way++) {
            json_array_set_new(chips, i, spoil(value, way));
            refused(saved, "a chip", way);
        }
        json_array_set_new(chips, i, value);
    }
    value = json_incref(json_array_get(chips, 0));
    json_array_set(chips, 0, json_array_get(chips, 1));
    refused(saved, "one chip in another's place", 0);
    json_array_set_new(chips, 0, value);
    assert_int_equal(load(saved, NULL), 0);
}

static void test_a_list_of_another_length_is_refused(void **state)
{
    static const char *const lists[] = {"cpus", "chips"};

    WITH(2);
    vm_kit_load(kit, &vm_guest_counts);
    save();
    for (unsigned i = 0; i < 2; i++) {
        json_t *list = json_object_get(saved, lists[i]), *good = json_copy(list);
        json_t *last = json_incref(json_array_get(list, json_array_size(list) - 1));

        json_array_append(list, last);
        refused(saved, lists[i], 0);
        json_array_clear(list);
        refused(saved, lists[i], 1);
        json_array_append(list, last);
        refused(saved, lists[i], 2);
        json_object_set_new(saved, lists[i], json_object());
        refused(saved, lists[i], 3);
        json_object_set_new(saved, lists[i], good);
        json_decref(last);
    }
    refused(json_true(), "true", 0);
    assert_int_equal(load(saved, NULL), 0);
}

static uint32_t seed = 1;

static uint32_t random_bits(void)
{
    seed = seed * 1664525 + 1013904223;
    return seed >> 8;
}

/* Some bits of a part are others. */
static void alter(json_t *cpu)
{
    unsigned part = random_bits() % (unsigned)json_object_size(cpu);
    const char *key;
    json_t *value;

    json_object_foreach(cpu, key, value)
    {
        size_t length;

        if (part-- > 0 || !json_is_string(value))
            continue;
        length = decode(value);
        for (unsigned i = random_bits() % 3; i < 3; i++)
            binary[random_bits() % length] ^= (uint8_t)(1u << random_bits() % 8);
        json_object_set_new(cpu, key, encode(length));
        break;
    }
}

/* KVM decides what it takes; a guest made of it is one that may do anything, as all guests. */
static void test_whatever_bytes_a_state_has_nothing_breaks(void **state)
{
    /* A machine that took its state costs most of the time. */
    bool is_long = getenv("VDISK_TEST_LONG");
    unsigned rounds = is_long ? 300 : 150, taken = 0, taken_max = is_long ? rounds : 6;

    WITH(1);
    vm_kit_run(kit, &vm_guest_counts);
    vm_kit_wait(kit, 1);
    save();
    move(false);
    for (unsigned round = 0; round < rounds && taken < taken_max; round++) {
        json_t *altered = json_deep_copy(saved);

        alter(json_array_get(json_object_get(altered, "cpus"), 0));
        if (vm_machine_load(kit->machine, altered, NULL) == 0) {
            taken++;
            assert_int_equal(vm_machine_start(kit->machine), 0);
            move(false);
        }
        json_decref(altered);
    }
}

/* ---- another host ---- */

static json_t *first_cpu(void)
{
    return json_array_get(json_object_get(saved, "cpus"), 0);
}

static void not_here(const char *words)
{
    struct vdisk_error error = {0};

    assert_int_equal(load(saved, &error), -ENOTSUP);
    if (!strstr(error.text, words))
        fail_msg("'%s' is not in '%s'", words, error.text);
}

static void test_a_feature_that_the_host_lacks_is_named(void **state)
{
    struct kvm_cpuid_entry2 entry;
    size_t length;

    WITH(1);
    vm_kit_load(kit, &vm_guest_counts);
    save();
    length = decode(json_object_get(first_cpu(), "cpuid"));
    for (size_t at = 0; at < length; at += sizeof(entry)) {
        memcpy(&entry, binary + at, sizeof(entry));
        if (entry.function == 1)
            entry.ecx |= 1u << 16; /* a bit that no processor has */
        memcpy(binary + at, &entry, sizeof(entry));
    }
    json_object_set_new(first_cpu(), "cpuid", encode(length));
    not_here("CPUID 0x1.0, ECX bit 16");
}

static void test_a_register_that_this_kvm_lacks_is_named(void **state)
{
    struct kvm_msr_entry entry;
    size_t length;

    WITH(1);
    vm_kit_load(kit, &vm_guest_counts);
    save();
    length = decode(json_object_get(first_cpu(), "msrs"));
    memcpy(&entry, binary, sizeof(entry));
    entry.index = 0x4b564dff;
    memcpy(binary, &entry, sizeof(entry));
    json_object_set_new(first_cpu(), "msrs", encode(length));
    not_here("0x4b564dff");
}

static void test_a_clock_of_another_speed_is_given_or_refused(void **state)
{
    struct vdisk_error error = {0};
    json_int_t khz;
    int rc;

    WITH(1);
    vm_kit_load(kit, &vm_guest_counts);
    save();
    khz = json_integer_value(json_object_get(first_cpu(), "tsc_khz"));
    json_object_set_new(first_cpu(), "tsc_khz", json_integer(khz + khz / 5000)); /* is the same */
    assert_int_equal(load(saved, NULL), 0);
    json_object_set_new(first_cpu(), "tsc_khz", json_integer(khz / 3));
    rc = load(saved, &error);
    assert_true(rc == 0 || (rc == -ENOTSUP && strstr(error.text, "kHz")));
    move(false);
    for (json_int_t none = -1; none < 1; none++) {
        json_object_set_new(first_cpu(), "tsc_khz", json_integer(none));
        refused(saved, "tsc_khz", 0);
    }
    json_object_set_new(first_cpu(), "tsc_khz", json_integer(INT64_MAX));
    refused(saved, "tsc_khz", 1);
    json_object_set_new(first_cpu(), "tsc_khz", json_string("1"));
    refused(saved, "tsc_khz", 2);
}

#define TEST(name) cmocka_unit_test_teardown(name, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_clocks_of_processors_agree_though_the_host_is_busy),
        TEST(test_a_guest_goes_on_exactly_where_it_was),
        TEST(test_what_a_read_gave_is_not_lost),
        TEST(test_registers_of_every_kind_are_kept),
        TEST(test_the_timers_that_were_armed_fire),
        TEST(test_the_deadline_that_was_set_comes),
        TEST(test_an_interrupt_that_was_on_its_way_arrives),
        TEST(test_a_triple_fault_that_is_pending_happens_unless_there_is_a_reset),
        TEST(test_processors_that_were_not_started_still_can_be),
        TEST(test_a_state_that_was_loaded_is_the_state_that_was_saved),
        TEST(test_a_machine_that_was_loaded_can_be_reset),
        TEST(test_a_running_machine_has_no_state),
        TEST(test_a_part_that_is_missing_or_of_another_size_is_refused),
        TEST(test_a_list_of_another_length_is_refused),
        TEST(test_whatever_bytes_a_state_has_nothing_breaks),
        TEST(test_a_feature_that_the_host_lacks_is_named),
        TEST(test_a_register_that_this_kvm_lacks_is_named),
        TEST(test_a_clock_of_another_speed_is_given_or_refused),
    };

    usable = vm_kit_usable();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
