#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
# The first process of the KVM lab (tests/lib_lab.sh): runs /run.sh as a scenario is run outside.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
exec </dev/null >/dev/ttyS0 2>&1
stty -onlcr </dev/ttyS0
echo 1 >/proc/sys/kernel/printk
modprobe kvm-amd
ip link set lo up

export PATH=/bin:/sbin HOME=/ LC_ALL=C
export VDISK=/bin/vdisk VDISK_SRC=/src TMPDIR=/work VDISK_LAB=1
echo "# the lab is up: $(cut -d ' ' -f 1 /proc/uptime) s"
bash /run.sh
echo "LAB ends $?"
poweroff -f
