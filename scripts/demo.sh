#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The main job from end to end, step by step with times: Debian in an encrypted image, as a guest that
# boots from it; a live snapshot, what changed since, the snapshot read back, an intruder, and back.
# Downloads are kept in build/cache; nothing else is left. Exit status 77: it cannot be done here.
set -euo pipefail
cd "$(dirname "$0")/.."
VDISK_SRC=$PWD
PATH=$(dirname "${VDISK:-$PWD/build/bin/vdisk}"):$PATH:/usr/sbin:/sbin
export VDISK_SRC PATH LC_ALL=C.UTF-8
# shellcheck source-path=SCRIPTDIR source=lab.sh
. scripts/lab.sh

cache=$VDISK_SRC/build/cache/debian
new_tar=$cache/new-$$.tar
began=$SECONDS
steps=0
child=
umask 022
work=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-demo.XXXXXX")
leave() {
    if [ -n "$child" ]; then
        kill "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    rm -rf "$work" "$new_tar"
}
trap leave EXIT
trap 'exit 130' INT TERM
cd "$work"
# Where sockets of guests are, for who is not root.
export XDG_RUNTIME_DIR=$work

# ---- one line for each step ----

begin() {
    steps=$((steps + 1))
    from=${EPOCHREALTIME/./}
    line=$(printf '%2d  %s' "$steps" "$*")
    printf '%s' "$line"
}
end() { # WHAT_CAME_OF_IT: on a line of its own if it is long
    local took=$((${EPOCHREALTIME/./} - from)) rest=${1:+: $1} more=
    [ $((${#line} + ${#rest})) -le 70 ] || { more=$1; rest=; }
    printf '%s%*d.%d s\n' "$rest" $((76 - ${#line} - ${#rest})) $((took / 1000000)) $((took / 100000 % 10))
    [ -z "$more" ] || printf '      %s\n' "$more"
}
fail() {
    printf '\n'
    tail -n 30 log | sed 's/^/    | /'
    printf 'demo: %s\n' "$*" >&2
    exit "${status:-1}"
}
impossible() {
    printf 'demo: %s\n' "$*" >&2
    exit 77
}
quietly() { # COMMAND...
    "$@" >log 2>&1 </dev/null || fail "this failed: $*"
}
ends() { # STATUS COMMAND...
    local ended=0
    "${@:2}" >log 2>&1 </dev/null || ended=$?
    [ "$ended" = "$1" ] || fail "exit status $ended, not $1: ${*:2}"
}
mib() { echo "$((($(stat -c %s "$1") + 524288) >> 20)) MiB"; }

# ---- what is needed ----

lacks() {
    local tools=(mmdebstrap mke2fs e2fsck debugfs)
    [ "$(id -u)" = 0 ] || tools+=(fakeroot newuidmap)
    command -v vdisk-vmm >/dev/null || { echo 'vdisk-vmm is not built, or not for this processor'; return; }
    kernel_lacks "${tools[@]}"
    [ "$(id -u)" = 0 ] || unshare --map-root-user --map-auto true 2>log ||
        echo "mmdebstrap wants to be root: $(id -un) may not make user namespaces ($(head -n 1 log))"
}

# ---- Debian ----

# Debian's packages without their documentation; dbus, because systemd's power button wants it.
# shellcheck disable=SC2054
recipe=(--variant=minbase --include=systemd-sysv,udev,dbus --aptopt='Acquire::Languages "none"'
    --dpkgopt='path-exclude=/usr/share/'{man,doc,locale,info}'/*' bookworm)

debian() {
    local how='packages, as kept in build/cache'
    begin 'mmdebstrap: Debian 12'
    if [ "$(cat "$cache/recipe" 2>/dev/null)" != "${recipe[*]}" ]; then
        how=packages
        mkdir -p "$cache"
        mmdebstrap "${recipe[@]}" "$new_tar" >log 2>&1 </dev/null || {
            ! grep -qE 'Could not (resolve|connect)|Temporary failure|Failed to fetch' log || status=77
            fail 'mmdebstrap failed'
        }
        mv "$new_tar" "$cache/root.tar"
        echo "${recipe[*]}" >"$cache/recipe"
    fi
    tar -xOf "$cache/root.tar" ./var/lib/dpkg/status >log
    end "$(grep -c ^Package: log) $how"
}

file_system() {
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(fakeroot --)
    begin 'mke2fs: a file system with it, 1 GiB'
    quietly "${as_root[@]}" bash "$VDISK_SRC/scripts/demo_root.sh" "$cache/root.tar" disk.raw
    end
    begin 'vdisk import: encrypted and compressed'
    (umask 077 && head -c 32 /dev/urandom >key)
    quietly vdisk import disk.raw drive.vdk --format raw --key-file key --quiet
    grep -qaF 'ID=debian' disk.raw || fail 'the file system is not Debian'
    ! grep -qaF 'ID=debian' drive.vdk || fail 'the image shows its content'
    rm disk.raw
    end "$(mib drive.vdk), and nothing shows"
}

kernel() {
    begin "Debian's cloud kernel, and an initrd"
    kernel_fetch cloud-amd64 || { cp .err log; status=77; fail 'the kernel could not be fetched'; }
    cp "$KERNEL_CACHE/cloud-amd64/vmlinuz" .
    root_busybox initial
    root_modules initial cloud-amd64 virtio_mmio virtio_blk virtio-rng button evdev ext4
    install -m 755 "$VDISK_SRC/scripts/demo_init.sh" initial/init
    root_pack initial initrd
    end "$(mib vmlinuz), $(mib initrd)"
}

# ---- the guest ----

# Runs `$@`, of which scripts/demo_guest.sh is a part, and tells what that says.
follow() {
    local word rest told=
    : >log
    exec 9< <("$@" 2>&1)
    child=$!
    while read -r word rest <&9; do
        rest=${rest%$'\r'}
        case $word in
        BEGIN) begin "$rest" ;;
        END) end "$rest" ;;
        OVER) told=1 ;;
        FAIL) fail "$rest" ;;
        LOG) echo "$rest" >>log ;;
        *) echo "$word $rest" >>log ;;
        esac
    done
    exec 9<&-
    wait "$child" || true
    child=
    [ -n "$told" ] || fail 'the guest ended too early'
}

here() {
    exec bash "$VDISK_SRC/scripts/demo_guest.sh"
}
in_lab() {
    lab_boot lab.initrd 900 'LAB_DISK=/dev/vda DEMO_PATIENCE=600 DEMO_KERNEL_WORDS=mitigations=off' \
        -drive file=lab.raw,format=raw,if=virtio,cache=unsafe
}

guest() {
    if kvm_is_fast; then
        follow here
        return
    fi
    printf '    %s.\n' "$(tail -n 1 .err | sed 's/^vdisk-vmm: //')"
    printf '    So the guest runs in the KVM lab: QEMU emulates a machine that has KVM. All is slower there.\n'
    command -v qemu-system-x86_64 >/dev/null || impossible 'qemu-system-x86_64 is not installed'
    begin 'The KVM lab'
    lab_root lab "$VDISK_SRC/scripts/demo_guest.sh"
    root_pack lab lab.initrd
    mkdir disk
    mv drive.vdk key vmlinuz initrd disk/
    quietly mke2fs -q -t ext4 -d disk lab.raw 1G
    end "$(mib lab.initrd), and a disk with the image"
    follow in_lab
    quietly e2fsck -fp lab.raw
    quietly debugfs -R 'dump drive.vdk drive.vdk' lab.raw
    mv disk/key . && rm -rf disk lab.*
}

# ---- what came of it ----

recipe_of() { # DRIVE: what the guest's file says in it
    debugfs -R 'cat /root/recipe' "$1" 2>/dev/null
}

afterwards() {
    begin 'vdisk check: every byte is verified'
    quietly vdisk check drive.vdk --key-file key --quiet
    end 'sound'

    begin 'vdisk diff: what changed since then'
    quietly vdisk diff drive.vdk before --key-file key
    end "$(awk '{ sum += $2 } END { printf "%d ranges, %d KiB", NR, sum / 1024 }' log)"

    begin 'vdisk export: the file then, and now'
    quietly vdisk export drive.vdk@before before.raw --key-file key --quiet
    quietly vdisk export drive.vdk now.raw --key-file key --quiet
    quietly e2fsck -fn now.raw
    # The guest was running: its journal is replayed, as after a power cut.
    e2fsck -fp before.raw >log 2>&1 || [ $? = 1 ] || fail 'the file system of the snapshot is not clean'
    [ "$(recipe_of before.raw)" = 'the secret recipe' ] || fail 'the snapshot has not the old file'
    [ "$(recipe_of now.raw)" = 'all gone' ] || fail 'the present has not the new file'
    end "$(recipe_of before.raw), $(recipe_of now.raw)"
    rm now.raw

    begin 'One bit of a copy is flipped, and vdisk check says where'
    tamper
    end "$(sed -n 's/^damaged: \(.*\) are damaged.*/\1/p' log | head -n 1)"

    begin 'With another key'
    (umask 077 && head -c 32 /dev/urandom >wrong)
    ends 4 vdisk export drive.vdk out.raw --key-file wrong
    end 'exit status 4, wrong key'

    begin 'vdisk snapshot rollback'
    quietly vdisk snapshot rollback drive.vdk before --key-file key
    quietly vdisk diff drive.vdk before --key-file key
    [ ! -s log ] || fail 'the drive is not what it was'
    end 'no difference'
}

# Where there is nothing at a place, nothing is damaged by it: then the next.
tamper() {
    local at byte ended
    for at in 8 9 10 7 11 6 12 5 13; do
        cp drive.vdk tampered.vdk
        at=$(($(stat -c %s drive.vdk) * at / 16))
        byte=$(od -An -tu1 -j "$at" -N 1 drive.vdk)
        # shellcheck disable=SC2059
        printf "\\x$(printf %x $((byte ^ 1)))" |
            dd of=tampered.vdk bs=1 seek="$at" conv=notrunc status=none
        ended=0
        vdisk check tampered.vdk --key-file key --quiet >log 2>&1 || ended=$?
        [ "$ended" = 0 ] || break
    done
    rm tampered.vdk
    [ "$ended" = 3 ] || fail "tampering was not noticed (exit status $ended)"
}

why=$(lacks | head -n 1)
[ -z "$why" ] || impossible "$why (./quickstart installs what is needed)"
debian
file_system
kernel
guest
afterwards
printf '\nAll as it should be, in %d s. Nothing runs any more, and nothing is left but downloads in build/cache.\n' \
    $((SECONDS - began))
