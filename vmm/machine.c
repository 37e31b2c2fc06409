/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine is made once, and put into its first state as often as it is reset: what KVM made of
 * each vCPU and controller is kept for that. Its threads come to be with the first start, so that
 * what a process gives up before holds for them too.
 */
#include "cpu.h"
#include "cpu_features.h"
#include "layout.h"
#include "machine_impl.h"
#include "report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CR4_PAE (1u << 5)

/* ---- making it ---- */

static int map_memory(struct vm_machine *machine, struct vdisk_error *error)
{
    const struct vm_memory *memory = machine->options.memory;

    for (unsigned i = 0; i < memory->count; i++) {
        const struct vm_region *region = &memory->region[i];
        int rc = vm_kvm_map(&machine->kvm, region->guest, region->host, region->size, false);

        if (rc)
            return error_set(error, rc, "KVM does not take the guest's memory: %s",
                             vdisk_strerror(rc));
    }
    return 0;
}

static int make_cpu(struct vm_machine *machine, struct vm_cpu *cpu,
                    const struct kvm_cpuid2 *supported, struct vdisk_error *error)
{
    const struct vm_kvm *kvm = &machine->kvm;
    void *run;
    int rc;

    cpu->fd = ioctl(kvm->vm, KVM_CREATE_VCPU, (unsigned long)cpu->index);
    if (cpu->fd < 0)
        return error_set(error, -errno, "KVM makes no virtual processor %u: %s", cpu->index,
                         vdisk_strerror(-errno));
    run = mmap(NULL, kvm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
    if (run == MAP_FAILED)
        return error_set(error, -errno, "virtual processor %u cannot be mapped: %s", cpu->index,
                         vdisk_strerror(-errno));
    cpu->run = run;
    cpu->cpuid = vm_cpuid_new(kvm, supported, cpu->index, machine->count);
    cpu->reset = vm_cpu_state_new(kvm);
    if (!cpu->cpuid || !cpu->reset)
        return error_set(error, -ENOMEM, "out of memory");
    rc = vm_cpuid_set(cpu->fd, &cpu->cpuid);
    if (rc)
        return error_set(error, rc, "KVM refuses what a guest is told of its processor: %s",
                         vdisk_strerror(rc));
    return 0;
}

static int make_cpus(struct vm_machine *machine, struct vdisk_error *error)
{
    struct kvm_cpuid2 *supported = vm_kvm_cpuid(&machine->kvm);
    int rc = 0;

    if (!supported)
        return error_set(error, -errno, "KVM does not say what a guest's processor can do: %s",
                         vdisk_strerror(-errno));
    for (unsigned i = 0; i < machine->count && rc == 0; i++)
        rc = make_cpu(machine, &machine->cpu[i], supported, error);
    free(supported);
    return rc;
}

/* What a reset goes back to. */
static int keep_first_state(struct vm_machine *machine, struct vdisk_error *error)
{
    int rc = vm_msrs_find(&machine->kvm, machine->cpu[0].fd, &machine->msrs);

    if (rc)
        return error_set(error, rc, "KVM does not say what a processor's state is: %s",
                         vdisk_strerror(rc));
    for (unsigned i = 0; i < machine->count && rc == 0; i++)
        rc = vm_cpu_get(machine->cpu[i].fd, &machine->msrs, machine->cpu[i].reset, error);
    return rc ? rc : vm_platform_get(machine, &machine->reset, error);
}

static int make(struct vm_machine *machine, struct vdisk_error *error)
{
    int rc = vm_run_set_up();

    if (rc)
        return error_set(error, rc, "a signal's handler cannot be set: %s", vdisk_strerror(rc));
    rc = vm_kvm_open(&machine->kvm, VM_KVM_PATH, error);
    if (rc == 0 && machine->count > machine->kvm.cpus_max)
        rc = error_set(error, -EINVAL, "this kernel's KVM gives a machine at most %u processors",
                       machine->kvm.cpus_max);
    if (rc == 0)
        rc = map_memory(machine, error);
    if (rc == 0)
        rc = make_cpus(machine, error);
    if (rc == 0)
        rc = keep_first_state(machine, error);
    return rc;
}

int vm_machine_new(const struct vm_machine_options *options, struct vm_machine **out,
                   struct vdisk_error *error)
{
    struct vm_machine *machine;
    int rc;

    if (options->cpus == 0 || options->cpus > VM_CPUS_MAX)
        return error_set(error, -EINVAL, "a machine has 1 to %u processors", VM_CPUS_MAX);
    machine = calloc(1, sizeof(*machine) + options->cpus * sizeof(machine->cpu[0]));
    if (!machine)
        return error_set(error, -ENOMEM, "out of memory");
    machine->options = *options;
    machine->count = options->cpus;
    machine->kvm.fd = machine->kvm.vm = -1;
    pthread_mutex_init(&machine->lock, NULL);
    pthread_cond_init(&machine->changed, NULL);
    for (unsigned i = 0; i < machine->count; i++) {
        struct vm_cpu *cpu = &machine->cpu[i];

        cpu->machine = machine;
        cpu->index = i;
        cpu->fd = -1;
        atomic_init(&cpu->clock, VM_NO_CLOCK);
    }
    rc = make(machine, error);
    if (rc) {
        vm_machine_free(machine);
        return rc;
    }
    *out = machine;
    return 0;
}

void vm_machine_free(struct vm_machine *machine)
{
    if (!machine)
        return;
    vm_machine_stop(machine);
    vm_run_end_threads(machine);
    for (unsigned i = 0; i < machine->count; i++) {
        struct vm_cpu *cpu = &machine->cpu[i];

        if (cpu->run)
            munmap(cpu->run, machine->kvm.run_bytes);
        if (cpu->fd >= 0)
            close(cpu->fd);
        free(cpu->cpuid);
        vm_cpu_state_free(cpu->reset);
    }
    vm_kvm_close(&machine->kvm);
    pthread_cond_destroy(&machine->changed);
    pthread_mutex_destroy(&machine->lock);
    free(machine);
}

/* ---- wiring ---- */

int vm_machine_irqfd(struct vm_machine *machine, unsigned pin, int fd)
{
    return vm_kvm_irqfd(&machine->kvm, pin, fd);
}

int vm_machine_ioeventfd(struct vm_machine *machine, uint64_t address, uint32_t value, int fd,
                         bool on)
{
    return vm_kvm_ioeventfd(&machine->kvm, address, value, fd, on);
}

void vm_machine_set_irq(struct vm_machine *machine, unsigned pin, bool high)
{
    vm_kvm_set_irq(&machine->kvm, pin, high);
}

int vm_machine_add_rom(struct vm_machine *machine, uint64_t guest, void *host, uint64_t size)
{
    return vm_kvm_map(&machine->kvm, guest, host, size, true);
}

/* ---- life ---- */

int vm_platform_get(const struct vm_machine *machine, struct vm_platform *platform,
                    struct vdisk_error *error)
{
    int rc = ioctl(machine->kvm.vm, KVM_GET_PIT2, &platform->pit);

    for (unsigned i = 0; i < VM_IRQCHIPS && rc == 0; i++) {
        platform->chip[i] = (struct kvm_irqchip){.chip_id = i};
        rc = ioctl(machine->kvm.vm, KVM_GET_IRQCHIP, &platform->chip[i]);
    }
    return rc == 0
               ? 0
               : error_set(error, -errno, "KVM does not tell the interrupt controllers' state: %s",
                           vdisk_strerror(-errno));
}

int vm_platform_set(const struct vm_machine *machine, const struct vm_platform *platform,
                    struct vdisk_error *error)
{
    int rc = ioctl(machine->kvm.vm, KVM_SET_PIT2, &platform->pit);

    for (unsigned i = 0; i < VM_IRQCHIPS && rc == 0; i++)
        rc = ioctl(machine->kvm.vm, KVM_SET_IRQCHIP, &platform->chip[i]);
    return rc == 0 ? 0
                   : error_set(error, -errno, "KVM refuses the interrupt controllers' state: %s",
                               vdisk_strerror(-errno));
}

/*
 * After a triple fault without paging, KVM for AMD's processors forgets where the guest's memory
 * is, and looks for it only when it sees a change in how that is addressed: the processor would
 * hang.
 */
static void find_memory_again(const struct vm_cpu *cpu)
{
    struct kvm_sregs sregs = cpu->reset->sregs;

    sregs.cr4 ^= CR4_PAE;
    (void)ioctl(cpu->fd, KVM_SET_SREGS, &sregs);
}

static int prepare_cpu(struct vm_machine *machine, struct vm_cpu *cpu, const struct vm_entry *entry,
                       struct vdisk_error *error)
{
    struct vm_cpu_state *state = vm_cpu_state_new(&machine->kvm);
    struct vm_clock first = {.vcpu = cpu->machine->cpu[0].fd};
    const __u64 *clock;
    struct kvm_mp_state mp;
    int rc;

    if (!state)
        return error_set(error, -ENOMEM, "out of memory");
    memcpy(state, cpu->reset, sizeof(*state) + state->xsave_bytes);
    /* Asking for it makes an INIT happen that is still on its way. */
    (void)ioctl(cpu->fd, KVM_GET_MP_STATE, &mp);
    find_memory_again(cpu);
    clock = vm_cpu_state_msr(state, VM_MSR_TSC);
    if (clock)
        first.was = *clock; /* all say what the first one does */
    rc = vm_cpu_enter(state, entry, cpu->index > 0);
    if (rc)
        error_set(error, rc, "a machine cannot begin in such a way");
    else
        rc = vm_cpu_set(cpu->fd, state, cpu->index > 0 && clock ? &first : NULL, error);
    vm_cpu_state_free(state);
    return rc;
}

int vm_machine_prepare(struct vm_machine *machine, const struct vm_entry *entry,
                       struct vdisk_error *error)
{
    int rc = 0;

    if (machine->started)
        return error_set(error, -EBUSY, "the machine is running");
    for (unsigned i = 0; i < machine->count && rc == 0; i++)
        rc = prepare_cpu(machine, &machine->cpu[i], entry, error);
    return rc ? rc : vm_platform_set(machine, &machine->reset, error);
}

int vm_machine_start(struct vm_machine *machine)
{
    int rc;

    if (machine->started)
        return -EBUSY;
    rc = vm_run_make_threads(machine);
    if (rc)
        return rc;
    /* Guests that watch the time are told that they were not there. Others have no such clock. */
    for (unsigned i = 0; i < machine->count; i++)
        (void)ioctl(machine->cpu[i].fd, KVM_KVMCLOCK_CTRL, 0);
    machine->started = true;
    vm_run_start(machine);
    return 0;
}

void vm_machine_stop(struct vm_machine *machine)
{
    if (!machine->started)
        return;
    vm_run_stop(machine);
    machine->started = false;
}
