/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the boot protocols ask for: Documentation/arch/x86/boot.rst of Linux ("64-bit boot
 * protocol"), and docs/misc/pvh.pandoc of Xen. What they leave open is as after RESET.
 */
#include "cpu.h"

#include <errno.h>
#include <string.h>

#define CR0_PE           (1u << 0)
#define CR0_MP           (1u << 1)
#define CR0_ET           (1u << 4)
#define CR0_NE           (1u << 5)
#define CR0_WP           (1u << 16)
#define CR0_AM           (1u << 18)
#define CR0_PG           (1u << 31)
#define CR4_PAE          (1u << 5)
#define EFER_LME         (1u << 8)
#define EFER_LMA         (1u << 10)
#define RFLAGS_ONE       (1u << 1) /* this bit always is */

#define GDT_ENTRIES      4u
#define SELECTOR_CODE    0x10
#define SELECTOR_DATA    0x18
#define TYPE_DATA        3  /* to be written, accessed */
#define TYPE_CODE        11 /* to be read, accessed */
#define TYPE_TASK_BUSY   11

#define LAPIC_LVT_LINT0  0x350
#define LAPIC_LVT_LINT1  0x360
#define LVT_MODE_NMI     (4u << 8)
#define LVT_MODE_EXTINT  (7u << 8)

#define MISC_FAST_STRING 1u
#define MTRR_ON          (1u << 11)
#define MTRR_WRITE_BACK  6u

static void set_flat(struct kvm_sregs *sregs, bool is_long, uint64_t gdt)
{
    const struct kvm_segment code = {
        .limit = UINT32_MAX,
        .selector = SELECTOR_CODE,
        .type = TYPE_CODE,
        .present = 1,
        .db = !is_long,
        .s = 1,
        .l = is_long,
        .g = 1,
    };
    const struct kvm_segment data = {
        .limit = UINT32_MAX,
        .selector = SELECTOR_DATA,
        .type = TYPE_DATA,
        .present = 1,
        .db = 1,
        .s = 1,
        .g = 1,
    };
    const struct kvm_segment task = {.limit = 0x67, .type = TYPE_TASK_BUSY, .present = 1};

    sregs->cs = code;
    sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
    sregs->tr = task;
    sregs->gdt = (struct kvm_dtable){.base = gdt, .limit = GDT_ENTRIES * 8 - 1};
    sregs->idt = (struct kvm_dtable){.base = 0, .limit = 0};
}

static void set_long(struct vm_cpu_state *state, const struct vm_entry *entry)
{
    set_flat(&state->sregs, true, entry->gdt);
    state->sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    state->sregs.cr3 = entry->tables;
    state->sregs.cr4 = CR4_PAE;
    state->sregs.efer = EFER_LME | EFER_LMA;
    state->regs.rip = entry->address;
    state->regs.rsi = entry->argument;
}

static void set_pvh(struct vm_cpu_state *state, const struct vm_entry *entry)
{
    set_flat(&state->sregs, false, entry->gdt);
    state->sregs.cr0 = CR0_PE | CR0_ET;
    state->sregs.cr4 = 0;
    state->sregs.efer = 0;
    state->regs.rip = entry->address;
    state->regs.rbx = entry->argument;
}

static void set_real(struct vm_cpu_state *state, const struct vm_entry *entry)
{
    state->sregs.cs.selector = 0;
    state->sregs.cs.base = 0;
    state->regs.rip = entry->address;
}

static void set_lvt(struct kvm_lapic_state *lapic, unsigned at, uint32_t value)
{
    memcpy(&lapic->regs[at], &value, sizeof(value));
}

static void set_bits(struct vm_cpu_state *state, uint32_t msr, uint64_t bits)
{
    __u64 *value = vm_cpu_state_msr(state, msr);

    if (value)
        *value |= bits;
}

int vm_cpu_enter(struct vm_cpu_state *state, const struct vm_entry *entry, bool waits)
{
    /* What firmware would have done, and our own kinds of entry have no firmware for: the PIC's
     * interrupts arrive, memory is cached. With firmware it does no harm. */
    set_lvt(&state->lapic, LAPIC_LVT_LINT0, LVT_MODE_EXTINT);
    set_lvt(&state->lapic, LAPIC_LVT_LINT1, LVT_MODE_NMI);
    set_bits(state, VM_MSR_MISC_ENABLE, MISC_FAST_STRING);
    set_bits(state, VM_MSR_MTRR_DEFAULT, MTRR_ON | MTRR_WRITE_BACK);

    state->mp.mp_state = waits ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE;
    if (waits)
        return 0;
    state->regs.rflags = RFLAGS_ONE;
    switch (entry->kind) {
    case VM_ENTRY_LONG:
        set_long(state, entry);
        return 0;
    case VM_ENTRY_PVH:
        set_pvh(state, entry);
        return 0;
    case VM_ENTRY_RESET:
        return 0;
    case VM_ENTRY_REAL:
        set_real(state, entry);
        return 0;
    }
    return -EINVAL;
}
