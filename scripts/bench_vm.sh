#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From the start of vdisk-vmm to the first process of Debian's cloud kernel in it, beside QEMU's
# microvm with the same kernel, initrd and memory; runs take turns, figures are medians. Where
# /dev/kvm is of no use, in the KVM lab (scripts/lab.sh): its processor is emulated, and only the
# ratio says something.
VDISK_SRC=${VDISK_SRC:-$(realpath "$(dirname "$0")/..")}
: "${VDISK_LAB:=}" "${VDISK:=$VDISK_SRC/build/bin/vdisk}" "${TMPDIR:=}"
if [ -z "$VDISK_LAB" ]; then
    TMPDIR=$(mktemp -d)
    trap 'rm -rf "$TMPDIR"' EXIT
fi
export VDISK VDISK_SRC TMPDIR VDISK_VMM=vdisk-vmm-peer
# shellcheck source-path=SCRIPTDIR source=../tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../tests/lib_lab.sh
. "$VDISK_SRC/tests/lib_lab.sh"

if lab_is_outside; then
    lab_ready || exit 0
    root_busybox guest
    printf '#!/bin/sh\necho BOOT\npoweroff -f\n' >guest/init
    chmod 755 guest/init
    root_pack guest initrd
    cp "$KERNEL_CACHE/cloud-amd64/vmlinuz" cloud
    kvm_is_fast || { lab "$VDISK_SRC/scripts/bench_vm.sh" serial 600 initrd cloud | grep '^[^#o]'; exit; }
    install -m 755 "$VDISK_SRC/tests/lab_peer.sh" vdisk-vmm-peer
    PATH=$PWD:$PATH
fi

boot() { # PROGRAM CPUS: milliseconds
    local line begin=${EPOCHREALTIME/./}
    while read -r line; do
        [[ $line != BOOT* ]] || echo $(((${EPOCHREALTIME/./} - begin) / 1000))
    done < <("$1" --kernel cloud --initrd initrd --memory 256M --cpus "$2" --console stdio \
        --command 'console=ttyS0 quiet panic=-1 mitigations=off' 2>/dev/null </dev/null)
}
median() { # FILE
    sort -n "$1" | sed -n "$((($(wc -l <"$1") + 1) / 2))p"
}

printf '%-36s %14s %14s\n' 'start to first process, ms' vdisk-vmm "QEMU's microvm"
for cpus in 1 2; do
    rm -f ours theirs
    for ((run = 0; run < 5; run++)); do
        boot vdisk-vmm "$cpus" >>ours
        boot vdisk-vmm-peer "$cpus" >>theirs
    done
    printf '%-36s %14s %14s\n' "processors: $cpus" "$(median ours)" "$(median theirs)"
done
