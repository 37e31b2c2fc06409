/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside a machine. `lock` guards what says so; vCPUs and the VM itself are the caller's while
 * stopped, and each vCPU is its thread's while not.
 */
#ifndef VMM_MACHINE_IMPL_H
#define VMM_MACHINE_IMPL_H

#include "cpu_state.h"
#include "machine.h"

#include <pthread.h>
#include <stdatomic.h>

#define VM_NO_CLOCK (-1L)
#define VM_IRQCHIPS 3u /* two PICs and an I/O APIC, by KVM's numbers */

struct vm_cpu {
    struct vm_machine *machine;
    unsigned index;
    int fd;
    struct kvm_run *run;
    struct kvm_cpuid2 *cpuid;   /* what the guest was told */
    struct vm_cpu_state *reset; /* as KVM made it */
    pthread_t thread;
    bool has_thread;
    atomic_long clock; /* of the thread; VM_NO_CLOCK: there is none */
    uint64_t starts;   /* under `lock`: the last start that the thread has seen */
};

/* What a VM has once. */
struct vm_platform {
    struct kvm_pit_state2 pit;
    struct kvm_irqchip chip[VM_IRQCHIPS];
};

struct vm_machine {
    struct vm_machine_options options;
    struct vm_kvm kvm;
    struct vm_msrs msrs;
    struct vm_platform reset;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t starts;  /* under `lock` */
    unsigned running; /* under `lock`: threads that are at work on the last start */
    bool ending;      /* under `lock` */
    bool started;     /* between start and stop; the caller's */
    atomic_bool told; /* an event was, since the last start */

    unsigned count;
    struct vm_cpu cpu[];
};

/* The caller's thread, while stopped. */
int vm_platform_get(const struct vm_machine *machine, struct vm_platform *platform,
                    struct vdisk_error *error);
int vm_platform_set(const struct vm_machine *machine, const struct vm_platform *platform,
                    struct vdisk_error *error);

/* ---- machine_run.c ---- */

/* Once for the process: the signal that ends a wait in KVM. -errno. */
int vm_run_set_up(void);
/* The vCPUs' threads, which wait for a start. -errno; then there are none. */
int vm_run_make_threads(struct vm_machine *machine);
void vm_run_end_threads(struct vm_machine *machine);
/* Lets them run, or has them all wait again. */
void vm_run_start(struct vm_machine *machine);
void vm_run_stop(struct vm_machine *machine);

#endif
