#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash disable=SC2012,SC3045  # busybox
# The first process of the guest of tests/scenario_guest.sh: uses the drive as a guest does, and says
# `STEP name ok`, or `failed`, on the serial port for each step. In the first half of the drive there
# is a file system, the second half is used bare. `stop` on the serial port ends the rounds.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mkdir -p /proc /sys /dev /mnt /tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo

step() { # NAME COMMAND...
    name=$1
    shift
    if "$@" >/tmp/out 2>&1; then
        echo "STEP $name ok"
    else
        tail -n 20 /tmp/out
        echo "STEP $name failed"
    fi
}

modules() {
    for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
        insmod "/modules/$module.ko" || return
    done
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ ! -b /dev/vda ] || return 0
        sleep 1
    done
    return 1
}

has_features() {
    queue=/sys/block/vda/queue
    grep . $queue/write_cache $queue/*_max_bytes
    ls /sys/block/vda/mq
    [ "$(ls /sys/block/vda/mq | wc -l)" = 2 ] && [ "$(cat $queue/write_cache)" = 'write back' ] &&
        [ "$(cat $queue/discard_max_bytes)" -gt 0 ] &&
        [ "$(cat $queue/write_zeroes_max_bytes)" -gt 0 ]
}

check() { # FILE FIO_OPTION...
    file=$1
    shift
    fio --name=verify --filename="$file" --verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting "$@"
}

zeros() { # OFFSET_MIB MIB
    dd if=/dev/vda bs=1M skip="$1" count="$2" 2>/dev/null | cmp -n "$(($2 << 20))" - /dev/zero
}

no_errors() {
    ! dmesg | grep -iE 'i/o error|ext4-fs error|ext4-fs warning'
}

# Writes with a flush after every few, checks all of it, again and again with another seed.
rounds() {
    while ! read -r -t 0 _; do
        round=$((${round:-0} + 1))
        check /dev/vda --direct=1 --ioengine=libaio --iodepth=8 --offset="$((half + 64))m" --size=4m \
            --rw=randwrite --bs=4k --fsync=16 --randseed="$round" >/tmp/out || return
        no_errors || return
        echo "ROUND $round"
    done
    read -r _
}

files() { # FIO_OPTION...
    check /mnt/fio --size=16m --rw=randrw --bsrange=4k-64k --ioengine=psync --fsync=32 "$@"
}

bare() { # FIO_OPTION...
    check /dev/vda --direct=1 --ioengine=libaio --iodepth=16 --offset="${half}m" --size=32m \
        --rw=randwrite --bs=8k "$@"
}

step modules modules
half=$(($(cat /sys/block/vda/size) / 4096))
step features has_features
step mkfs /bin/mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 /dev/vda "${half}M"
step mount mount -o discard /dev/vda /mnt
step fio_files files
step fio_bare bare
cp /bin/busybox /mnt/busybox
sync
echo "SUM $(sha256sum </mnt/busybox)"
echo 'KILL'
if rounds; then
    echo 'STEP rounds ok'
else
    tail -n 20 /tmp/out
    echo 'STEP rounds failed'
fi
step sync sync
echo 3 >/proc/sys/vm/drop_caches
step fio_files_again files --verify_only
step fio_bare_again bare --verify_only
rm /mnt/fio
step fstrim fstrim /mnt
step umount umount /mnt
step blkdiscard blkdiscard -o "$((half << 20))" -l "$((half << 20))" /dev/vda
step discarded_reads_zeros zeros "$half" 16
step no_errors no_errors
echo 'DONE'
poweroff -f
