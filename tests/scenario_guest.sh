#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A Linux guest on a drive of vdiskd, over vhost-user-blk: Debian's kernel in QEMU's software
# emulation makes a file system, writes and verifies, discards; meanwhile vdiskd is killed and
# started again, and the guest notices nothing.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"
# shellcheck source-path=SCRIPTDIR source=lib_guest.sh
. "$VDISK_SRC/tests/lib_guest.sh"

lacks=$(guest_lacks)
if [ -z "$lacks" ] && ! kernel_fetch cloud-amd64; then
    sed 's/^/#   /' .err
    lacks='the kernel could not be fetched'
fi
if [ -n "$lacks" ]; then
    skip 'a guest' "$lacks"
    exit 0
fi

kills=3
[ "${VDISK_TEST_LONG:-0}" != 1 ] || kills=50

serve_guest() { serve a.vdk --vhost-user "$PWD/vhost"; }
kib() { du -k a.vdk | cut -f 1; }
# shellcheck disable=SC2054
machine=(qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 512M -nodefaults -display none -no-reboot
    -object memory-backend-memfd,id=m,size=512M,share=on -numa node,memdev=m
    -chardev "socket,id=c,path=$PWD/vhost,reconnect=1"
    -device vhost-user-blk-pci,chardev=c,num-queues=2 -serial stdio
    -kernel "$KERNEL_CACHE/cloud-amd64/vmlinuz" -initrd initrd
    -append 'console=ttyS0 quiet panic=-1 mitigations=off no_timer_check')

drive a.vdk 512M
guest_initramfs initrd "$VDISK_SRC/tests/guest_init.sh" cloud-amd64 virtio_pci virtio_blk
t 'vdiskd starts' serve_guest
guest "${machine[@]}"
stepped modules features mkfs mount fio_files fio_bare
says '^KILL' || not_ok 'guest: it gets to the rounds'
guest_kills "$kills" serve_guest
kib=$(kib)
echo stop >&8
stepped rounds sync fio_files_again fio_bare_again fstrim umount blkdiscard discarded_reads_zeros no_errors
if says '^DONE'; then wait "$guest"; fi
down 'vdiskd ends'
clean 'the image is clean' a.vdk
now=$(kib)
echo "# $kib KiB before the guest discarded, $now after"
verdict 'what the guest discarded is free again' "$([ "$now" -lt $((kib / 2)) ]; echo $?)"

t 'the drive is exported' vdisk export a.vdk out.raw
t 'e2fsck: the file system is clean' e2fsck -fn out.raw
t 'debugfs: a file is read' debugfs -R 'dump /busybox busybox' out.raw
is 'it has what the guest wrote' "SUM $(sha256sum <busybox)" "$(grep '^SUM' serial | tr -d '\r')"
