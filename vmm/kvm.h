/* SPDX-License-Identifier: Apache-2.0 */
/* A VM of the kernel's KVM: what is asked of /dev/kvm, and nothing of what it means. */
#ifndef VMM_KVM_H
#define VMM_KVM_H

#include "vdisk/error.h"

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VM_KVM_PATH "/dev/kvm"

struct vm_kvm {
    int fd, vm;
    size_t run_bytes;   /* of a vCPU's struct kvm_run with what follows it */
    size_t xsave_bytes; /* of a vCPU's state of the FPU; a multiple of 8 */
    unsigned cpus_max;
    unsigned slots; /* of memory, used */
};

/* Opens it, and makes a VM with interrupt controllers and a timer in the kernel. -errno, with a
 * sentence that says what a person can do about it. */
int vm_kvm_open(struct vm_kvm *kvm, const char *path, struct vdisk_error *error);
void vm_kvm_close(struct vm_kvm *kvm);

/* `size` bytes at `host` appear at a guest address. -errno. */
int vm_kvm_map(struct vm_kvm *kvm, uint64_t guest, void *host, uint64_t size, bool read_only);
int vm_kvm_irqfd(const struct vm_kvm *kvm, unsigned pin, int fd);
int vm_kvm_ioeventfd(const struct vm_kvm *kvm, uint64_t address, uint32_t value, int fd, bool on);
void vm_kvm_set_irq(const struct vm_kvm *kvm, unsigned pin, bool high);

/* What KVM can tell a guest about its processor; free() it. NULL: errno says why. */
struct kvm_cpuid2 *vm_kvm_cpuid(const struct vm_kvm *kvm);
/* The model-specific registers that are a guest's state; free() it. NULL: errno says why. */
struct kvm_msr_list *vm_kvm_msrs(const struct vm_kvm *kvm);

#endif
