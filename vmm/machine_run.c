/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The threads of the vCPUs.
 *
 * A thread is stopped by its `immediate_exit`, which is set first, and by a signal, which ends a
 * KVM_RUN that is under way: in the guest, in its HLT, or waiting for another processor's SIPI. If
 * the signal comes before KVM_RUN, that sees immediate_exit, so no stop is lost. The loop is left
 * only where KVM_RUN said EINTR: before it says that, it has finished the access that was last
 * answered, so that nothing is under way in a stopped vCPU.
 */
#include "machine_impl.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#define WHY_MAX 256u

/* ---- exits ---- */

static void tell(struct vm_cpu *cpu, enum vm_event event, const char *why)
{
    struct vm_machine *machine = cpu->machine;

    if (!atomic_exchange(&machine->told, true))
        machine->options.event(machine->options.opaque, event, why);
}

/* Where the processor is, and what it cannot do, as far as KVM says. */
static void tell_internal(struct vm_cpu *cpu)
{
    const struct kvm_run *run = cpu->run;
    bool emulation = run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION;
    struct kvm_regs regs = {0};
    char why[WHY_MAX];
    int length;

    (void)ioctl(cpu->fd, KVM_GET_REGS, &regs);
    if (emulation)
        length = snprintf(why, sizeof(why), "KVM cannot do what processor %u does at 0x%llx",
                          cpu->index, regs.rip);
    else
        length = snprintf(why, sizeof(why), "KVM: internal error %u of processor %u at 0x%llx",
                          run->internal.suberror, cpu->index, regs.rip);
    if (emulation && run->internal.ndata > 0 &&
        run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)
        for (unsigned i = 0;
             i < run->emulation_failure.insn_size && i < sizeof(run->emulation_failure.insn_bytes);
             i++)
            length += snprintf(why + length, sizeof(why) - (size_t)length, " %02x",
                               run->emulation_failure.insn_bytes[i]);
    tell(cpu, VM_EVENT_FAILED, why);
}

__attribute__((format(printf, 2, 3))) static void tell_failed(struct vm_cpu *cpu,
                                                              const char *format, ...)
{
    char what[WHY_MAX / 2], why[WHY_MAX];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(what, sizeof(what), format, arguments);
    va_end(arguments);
    snprintf(why, sizeof(why), "KVM: processor %u %s", cpu->index, what);
    tell(cpu, VM_EVENT_FAILED, why);
}

static void access_port(struct vm_cpu *cpu)
{
    const struct vm_bus *ports = cpu->machine->options.ports;
    struct kvm_run *run = cpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        if (run->io.direction == KVM_EXIT_IO_OUT)
            vm_bus_write(ports, run->io.port, data, run->io.size);
        else
            vm_bus_read(ports, run->io.port, data, run->io.size);
    }
}

static void access_memory(struct vm_cpu *cpu)
{
    const struct vm_bus *mmio = cpu->machine->options.mmio;
    struct kvm_run *run = cpu->run;
    unsigned length = run->mmio.len, step = length;

    /* A part of an access that crosses pages may have any length. */
    if (length == 0 || length > sizeof(run->mmio.data))
        return;
    if (length & (length - 1))
        step = 1;
    for (unsigned at = 0; at < length; at += step) {
        if (run->mmio.is_write)
            vm_bus_write(mmio, run->mmio.phys_addr + at, run->mmio.data + at, step);
        else
            vm_bus_read(mmio, run->mmio.phys_addr + at, run->mmio.data + at, step);
    }
}

/* What KVM_RUN came back for. False: the vCPU is at its end. */
static bool serve(struct vm_cpu *cpu)
{
    const struct kvm_run *run = cpu->run;

    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        access_port(cpu);
        return true;
    case KVM_EXIT_MMIO:
        access_memory(cpu);
        return true;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        return true;
    case KVM_EXIT_SHUTDOWN:
        tell(cpu, VM_EVENT_RESET, "a triple fault");
        return false;
    case KVM_EXIT_SYSTEM_EVENT:
        tell(cpu, VM_EVENT_RESET, "KVM was asked for it");
        return false;
    case KVM_EXIT_FAIL_ENTRY:
        tell_failed(cpu, "cannot enter the guest, hardware reason 0x%llx",
                    run->fail_entry.hardware_entry_failure_reason);
        return false;
    case KVM_EXIT_INTERNAL_ERROR:
        tell_internal(cpu);
        return false;
    default:
        tell_failed(cpu, "stopped for a reason that is not known, %u", run->exit_reason);
        return false;
    }
}

/* ---- threads ---- */

static int stop_signal(void)
{
    return SIGRTMIN;
}

static void run(struct vm_cpu *cpu)
{
    for (;;) {
        int number;

        if (ioctl(cpu->fd, KVM_RUN, 0) == 0) {
            if (!serve(cpu))
                return;
            continue;
        }
        number = errno;
        if (number == EINTR && __atomic_load_n(&cpu->run->immediate_exit, __ATOMIC_ACQUIRE))
            return;
        /* EAGAIN: another processor has just started it. */
        if (number != EINTR && number != EAGAIN) {
            tell_failed(cpu, "cannot run: %s", vdisk_strerror(-number));
            return;
        }
    }
}

static void only_stop_signal(void)
{
    sigset_t mask;

    sigfillset(&mask);
    sigdelset(&mask, stop_signal());
    sigdelset(&mask, SIGSEGV);
    sigdelset(&mask, SIGBUS);
    sigdelset(&mask, SIGILL);
    sigdelset(&mask, SIGFPE);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

static void *cpu_thread(void *opaque)
{
    struct vm_cpu *cpu = opaque;
    struct vm_machine *machine = cpu->machine;

    only_stop_signal();
    pthread_mutex_lock(&machine->lock);
    for (;;) {
        while (cpu->starts == machine->starts && !machine->ending)
            pthread_cond_wait(&machine->changed, &machine->lock);
        if (machine->ending)
            break;
        cpu->starts = machine->starts;
        pthread_mutex_unlock(&machine->lock);
        run(cpu);
        pthread_mutex_lock(&machine->lock);
        if (--machine->running == 0)
            pthread_cond_broadcast(&machine->changed);
    }
    pthread_mutex_unlock(&machine->lock);
    return NULL;
}

static void on_signal(int number)
{
    (void)number; /* that KVM_RUN ended is all */
}

int vm_run_set_up(void)
{
    /* Of the calls that a device makes only those that cannot go on notice. */
    const struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    return sigaction(stop_signal(), &action, NULL) < 0 ? -errno : 0;
}

static int make_thread(struct vm_cpu *cpu)
{
    char name[16];
    clockid_t clock;
    int rc = pthread_create(&cpu->thread, NULL, cpu_thread, cpu);

    if (rc)
        return -rc;
    cpu->has_thread = true;
    snprintf(name, sizeof(name), "vcpu %u", cpu->index);
    (void)pthread_setname_np(cpu->thread, name);
    if (pthread_getcpuclockid(cpu->thread, &clock) == 0)
        atomic_store(&cpu->clock, clock);
    return 0;
}

int vm_run_make_threads(struct vm_machine *machine)
{
    for (unsigned i = 0; i < machine->count; i++) {
        int rc = machine->cpu[i].has_thread ? 0 : make_thread(&machine->cpu[i]);

        if (rc) {
            vm_run_end_threads(machine);
            return rc;
        }
    }
    return 0;
}

void vm_run_end_threads(struct vm_machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    machine->ending = true;
    pthread_cond_broadcast(&machine->changed);
    pthread_mutex_unlock(&machine->lock);
    for (unsigned i = 0; i < machine->count; i++) {
        struct vm_cpu *cpu = &machine->cpu[i];

        if (!cpu->has_thread)
            continue;
        atomic_store(&cpu->clock, VM_NO_CLOCK);
        pthread_join(cpu->thread, NULL);
        cpu->has_thread = false;
    }
    machine->ending = false;
}

void vm_run_start(struct vm_machine *machine)
{
    atomic_store(&machine->told, false);
    pthread_mutex_lock(&machine->lock);
    for (unsigned i = 0; i < machine->count; i++)
        __atomic_store_n(&machine->cpu[i].run->immediate_exit, 0, __ATOMIC_RELEASE);
    machine->starts++;
    machine->running = machine->count;
    pthread_cond_broadcast(&machine->changed);
    pthread_mutex_unlock(&machine->lock);
}

void vm_run_stop(struct vm_machine *machine)
{
    for (unsigned i = 0; i < machine->count; i++) {
        __atomic_store_n(&machine->cpu[i].run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        pthread_kill(machine->cpu[i].thread, stop_signal());
    }
    pthread_mutex_lock(&machine->lock);
    while (machine->running > 0)
        pthread_cond_wait(&machine->changed, &machine->lock);
    pthread_mutex_unlock(&machine->lock);
}

uint64_t vm_machine_cpu_time(const struct vm_machine *machine, unsigned cpu)
{
    long clock = cpu < machine->count ? atomic_load(&machine->cpu[cpu].clock) : VM_NO_CLOCK;
    struct timespec time;

    if (clock == VM_NO_CLOCK || clock_gettime((clockid_t)clock, &time) < 0)
        return 0;
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
}
