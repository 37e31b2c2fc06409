# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash disable=SC2012,SC3045  # busybox
# What the first processes of guests share; they source it first. Each step is a line on the serial
# port: `STEP name ok`, or `failed`. $DRIVE is used as guests do: in its first half there is a file
# system at /mnt, the second half is used bare.

export PATH=/bin:/sbin
DRIVE=/dev/vda
MIB=32 # are written bare, half as much in a file
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /mnt
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo

step() { # NAME COMMAND...
    name=$1
    shift
    if "$@" >/tmp/out 2>&1; then
        read -r uptime _ </proc/uptime
        echo "STEP $name ok, at $uptime s"
    else
        tail -n 20 /tmp/out
        echo "STEP $name failed"
    fi
}

modules() { # MODULE...: and then the drive is there
    modprobe -a "$@" || return
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ ! -b "$DRIVE" ] || return 0
        sleep 1
    done
    return 1
}

half() { # MiB of half the drive
    echo $(($(cat "/sys/block/${DRIVE##*/}/size") / 4096))
}

has_features() {
    block=/sys/block/${DRIVE##*/}
    grep . "$block"/queue/write_cache "$block"/queue/*_max_bytes
    ls "$block/mq"
    [ "$(ls "$block/mq" | wc -l)" = 2 ] && [ "$(cat "$block/queue/write_cache")" = 'write back' ] &&
        [ "$(cat "$block/queue/discard_max_bytes")" -gt 0 ] &&
        [ "$(cat "$block/queue/write_zeroes_max_bytes")" -gt 0 ]
}

makes_files() {
    /bin/mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 "$DRIVE" "$(half)M"
}

check() { # FILE FIO_OPTION...
    file=$1
    shift
    fio --name=verify --filename="$file" --verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting "$@"
}

files() { # FIO_OPTION...
    check /mnt/fio --size="$((MIB / 2))m" --rw=randrw --bsrange=4k-64k --ioengine=psync --fsync=32 "$@"
}

bare() { # FIO_OPTION...
    check "$DRIVE" --direct=1 --ioengine=libaio --iodepth=16 --offset="$(half)m" --size="${MIB}m" \
        --rw=randwrite --bs=8k "$@"
}

# Writes with a flush after every few, checks all of it, again and again with another seed, until
# there is a line at the serial port.
rounds() {
    echo 'KILL' >/dev/ttyS0
    while ! read -r -t 0 _; do
        round=$((${round:-0} + 1))
        check "$DRIVE" --direct=1 --ioengine=libaio --iodepth=8 --offset="$(($(half) + 64))m" --size="$((MIB / 8))m" \
            --rw=randwrite --bs=4k --fsync=16 --randseed="$round" >/tmp/round || { cat /tmp/round; return 1; }
        no_errors || return
        echo "ROUND $round" >/dev/ttyS0
    done
    read -r _
}

discards() {
    blkdiscard -o "$(($(half) << 20))" -l "$(($(half) << 20))" "$DRIVE"
}

zeros() { # OFFSET_MIB MIB
    dd if="$DRIVE" bs=1M skip="$1" count="$2" 2>/dev/null | cmp -n "$(($2 << 20))" - /dev/zero
}

no_errors() {
    ! dmesg | grep -iE 'i/o error|ext4-fs error|ext4-fs warning'
}
