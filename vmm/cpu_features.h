/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest is told about its processors: all that KVM can, but for what would make its state
 * depend on this host more than need be (nested virtualization, performance counters, enclaves).
 * They are one socket of cores with one thread each; the number of a vCPU is its APIC id.
 */
#ifndef VMM_CPU_FEATURES_H
#define VMM_CPU_FEATURES_H

#include "kvm.h"

#define VM_CPUID_MAX 512u /* entries */

/* Of vCPU `id` of `cpus`; free() it. `supported` is as vm_kvm_cpuid() gave it. NULL without
 * memory. */
struct kvm_cpuid2 *vm_cpuid_new(const struct vm_kvm *kvm, const struct kvm_cpuid2 *supported,
                                unsigned id, unsigned cpus);

/* Tells it to a vCPU that has not run yet, and replaces it with what the guest will really see: a
 * KVM may know better. -errno. */
int vm_cpuid_set(int vcpu, struct kvm_cpuid2 **cpuid);

/* NULL: there is none. */
const struct kvm_cpuid_entry2 *vm_cpuid_find(const struct kvm_cpuid2 *cpuid, uint32_t function,
                                             uint32_t index);

/* Whether a guest that was told `told` can go on where it would be told `here`. -ENOTSUP, with the
 * feature that is missing. */
int vm_cpuid_check(const struct kvm_cpuid2 *told, const struct kvm_cpuid2 *here,
                   struct vdisk_error *error);

#endif
