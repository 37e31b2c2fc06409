# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For machines that scenarios and the demo make: Debian's own kernels, fetched once, not installed,
# and kept in build/cache/kernel; and initial file systems of this system's programs.

KERNEL_CACHE=$VDISK_SRC/build/cache/kernel
# What is kept of a kernel, with what these need. Where one is built in, it is no module.
KERNEL_MODULES=(virtio_pci virtio_mmio virtio_blk virtio_net virtio-rng virtio_balloon
    vmw_vsock_virtio_transport button evdev ext4 crc32c_generic loop kvm-amd tun veth bridge 8021q)

# What is missing to fetch a kernel and to fill a file system, as one line; nothing if nothing is.
kernel_lacks() {
    local tool
    for tool in busybox dpkg apt-get flock ldd cc nm readelf "$@"; do
        command -v "$tool" >/dev/null || { echo "$tool is not installed"; return; }
    done
    [ "$(dpkg --print-architecture)" = amd64 ] ||
        { echo "the guest is made of this system's programs, which are not for amd64"; return; }
    for tool in fstrim blkdiscard depmod modprobe cpio; do
        busybox --list | grep -x "$tool" >/dev/null ||
            { echo "this busybox has no $tool (Debian: busybox-static)"; return; }
    done
}

# Downloads the package of a kernel into the current folder.
kernel_download() { # FLAVOUR APT_OPTION...
    local name
    name=$(apt-cache "${@:2}" depends "linux-image-$1" |
        sed -n 's/.*Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [ -n "$name" ] && apt-get -q "${@:2}" download "$name"
}

# The files that go with modules, which the current folder (/lib/modules/VERSION) has.
kernel_closure() { # MODULE...
    local module
    for module in "$@"; do
        sed -n "/\/$module\.ko:/ s/://p" modules.dep | tr ' ' '\n'
    done | sort -u
}

# kernel_fetch FLAVOUR (amd64, cloud-amd64): errors go to .err.
kernel_fetch() {
    local new own version cache=$KERNEL_CACHE/$1
    mkdir -p "$KERNEL_CACHE" || return
    (
        flock 7 || exit # scenarios run side by side
        [ "$(cat "$cache/modules" 2>/dev/null)" != "${KERNEL_MODULES[*]}" ] || exit 0
        rm -rf "$cache" "$KERNEL_CACHE"/new.* && new=$(mktemp -d "$KERNEL_CACHE/new.XXXXXX") && cd "$new" || exit
        # With lists of our own where the system has none, or old ones.
        own=(-o "Dir::State::lists=$new/lists" -o "Dir::Cache=$new" -o APT::Sandbox::User=
            -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)
        kernel_download "$1" || {
            mkdir -p lists/partial archives/partial &&
                apt-get -q "${own[@]}" update && kernel_download "$1" "${own[@]}" || exit
        }
        dpkg -x linux-image-*.deb root && version=$(ls root/lib/modules) &&
            busybox depmod -b "$new/root" "$version" &&
            mkdir kernel && mv root/boot/vmlinuz-* kernel/vmlinuz &&
            mkdir -p "kernel/lib/modules/$version" && cd "root/lib/modules/$version" || exit
        kernel_closure "${KERNEL_MODULES[@]}" | xargs cp --parents -t "$new/kernel/lib/modules/$version" &&
            cp modules.builtin modules.dep "$new/kernel/lib/modules/$version/" &&
            echo "${KERNEL_MODULES[*]}" >"$new/kernel/modules" &&
            mv -T "$new/kernel" "$cache" && rm -rf "$new"
    ) 7>"$KERNEL_CACHE/lock" >.err 2>&1
}

# ---- file systems ----

root_busybox() { # ROOT: a system of nothing else
    local tool
    mkdir -p "$1"/{bin,sbin,usr,etc,proc,sys,dev,run,tmp}
    ln -sfn ../bin "$1/usr/bin"
    ln -sfn ../sbin "$1/usr/sbin"
    cp "$(command -v busybox)" "$1/bin/busybox"
    # Where the kernel looks for it.
    ln -sf ../bin/busybox "$1/sbin/modprobe"
    busybox --list | grep -vx busybox | while read -r tool; do ln -sf busybox "$1/bin/$tool"; done
}

root_programs() { # ROOT PROGRAM...: of this system, with their libraries
    local tool library
    for tool in "${@:2}"; do
        rm -f "$1/bin/${tool##*/}"
        cp -L "$(command -v "$tool")" "$1/bin/"
        ldd "$(command -v "$tool")" | grep -o '/[^ ]*'
    done | sort -u | while read -r library; do
        mkdir -p "$1$(dirname "$library")"
        cp -L "$library" "$1$library"
    done
}

# fio can store to many things, for which it loads 80 MB. It gets libraries of those names that lack
# everything, and one with functions of the names that it looks for.
root_fio() { # ROOT
    local fio library folder=$1/lib/x86_64-linux-gnu
    fio=$(command -v fio)
    mkdir -p "$folder"
    nm -D --undefined-only "$fio" | sed -n '/@GLIBC/d; s/^ *[Uw] \([a-z][^@]*\).*/void \1(void) {}/p' |
        cc -shared -fPIC -w -fno-builtin -o "$folder/libnothing.so" -x c - || return
    readelf -d "$fio" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | while read -r library; do
        case $library in
        libc.so* | libm.so* | libz.so* | libaio.so* | libnuma.so*)
            cp -L "$(ldd "$fio" | sed -n "s|.*$library => \([^ ]*\).*|\1|p")" "$folder/"
            ;;
        *)
            cc -shared -nostdlib -Wl,-soname,"$library" -Wl,--no-as-needed -o "$folder/$library" \
                -L"$folder" -lnothing || exit
            ;;
        esac
    done && cp -L "$fio" "$1/bin/fio"
}

root_modules() { # ROOT FLAVOUR MODULE...: for `modprobe` there
    local version root
    mkdir -p "$1" && root=$(realpath "$1") || return
    version=$(ls "$KERNEL_CACHE/$2/lib/modules")
    mkdir -p "$root/lib/modules/$version"
    (
        cd "$KERNEL_CACHE/$2/lib/modules/$version" &&
            kernel_closure "${@:3}" | xargs cp --parents -t "$root/lib/modules/$version" &&
            cp modules.builtin "$root/lib/modules/$version/"
    ) && busybox depmod -b "$root" "$version"
}

root_pack() { # ROOT FILE: an initramfs of it, which is then gone
    chmod -R go+rX "$1" && chmod 1777 "$1/tmp" # for who is not root there
    (cd "$1" && find . | busybox cpio -o -H newc 2>/dev/null) >"$2" && rm -rf "$1"
}
