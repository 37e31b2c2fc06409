#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
# The first process of the demo's guest (scripts/demo.sh): finds the drive, and hands over to Debian.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
modprobe -a virtio_mmio virtio_blk virtio-rng button evdev ext4
until [ -b /dev/vda ]; do sleep 0.1; done
mkdir /root
mount -t ext4 -o discard /dev/vda /root
mount --move /dev /root/dev
umount /sys /proc
exec switch_root /root /sbin/init
