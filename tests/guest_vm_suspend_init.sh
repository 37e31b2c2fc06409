#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
# The first process of the guest of tests/scenario_vm_suspend_linux.sh: writes and verifies in rounds,
# with a file system and a process's memory beside them, until a line comes at the serial port.
# shellcheck source-path=SCRIPTDIR source=guest_steps.sh
. /steps

was_forked() {
    dmesg | grep 'virtual machine fork'
}

both_run() {
    grep -E 'CPU|LOC' /proc/interrupts
    before=$(sed -n 's/^LOC: *[0-9]* *\([0-9]*\).*/\1/p' /proc/interrupts)
    taskset 2 sh -c 'sleep 1; sleep 1'
    [ "$(sed -n 's/^LOC: *[0-9]* *\([0-9]*\).*/\1/p' /proc/interrupts)" -gt "$before" ]
}

step modules modules virtio_mmio virtio_blk virtio-rng
modprobe -q ext4
step mkfs makes_files
step mount mount "$DRIVE" /mnt
dd if=/dev/urandom of=/tmp/memory bs=1M count=24 2>/dev/null
sha256sum /tmp/memory >/tmp/sum
cp /tmp/memory /mnt/memory
step rounds rounds
step memory sha256sum -c /tmp/sum
step file cmp /tmp/memory /mnt/memory
step processors both_run
step random dd if=/dev/hwrng of=/dev/null bs=64 count=4 iflag=fullblock
step fork was_forked
step umount umount /mnt
step no_errors no_errors
echo 'DONE'
poweroff -f
