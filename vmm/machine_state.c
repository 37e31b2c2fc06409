/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine's state in JSON:
 *
 *   {"cpus": [{"tsc_khz": N, "cpuid": BINARY, "msrs": BINARY, a BINARY for each of vm_cpu_parts}],
 *    "pit": BINARY, "chips": [BINARY, BINARY, BINARY], "clock": BINARY}
 *
 * BINARY is base64 of KVM's own structures, which are the kernel's interface and do not change.
 * The processors' clocks (TSC) are those of one moment, though each is read and written in its
 * turn, and on a busy host seconds may lie between: KVM takes clocks for one that are within a
 * second.
 *
 * What is loaded is hostile: each length must be the structure's, each count is bounded, and KVM
 * checks what is in them as it does for any program.
 */
#include "cpu_features.h"
#include "machine_impl.h"
#include "report.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define BASE64        sodium_base64_VARIANT_ORIGINAL
#define CPU_KEYS      (VM_CPU_PARTS + 3)
/* Of a million: clocks that differ by less are one to KVM too (its tsc_tolerance_ppm). */
#define TSC_TOLERANCE 250u

static int no_memory(struct vdisk_error *error)
{
    return error_set(error, -ENOMEM, "out of memory");
}

static int malformed(struct vdisk_error *error, const char *what)
{
    return error_set(error, -EINVAL, "the machine's state is malformed: %s", what);
}

/* ---- binary parts ---- */

static json_t *encode(const void *bytes, size_t length)
{
    size_t size = sodium_base64_encoded_len(length, BASE64);
    char *text = malloc(size);
    json_t *value;

    if (!text)
        return NULL;
    sodium_bin2base64(text, size, bytes, length, BASE64);
    value = json_string(text);
    sodium_memzero(text, size);
    free(text);
    return value;
}

/* At most `size` bytes; *length: how many. */
static bool decode(const json_t *value, void *bytes, size_t size, size_t *length)
{
    const char *text = json_string_value(value), *end;
    size_t text_length = json_string_length(value);

    return text &&
           sodium_base642bin(bytes, size, text, text_length, NULL, length, &end, BASE64) == 0 &&
           end == text + text_length;
}

/* So many bytes and no others. */
static bool decode_exactly(const json_t *value, void *bytes, size_t size)
{
    size_t length;

    return decode(value, bytes, size, &length) && length == size;
}

/* ---- the clocks ---- */

/* How far ahead of the first processor's clock, as it is now, this one is. */
static int clock_ahead(const struct vm_machine *machine, const struct vm_cpu *cpu, uint64_t *ahead,
                       struct vdisk_error *error)
{
    uint64_t first, this;
    int rc = vm_cpu_tsc(machine->cpu[0].fd, &first, error);

    rc = rc ? rc : vm_cpu_tsc(cpu->fd, &this, error);
    if (rc == 0)
        *ahead = this - first;
    return rc;
}

/* `first` is the first processor's clock at that moment: taken from it, and used for the others. */
static int save_clock(const struct vm_machine *machine, const struct vm_cpu *cpu,
                      struct vm_cpu_state *state, uint64_t *first, struct vdisk_error *error)
{
    __u64 *clock = vm_cpu_state_msr(state, VM_MSR_TSC);
    uint64_t ahead = 0;
    int rc = 0;

    if (!clock)
        return 0;
    if (cpu->index == 0)
        *first = *clock;
    else
        rc = clock_ahead(machine, cpu, &ahead, error);
    *clock = *first + ahead;
    return rc;
}

/* ---- saving ---- */

static json_t *cpu_to_json(const struct vm_cpu *cpu, const struct vm_cpu_state *state, int tsc_khz)
{
    const struct kvm_cpuid2 *cpuid = cpu->cpuid;
    json_t *to = json_object();
    int rc = json_object_set_new(to, "tsc_khz", json_integer(tsc_khz));

    rc |= json_object_set_new(to, "cpuid",
                              encode(cpuid->entries, cpuid->nent * sizeof(cpuid->entries[0])));
    rc |= json_object_set_new(to, "msrs",
                              encode(state->msr, state->msr_count * sizeof(state->msr[0])));
    for (unsigned i = 0; i < VM_CPU_PARTS; i++) {
        const struct vm_cpu_part *part = &vm_cpu_parts[i];

        rc |= json_object_set_new(
            to, part->key,
            encode((const char *)state + part->offset, vm_cpu_part_bytes(state, part)));
    }
    if (rc == 0)
        return to;
    json_decref(to);
    return NULL;
}

static int save_cpu(struct vm_machine *machine, struct vm_cpu *cpu, json_t *to, uint64_t *first,
                    struct vdisk_error *error)
{
    struct vm_cpu_state *state = vm_cpu_state_new(&machine->kvm);
    int tsc_khz, rc;

    if (!state)
        return no_memory(error);
    rc = vm_cpu_get(cpu->fd, &machine->msrs, state, error);
    rc = rc ? rc : save_clock(machine, cpu, state, first, error);
    tsc_khz = ioctl(cpu->fd, KVM_GET_TSC_KHZ, 0);
    if (rc == 0 && tsc_khz <= 0)
        rc = error_set(error, -EIO, "KVM does not tell how fast a processor's clock is");
    if (rc == 0 && json_array_append_new(to, cpu_to_json(cpu, state, tsc_khz)))
        rc = no_memory(error);
    vm_cpu_state_free(state);
    return rc;
}

static int save_platform(struct vm_machine *machine, json_t *to, struct vdisk_error *error)
{
    json_t *chips = json_array();
    struct vm_platform platform;
    struct kvm_clock_data clock;
    int rc = vm_platform_get(machine, &platform, error), bad = 0;

    if (rc == 0 && ioctl(machine->kvm.vm, KVM_GET_CLOCK, &clock) < 0)
        rc = error_set(error, -errno, "KVM does not tell the time: %s", vdisk_strerror(-errno));
    if (rc) {
        json_decref(chips);
        return rc;
    }
    for (unsigned i = 0; i < VM_IRQCHIPS; i++)
        bad |= json_array_append_new(chips, encode(&platform.chip[i], sizeof(platform.chip[i])));
    bad |= json_object_set_new(to, "chips", chips);
    bad |= json_object_set_new(to, "pit", encode(&platform.pit, sizeof(platform.pit)));
    bad |= json_object_set_new(to, "clock", encode(&clock, sizeof(clock)));
    return bad ? no_memory(error) : 0;
}

int vm_machine_save(struct vm_machine *machine, json_t **out, struct vdisk_error *error)
{
    json_t *state, *cpus;
    uint64_t first = 0;
    int rc = 0;

    if (machine->started)
        return error_set(error, -EBUSY, "the machine is running");
    state = json_object();
    cpus = json_array();
    if (json_object_set_new(state, "cpus", cpus))
        rc = no_memory(error);
    /* First, so that it is the time of the clocks that are saved next. */
    if (rc == 0)
        rc = save_platform(machine, state, error);
    for (unsigned i = 0; i < machine->count && rc == 0; i++)
        rc = save_cpu(machine, &machine->cpu[i], cpus, &first, error);
    if (rc) {
        json_decref(state);
        return rc;
    }
    *out = state;
    return 0;
}

/* ---- loading ---- */

static int load_cpuid(struct vm_cpu *cpu, const json_t *from, struct vdisk_error *error)
{
    size_t room = VM_CPUID_MAX * sizeof(struct kvm_cpuid_entry2), length;
    struct kvm_cpuid2 *told = calloc(1, sizeof(*told) + room);
    int rc;

    if (!told)
        return no_memory(error);
    if (!decode(from, told->entries, room, &length) || length == 0 ||
        length % sizeof(told->entries[0]) != 0) {
        free(told);
        return malformed(error, "CPUID");
    }
    told->nent = (uint32_t)(length / sizeof(told->entries[0]));
    rc = vm_cpuid_check(told, cpu->cpuid, error);
    if (rc == 0) {
        rc = vm_cpuid_set(cpu->fd, &told);
        if (rc)
            error_set(error, rc, "KVM refuses the state's CPUID: %s", vdisk_strerror(rc));
    }
    if (rc) {
        free(told);
        return rc;
    }
    free(cpu->cpuid);
    cpu->cpuid = told;
    return 0;
}

static bool knows(const struct vm_msrs *msrs, uint32_t index)
{
    for (unsigned i = 0; i < msrs->count; i++)
        if (msrs->index[i] == index)
            return true;
    return false;
}

static int load_msrs(const struct vm_machine *machine, const json_t *from,
                     struct vm_cpu_state *state, struct vdisk_error *error)
{
    size_t length;

    if (!decode(from, state->msr, sizeof(state->msr), &length) || length == 0 ||
        length % sizeof(state->msr[0]) != 0)
        return malformed(error, "model-specific registers");
    state->msr_count = (unsigned)(length / sizeof(state->msr[0]));
    for (unsigned i = 0; i < state->msr_count; i++)
        if (!knows(&machine->msrs, state->msr[i].index))
            return error_set(error, -ENOTSUP,
                             "this host's KVM lacks the model-specific register 0x%x that the "
                             "guest has",
                             state->msr[i].index);
    return 0;
}

/* The FPU's may be shorter than here: what follows is in its first state. */
static int load_part(const json_t *from, struct vm_cpu_state *state, const struct vm_cpu_part *part,
                     struct vdisk_error *error)
{
    size_t size = vm_cpu_part_bytes(state, part), length;

    if (!decode(from, (char *)state + part->offset, size, &length) ||
        (length != size && (part->bytes || length < sizeof(struct kvm_xsave))))
        return malformed(error, part->name);
    return 0;
}

static int set_tsc_khz(const struct vm_cpu *cpu, const json_t *from, struct vdisk_error *error)
{
    json_int_t wanted = json_integer_value(from);
    int here = ioctl(cpu->fd, KVM_GET_TSC_KHZ, 0);
    json_int_t apart;

    if (wanted <= 0 || wanted > INT32_MAX)
        return malformed(error, "tsc_khz");
    apart = wanted > here ? wanted - here : here - wanted;
    if (apart * 1000000 <= (json_int_t)here * TSC_TOLERANCE)
        return 0;
    if (ioctl(cpu->fd, KVM_SET_TSC_KHZ, (unsigned long)wanted) < 0)
        return error_set(error, -ENOTSUP,
                         "this host's processor has a clock of %d kHz, and cannot give the guest "
                         "the %lld kHz that it had",
                         here, (long long)wanted);
    return 0;
}

static int load_cpu(struct vm_machine *machine, struct vm_cpu *cpu, const json_t *from,
                    struct vm_clock *first, struct vdisk_error *error)
{
    struct vm_cpu_state *state;
    const __u64 *clock;
    int rc;

    if (!json_is_object(from) || json_object_size(from) != CPU_KEYS)
        return malformed(error, "a processor");
    state = vm_cpu_state_new(&machine->kvm);
    if (!state)
        return no_memory(error);
    rc = load_msrs(machine, json_object_get(from, "msrs"), state, error);
    for (unsigned i = 0; i < VM_CPU_PARTS && rc == 0; i++)
        rc = load_part(json_object_get(from, vm_cpu_parts[i].key), state, &vm_cpu_parts[i], error);
    if (rc == 0)
        rc = load_cpuid(cpu, json_object_get(from, "cpuid"), error);
    if (rc == 0)
        rc = set_tsc_khz(cpu, json_object_get(from, "tsc_khz"), error);
    if (rc == 0)
        rc = vm_cpu_set(cpu->fd, state, first->vcpu < 0 ? NULL : first, error);
    clock = vm_cpu_state_msr(state, VM_MSR_TSC);
    if (cpu->index == 0 && clock)
        *first = (struct vm_clock){.vcpu = cpu->fd, .was = *clock};
    vm_cpu_state_free(state);
    return rc;
}

static int read_platform(const json_t *from, struct vm_platform *platform,
                         struct kvm_clock_data *clock, struct vdisk_error *error)
{
    const json_t *chips = json_object_get(from, "chips");

    if (!decode_exactly(json_object_get(from, "pit"), &platform->pit, sizeof(platform->pit)))
        return malformed(error, "timer");
    if (!decode_exactly(json_object_get(from, "clock"), clock, sizeof(*clock)))
        return malformed(error, "clock");
    if (!json_is_array(chips) || json_array_size(chips) != VM_IRQCHIPS)
        return malformed(error, "interrupt controllers");
    for (unsigned i = 0; i < VM_IRQCHIPS; i++)
        if (!decode_exactly(json_array_get(chips, i), &platform->chip[i],
                            sizeof(platform->chip[i])) ||
            platform->chip[i].chip_id != i)
            return malformed(error, "interrupt controllers");
    /* The time that has passed since is not the guest's. */
    *clock = (struct kvm_clock_data){.clock = clock->clock};
    return 0;
}

int vm_machine_load(struct vm_machine *machine, const json_t *state, struct vdisk_error *error)
{
    const json_t *cpus = json_object_get(state, "cpus");
    struct kvm_clock_data clock;
    struct vm_platform platform;
    struct vm_clock first = {.vcpu = -1};
    int rc;

    if (machine->started)
        return error_set(error, -EBUSY, "the machine is running");
    if (!json_is_array(cpus) || json_object_size(state) != 4)
        return malformed(error, "its parts");
    if (json_array_size(cpus) != machine->count)
        return error_set(error, -EINVAL,
                         "the state is of a machine with another number of processors");
    rc = read_platform(state, &platform, &clock, error);
    for (unsigned i = 0; i < machine->count && rc == 0; i++)
        rc = load_cpu(machine, &machine->cpu[i], json_array_get(cpus, i), &first, error);
    /* After the processors' parts, so that what is pending arrives there. */
    if (rc == 0)
        rc = vm_platform_set(machine, &platform, error);
    if (rc == 0 && ioctl(machine->kvm.vm, KVM_SET_CLOCK, &clock) < 0)
        rc = error_set(error, -errno, "KVM refuses the clock: %s", vdisk_strerror(-errno));
    return rc;
}
