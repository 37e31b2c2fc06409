# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# A guest for scenarios: Debian's own kernel in QEMU's software emulation, with an initramfs made
# here. The kernel is fetched once, not installed, and kept in build/cache/guest.

GUEST_CACHE=$VDISK_SRC/build/cache/guest
GUEST_MODULES=(virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk)

# What is missing for a guest, as one line; nothing if nothing is.
guest_lacks() {
    local tool
    for tool in qemu-system-x86_64 fio mke2fs busybox dpkg apt-get; do
        command -v "$tool" >/dev/null || { echo "$tool is not installed"; return; }
    done
    [ "$(dpkg --print-architecture)" = amd64 ] ||
        { echo "the guest is made of this system's programs, which are not for amd64"; return; }
    busybox --list | grep -qx fstrim || echo 'this busybox has no fstrim (Debian: busybox-static)'
}

# Downloads the kernel's package into the current folder.
guest_download() { # APT_OPTION...
    local name
    name=$(apt-cache "$@" depends linux-image-cloud-amd64 |
        sed -n 's/.*Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [ -n "$name" ] && apt-get -q "$@" download "$name"
}

# Sets GUEST_KERNEL; errors go to .err.
guest_kernel() {
    local new module own
    GUEST_KERNEL=$GUEST_CACHE/kernel
    [ ! -e "$GUEST_KERNEL/vmlinuz" ] || return 0
    mkdir -p "$GUEST_CACHE" || return
    (
        new=$(mktemp -d "$GUEST_CACHE/new.XXXXXX") && cd "$new" || exit
        # With lists of our own where the system has none, or old ones.
        own=(-o "Dir::State::lists=$new/lists" -o "Dir::Cache=$new" -o APT::Sandbox::User=
            -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)
        guest_download || {
            mkdir -p lists/partial archives/partial &&
                apt-get -q "${own[@]}" update && guest_download "${own[@]}" || exit
        }
        dpkg -x linux-image-*.deb root && mkdir kernel && mv root/boot/vmlinuz-* kernel/vmlinuz || exit
        for module in "${GUEST_MODULES[@]}"; do
            find root/lib/modules -name "$module.ko" -exec mv {} kernel/ \; || exit
        done
        mv -T kernel "$GUEST_KERNEL" && rm -rf "$new"
    ) >.err 2>&1
}

# guest_initramfs FILE INIT: busybox, mke2fs, fio with their libraries, the modules.
guest_initramfs() {
    local root=initramfs tool library
    mkdir -p "$root"/{bin,sbin,modules,etc}
    cp "$(command -v busybox)" "$root/bin/busybox"
    busybox --list | grep -vx busybox | while read -r tool; do ln -sf busybox "$root/bin/$tool"; done
    cp "$2" "$root/init" && chmod 755 "$root/init"
    for tool in mke2fs fio; do
        rm -f "$root/bin/$tool"
        cp "$(command -v "$tool")" "$root/bin/"
        ldd "$(command -v "$tool")" | grep -o '/[^ ]*'
    done | sort -u | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
    for tool in "${GUEST_MODULES[@]}"; do cp "$GUEST_KERNEL/$tool.ko" "$root/modules/"; done
    (cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null) >"$1" && rm -rf "$root"
}

# guest SOCKET INITRAMFS LOG: starts it ($guest); its serial port reads from descriptor 8.
guest() {
    rm -f .serial
    mkfifo .serial
    exec 8<>.serial
    qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 512M -nodefaults -display none -no-reboot \
        -object memory-backend-memfd,id=m,size=512M,share=on -numa node,memdev=m \
        -chardev "socket,id=c,path=$1,reconnect=1" \
        -device vhost-user-blk-pci,chardev=c,num-queues=2 -serial stdio \
        -kernel "$GUEST_KERNEL/vmlinuz" -initrd "$2" \
        -append 'console=ttyS0 quiet panic=-1 mitigations=off' <.serial >"$3" 2>qemu.err &
    guest=$!
}

# says LOG PATTERN SECONDS: waits until the guest has said a line, or has ended.
says() {
    local try
    for ((try = 0; try < $3 * 5; try++)); do
        ! grep -qE "$2" "$1" || return 0
        kill -0 "$guest" 2>/dev/null || break
        sleep 0.2
    done
    grep -qE "$2" "$1"
}
