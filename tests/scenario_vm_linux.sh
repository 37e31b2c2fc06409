#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Debian's kernels as guests of vdisk-vmm on drives of vdiskd: two processors, the clock, a file
# system, flush and discard; vdiskd is killed under load and started again, and the guest notices
# nothing; it boots again, and powers off.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"
# shellcheck source-path=SCRIPTDIR source=lib_lab.sh
. "$VDISK_SRC/tests/lib_lab.sh"

kills=3
[ "${VDISK_TEST_LONG:-0}" != 1 ] || kills=50

if lab_is_outside; then
    GUEST_PROGRAMS+=(hwclock)
    lab_ready || exit 0
    lab_guest_initrd initrd "$VDISK_SRC/tests/guest_vm_init.sh"
    cp "$KERNEL_CACHE/cloud-amd64/vmlinuz" cloud
    cp "$KERNEL_CACHE/amd64/vmlinuz" generic
    kvm_is_fast || { lab "$0" serial initrd cloud generic; exit; }
fi

serve_both() {
    up vdiskd --export "a=$PWD/a.vdk,key-file=$PWD/key,vhost-user=$PWD/a.sock" \
        --export "b=$PWD/b.vdk,key-file=$PWD/key,read-only,vhost-user=$PWD/b.sock"
}
vm() { # KERNEL
    guest "$VMM" --kernel "$1" --initrd initrd --memory 512M --cpus 2 \
        --command 'console=ttyS0 quiet panic=-1 mitigations=off' \
        --drive "$PWD/a.sock" --drive "$PWD/b.sock,read-only" --console stdio
}
kib() { du -k a.vdk | cut -f 1; }
ends() { # NAME
    local status
    says '^DONE' || kill "$guest"
    wait "$guest"
    status=$?
    [ "$status" = 0 ] || sed 's/^/#   guest: /' .guest
    grep -E '^(BOOT|STEP)' serial | sed 's/^/# /' | tr -d '\r'
    is "$1" "$status" 0
}

drive a.vdk 512M
drive b.vdk 4M
head -c $((4 << 20)) /dev/urandom >bytes && put bytes b.vdk 0
t 'vdiskd starts' serve_both

vm cloud
stepped modules processors features random read_only clock mkfs mount fio_files fio_bare copy
says '^KILL' || not_ok 'guest: it gets to the rounds'
guest_kills "$kills" serve_both
kib=$(kib)
echo stop >&8
stepped rounds sync fio_bare_again fstrim umount blkdiscard discarded_reads_zeros no_errors
stepped again_fio_files again_sum again_umount again_no_errors
ends 'it powers off, and its process ends'
is 'it has booted twice' "$(grep -c '^BOOT' serial)" 2

vm generic
stepped modules processors again_fio_files again_sum again_umount again_no_errors
ends 'the generic kernel comes up as well, and powers off'

down 'vdiskd ends'
clean 'the image is clean' a.vdk
now=$(kib)
echo "# $kib KiB before the guest discarded, $now after"
verdict 'what the guest discarded is free again' "$([ "$now" -lt $((kib - (8 << 10))) ]; echo $?)"
holds 'what was read-only is as it was' b.vdk b.model
t 'the drive is exported' vdisk export a.vdk out.raw
t 'e2fsck: the file system is clean' e2fsck -fn out.raw
