/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM's list describes the host's processor, with its own numbers of cores and sharing of caches:
 * what says so in it is made anew.
 */
#include "cpu_features.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define BIT(n)          (1u << (n))

#define ECX1_VMX        BIT(5)
#define ECX1_PDCM       BIT(15)
#define ECX1_DEADLINE   BIT(24)
#define ECX1_HYPERVISOR BIT(31)
#define EDX1_HTT        BIT(28)
#define EBX7_SGX        BIT(2)
#define ECX7_SGX_LC     BIT(30)
#define ECX81_CMPLEGACY BIT(1)
#define ECX81_SVM       BIT(2)
#define ECX81_COUNTERS  (BIT(23) | BIT(24) | BIT(28))

/* Levels of 0xb and 0x1f; 0xb has no others than these. */
#define LEVEL_NONE      0u
#define LEVEL_SMT       1u
#define LEVEL_CORE      2u
#define LEVELS          3u

struct place {
    unsigned id, cpus;
    unsigned bits; /* of an id */
    bool amd, deadline;
};

static bool is_amd(const struct kvm_cpuid2 *supported)
{
    const struct kvm_cpuid_entry2 *vendor = vm_cpuid_find(supported, 0, 0);

    /* The beginnings of "AuthenticAMD" and "HygonGenuine". */
    return vendor && (memcmp(&vendor->ebx, "Auth", 4) == 0 || memcmp(&vendor->ebx, "Hygo", 4) == 0);
}

static unsigned bits_for(unsigned cpus)
{
    unsigned bits = 0;

    while (1u << bits < cpus)
        bits++;
    return bits;
}

static void clear(struct kvm_cpuid_entry2 *entry)
{
    entry->eax = entry->ebx = entry->ecx = entry->edx = 0;
}

/* A cache of leaf 4 or 0x8000001d, whose fields have the same places: the last level is shared by
 * all cores. */
static void set_cache(struct kvm_cpuid_entry2 *entry, const struct place *place)
{
    unsigned type = entry->eax & 0x1f, level = entry->eax >> 5 & 7;
    unsigned sharing = level >= 3 ? (1u << place->bits) - 1 : 0;

    if (type != 0)
        entry->eax = (entry->eax & 0x3fff) | sharing << 14;
}

static void set_basic(struct kvm_cpuid_entry2 *entry, const struct place *place)
{
    unsigned ids = 1u << place->bits;

    switch (entry->function) {
    case 1:
        entry->ebx = (entry->ebx & 0xffff) | ids << 16 | place->id << 24;
        entry->ecx = (entry->ecx & ~(ECX1_VMX | ECX1_PDCM)) | ECX1_HYPERVISOR;
        if (place->deadline)
            entry->ecx |= ECX1_DEADLINE;
        entry->edx = place->cpus > 1 ? entry->edx | EDX1_HTT : entry->edx & ~EDX1_HTT;
        break;
    case 4:
        set_cache(entry, place);
        if (entry->eax & 0x1f)
            entry->eax |= (ids - 1) << 26;
        break;
    case 7:
        if (entry->index == 0) {
            entry->ebx &= ~EBX7_SGX;
            entry->ecx &= ~ECX7_SGX_LC;
        }
        break;
    case 0xa:  /* performance counters */
    case 0x12: /* SGX */
        clear(entry);
        break;
    default:
        break;
    }
}

static void set_extended(struct kvm_cpuid_entry2 *entry, const struct place *place)
{
    switch (entry->function) {
    case 0x80000001:
        entry->ecx &= ~(ECX81_SVM | ECX81_COUNTERS | ECX81_CMPLEGACY);
        if (place->amd && place->cpus > 1)
            entry->ecx |= ECX81_CMPLEGACY;
        break;
    case 0x80000008: /* above: the size of a counter */
        if (place->amd)
            entry->ecx = (entry->ecx & 0xffff0000) | place->bits << 12 | (place->cpus - 1);
        break;
    case 0x8000001d:
        set_cache(entry, place);
        break;
    case 0x8000001e: /* core and node, each of one thread */
        entry->eax = place->id;
        entry->ebx = place->id;
        entry->ecx = entry->edx = 0;
        break;
    case 0x8000000a: /* SVM */
    case 0x8000001f: /* encrypted memory */
    case 0x80000022: /* performance counters */
        clear(entry);
        break;
    default:
        break;
    }
}

static bool is_topology(uint32_t function)
{
    return function == 0xb || function == 0x1f || function == 0x80000026;
}

static void add_topology(struct kvm_cpuid2 *cpuid, uint32_t function, const struct place *place)
{
    static const uint32_t level[LEVELS] = {LEVEL_SMT, LEVEL_CORE, LEVEL_NONE};

    for (uint32_t i = 0; i < LEVELS; i++)
        cpuid->entries[cpuid->nent++] = (struct kvm_cpuid_entry2){
            .function = function,
            .index = i,
            .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            .eax = level[i] == LEVEL_CORE ? place->bits : 0,
            .ebx = level[i] == LEVEL_CORE  ? place->cpus
                   : level[i] == LEVEL_SMT ? 1
                                           : 0,
            .ecx = level[i] << 8 | i,
            .edx = place->id,
        };
}

struct kvm_cpuid2 *vm_cpuid_new(const struct vm_kvm *kvm, const struct kvm_cpuid2 *supported,
                                unsigned id, unsigned cpus)
{
    const struct place place = {
        .id = id,
        .cpus = cpus,
        .bits = bits_for(cpus),
        .amd = is_amd(supported),
        .deadline = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0,
    };
    const struct kvm_cpuid_entry2 *first = vm_cpuid_find(supported, 0, 0);
    uint32_t last = first ? first->eax : 0;
    struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof(*cpuid) + (supported->nent + 2 * LEVELS) * sizeof(cpuid->entries[0]));

    if (!cpuid)
        return NULL;
    for (uint32_t i = 0; i < supported->nent; i++) {
        struct kvm_cpuid_entry2 entry = supported->entries[i];

        if (is_topology(entry.function))
            continue;
        set_basic(&entry, &place);
        set_extended(&entry, &place);
        cpuid->entries[cpuid->nent++] = entry;
    }
    if (last >= 0xb)
        add_topology(cpuid, 0xb, &place);
    if (last >= 0x1f)
        add_topology(cpuid, 0x1f, &place);
    return cpuid;
}

int vm_cpuid_set(int vcpu, struct kvm_cpuid2 **cpuid)
{
    struct kvm_cpuid2 *seen;
    int rc;

    if (ioctl(vcpu, KVM_SET_CPUID2, *cpuid) < 0)
        return -errno;
    seen = calloc(1, sizeof(*seen) + VM_CPUID_MAX * sizeof(seen->entries[0]));
    if (!seen)
        return -ENOMEM;
    seen->nent = VM_CPUID_MAX;
    if (ioctl(vcpu, KVM_GET_CPUID2, seen) < 0) {
        rc = -errno;
        free(seen);
        return rc;
    }
    /* Before Linux 6.7 it does not say how many there are: as many as were set. */
    if (seen->nent == VM_CPUID_MAX)
        seen->nent = (*cpuid)->nent;
    free(*cpuid);
    *cpuid = seen;
    return 0;
}

const struct kvm_cpuid_entry2 *vm_cpuid_find(const struct kvm_cpuid2 *cpuid, uint32_t function,
                                             uint32_t index)
{
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

        if (entry->function == function &&
            (entry->index == index || !(entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
            return entry;
    }
    return NULL;
}
