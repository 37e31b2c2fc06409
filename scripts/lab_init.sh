#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
# The first process of the KVM lab (scripts/lab.sh): runs /run.sh as it is run outside.
#
# The kernel's first root cannot be left with pivot_root(), as programs do that confine themselves:
# the same files once more, mounted over it, can.
if [ -z "${LAB_ROOT:-}" ]; then
    mount -o bind / /tmp
    cd /tmp || exit
    mount -o move . /
    LAB_ROOT=1 exec chroot . /init
fi
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
ln -s /proc/self/fd /dev/fd
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
exec </dev/null >/dev/ttyS0 2>&1
stty -onlcr </dev/ttyS0
echo 1 >/proc/sys/kernel/printk
modprobe kvm-amd
ip link set lo up
if [ -n "${LAB_DISK:-}" ]; then
    modprobe -a virtio_pci virtio_blk ext4
    mount "$LAB_DISK" /work
fi

export PATH=/bin:/sbin HOME=/ LC_ALL=C

# What each thread is at, and how long it has run, for whoever reads why the lab came to no end.
tell_state() {
    echo "# time runs short, at $(cut -d ' ' -f 1 /proc/uptime) s: thread, state and ticks, where it waits"
    for task in /proc/[0-9]*/task/*; do
        readlink "${task%/task/*}/exe" >/dev/null || continue # the kernel's own
        echo "#   ${task##*/} $(cat "$task/comm"): $(sed 's/.*) //' "$task/stat" | cut -d ' ' -f 1,12,13)" \
            "$(head -n 3 "$task/stack" | sed 's/^[^ ]* //' | tr '\n' ' ')"
    done
    for file in /work/serial /work/*/serial /work/err /work/*/err; do
        [ ! -s "$file" ] || { echo "#   $file:" && tail -n 5 "$file" | sed 's/^/#   | /'; }
    done
}
if [ -n "${LAB_SECONDS:-}" ]; then
    (sleep $((LAB_SECONDS - 30)) && tell_state && sleep 5 && tell_state) 2>/dev/null &
fi
(while echo >/dev/ttyS1 && sleep 5; do :; done) 2>/dev/null & # it lives, for who listens
lab_machine &
export VDISK=/bin/vdisk VDISK_SRC=/src TMPDIR=/work VDISK_LAB=1
echo "# the lab is up: $(cut -d ' ' -f 1 /proc/uptime) s"
(cd /work && bash /run.sh)
status=$?
[ -z "${LAB_DISK:-}" ] || umount /work
echo "LAB ends $status"
poweroff -f
