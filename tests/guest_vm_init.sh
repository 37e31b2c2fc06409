#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
# The first process of the guests of tests/scenario_vm_linux.sh. The first time there is no file
# system yet: uses the drives, and boots again. Then the files are checked, and it powers off.
# shellcheck source-path=SCRIPTDIR source=guest_steps.sh
. /steps
MIB=8

has_processors() {
    cat /proc/cpuinfo
    [ "$(grep -c ^processor /proc/cpuinfo)" = 2 ]
}

has_random() {
    grep -q virtio /sys/class/misc/hw_random/rng_current &&
        [ "$(dd if=/dev/hwrng bs=64 count=4 iflag=fullblock | wc -c)" = 256 ]
}

is_read_only() { # DRIVE
    [ "$(blockdev --getro "$1")" = 1 ] && cat "$1" >/dev/null &&
        ! dd if=/dev/zero of="$1" bs=4k count=1 conv=fsync
}

echo "BOOT $(cut -d ' ' -f 1 /proc/uptime) $(uname -r)"
step modules modules virtio_mmio virtio_blk virtio-rng
# Of the cloud kernel they are a part.
modprobe -aq ext4 crc32c_generic
step processors has_processors
if mount "$DRIVE" /mnt 2>/dev/null; then
    step again_fio_files files --verify_only
    step again_sum sha256sum -c /mnt/sum
    step again_umount umount /mnt
    step again_no_errors no_errors
    echo 'DONE'
    poweroff -f
fi

step features has_features
step random has_random
step read_only is_read_only /dev/vdb
# Not that of busybox: waits for the next second, by the clock's interrupt.
step clock /bin/hwclock --show
step mkfs makes_files
step mount mount -o discard "$DRIVE" /mnt
step fio_files files
step fio_bare bare
step copy cp /bin/busybox /mnt/busybox
sha256sum /mnt/busybox >/mnt/sum
step rounds rounds
step sync sync
echo 3 >/proc/sys/vm/drop_caches
step fio_bare_again bare --verify_only
step fstrim fstrim /mnt
step umount umount /mnt
step blkdiscard discards
step discarded_reads_zeros zeros "$(half)" 16
step no_errors no_errors
reboot -f
