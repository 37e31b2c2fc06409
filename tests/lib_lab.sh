# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For scenarios with vdisk-vmm, after lib.sh. Where /dev/kvm runs Linux they run right here, else in
# the KVM lab: QEMU's software emulation, which has AMD's SVM with nested paging, boots Debian's cloud
# kernel; in there /dev/kvm is real, and the scenario is run again, as root and alone. It begins with
#
#     if lab_is_outside; then
#         lab_ready || exit 0
#         lab_guest_initrd initrd "$VDISK_SRC/tests/guest_vm_init.sh"
#         kvm_is_fast || { lab "$0" serial 240 initrd; exit; }
#     fi
#
# and finds the files named there in its folder.
# shellcheck source-path=SCRIPTDIR source=lib_guest.sh
. "$VDISK_SRC/tests/lib_guest.sh"

# How many times what it takes is to be allowed, on a machine with other work.
LAB_SLOW=${VDISK_LAB_SLOW:-1}
# shellcheck disable=SC2034
patience=$((100 * LAB_SLOW))

# Of the lab, loaded on demand but for the first; and of the guest in it.
LAB_MODULES=(kvm-amd tun veth bridge 8021q loop)
LAB_GUEST_MODULES=(virtio_mmio virtio_blk virtio_net virtio-rng virtio_balloon
    vmw_vsock_virtio_transport button ext4 crc32c_generic)

lab_is_outside() {
    [ -z "${VDISK_LAB:-}" ]
}

# VDISK_VMM=vdisk-vmm-peer: the same with QEMU's microvm, to compare.
VMM=${VDISK_VMM:-vdisk-vmm}

# vdisk-vmm says whether /dev/kvm is of use: 0; 3: Linux would take hours; 1: there is none.
kvm_is_fast() {
    vdisk-vmm --probe >.out 2>.err </dev/null
}

# What is missing for the lab, as one line; nothing if nothing is.
lab_lacks() {
    if ! command -v vdisk-vmm >/dev/null; then
        echo 'there is no vdisk-vmm for this processor'
    elif [[ ,${VDISK_SANITIZER:-}, == *,thread,* ]]; then
        echo 'too slow with the thread sanitizer'
    else
        kernel_lacks qemu-system-x86_64 fio mke2fs e2fsck
    fi
}

lab_kernels() {
    kernel_fetch cloud-amd64 && kernel_fetch amd64
}

# The means are there; else says that all is skipped, and why.
lab_ready() {
    local lacks
    lacks=$(lab_lacks)
    if [ -z "$lacks" ] && ! lab_kernels; then
        sed 's/^/#   /' .err
        lacks='the kernels could not be fetched'
    fi
    [ -z "$lacks" ] || skip 'a guest of vdisk-vmm' "$lacks"
    [ -z "$lacks" ]
}

# lab_guest_initrd FILE INIT: for a guest of either kernel.
lab_guest_initrd() {
    guest_initramfs "$1" "$2" 'cloud-amd64 amd64' "${LAB_GUEST_MODULES[@]}"
}

# lab_initramfs FILE SCRIPT FILE...: the script and its files, our programs, what they need.
lab_initramfs() {
    root_busybox lab
    root_programs lab bash e2fsck vdisk vdiskd vdisk-vmm
    if [ "$VMM" = vdisk-vmm-peer ]; then
        root_programs lab qemu-system-x86_64
        mkdir -p lab/share/qemu
        cp -L /usr/share/qemu/{bios-microvm.bin,linuxboot_dma.bin} lab/share/qemu/
        install -m 755 "$VDISK_SRC/tests/lab_peer.sh" lab/bin/vdisk-vmm-peer
    fi
    root_modules lab cloud-amd64 "${LAB_MODULES[@]}"
    mkdir -p lab/src/tests lab/work
    cp "$VDISK_SRC"/tests/*.sh lab/src/tests/
    cp "${@:3}" lab/work/
    cp "$2" lab/run.sh
    cp "$VDISK_SRC/tests/lab_init.sh" lab/init && chmod 755 lab/init
    printf 'root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n' >lab/etc/passwd
    printf 'root:x:0:\nnogroup:x:65534:\n' >lab/etc/group
    root_pack lab "$1"
}

# lab SCRIPT LOG SECONDS FILE...: runs it; what it prints goes to LOG and is printed.
lab() {
    lab_initramfs initramfs "$1" "${@:4}"
    rm -f .out .err
    # Each processor has its thread: with one for both, QEMU 7.2 now and then gives the guest in there
    # an interrupt twice, which ends its kernel.
    timeout "$(($3 * LAB_SLOW))" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2G \
        -nodefaults -display none -no-reboot -serial stdio \
        -kernel "$KERNEL_CACHE/cloud-amd64/vmlinuz" -initrd initramfs -append \
        "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check
         VDISK_TEST_SEED=$VDISK_TEST_SEED VDISK_TEST_LONG=${VDISK_TEST_LONG:-0}
         VDISK_VMM=$VMM VDISK_LAB_SLOW=$LAB_SLOW" \
        </dev/null 2>qemu.err | tee "$2"
    sed 's/^/#   qemu: /' qemu.err
    verdict 'the lab comes to its end' "$(grep -q '^LAB ends 0' "$2"; echo $?)"
}
