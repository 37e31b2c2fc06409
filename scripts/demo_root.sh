#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# demo_root.sh TAR FILE: a file system in FILE, for the demo's guest, of Debian in TAR. As root, or as
# what fakeroot makes of others; in a folder of its own.
set -euo pipefail

# A name, the file system, and a console where root is logged in.
settings() {
    local units=root/etc/systemd/system
    echo debian >root/etc/hostname
    echo '/dev/vda / ext4 discard 0 0' >root/etc/fstab
    tr -d - </proc/sys/kernel/random/uuid >root/etc/machine-id
    mkdir -p "$units/console-getty.service.d" "$units/getty.target.wants"
    ln -s /lib/systemd/system/console-getty.service "$units/getty.target.wants/"
    printf '[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - dumb\n' \
        >"$units/console-getty.service.d/root.conf"
    ln -s /dev/null "$units/serial-getty@ttyS0.service"
    ln -s /dev/null "$units/e2scrub_reap.service" # there is no LVM
}

mkdir root
tar -xpf "$1" -C root --exclude='./dev/*'
settings
mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 -d root "$2" 1G
rm -rf root
