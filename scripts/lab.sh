# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# The KVM lab, for machines whose /dev/kvm is of no use to Linux: QEMU's software emulation, which has
# AMD's SVM with nested paging, boots Debian's cloud kernel; in there /dev/kvm is real, and a script
# runs as root and alone, with our programs.
# shellcheck source-path=SCRIPTDIR source=kernel.sh
. "$VDISK_SRC/scripts/kernel.sh"

# Loaded on demand but for the first.
LAB_MODULES=(kvm-amd tun veth bridge 8021q loop virtio_pci virtio_blk ext4)

# vdisk-vmm says whether /dev/kvm is of use: 0; 3: Linux would take hours; 1: there is none.
kvm_is_fast() {
    vdisk-vmm --probe >.out 2>.err </dev/null
}

# lab_root ROOT SCRIPT PROGRAM...: what is in the lab. The folder ROOT/work is where the script runs.
lab_root() {
    root_busybox "$1"
    root_programs "$1" bash vdisk vdiskd vdisk-vmm "${@:3}"
    root_modules "$1" cloud-amd64 "${LAB_MODULES[@]}"
    cc -O1 -o "$1/bin/lab_machine" "$VDISK_SRC/scripts/lab_machine.c" || return
    mkdir -p "$1/work"
    cp "$2" "$1/run.sh"
    install -m 755 "$VDISK_SRC/scripts/lab_init.sh" "$1/init"
    printf 'root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n' >"$1/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$1/etc/group"
}

# lab_boot INITRAMFS SECONDS VARIABLES QEMU_OPTION...: what the script says is standard output; at last
# `LAB ends STATUS`, or half a minute before its time is over, what each thread in there is at. With
# LAB_DISK among the variables, that has a file system for /work.
lab_boot() {
    # Each processor has its thread: with one for both, QEMU 7.2 now and then gives the guest in there
    # an interrupt twice, which ends its kernel.
    exec timeout "$2" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2G \
        -nodefaults -display none -no-reboot -serial stdio "${@:4}" \
        -kernel "$KERNEL_CACHE/cloud-amd64/vmlinuz" -initrd "$1" -append \
        "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check LAB_SECONDS=$2 $3" \
        </dev/null 2>qemu.err
}
