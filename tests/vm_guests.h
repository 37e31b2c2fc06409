/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bare guests: some hundred bytes of assembler each, that run at VM_KIT_CODE without anything else.
 * What they find they write to a device (vm_machine_kit.h) at VM_KIT_PORT or VM_KIT_MMIO; "reports"
 * is a write of 4 bytes to its port unless it says otherwise.
 */
#ifndef TESTS_VM_GUESTS_H
#define TESTS_VM_GUESTS_H

#include "machine.h"

#include <stdint.h>

#define VM_KIT_CODE     0x1000u
#define VM_KIT_CODE_MAX 0x4000u
#define VM_KIT_GDT      0xf000u
#define VM_KIT_DATA     0x10000u /* for the guest's use */
#define VM_KIT_ARGUMENT 0x12345678u
#define VM_KIT_PORT     0x500u
#define VM_KIT_MMIO     0xd0000000u
#define VM_KIT_MEMORY   0x10000u /* is added to offsets in memory, to tell them from ports */

struct vm_guest {
    enum vm_entry_kind kind;
    const uint8_t *begin, *end;
};

/* Reports 1, 2, 3, ... for ever. */
extern const struct vm_guest vm_guest_counts;
/* Writes and reads ports in all sizes, and strings of them; see the test. */
extern const struct vm_guest vm_guest_ports;
/* Writes and reads memory in all sizes, also over a page's end; see the test. */
extern const struct vm_guest vm_guest_memory;
/* Reports what ports and (8 bytes, to memory) addresses without a device read as. */
extern const struct vm_guest vm_guest_nobody;
/* Report what they began with. */
extern const struct vm_guest vm_guest_long_entry, vm_guest_pvh_entry;
/* Reports how the local APIC's LINT0 and LINT1 are set. */
extern const struct vm_guest vm_guest_lints;
/* Report 1, and then: run in a circle, wait for interrupts that do not come, wait without end. */
extern const struct vm_guest vm_guest_spins, vm_guest_halts, vm_guest_halts_deaf;
/* Reports 1, then the vectors of the PIC (from 0x20) that come. */
extern const struct vm_guest vm_guest_pic;
/* The same with the I/O APIC: pin 9, by levels, is 0x49; pin 20, by edges, 0x54. */
extern const struct vm_guest vm_guest_ioapic;
/* The same with timers: after about 0.15 s the local APIC's is 0x40, or with a byte at VM_KIT_DATA
 * that is not 0 the deadline of the TSC is; the PIT is 0x20, again and again. */
extern const struct vm_guest vm_guest_timers;
/* Puts known values into registers of each kind, reports 1, waits until the byte at VM_KIT_DATA is
 * not 0, and then reports what is in them (8 bytes, to memory). */
#define VM_GUEST_HELD 8u
extern const struct vm_guest vm_guest_holds;
/* Reads a byte of a port, then one of memory, and again; reports each, as a byte. */
extern const struct vm_guest vm_guest_reads;
/* Reports the first PIC's mask and a pin of the I/O APIC, and changes both. */
extern const struct vm_guest vm_guest_chips;
/* Starts all others; each reports its APIC id. */
extern const struct vm_guest vm_guest_starts_others;
/* A triple fault. */
extern const struct vm_guest vm_guest_triple_fault;
/* Starts all others; each of them reports 2; all have a triple fault. */
extern const struct vm_guest vm_guest_all_fault;
/* Jumps to where no memory is, which KVM cannot do for it. */
extern const struct vm_guest vm_guest_leaves_memory;
/* Draws 8 bytes of the random device at slot 0, again and again; each time it reports how often
 * that was by a register, the same by memory, and the first 4 of the bytes. */
extern const struct vm_guest vm_guest_draws;
/* Says the alphabet on the serial port, again and again, a letter each 2,000,000 ticks of the TSC.
 * It counts in a register and in memory, and says `!` and no more when they differ. It can be
 * anywhere. */
extern const struct vm_guest vm_guest_spells;
/* Says `r` on the serial port, and resets the machine. It can be anywhere. */
extern const struct vm_guest vm_guest_resets;
/* Says `b`, after a while `e`, and resets the machine in two ways, again and again until it is. */
extern const struct vm_guest vm_guest_insists;
/* As vm_guest_spells without memory, after each write to the drive at slot 0, of which sector 1
 * begins with how many there were (4 bytes); `!` when one fails. */
extern const struct vm_guest vm_guest_writes;
/* Writes 3, then 4, to VM_KIT_MMIO + 0x50, and reports 1. */
extern const struct vm_guest vm_guest_kicks;

/* At VM_KIT_DATA: what to ask each processor, one after the other, which reports EAX, EBX, ECX, EDX
 * for CPUID, and EAX, EDX for a model-specific register. */
struct vm_guest_question {
    uint32_t kind; /* 0: the end; 1: CPUID; 2: a register */
    uint32_t number, index;
};
struct vm_guest_questions {
    uint32_t answered; /* the guest's own */
    uint32_t cpus;
    struct vm_guest_question question[64];
};
extern const struct vm_guest vm_guest_asks;

#endif
