/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All of a virtual processor's state, as KVM gives and takes it. The vCPU is not running.
 */
#ifndef VMM_CPU_STATE_H
#define VMM_CPU_STATE_H

#include "kvm.h"

#define VM_MSRS_MAX         1024u

#define VM_MSR_TSC          0x10u
#define VM_MSR_APIC_BASE    0x1bu
#define VM_MSR_MISC_ENABLE  0x1a0u
#define VM_MSR_MTRR_DEFAULT 0x2ffu
#define VM_MSR_TSC_DEADLINE 0x6e0u

/* The registers that are a guest's state and can be read here. */
struct vm_msrs {
    unsigned count;
    uint32_t index[VM_MSRS_MAX];
};

struct vm_cpu_state {
    struct kvm_mp_state mp;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_xcrs xcrs;
    struct kvm_debugregs debug;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events;
    unsigned msr_count;
    struct kvm_msr_entry msr[VM_MSRS_MAX];
    size_t xsave_bytes;
    uint64_t xsave[]; /* struct kvm_xsave, and more of its kind */
};

/* The parts of it that KVM has a pair of calls for, in the order of these calls. */
struct vm_cpu_part {
    const char *key, *name;
    unsigned long get, set;
    size_t offset;
    size_t bytes; /* 0: as many as the vCPU has, xsave_bytes */
};

#define VM_CPU_PARTS 8u

extern const struct vm_cpu_part vm_cpu_parts[VM_CPU_PARTS];

/* Zeroed. NULL without memory. */
struct vm_cpu_state *vm_cpu_state_new(const struct vm_kvm *kvm);
/* Also wipes it: it has the guest's secrets. NULL is allowed. */
void vm_cpu_state_free(struct vm_cpu_state *state);
size_t vm_cpu_part_bytes(const struct vm_cpu_state *state, const struct vm_cpu_part *part);

/* A model-specific register's value. NULL: it is not in the state. */
__u64 *vm_cpu_state_msr(struct vm_cpu_state *state, uint32_t index);

/* Finds out on a vCPU which they are. -errno. */
int vm_msrs_find(const struct vm_kvm *kvm, int vcpu, struct vm_msrs *msrs);

/* What its clock says now. */
int vm_cpu_tsc(int vcpu, uint64_t *tsc, struct vdisk_error *error);

int vm_cpu_get(int vcpu, const struct vm_msrs *msrs, struct vm_cpu_state *state,
               struct vdisk_error *error);
/* With `first` the state's clock, too, goes on from when that one was `was`; it is changed in the
 * state. NULL: it goes on from now. */
struct vm_clock {
    int vcpu;
    uint64_t was;
};
int vm_cpu_set(int vcpu, struct vm_cpu_state *state, const struct vm_clock *first,
               struct vdisk_error *error);

#endif
