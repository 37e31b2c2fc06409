/* SPDX-License-Identifier: Apache-2.0 */
/* Bare guests; see vm_guests.h. `HERE(1f)` is where a label of the guest is when it runs. */
#include "vm_guests.h"

/* clang-format off */

#define GUEST(name, entry, bits, code)                                                             \
    extern const uint8_t name##_begin[], name##_end[];                                             \
    __asm__(".pushsection .rodata\n"                                                               \
            ".balign 16\n" #name "_begin:\n"                                                       \
            "100:\n"                                                                               \
            ".code" bits "\n" code "\n" #name "_end:\n"                                            \
            ".code64\n"                                                                            \
            ".popsection\n");                                                                      \
    const struct vm_guest vm_guest_##name = {entry, name##_begin, name##_end};

#define HERE(label) "(0x1000 + " #label " - 100b)"

#define STOP                                                                                       \
      "9:  cli\n"                                                                                  \
      "    hlt\n"                                                                                  \
      "    jmp 9b\n"

#define REPORT32                                                                                   \
      "    mov $0x500, %dx\n"                                                                      \
      "    out %eax, %dx\n"

GUEST(counts, VM_ENTRY_REAL, "16",
      "    mov $0x500, %dx\n"
      "    xor %ecx, %ecx\n"
      "1:  inc %ecx\n"
      "    mov %ecx, %eax\n"
      "    out %eax, %dx\n"
      "    jmp 1b\n")

/* ---- access ---- */

GUEST(ports, VM_ENTRY_REAL, "16",
      "    mov $0x501, %dx\n"
      "    mov $0x11, %al\n"
      "    out %al, %dx\n"
      "    mov $0x500, %dx\n"
      "    mov $0x2222, %ax\n"
      "    out %ax, %dx\n"
      "    mov $0x33333333, %eax\n"
      "    out %eax, %dx\n"
      /* 01, 0302, 07060504 */
      "    xor %eax, %eax\n"
      "    in %dx, %al\n"
      "    out %eax, %dx\n"
      "    in %dx, %ax\n"
      "    out %eax, %dx\n"
      "    in %dx, %eax\n"
      "    out %eax, %dx\n"
      /* strings */
      "    cld\n"
      "    mov $" HERE(1f) ", %si\n"
      "    mov $5, %cx\n"
      "    rep outsb\n"
      "    mov $2, %cx\n"
      "    rep outsl\n"
      "    mov $0x8000, %di\n"
      "    mov $300, %cx\n"
      "    rep insw\n"
      "    mov $0x8000, %si\n"
      "    mov $150, %cx\n"
      "    rep outsl\n"
      "    mov $0xfe, %al\n"
      "    out %al, %dx\n"
      STOP
      "1:  .byte 1, 2, 3, 4, 5\n"
      "    .long 0x44444444, 0x55555555\n")

GUEST(memory, VM_ENTRY_LONG, "64",
      "    mov $0xd0000010, %ebx\n"
      "    movabs $0x8877665544332211, %rax\n"
      "    mov %al, (%rbx)\n"
      "    mov %ax, 4(%rbx)\n"
      "    mov %eax, 8(%rbx)\n"
      "    mov %rax, 16(%rbx)\n"
      /* 01, 0302, 07060504, 0f0e0d0c0b0a0908 */
      "    xor %eax, %eax\n"
      "    movb (%rbx), %al\n"
      "    mov %rax, (%rbx)\n"
      "    movw (%rbx), %ax\n"
      "    mov %rax, (%rbx)\n"
      "    movl (%rbx), %eax\n"
      "    mov %rax, (%rbx)\n"
      "    mov (%rbx), %rax\n"
      "    mov %rax, (%rbx)\n"
      /* three bytes of the device, and one that is nobody's */
      "    mov $0xd0000ffd, %ecx\n"
      "    movl $0x04030201, (%rcx)\n"
      "    movl (%rcx), %eax\n"
      "    mov %rax, (%rbx)\n"
      "    movb $0xfe, (%rbx)\n"
      STOP)

GUEST(reads, VM_ENTRY_LONG, "64",
      "    mov $0xd0000010, %ebx\n"
      "    mov $0x500, %dx\n"
      "1:  in %dx, %al\n"
      "    out %al, %dx\n"
      "    mov (%rbx), %al\n"
      "    out %al, %dx\n"
      "    jmp 1b\n")

GUEST(nobody, VM_ENTRY_LONG, "64",
      "    mov $0x1234, %dx\n"
      "    mov $0xd0000010, %ebx\n"
      "    mov $0xd8000000, %ecx\n"
      "    xor %eax, %eax\n"
      "    in %dx, %al\n"
      "    mov %rax, (%rbx)\n"
      "    in %dx, %ax\n"
      "    mov %rax, (%rbx)\n"
      "    in %dx, %eax\n"
      "    mov %rax, (%rbx)\n"
      "    out %eax, %dx\n"
      "    mov %eax, (%rcx)\n"
      "    xor %eax, %eax\n"
      "    movb (%rcx), %al\n"
      "    mov %rax, (%rbx)\n"
      "    movw (%rcx), %ax\n"
      "    mov %rax, (%rbx)\n"
      "    movl (%rcx), %eax\n"
      "    mov %rax, (%rbx)\n"
      "    mov (%rcx), %rax\n"
      "    mov %rax, (%rbx)\n"
      STOP)

GUEST(kicks, VM_ENTRY_LONG, "64",
      "    mov $0xd0000050, %ebx\n"
      "    movl $3, (%rbx)\n"
      "    movl $4, (%rbx)\n"
      "    mov $1, %eax\n"
      REPORT32
      STOP)

/* ---- beginnings and ends ---- */

GUEST(long_entry, VM_ENTRY_LONG, "64",
      "    mov $0xd0000010, %ebx\n"
      "    mov %rsi, (%rbx)\n"
      "    mov %cs, %eax\n"
      "    mov %rax, (%rbx)\n"
      "    mov %ss, %eax\n"
      "    mov %rax, (%rbx)\n"
      "    mov %cr0, %rax\n"
      "    mov %rax, (%rbx)\n"
      "    mov %cr4, %rax\n"
      "    mov %rax, (%rbx)\n"
      "    mov $0xc0000080, %ecx\n"
      "    xor %eax, %eax\n"
      "    rdmsr\n"
      "    mov %rax, (%rbx)\n"
      /* The GDT has what the selectors say. */
      "    mov $0x18, %eax\n"
      "    mov %eax, %ds\n"
      "    mov $0x8000, %esp\n"
      "    pushq $0x10\n"
      "    pushq $" HERE(1f) "\n"
      "    lretq\n"
      "1:  movl $0xfe, (%rbx)\n"
      STOP)

GUEST(pvh_entry, VM_ENTRY_PVH, "32",
      "    mov $0xd0000010, %edi\n"
      "    mov %ebx, (%edi)\n"
      "    mov %cs, %eax\n"
      "    mov %eax, (%edi)\n"
      "    mov %ss, %eax\n"
      "    mov %eax, (%edi)\n"
      "    mov %cr0, %eax\n"
      "    mov %eax, (%edi)\n"
      "    mov %cr4, %eax\n"
      "    mov %eax, (%edi)\n"
      "    mov $0x8000, %esp\n"
      "    pushfl\n"
      "    pop %eax\n"
      "    mov %eax, (%edi)\n"
      "    mov $0x18, %eax\n"
      "    mov %eax, %ds\n"
      "    ljmp $0x10, $" HERE(1f) "\n"
      "1:  movl $0xfe, (%edi)\n"
      STOP)

GUEST(lints, VM_ENTRY_LONG, "64",
      "    mov $0xfee00000, %ebx\n"
      "    movl 0x350(%rbx), %eax\n"
      REPORT32
      "    movl 0x360(%rbx), %eax\n"
      REPORT32
      STOP)

GUEST(triple_fault, VM_ENTRY_LONG, "64",
      "    lidt " HERE(1f) "\n"
      "    movabs $0x4000000000, %rax\n"
      "    mov (%rax), %eax\n" /* no page, no gate for that, none for this */
      STOP
      "1:  .word 0\n"
      "    .quad 0\n")

GUEST(leaves_memory, VM_ENTRY_LONG, "64",
      "    mov $0xd8000000, %eax\n"
      "    jmp *%rax\n")

GUEST(spins, VM_ENTRY_REAL, "16",
      "    mov $1, %eax\n"
      REPORT32
      "1:  jmp 1b\n")

GUEST(halts, VM_ENTRY_REAL, "16",
      "    mov $1, %eax\n"
      REPORT32
      "1:  sti\n"
      "    hlt\n"
      "    jmp 1b\n")

GUEST(halts_deaf, VM_ENTRY_REAL, "16",
      "    mov $1, %eax\n"
      REPORT32
      STOP)

/* ---- interrupts ---- */

/* The PICs, with vectors from 0x20 and 0x28, all pins on. */
#define PICS                                                                                       \
      "    mov $0x11, %al\n"                                                                       \
      "    out %al, $0x20\n"                                                                       \
      "    out %al, $0xa0\n"                                                                       \
      "    mov $0x20, %al\n"                                                                       \
      "    out %al, $0x21\n"                                                                       \
      "    mov $0x28, %al\n"                                                                       \
      "    out %al, $0xa1\n"                                                                       \
      "    mov $4, %al\n"                                                                          \
      "    out %al, $0x21\n"                                                                       \
      "    mov $2, %al\n"                                                                          \
      "    out %al, $0xa1\n"                                                                       \
      "    mov $1, %al\n"                                                                          \
      "    out %al, $0x21\n"                                                                       \
      "    out %al, $0xa1\n"                                                                       \
      "    xor %al, %al\n"                                                                         \
      "    out %al, $0x21\n"                                                                       \
      "    out %al, $0xa1\n"

#define PIC_EOI                                                                                    \
      "    mov $0x20, %al\n"                                                                       \
      "    out %al, $0xa0\n"                                                                       \
      "    out %al, $0x20\n"

/* A vector of real mode. */
#define VECTOR(number, label)                                                                      \
      "    movw $" HERE(label) ", 4 * " #number "\n"                                               \
      "    movw $0, 4 * " #number " + 2\n"

#define HANDLER(label, number)                                                                     \
      #label ": mov $" #number ", %eax\n"                                                          \
      REPORT32                                                                                     \
      PIC_EOI                                                                                      \
      "    iret\n"

#define WAIT                                                                                       \
      "1:  sti\n"                                                                                  \
      "    hlt\n"                                                                                  \
      "    jmp 1b\n"

GUEST(pic, VM_ENTRY_REAL, "16",
      "    mov $0x8000, %sp\n"
      PICS
      VECTOR(0x25, 5f)
      VECTOR(0x2a, 6f)
      "    mov $1, %eax\n"
      REPORT32
      WAIT
      HANDLER(5, 0x25)
      HANDLER(6, 0x2a))

/* The gates of long mode, at 0xc000; the code is below 64 KiB. */
#define GATES                                                                                      \
      "    mov $0x8000, %esp\n"                                                                    \
      "    lidt " HERE(8f) "\n"
#define GATE(number, label)                                                                        \
      "    movl $" HERE(label) " + 0x100000, 0xc000 + 16 * " #number "\n"                          \
      "    movl $0x8e00, 0xc004 + 16 * " #number "\n"                                              \
      "    movq $0, 0xc008 + 16 * " #number "\n"
#define GATES_AT                                                                                   \
      "8:  .word 0x7ff\n"                                                                          \
      "    .quad 0xc000\n"

/* The local APIC is on. */
#define LAPIC_ON                                                                                   \
      "    mov $0xfee00000, %ebx\n"                                                                \
      "    movl $0x1ff, 0xf0(%rbx)\n"

/* The I/O APIC's pin gives the vector (with the bits above it) to processor 0. */
#define PIN(number, vector)                                                                        \
      "    movl $0x11 + 2 * " #number ", (%rcx)\n"                                                 \
      "    movl $0, 0x10(%rcx)\n"                                                                  \
      "    movl $0x10 + 2 * " #number ", (%rcx)\n"                                                 \
      "    movl $" #vector ", 0x10(%rcx)\n"

#define HANDLER_LONG(label, number)                                                                \
      #label ": mov $" #number ", %eax\n"                                                          \
      REPORT32                                                                                     \
      "    movl $0, 0xb0(%rbx)\n"                                                                  \
      "    iretq\n"

GUEST(ioapic, VM_ENTRY_LONG, "64",
      GATES
      GATE(0x49, 5f)
      GATE(0x54, 6f)
      LAPIC_ON
      /* Nothing is to come by the PICs as well. */
      "    mov $0xff, %al\n"
      "    out %al, $0x21\n"
      "    out %al, $0xa1\n"
      "    mov $0xfec00000, %ecx\n"
      PIN(9, 0x8049)
      PIN(20, 0x54)
      "    mov $1, %eax\n"
      REPORT32
      WAIT
      HANDLER_LONG(5, 0x49)
      HANDLER_LONG(6, 0x54)
      GATES_AT)

GUEST(chips, VM_ENTRY_LONG, "64",
      "    mov $0xfec00000, %ecx\n"
      "    xor %eax, %eax\n"
      "    in $0x21, %al\n"
      REPORT32
      "    movl $0x38, (%rcx)\n"
      "    movl 0x10(%rcx), %eax\n"
      REPORT32
      "    movl $0x54, 0x10(%rcx)\n"
      "    mov $0x5a, %al\n"
      "    out %al, $0x21\n"
      "    xor %eax, %eax\n"
      "    in $0x21, %al\n"
      REPORT32
      STOP)

GUEST(timers, VM_ENTRY_LONG, "64",
      GATES
      GATE(0x20, 5f)
      GATE(0x40, 6f)
      LAPIC_ON
      PICS
      /* The PIT, by rate, as slow as it can. */
      "    mov $0x34, %al\n"
      "    out %al, $0x43\n"
      "    xor %al, %al\n"
      "    out %al, $0x40\n"
      "    out %al, $0x40\n"
      "    cmpb $0, 0x10000\n"
      "    jne 2f\n"
      "    movl $0xb, 0x3e0(%rbx)\n" /* by the nanosecond */
      "    movl $0x40, 0x320(%rbx)\n"
      "    movl $150000000, 0x380(%rbx)\n"
      "    jmp 3f\n"
      "2:  movl $0x40040, 0x320(%rbx)\n"
      "    rdtsc\n"
      "    add $400000000, %eax\n"
      "    adc $0, %edx\n"
      "    mov $0x6e0, %ecx\n"
      "    wrmsr\n"
      "3:  mov $1, %eax\n"
      REPORT32
      WAIT
      "5:  mov $0x20, %eax\n"
      REPORT32
      PIC_EOI
      "    iretq\n"
      HANDLER_LONG(6, 0x40)
      GATES_AT)

/* ---- state ---- */

GUEST(holds, VM_ENTRY_LONG, "64",
      "    mov $0xd0000010, %r12d\n"
      "    mov %cr4, %rax\n"
      "    or $0x200, %eax\n" /* SSE is on */
      "    mov %rax, %cr4\n"
      "    movups " HERE(8f) ", %xmm0\n"
      "    movups " HERE(8f) " + 16, %xmm15\n"
      "    movabs $0x1111111122222222, %r15\n"
      "    movabs $0x3333333344444444, %rbp\n"
      "    mov $0x55555555, %eax\n"
      "    mov %rax, %dr1\n"
      "    mov $0x66666666, %eax\n"
      "    mov %rax, %cr2\n"
      "    mov $0xc0000082, %ecx\n" /* LSTAR */
      "    mov $0x77777777, %eax\n"
      "    mov $0x1111, %edx\n"
      "    wrmsr\n"
      "    mov $0xc0000102, %ecx\n" /* KERNEL_GS_BASE */
      "    mov $0x88888888, %eax\n"
      "    mov $0x2222, %edx\n"
      "    wrmsr\n"
      "    mov $1, %eax\n"
      REPORT32
      "1:  pause\n"
      "    cmpb $0, 0x10000\n"
      "    je 1b\n"
      "    movups %xmm0, 0xc000\n"
      "    movups %xmm15, 0xc010\n"
      "    mov 0xc000, %rax\n"
      "    mov %rax, (%r12)\n"
      "    mov 0xc018, %rax\n"
      "    mov %rax, (%r12)\n"
      "    mov %r15, (%r12)\n"
      "    mov %rbp, (%r12)\n"
      "    mov %dr1, %rax\n"
      "    mov %rax, (%r12)\n"
      "    mov %cr2, %rax\n"
      "    mov %rax, (%r12)\n"
      "    mov $0xc0000082, %ecx\n"
      "    rdmsr\n"
      "    shl $32, %rdx\n"
      "    or %rdx, %rax\n"
      "    mov %rax, (%r12)\n"
      "    mov $0xc0000102, %ecx\n"
      "    rdmsr\n"
      "    shl $32, %rdx\n"
      "    or %rdx, %rax\n"
      "    mov %rax, (%r12)\n"
      STOP
      "8:  .quad 0x9999999999999999, 0, 0, 0xaaaaaaaaaaaaaaaa\n")

/* ---- more processors ---- */

GUEST(starts_others, VM_ENTRY_LONG, "64",
      LAPIC_ON
      "    movl $0xc4500, 0x300(%rbx)\n" /* INIT to all but me */
      "    movl $0xc4602, 0x300(%rbx)\n" /* SIPI: begin at 0x2000 */
      STOP
      ".fill 0x1000 - (. - 100b)\n"
      ".code16\n"
      "    mov $1, %eax\n"
      "    cpuid\n"
      "    mov %ebx, %eax\n"
      "    shr $24, %eax\n"
      REPORT32
      STOP)

GUEST(all_fault, VM_ENTRY_LONG, "64",
      LAPIC_ON
      "    movl $0xc4500, 0x300(%rbx)\n"
      "    movl $0xc4602, 0x300(%rbx)\n"
      "    lidt " HERE(1f) "\n"
      "    movabs $0x4000000000, %rax\n"
      "    mov (%rax), %eax\n"
      STOP
      "1:  .word 0\n"
      "    .quad 0\n"
      ".fill 0x1000 - (. - 100b)\n"
      ".code16\n"
      "    mov $2, %eax\n"
      REPORT32
      "    xor %ax, %ax\n"
      "    mov %ax, %ds\n"
      "    lidtl " HERE(1b) "\n"
      "    mov %cr0, %eax\n"
      "    or $1, %al\n"
      "    mov %eax, %cr0\n"
      "    mov $0xfff8, %ax\n" /* no such selector, no gate for that */
      "    mov %ax, %ds\n"
      STOP)

/* Of all processors; the first begins at 0:0x1000, others at 0x100:0. */
GUEST(asks, VM_ENTRY_REAL, "16",
      "    mov $0x1000, %ax\n"
      "    mov %ax, %ds\n"
      "    mov $8, %si\n"
      "1:  mov (%si), %eax\n"
      "    cmp $1, %eax\n"
      "    je 2f\n"
      "    cmp $2, %eax\n"
      "    je 3f\n"
      "    jmp 4f\n"
      "2:  mov 4(%si), %eax\n"
      "    mov 8(%si), %ecx\n"
      "    cpuid\n"
      "    mov %edx, %edi\n"
      REPORT32
      "    mov %ebx, %eax\n"
      "    out %eax, %dx\n"
      "    mov %ecx, %eax\n"
      "    out %eax, %dx\n"
      "    mov %edi, %eax\n"
      "    out %eax, %dx\n"
      "    jmp 5f\n"
      "3:  mov 4(%si), %ecx\n"
      "    rdmsr\n"
      "    mov %edx, %edi\n"
      REPORT32
      "    mov %edi, %eax\n"
      "    out %eax, %dx\n"
      "5:  add $12, %si\n"
      "    jmp 1b\n"
      "4:  mov $0x1b, %ecx\n"
      "    rdmsr\n"
      "    test $0x100, %ax\n"
      "    jnz 6f\n"
      "    lock incl 0\n"
      STOP
      /* The first starts the next, by x2APIC's register, until all have answered. */
      "6:  or $0xc00, %ax\n"
      "    wrmsr\n"
      "    lock incl 0\n"
      "7:  mov 0, %eax\n"
      "    cmp 4, %eax\n"
      "    jae 9b\n"
      "    mov %eax, %edx\n"
      "    mov %eax, %edi\n"
      "    mov $0x830, %ecx\n"
      "    mov $0x4500, %eax\n"
      "    wrmsr\n"
      "    mov $0x4601, %eax\n"
      "    wrmsr\n"
      "8:  pause\n"
      "    cmp %edi, 0\n"
      "    je 8b\n"
      "    jmp 7b\n")

/* ---- going on ---- */

#define REGISTER(at, value) "    movl $" #value ", " #at "(%rbx)\n"

GUEST(draws, VM_ENTRY_LONG, "64",
      "    mov $0xd0000000, %ebx\n"
      REGISTER(0x70, 0)
      REGISTER(0x70, 1)
      REGISTER(0x70, 3)
      REGISTER(0x24, 1) /* VERSION_1 */
      REGISTER(0x20, 1)
      REGISTER(0x70, 0xb)
      REGISTER(0x30, 0)
      REGISTER(0x38, 8)
      REGISTER(0x80, 0x20000)
      REGISTER(0x84, 0)
      REGISTER(0x90, 0x21000)
      REGISTER(0x94, 0)
      REGISTER(0xa0, 0x22000)
      REGISTER(0xa4, 0)
      REGISTER(0x44, 1)
      REGISTER(0x70, 0xf)
      /* one descriptor, always the same */
      "    movq $0x23000, 0x20000\n"
      "    movl $8, 0x20008\n"
      "    movw $2, 0x2000c\n"
      "    xor %esi, %esi\n"
      "1:  inc %esi\n"
      "    incl 0x24000\n"
      "    movq $0, 0x23000\n"
      "    mov %si, 0x21002\n"
      REGISTER(0x50, 0)
      "2:  pause\n"
      "    cmp %si, 0x22002\n"
      "    jne 2b\n"
      "    mov %esi, %eax\n"
      REPORT32
      "    mov 0x24000, %eax\n"
      REPORT32
      "    mov 0x23000, %eax\n"
      REPORT32
      "    jmp 1b\n")

GUEST(spells, VM_ENTRY_LONG, "64",
      "    xor %ecx, %ecx\n"
      "    movl $0, 0x40000\n"
      "1:  mov $'!', %al\n"
      "    cmp %ecx, 0x40000\n"
      "    jne 8f\n"
      "    lea 'a'(%rcx), %eax\n"
      "    mov $0x3f8, %dx\n"
      "    out %al, %dx\n"
      "    inc %ecx\n"
      "    cmp $26, %ecx\n"
      "    jb 2f\n"
      "    xor %ecx, %ecx\n"
      "2:  mov %ecx, 0x40000\n"
      "    rdtsc\n"
      "    mov %eax, %edi\n"
      "3:  pause\n"
      "    rdtsc\n"
      "    sub %edi, %eax\n"
      "    cmp $2000000, %eax\n"
      "    jb 3b\n"
      "    jmp 1b\n"
      "8:  mov $0x3f8, %dx\n"
      "    out %al, %dx\n"
      STOP)

#define FIELD(at, value) "    movl $" #value ", " #at "\n"

GUEST(writes, VM_ENTRY_LONG, "64",
      "    mov $0xd0000000, %ebx\n"
      REGISTER(0x70, 0)
      REGISTER(0x70, 1)
      REGISTER(0x70, 3)
      REGISTER(0x24, 1) /* VERSION_1 */
      REGISTER(0x20, 1)
      REGISTER(0x70, 0xb)
      REGISTER(0x30, 0)
      REGISTER(0x38, 8)
      REGISTER(0x80, 0x50000)
      REGISTER(0x84, 0)
      REGISTER(0x90, 0x51000)
      REGISTER(0x94, 0)
      REGISTER(0xa0, 0x52000)
      REGISTER(0xa4, 0)
      REGISTER(0x44, 1)
      REGISTER(0x70, 0xf)
      /* what is asked for, the sector, the answer: always the same */
      FIELD(0x50000, 0x53000)
      FIELD(0x50008, 16)
      FIELD(0x5000c, 0x10001)
      FIELD(0x50010, 0x53200)
      FIELD(0x50018, 512)
      FIELD(0x5001c, 0x20001)
      FIELD(0x50020, 0x53100)
      FIELD(0x50028, 1)
      FIELD(0x5002c, 2)
      FIELD(0x53000, 1) /* VIRTIO_BLK_T_OUT */
      FIELD(0x53008, 1)
      "    xor %ebp, %ebp\n"
      "    xor %ecx, %ecx\n"
      "1:  inc %ebp\n"
      "    mov %ebp, 0x53200\n"
      "    movb $0xff, 0x53100\n"
      "    mov %bp, 0x51002\n"
      REGISTER(0x50, 0)
      "2:  pause\n"
      "    cmp %bp, 0x52002\n"
      "    jne 2b\n"
      "    mov $'!', %al\n"
      "    cmpb $0, 0x53100\n"
      "    jne 8f\n"
      "    lea 'a'(%rcx), %eax\n"
      "    mov $0x3f8, %dx\n"
      "    out %al, %dx\n"
      "    inc %ecx\n"
      "    cmp $26, %ecx\n"
      "    jb 4f\n"
      "    xor %ecx, %ecx\n"
      "4:  rdtsc\n"
      "    mov %eax, %edi\n"
      "3:  pause\n"
      "    rdtsc\n"
      "    sub %edi, %eax\n"
      "    cmp $2000000, %eax\n"
      "    jb 3b\n"
      "    jmp 1b\n"
      "8:  mov $0x3f8, %dx\n"
      "    out %al, %dx\n"
      STOP)

GUEST(resets, VM_ENTRY_LONG, "64",
      "    mov $'r', %al\n"
      "    mov $0x3f8, %dx\n"
      "    out %al, %dx\n"
      "    mov $6, %al\n"
      "    mov $0xcf9, %dx\n"
      "    out %al, %dx\n"
      STOP)

GUEST(insists, VM_ENTRY_LONG, "64",
      "    mov $'b', %al\n"
      "    mov $0x3f8, %dx\n"
      "    out %al, %dx\n"
      "    rdtsc\n" /* some 50 ms, however fast it is */
      "    mov %eax, %ebx\n"
      "1:  rdtsc\n"
      "    sub %ebx, %eax\n"
      "    cmp $100000000, %eax\n"
      "    jb 1b\n"
      "    mov $'e', %al\n"
      "    mov $0x3f8, %dx\n"
      "    out %al, %dx\n"
      "2:  mov $6, %al\n"
      "    mov $0xcf9, %dx\n"
      "    out %al, %dx\n"
      "    mov $0xfe, %al\n"
      "    out %al, $0x64\n"
      "    jmp 2b\n")
