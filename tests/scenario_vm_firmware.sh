#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A drive that boots by itself: SeaBIOS reads its first sector, GRUB finds Debian's kernel in a file
# system, and that finds the drive; it boots again, and powers off. Nothing is given from outside.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_lab.sh
. "$VDISK_SRC/tests/lib_lab.sh"

firmware=/usr/share/seabios/bios-microvm.bin
grub=/usr/lib/grub/i386-pc

small_initrd() { # FILE
    root_busybox guest
    root_modules guest cloud-amd64 virtio_mmio virtio_blk ext4
    cp "$VDISK_SRC/tests/guest_steps.sh" guest/steps
    install -m 755 "$VDISK_SRC/tests/guest_firmware_init.sh" guest/init
    root_pack guest "$1"
}

# Sectors: a table with one partition from 2048, and GRUB's boot.img; its core.img; the partition.
make_disk() { # FILE MIB
    local size=$(($2 << 20)) root=root
    mkdir -p $root/boot/grub
    small_initrd $root/boot/initrd
    cp "$KERNEL_CACHE/cloud-amd64/vmlinuz" $root/boot/vmlinuz
    cp "$VDISK_SRC/tests/guest_firmware_init.sh" $root/init
    cat >$root/boot/grub/grub.cfg <<'GRUB'
serial --port=0x3f8 --speed=115200
terminal_input serial
terminal_output serial
set timeout=0
menuentry 'Debian' {
    linux /boot/vmlinuz console=ttyS0 quiet panic=-1 mitigations=off
    initrd /boot/initrd
}
GRUB
    truncate -s "$size" "$1"
    mke2fs -q -t ext4 -d $root -E offset=$((1 << 20)) "$1" $((($2 - 1) << 10))k || return
    grub-mkimage -O i386-pc -o core.img -p '(hd0,msdos1)/boot/grub' \
        biosdisk part_msdos ext2 normal linux serial || return
    python3 - "$1" $grub/boot.img core.img <<'PYTHON'
import struct, sys
disk, boot, core = (open(name, mode) for name, mode in zip(sys.argv[1:], ("r+b", "rb", "rb")))
core, sectors = core.read(), disk.seek(0, 2) // 512
assert len(core) < 2047 * 512
partition = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", 2048, sectors - 2048)
disk.seek(0)
disk.write(boot.read()[:440] + b"VDSK\0\0" + partition.ljust(64, b"\0") + b"\x55\xaa" + core)
PYTHON
}

if lab_is_outside; then
    lab_ready || exit 0
    if ! command -v grub-mkimage >/dev/null || [ ! -r $grub/boot.img ] || [ ! -r $firmware ]; then
        skip 'a guest boots from its drive' 'it wants grub-pc-bin, grub-common and seabios of Debian'
        exit
    fi
    cp $firmware bios
    t 'a disk is made that boots' make_disk disk.raw 32
    kvm_is_fast || { lab "$0" serial disk.raw bios; exit; }
fi

if [ "$(id -u)" != 0 ]; then
    export XDG_RUNTIME_DIR=$PWD/x
    mkdir x
fi
t 'it is imported' vdisk import disk.raw a.vdk
guest vdisk run a.vdk --name "f$$" --firmware "$PWD/bios" --memory 256M --cpus 2 --console stdio
stepped modules processors mount same_init umount again_word again_umount
says '^DONE' || vdisk ctl --vm "f$$" stop
status=0
wait "$guest" || status=$?
is 'it powers off, and its process ends' "$status" 0
is 'it has booted twice' "$(grep -c '^BOOT' serial)" 2
firmware_starts=$(grep -c 'Booting from Hard Disk' serial)
is 'by the firmware, each time' "$firmware_starts" 2
[ "$firmware_starts" = 2 ] || sed 's/^/# serial: /' serial
sed -n 's/^BOOT/# init after/p' serial | tr -d '\r'
clean 'the image is clean' a.vdk
t 'it is exported' vdisk export a.vdk out.raw
t 'e2fsck: the file system is clean' e2fsck -fn "$PWD/out.raw?offset=$((1 << 20))"
