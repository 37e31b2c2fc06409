#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
# The first process of the guest of tests/scenario_vm_firmware.sh, which was on its drive. The first
# time it leaves a word on the drive and boots again; then that is there, and it powers off.
# shellcheck source-path=SCRIPTDIR source=guest_steps.sh
. /steps

echo "BOOT $(cut -d ' ' -f 1 /proc/uptime) $(uname -r)"
step modules modules virtio_mmio virtio_blk
modprobe -q ext4
step processors [ "$(grep -c ^processor /proc/cpuinfo)" = 2 ]
step mount mount -t ext4 /dev/vda1 /mnt
# GRUB has read them by the BIOS.
step same_init cmp /init /mnt/init
if [ -e /mnt/been ]; then
    step again_word grep -qx 'been here' /mnt/been
    step again_umount umount /mnt
    echo 'DONE'
    poweroff -f
fi
echo 'been here' >/mnt/been
step umount umount /mnt
reboot -f
