# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For scenarios with vdisk-vmm, after lib.sh. Where /dev/kvm runs Linux they run right here, else the
# scenario is run again in the KVM lab (scripts/lab.sh). It begins with
#
#     if lab_is_outside; then
#         lab_ready || exit 0
#         lab_guest_initrd initrd "$VDISK_SRC/tests/guest_vm_init.sh"
#         kvm_is_fast || { lab "$0" serial initrd; exit; }
#     fi
#
# and finds the files named there in its folder.
# shellcheck source-path=SCRIPTDIR source=lib_guest.sh
. "$VDISK_SRC/tests/lib_guest.sh"
# shellcheck source-path=SCRIPTDIR source=../scripts/lab.sh
. "$VDISK_SRC/scripts/lab.sh"

# A host with other work has been seen to take 50 s for what takes 18.
# shellcheck disable=SC2034
patience=300

LAB_GUEST_MODULES=(virtio_mmio virtio_blk virtio_net virtio-rng virtio_balloon
    vmw_vsock_virtio_transport button ext4 crc32c_generic)

# Programs of this system that are in the lab, beside our own.
LAB_PROGRAMS=(e2fsck)

lab_is_outside() {
    [ -z "${VDISK_LAB:-}" ]
}

# VDISK_VMM=vdisk-vmm-peer: the same with QEMU's microvm, to compare.
VMM=${VDISK_VMM:-vdisk-vmm}

# What is missing for the lab, as one line; nothing if nothing is.
lab_lacks() {
    if ! command -v vdisk-vmm >/dev/null; then
        echo 'there is no vdisk-vmm for this processor'
    elif [[ ,${VDISK_SANITIZER:-}, == *,thread,* ]]; then
        echo 'too slow with the thread sanitizer'
    else
        kernel_lacks qemu-system-x86_64 fio "${GUEST_PROGRAMS[@]}" "${LAB_PROGRAMS[@]}"
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
    local tool
    lab_root lab "$2" "${LAB_PROGRAMS[@]}"
    if [ "$VMM" = vdisk-vmm-peer ]; then
        root_programs lab qemu-system-x86_64
        mkdir -p lab/share/qemu
        cp -L /usr/share/qemu/{bios-microvm.bin,linuxboot_dma.bin} lab/share/qemu/
        install -m 755 "$VDISK_SRC/tests/lab_peer.sh" lab/bin/vdisk-vmm-peer
        for tool in lkvm kvmtool; do
            ! command -v $tool >/dev/null || root_programs lab $tool
        done
    fi
    mkdir -p lab/src/tests lab/src/scripts
    cp "$VDISK_SRC"/tests/*.sh lab/src/tests/
    cp "$VDISK_SRC"/scripts/*.sh lab/src/scripts/
    cp "${@:3}" lab/work/
    root_pack lab "$1"
}

# lab_once LOG SECONDS: what the script prints goes to LOG. A lab of which nothing has been heard for two
# minutes is ended.
lab_once() {
    local machine size heard=0 seconds=0
    rm -f .out .err
    : >beats
    (lab_boot initramfs "$2" "VDISK_TEST_SEED=$VDISK_TEST_SEED VDISK_TEST_LONG=${VDISK_TEST_LONG:-0}
        VDISK_VMM=$VMM" -serial file:beats) >"$1" &
    machine=$!
    while sleep 1 && kill -0 $machine 2>/dev/null; do
        size=$(stat -c %s beats)
        seconds=$((size == heard ? seconds + 1 : 0)) heard=$size
        [ $seconds -lt 120 ] || kill $machine
    done
    wait $machine
}

# The emulated machine itself is at fault: its kernel ended, or stood still. QEMU 7.2 does that now and
# then when a guest in there goes or comes, under load: the kernel was seen to take an exception with
# the guest's clock, until its stack was full.
lab_broke_down() { # LOG
    ! grep -qE '^(LAB ends|# time runs short)' "$1"
}

# lab SCRIPT LOG FILE...: runs it and prints what it says, which is in LOG then. It has nearly as long as
# tests/run gives the scenario: a limit of its own would say nothing but how fast the host is. A lab that
# breaks down has shown nothing, and is begun again, once.
lab() {
    local seconds=$((${VDISK_TEST_TIMEOUT:-900} * 9 / 10)) begin=$SECONDS
    lab_initramfs initramfs "$1" "${@:3}"
    lab_once "$2" $seconds
    if lab_broke_down "$2"; then
        echo '# the lab broke down, and is begun again; the first one:'
        sed 's/^/#   | /' "$2" qemu.err
        lab_once "$2" $((seconds - SECONDS + begin))
    fi
    cat "$2"
    sed 's/^/#   qemu: /' qemu.err
    verdict 'the lab comes to its end' "$(grep -q '^LAB ends 0' "$2"; echo $?)"
}
