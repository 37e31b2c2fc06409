#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From the start of vdisk-vmm to the first line of the guest's first process, and memory beyond the
# guest's by then; beside QEMU's microvm, and kvmtool (lkvm) where that is installed, with the same
# kernel (Debian's cloud kernel), initrd, memory and processors. Runs take turns; figures are medians,
# ratios medians of the ratios of runs that followed each other. Where /dev/kvm is of no use to
# Linux, in the KVM lab (scripts/lab.sh): its processor is emulated, and only ratios say something.
#   BENCH_RUNS (3)
VDISK_SRC=${VDISK_SRC:-$(realpath "$(dirname "$0")/..")}
: "${VDISK_LAB:=}" "${VDISK:=$VDISK_SRC/build/bin/vdisk}" "${TMPDIR:=}"
VDISK=$(realpath "$VDISK")
if [ -z "$VDISK_LAB" ]; then
    TMPDIR=$(mktemp -d)
    trap 'rm -rf "$TMPDIR"' EXIT
fi
export VDISK VDISK_SRC TMPDIR VDISK_VMM=vdisk-vmm-peer
# shellcheck source-path=SCRIPTDIR source=../tests/lib.sh
. "$VDISK_SRC/tests/lib.sh" >/dev/null
# shellcheck source-path=SCRIPTDIR source=../tests/lib_lab.sh
. "$VDISK_SRC/tests/lib_lab.sh"
# shellcheck source-path=SCRIPTDIR source=bench_lib.sh
. "$VDISK_SRC/scripts/bench_lib.sh"
runs=${BENCH_RUNS:-3}
memory=256

if lab_is_outside; then
    lab_ready || exit 0
    root_busybox guest
    # It stays until it was measured.
    printf '#!/bin/sh\necho BOOT\nread -r _\npoweroff -f\n' >guest/init
    chmod 755 guest/init
    root_pack guest initrd
    cp "$KERNEL_CACHE/cloud-amd64/vmlinuz" cloud
    if ! kvm_is_fast; then
        echo "BENCH_RUNS=$runs" >settings
        lab "$VDISK_SRC/scripts/bench_vm.sh" serial $((600 + 300 * runs)) initrd cloud settings |
            grep '^[^#o]'
        grep -q '^LAB ends 0' serial && exit
        tail -n 20 serial >&2
        exit 1
    fi
    install -m 755 "$VDISK_SRC/tests/lab_peer.sh" vdisk-vmm-peer
    PATH=$PWD:$PATH
else
    . ./settings
    runs=$BENCH_RUNS
fi
