#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
# The first process of the guest of tests/scenario_guest.sh.
# shellcheck source-path=SCRIPTDIR source=guest_steps.sh
. /steps

step modules modules virtio_pci virtio_blk
step features has_features
step mkfs makes_files
step mount mount -o discard "$DRIVE" /mnt
step fio_files files
step fio_bare bare
cp /bin/busybox /mnt/busybox
sync
echo "SUM $(sha256sum </mnt/busybox)"
step rounds rounds
step sync sync
echo 3 >/proc/sys/vm/drop_caches
step fio_files_again files --verify_only
step fio_bare_again bare --verify_only
rm /mnt/fio
step fstrim fstrim /mnt
step umount umount /mnt
step blkdiscard discards
step discarded_reads_zeros zeros "$(half)" 16
step no_errors no_errors
echo 'DONE'
poweroff -f
