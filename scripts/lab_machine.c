/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps a machine of KVM with a processor that never runs, for as long as the KVM lab is up.
 *
 * With the first machine and after the last one the kernel changes code of its scheduler, and of
 * KVM, while it runs, by way of breakpoints. QEMU 7.2, which emulates each processor by a thread,
 * now and then goes on executing such a breakpoint that is gone from memory: both processors of the
 * lab were seen to take it in __schedule() for ever, when a suspended guest's machine had ended and
 * the next one began. So there is always one.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int machine = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);

    /* Whether any local APIC is off is kept in KVM's code as well: this one's is. */
    if (machine < 0 || ioctl(machine, KVM_CREATE_IRQCHIP, 0) < 0 ||
        ioctl(machine, KVM_CREATE_VCPU, 0) < 0) {
        perror("lab_machine");
        return 1;
    }
    for (;;)
        pause();
}
