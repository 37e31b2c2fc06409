/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order is KVM's own: asking for the run state first lets a pending INIT or SIPI change the
 * other parts before they are read; SREGS says where the local APIC is; it must be there when the
 * timer's deadline is written, and the TSC before that; events last, since some of the others drop
 * those that are pending.
 */
#include "cpu_state.h"
#include "report.h"

#include <errno.h>
#include <sodium.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* State, but not in KVM's list: the MTRRs. */
static const uint32_t unlisted[] = {
    0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206,
    0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d,
    0x20e, 0x20f, 0x250, 0x258, 0x259, 0x268, 0x269,
    0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, VM_MSR_MTRR_DEFAULT,
};

#define PART(key, name, what, member)                                                              \
    {                                                                                              \
        key, name, KVM_GET_##what, KVM_SET_##what, offsetof(struct vm_cpu_state, member),          \
            sizeof(((struct vm_cpu_state *)NULL)->member)                                          \
    }

#define EVENTS (VM_CPU_PARTS - 1)

const struct vm_cpu_part vm_cpu_parts[VM_CPU_PARTS] = {
    PART("run", "run state", MP_STATE, mp),
    PART("registers", "registers", REGS, regs),
    PART("system", "system registers", SREGS, sregs),
    {"xsave", "FPU state", KVM_GET_XSAVE, KVM_SET_XSAVE, offsetof(struct vm_cpu_state, xsave), 0},
    PART("xcrs", "extended control registers", XCRS, xcrs),
    PART("debug", "debug registers", DEBUGREGS, debug),
    PART("lapic", "local APIC", LAPIC, lapic),
    PART("events", "pending events", VCPU_EVENTS, events),
};

struct vm_cpu_state *vm_cpu_state_new(const struct vm_kvm *kvm)
{
    struct vm_cpu_state *state = calloc(1, sizeof(*state) + kvm->xsave_bytes);

    if (state)
        state->xsave_bytes = kvm->xsave_bytes;
    return state;
}

void vm_cpu_state_free(struct vm_cpu_state *state)
{
    if (!state)
        return;
    sodium_memzero(state, sizeof(*state) + state->xsave_bytes);
    free(state);
}

size_t vm_cpu_part_bytes(const struct vm_cpu_state *state, const struct vm_cpu_part *part)
{
    return part->bytes ? part->bytes : state->xsave_bytes;
}

__u64 *vm_cpu_state_msr(struct vm_cpu_state *state, uint32_t index)
{
    for (unsigned i = 0; i < state->msr_count; i++)
        if (state->msr[i].index == index)
            return &state->msr[i].data;
    return NULL;
}

/* ---- model-specific registers ---- */

/* All of them in one call. `out` may be NULL. */
static int move_msrs(int vcpu, unsigned long request, const struct kvm_msr_entry *entry,
                     unsigned count, struct kvm_msr_entry *out, struct vdisk_error *error)
{
    size_t bytes = sizeof(struct kvm_msrs) + count * sizeof(*entry);
    struct kvm_msrs *all = calloc(1, bytes);
    int done, rc = 0;

    if (!all)
        return error_set(error, -ENOMEM, "out of memory");
    all->nmsrs = count;
    memcpy(all->entries, entry, count * sizeof(*entry));
    done = ioctl(vcpu, request, all);
    if (done < 0)
        rc = error_set(error, -errno, "KVM moves no model-specific registers: %s",
                       vdisk_strerror(-errno));
    else if ((unsigned)done < count)
        rc = error_set(error, -EINVAL, "KVM refuses the model-specific register 0x%x",
                       entry[done].index);
    else if (out)
        memcpy(out, all->entries, count * sizeof(*entry));
    sodium_memzero(all, bytes);
    free(all);
    return rc;
}

/* Adds it if the vCPU has it, and it is not there yet. */
static void probe_msr(int vcpu, struct vm_msrs *msrs, uint32_t index)
{
    const struct kvm_msr_entry one = {.index = index};

    for (unsigned i = 0; i < msrs->count; i++)
        if (msrs->index[i] == index)
            return;
    if (msrs->count < VM_MSRS_MAX && move_msrs(vcpu, KVM_GET_MSRS, &one, 1, NULL, NULL) == 0)
        msrs->index[msrs->count++] = index;
}

int vm_msrs_find(const struct vm_kvm *kvm, int vcpu, struct vm_msrs *msrs)
{
    struct kvm_msr_list *list = vm_kvm_msrs(kvm);

    if (!list)
        return -errno;
    msrs->count = 0;
    probe_msr(vcpu, msrs, VM_MSR_TSC);
    for (unsigned i = 0; i < list->nmsrs; i++)
        if (list->indices[i] != VM_MSR_TSC_DEADLINE)
            probe_msr(vcpu, msrs, list->indices[i]);
    for (unsigned i = 0; i < sizeof(unlisted) / sizeof(unlisted[0]); i++)
        probe_msr(vcpu, msrs, unlisted[i]);
    probe_msr(vcpu, msrs, VM_MSR_TSC_DEADLINE);
    free(list);
    return 0;
}

int vm_cpu_tsc(int vcpu, uint64_t *tsc, struct vdisk_error *error)
{
    struct kvm_msr_entry entry = {.index = VM_MSR_TSC};
    int rc = move_msrs(vcpu, KVM_GET_MSRS, &entry, 1, &entry, error);

    *tsc = entry.data;
    return rc;
}

/* ---- all of it ---- */

static int get_part(int vcpu, struct vm_cpu_state *state, const struct vm_cpu_part *part,
                    struct vdisk_error *error)
{
    /* The call without the 2 fills a struct kvm_xsave only. */
    bool large = part->bytes == 0 && state->xsave_bytes > sizeof(struct kvm_xsave);
    int rc = ioctl(vcpu, large ? KVM_GET_XSAVE2 : part->get, (char *)state + part->offset);

    if (rc < 0)
        return error_set(error, -errno, "KVM does not tell a processor's %s: %s", part->name,
                         vdisk_strerror(-errno));
    return 0;
}

static int set_part(int vcpu, const struct vm_cpu_state *state, const struct vm_cpu_part *part,
                    struct vdisk_error *error)
{
    if (ioctl(vcpu, part->set, (const char *)state + part->offset) < 0)
        return error_set(error, -errno, "KVM refuses a processor's %s: %s", part->name,
                         vdisk_strerror(-errno));
    return 0;
}

int vm_cpu_get(int vcpu, const struct vm_msrs *msrs, struct vm_cpu_state *state,
               struct vdisk_error *error)
{
    int rc = 0;

    for (unsigned i = 0; i < EVENTS && rc == 0; i++)
        rc = get_part(vcpu, state, &vm_cpu_parts[i], error);
    if (rc)
        return rc;
    state->msr_count = msrs->count;
    for (unsigned i = 0; i < msrs->count; i++)
        state->msr[i] = (struct kvm_msr_entry){.index = msrs->index[i]};
    rc = move_msrs(vcpu, KVM_GET_MSRS, state->msr, state->msr_count, state->msr, error);
    return rc ? rc : get_part(vcpu, state, &vm_cpu_parts[EVENTS], error);
}

static int advance_clock(struct vm_cpu_state *state, const struct vm_clock *first,
                         struct vdisk_error *error)
{
    __u64 *clock = vm_cpu_state_msr(state, VM_MSR_TSC);
    uint64_t now;
    int rc = clock ? vm_cpu_tsc(first->vcpu, &now, error) : 0;

    if (clock && rc == 0)
        *clock += now - first->was;
    return rc;
}

int vm_cpu_set(int vcpu, struct vm_cpu_state *state, const struct vm_clock *first,
               struct vdisk_error *error)
{
    int rc = 0;

    for (unsigned i = 0; i < EVENTS && rc == 0; i++)
        rc = set_part(vcpu, state, &vm_cpu_parts[i], error);
    if (rc == 0 && first)
        rc = advance_clock(state, first, error);
    if (rc)
        return rc;
    rc = move_msrs(vcpu, KVM_SET_MSRS, state->msr, state->msr_count, NULL, error);
    return rc ? rc : set_part(vcpu, state, &vm_cpu_parts[EVENTS], error);
}
